//! What the operator enters in the audit log by itself: what the loop and the status writer saw happen,
//! what the fleet witnessed, and its own starts and stops. Entries of agents come through the local API,
//! those of people's writes through the webhook.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::api::stamps;
use crate::audit::entry::{
    Actor, ActorKind, Body, Device, Enforcement, Entry, Hold, ObjectRef, Service,
};
use crate::audit::log::AuditLog;
use crate::domain::names::DeviceId;
use crate::domain::world::HeldIsolation;
use crate::fleet::witness::FleetEvent;
use crate::metrics::Metrics;
use crate::reconcile::happening::{Happening, Isolated, Named, PodChange, What};

/// Isolations that an entry of a hold names; an entry ends at 60,000 bytes.
const NAMED: usize = 200;

/// How long the parts that end may still have something to say.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub struct Auditing {
    pub log: AuditLog,
    pub metrics: Metrics,
    pub system_namespace: String,
    pub happenings: mpsc::Receiver<Happening>,
    pub fleet_events: mpsc::Receiver<FleetEvent>,
}

impl Auditing {
    /// Enters what comes until `stop`, and then what the others say while they end.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        loop {
            let entry = tokio::select! {
                biased;
                Some(happening) = self.happenings.recv() => self.of_happening(happening),
                Some(event) = self.fleet_events.recv() => self.of_fleet(event),
                () = stop.cancelled() => break,
            };
            self.enter(entry).await;
        }
        let until = Instant::now() + LAST_WORDS;
        while let Ok(Some(happening)) = timeout_at(until, self.happenings.recv()).await {
            self.enter(self.of_happening(happening)).await;
        }
        while let Ok(event) = self.fleet_events.try_recv() {
            self.enter(self.of_fleet(event)).await;
        }
        Ok(())
    }

    async fn enter(&self, entry: Entry) {
        if let Err(error) = self.log.append(&entry).await {
            self.metrics.audit_failures.inc();
            error!(%error, kind = entry.body.kind().as_str(), "an entry is missing in the audit log");
        }
    }

    fn of_happening(&self, happening: Happening) -> Entry {
        let system = self.system_namespace.clone();
        let (tenant, actor, body) = match happening.what {
            What::LeadershipGained { epoch } => {
                let body = service("leader", Some(json!({ "epoch": epoch })));
                (system, Actor::operator(), body)
            }
            What::LeadershipLost => (system, Actor::operator(), service("follower", None)),
            What::Isolated(isolated) => self.isolated(isolated),
            What::PeersComplete {
                isolation,
                device,
                peers,
                milliseconds,
            } => {
                let detail = json!({ "peers": peers });
                let body = enforcement("peers_complete", Some(&device), &isolation);
                let body = with(body, Some(milliseconds), Some(detail));
                (isolation.key.namespace.clone(), author(&isolation), body)
            }
            What::Released { isolation, device } => {
                let body = enforcement("released", device.as_ref(), &isolation);
                let tenant = isolation.key.namespace.clone();
                (tenant, Actor::operator(), Body::Enforcement(body))
            }
            What::Expired { isolation, device } => {
                let body = enforcement("expired", device.as_ref(), &isolation);
                let tenant = isolation.key.namespace.clone();
                (tenant, Actor::operator(), Body::Enforcement(body))
            }
            What::PodStripped(change) => of_pod("pod_stripped", change),
            What::PodDeleted(change) => of_pod("pod_deleted", change),
            What::HoldOpened { hold, isolations } => {
                let body = held("opened", hold.id, &isolations);
                (system, Actor::operator(), body)
            }
            // Who confirmed is in the webhook's entry of the annotation, right before this one.
            What::HoldConfirmed { hold, isolations } => {
                let body = held("confirmed", hold.id, &isolations);
                (system, Actor::operator(), body)
            }
        };
        let mut entry = Entry::new(&tenant, actor, body);
        entry.time = happening.at;
        entry
    }

    fn isolated(&self, isolated: Isolated) -> (String, Actor, Body) {
        let Isolated {
            isolation,
            device,
            pods,
            user,
            milliseconds,
            connections_cut,
        } = isolated;
        let mut detail = json!({ "connectionsCut": connections_cut });
        if !pods.is_empty() {
            detail["pods"] = pods.iter().map(ToString::to_string).collect();
        }
        let action = match &user {
            Some(user) => {
                detail["user"] = json!(user);
                "suspended"
            }
            None => "isolated",
        };
        let body = enforcement(action, device.as_ref(), &isolation);
        let body = with(body, Some(milliseconds), Some(detail));
        (isolation.key.namespace.clone(), author(&isolation), body)
    }

    fn of_fleet(&self, event: FleetEvent) -> Entry {
        let tenant = event.tenant.clone();
        let tenant = tenant.unwrap_or_else(|| self.system_namespace.clone());
        let actor = fleet_actor(&event.who);
        let mut detail = serde_json::to_value(&event.what).unwrap_or_default();
        let take = |detail: &mut Value, name: &str| {
            let taken = detail.as_object_mut().and_then(|all| all.remove(name));
            taken.and_then(|value| value.as_str().map(str::to_owned))
        };
        let what = take(&mut detail, "what").unwrap_or_default();
        let device = take(&mut detail, "device").unwrap_or_default();
        let body = Body::Device(Device {
            event: what,
            device,
            detail: Some(detail),
        });
        let mut entry = Entry::new(&tenant, actor, body);
        entry.time = event.at;
        entry
    }
}

