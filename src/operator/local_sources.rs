//! What the local API answers from: the loop's view, the fleet, and the audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use axum::Router;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::moments;
use super::standings::{Assessed, Moment};
use crate::access::Directory;
use crate::domain::compile::compile;
use crate::domain::explain::{Explanation, Known, Question, Unanswerable, explain};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::Acceptance;
use crate::domain::world::{Resource, World};
use crate::fleet::Fleet;
use crate::local::router::NOT_SYNCED;
use crate::local::types::{
    DeviceView, Held, INVALID, Preview, Previewed, Problem, SettledQuery, Standing, Unwritten,
    VerifyReport,
};
use crate::local::{Devices, Kind, Scopes, Standings, socket};
use crate::reconcile::view::View;

/// Patience with the loop, which answers between two turns.
const WORLD_TIMEOUT: Duration = Duration::from_secs(5);
/// Patience with devices that are asked to read back.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long answers under way may take after `stop`.
const GOODBYE: Duration = Duration::from_secs(2);

/// The loop's latest view; `None` before the first compile.
pub type Views = watch::Receiver<Option<Arc<View>>>;

pub struct LocalScopes {
    pub views: Views,
    /// The day on which each scope was last used, for its status.
    pub used: watch::Sender<BTreeMap<ObjectKey, String>>,
}

impl Scopes for LocalScopes {
    fn directory(&self) -> Option<Arc<Directory>> {
        let view = self.views.borrow();
        view.as_ref().map(|view| Arc::clone(&view.directory))
    }

    fn used(&self, scope: &ObjectKey) {
        let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
        self.used.send_if_modified(|days| {
            let news = days.get(scope) != Some(&today);
            if news {
                days.insert(scope.clone(), today);
            }
            news
        });
    }
}

pub struct LocalDevices {
    pub views: Views,
    pub fleet: Fleet,
}

impl Devices for LocalDevices {
    fn of_tenant(&self, tenant: &str) -> Option<Vec<DeviceView>> {
        let view = self.views.borrow().clone()?;
        let mut isolated: BTreeMap<&DeviceId, Vec<String>> = BTreeMap::new();
        let mut held: BTreeMap<&DeviceId, Vec<Held>> = BTreeMap::new();
        for (key, verdict) in &view.compiled.verdicts.isolations {
            if let Some(device) = &verdict.device
                && verdict.acceptance == Acceptance::Accepted
            {
                isolated.entry(device).or_default().push(key.name.clone());
                if let Some(hold) = view.holds.get(&verdict.uid) {
                    held.entry(device).or_default().push(Held {
                        isolation: key.name.clone(),
                        hold: hold.clone(),
                    });
                }
            }
        }
        let mut devices = self.fleet.view(Some(tenant));
        for device in &mut devices {
            device.isolated_by = isolated.remove(&device.id).unwrap_or_default();
            device.held = held.remove(&device.id).unwrap_or_default();
        }
        Some(devices)
    }
}

#[derive(Clone)]
pub struct LocalStandings {
    pub views: Views,
    pub fleet: Fleet,
    /// Asks the loop for the World as it is.
    pub worlds: mpsc::Sender<oneshot::Sender<World>>,
}

impl LocalStandings {
    /// The World as it is, whole.
    async fn world(&self) -> Result<World, Problem> {
        let (answer, world) = oneshot::channel();
        let asked = async {
            self.worlds.send(answer).await.ok()?;
            world.await.ok()
        };
        let world = timeout(WORLD_TIMEOUT, asked).await.ok().flatten();
        world.ok_or_else(|| Problem::unavailable("the operator's loop did not answer: try again"))
    }

    /// Waits until it stands as it should, or the time is over.
    async fn stands(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem> {
        let deadline = Instant::now() + Duration::from_millis(query.timeout_ms);
        let mut views = self.views.clone();
        let mut changes = self.fleet.changes();
        let mut had_it = BTreeSet::new();
        let mut last = None;
        loop {
            changes.mark_unchanged();
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                let moment = Moment {
                    view: &view,
                    applied: &self.fleet.applied(),
                };
                match moment.assess(kind, resource, query, &mut had_it) {
                    Some(Assessed {
                        standing,
                        settled: true,
                    }) => return Ok(standing),
                    Some(assessed) => last = Some(assessed.standing),
                    None => {}
                }
            }
            let change = async {
                tokio::select! {
                    changed = views.changed() => changed.is_ok(),
                    changed = changes.changed() => changed.is_ok(),
                }
            };
            match timeout_at(deadline, change).await {
                Ok(true) => {}
                Ok(false) => return Err(Problem::unavailable("the operator is ending")),
                Err(_) => break,
            }
        }
        last.ok_or_else(|| {
            Problem::unavailable(format!(
                "the operator has not seen this version of {resource} within {} ms: see its /ready and its log",
                query.timeout_ms
            ))
        })
    }
}

#[async_trait]
impl Standings for LocalStandings {
    async fn settled(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem> {
        let mut standing = self.stands(kind, resource, query).await?;
        if kind == Kind::Isolation && !query.gone {
            let view = self.views.borrow().clone();
            standing.moments =
                view.and_then(|view| moments::of(&self.fleet, &view, resource, &standing));
        }
        Ok(standing)
    }

    async fn preview(&self, tenant: &str, preview: &Preview) -> Result<Previewed, Problem> {
        let world = self.world().await?;
        let (tenant, preview) = (tenant.to_owned(), preview.clone());
        // A World of thousands compiles for milliseconds: not on a thread that serves others.
        tokio::task::spawn_blocking(move || compiled_with(world, &tenant, preview))
            .await
            .map_err(|_| Problem::unavailable("the preview failed: see the operator's log"))
    }

    async fn explain(&self, question: Question) -> Result<Explanation, Problem> {
        if self.views.borrow().is_none() {
            return Err(Problem::unavailable(NOT_SYNCED));
        }
        let world = self.world().await?;
        let applied = self.fleet.applied();
        let explained = tokio::task::spawn_blocking(move || {
            let compiled = compile(&world, Timestamp::now());
            let known = Known {
                world: &world,
                compiled: &compiled,
                applied: Some(&applied),
            };
            explain(&known, &question)
        });
        let explained = explained
            .await
            .map_err(|_| Problem::unavailable("explaining failed: see the operator's log"))?;
        explained.map_err(|Unanswerable(message)| Problem {
            code: INVALID.into(),
            message,
        })
    }

    async fn verify(&self, tenant: &str, devices: &[DeviceId]) -> Result<VerifyReport, Problem> {
        let of_tenant = self.fleet.view(Some(tenant));
        let asked: BTreeSet<DeviceId> = if devices.is_empty() {
            let connected = of_tenant.iter().filter(|device| device.connected);
            connected.map(|device| device.id.clone()).collect()
        } else {
            for device in devices {
                if !of_tenant.iter().any(|known| known.id == *device) {
                    return Err(Problem::not_found(format!(
                        "no device {device} is enrolled in {tenant}"
                    )));
                }
            }
            devices.iter().cloned().collect()
        };
        let devices = self.fleet.read_back(&asked, READ_BACK_TIMEOUT).await;
        Ok(VerifyReport { devices })
    }
}

/// What would become of a resource that nobody has written yet.
fn compiled_with(mut world: World, tenant: &str, preview: Preview) -> Previewed {
    let now = Timestamp::now();
    let Preview {
        written_by,
        name,
        resource,
    } = preview;
    let key = ObjectKey::new(tenant, name);
    match resource {
        Unwritten::Isolation(spec) => {
            let unwritten = unwritten(spec, written_by);
            world.isolations.insert(key.clone(), unwritten);
            let verdict = compile(&world, now).verdicts.isolations.remove(&key);
            let verdict = verdict.unwrap_or_default();
            let pods = verdict
                .workloads
                .as_ref()
                .map_or(0, |pods| pods.wards.len());
            let devices = verdict.peers.len() + usize::from(verdict.device.is_some()) + pods;
            previewed(
                &verdict.acceptance,
                verdict.not_enforceable.as_deref(),
                devices,
            )
        }
        Unwritten::Policy(spec) => {
            let unwritten = unwritten(spec, written_by);
            world.policies.insert(key.clone(), unwritten);
            let verdict = compile(&world, now).verdicts.policies.remove(&key);
            let verdict = verdict.unwrap_or_default();
            let obstacle = verdict.not_enforceable.first().map(String::as_str);
            let points = verdict.devices.len() + verdict.workloads.wards.len();
            previewed(&verdict.acceptance, obstacle, points)
        }
    }
}

fn unwritten<Spec>(spec: Spec, written_by: String) -> Resource<Spec> {
    Resource {
        uid: "preview".to_owned(),
        generation: 1,
        written_by: Some(written_by),
        created: None,
        spec,
    }
}

fn previewed(acceptance: &Acceptance, obstacle: Option<&str>, devices: usize) -> Previewed {
    let (accepted, reason, message) = match acceptance {
        Acceptance::Accepted => (true, String::new(), obstacle.unwrap_or_default().to_owned()),
        Acceptance::Waiting { reason, message } | Acceptance::Refused { reason, message } => {
            (false, reason.as_str().to_owned(), message.clone())
        }
    };
    Previewed {
        accepted,
        reason,
        message,
        devices,
    }
}

/// Serves the local API on its socket until `stop`, then removes it.
pub async fn serve(path: &Path, router: Router, stop: CancellationToken) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let listener = socket::bind(path).await.with_context(|| {
        format!(
            "listening on {}: give --local-socket another path",
            path.display()
        )
    })?;
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        () = stop.cancelled() => timeout(GOODBYE, server).await.unwrap_or(Ok(())),
    };
    let _ = std::fs::remove_file(path);
    served.with_context(|| format!("serving {}", path.display()))
}