/// The entry of a start or a stop.
pub fn service_entry(system_namespace: &str, event: &str) -> Entry {
    Entry::new(system_namespace, Actor::operator(), service(event, None))
}

fn service(event: &str, detail: Option<Value>) -> Body {
    Body::Service(Service {
        event: event.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        detail,
    })
}

/// The agent that the stamp names; who else wrote an Isolation is in the webhook's entry of the write.
fn author(isolation: &Named) -> Actor {
    let agent = isolation.written_by.as_deref().and_then(|user| {
        let (namespace, name) = stamps::scope_of_user(user)?;
        let agent = Actor::new(ActorKind::Agent, &format!("{namespace}/{name}"));
        Some(agent.via("mcp").user(user))
    });
    agent.unwrap_or_else(Actor::operator)
}

fn fleet_actor(who: &str) -> Actor {
    match who.split_once(':') {
        Some(("device", device)) => Actor::new(ActorKind::Device, device).via("fleet"),
        Some(("os", _)) => Actor::new(ActorKind::Person, who).via("admin socket"),
        _ => Actor::new(ActorKind::Unknown, who).via("fleet"),
    }
}

fn enforcement(action: &str, device: Option<&DeviceId>, isolation: &Named) -> Enforcement {
    Enforcement {
        action: action.to_owned(),
        device: device.map(ToString::to_string).unwrap_or_default(),
        objects: vec![object(isolation)],
        milliseconds: None,
        detail: None,
    }
}

/// The pod, and the Isolations that it is about.
fn of_pod(action: &str, change: PodChange) -> (String, Actor, Body) {
    let namespace = change.pod.namespace;
    let reference = |kind: &str, name: String, uid: String| ObjectRef {
        kind: kind.to_owned(),
        namespace: namespace.clone(),
        name,
        uid: Some(uid),
        generation: None,
    };
    let isolations = change.isolations.into_iter().take(NAMED);
    let isolations = isolations.map(|(uid, name)| reference("Isolation", name, uid));
    let pod = reference("Pod", change.pod.name, change.uid);
    let body = Enforcement {
        action: action.to_owned(),
        device: String::new(),
        objects: std::iter::once(pod).chain(isolations).collect(),
        milliseconds: None,
        detail: Some(json!({ "replacedBy": format!("Deployment/{}", change.deployment) })),
    };
    (
        namespace.clone(),
        Actor::operator(),
        Body::Enforcement(body),
    )
}

fn with(body: Enforcement, milliseconds: Option<u64>, detail: Option<Value>) -> Body {
    Body::Enforcement(Enforcement {
        milliseconds,
        detail,
        ..body
    })
}

fn held(event: &str, hold: String, isolations: &[HeldIsolation]) -> Body {
    Body::Hold(Hold {
        hold,
        event: event.to_owned(),
        objects: isolations
            .iter()
            .take(NAMED)
            .map(|held| object(&Named::of(held)))
            .collect(),
        by: None,
    })
}

fn object(isolation: &Named) -> ObjectRef {
    ObjectRef {
        kind: "Isolation".to_owned(),
        namespace: isolation.key.namespace.clone(),
        name: isolation.key.name.clone(),
        uid: Some(isolation.uid.clone()),
        generation: Some(isolation.generation),
    }
}
