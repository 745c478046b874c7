//! The one writer of statuses: takes what each status should be and patches those that differ from
//! what is stored, a few at a time, each based on the version that was read.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::wanted::{Address, Wanted};
use crate::api::{ApiKeyScope, Isolation, Policy};
use crate::backoff::Backoff;
use crate::metrics::{Metrics, OutcomeLabel};
use crate::watch::Kind;

pub const FIELD_MANAGER: &str = "seawall/status";

/// Writes at a time.
const CONCURRENT: usize = 8;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Numbers that move while the conditions stand still are written at most this often for each object.
pub const COVERAGE_EVERY: Duration = Duration::from_secs(30);

/// What the writer remembers of one object.
struct Written {
    uid: String,
    /// What was last written, and when: the watch tells of it later.
    last: Option<(Value, Instant)>,
    /// The version that our last write made.
    resource_version: Option<u64>,
    failed: Option<(Backoff, Instant)>,
}

pub struct StatusWriter {
    client: Client,
    metrics: Metrics,
    written: BTreeMap<Address, Written>,
}

impl Written {
    fn new(uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            last: None,
            resource_version: None,
            failed: None,
        }
    }
}

/// Versions of one object can be compared; those that can't be read count as old.
fn version(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

impl StatusWriter {
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            written: BTreeMap::new(),
        }
    }

    /// Writes what is due of `wanted`, which holds only statuses that differ from the stored ones.
    /// Answers when to be called again at the latest, if anything is left.
    pub async fn write(
        &mut self,
        wanted: &BTreeMap<Address, Wanted>,
        leads: impl Fn() -> bool,
    ) -> Option<Instant> {
        self.written
            .retain(|address, written| wanted.contains_key(address) || written.last.is_some());
        let now = Instant::now();
        let mut next = None;
        let mut due = Vec::new();
        for (address, wanted) in wanted {
            match self.due(address, wanted, now) {
                Due::Now => due.push((address.clone(), self.newest(address, wanted))),
                Due::At(at) => next = Some(next.map_or(at, |next: Instant| next.min(at))),
                Due::No => {}
            }
        }
        let client = &self.client;
        let outcomes: Vec<_> = futures::stream::iter(due)
            .map(|(address, wanted)| {
                let leads = leads();
                async move {
                    let outcome = if leads {
                        patch(client, &address, &wanted).await
                    } else {
                        Outcome::NotLeading
                    };
                    (address, wanted, outcome)
                }
            })
            .buffer_unordered(CONCURRENT)
            .collect()
            .await;
        for (address, wanted, outcome) in outcomes {
            if let Some(at) = self.record(address, wanted, outcome) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    /// Forgets objects that are gone.
    pub fn retain(&mut self, exists: impl Fn(&Address) -> bool) {
        self.written.retain(|address, _| exists(address));
    }

    /// Based on our own last write where the watch has not told of it yet.
    fn newest(&self, address: &Address, wanted: &Wanted) -> Wanted {
        let mut wanted = wanted.clone();
        let ours = self
            .written
            .get(address)
            .filter(|written| written.uid == wanted.uid)
            .and_then(|written| written.resource_version);
        if let Some(ours) = ours
            && version(Some(&wanted.resource_version)).is_some_and(|read| read < ours)
        {
            wanted.resource_version = ours.to_string();
        }
        wanted
    }

    fn due(&self, address: &Address, wanted: &Wanted, now: Instant) -> Due {
        let Some(written) = self
            .written
            .get(address)
            .filter(|written| written.uid == wanted.uid)
        else {
            return Due::Now;
        };
        if let Some((_, not_before)) = &written.failed
            && *not_before > now
        {
            return Due::At(*not_before);
        }
        match &written.last {
            Some((last, _)) if *last == wanted.status => Due::No,
            Some((_, at)) if !wanted.urgent && *at + COVERAGE_EVERY > now => {
                Due::At(*at + COVERAGE_EVERY)
            }
            _ => Due::Now,
        }
    }

    fn record(&mut self, address: Address, wanted: Wanted, outcome: Outcome) -> Option<Instant> {
        let label = |outcome| OutcomeLabel { outcome };
        let written = self
            .written
            .entry(address.clone())
            .or_insert_with(|| Written::new(&wanted.uid));
        if written.uid != wanted.uid {
            *written = Written::new(&wanted.uid);
        }
        match outcome {
            Outcome::Written(version) => {
                written.resource_version = version;
                self.metrics
                    .status_writes
                    .get_or_create(&label("written"))
                    .inc();
                written.last = Some((wanted.status, Instant::now()));
                written.failed = None;
                None
            }
            // The watch brings the newer version, or that it is gone.
            Outcome::Stale => {
                self.metrics
                    .status_writes
                    .get_or_create(&label("conflict"))
                    .inc();
                None
            }
            Outcome::NotLeading => None,
            Outcome::Failed(why) => {
                self.metrics
                    .status_writes
                    .get_or_create(&label("failed"))
                    .inc();
                warn!(object = %address.1, "the status was not written, trying again: {why}");
                let (mut backoff, _) = written.failed.take().unwrap_or_else(|| {
                    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
                    (backoff, Instant::now())
                });
                let again = Instant::now() + backoff.pause();
                written.failed = Some((backoff, again));
                Some(again)
            }
        }
    }
}

enum Due {
    Now,
    At(Instant),
    No,
}

enum Outcome {
    Written(Option<u64>),
    /// The object is another version by now, or gone.
    Stale,
    NotLeading,
    Failed(String),
}

async fn patch(client: &Client, (kind, key): &Address, wanted: &Wanted) -> Outcome {
    let Some(resource) = resource(*kind) else {
        return Outcome::Failed(format!("{} has no status of ours", kind.as_str()));
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
    let body = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "uid": wanted.uid,
            "resourceVersion": wanted.resource_version,
        },
        "status": wanted.status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = timeout(
        WRITE_TIMEOUT,
        api.patch_status(&key.name, &params, &Patch::Apply(body)),
    )
    .await;
    match written {
        Ok(Ok(object)) => {
            debug!(kind = kind.as_str(), object = %key, "status written");
            Outcome::Written(version(object.metadata.resource_version.as_deref()))
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
            Outcome::Stale
        }
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Err(_) => Outcome::Failed("the API server did not answer within 10 s".to_owned()),
    }
}

fn resource(kind: Kind) -> Option<ApiResource> {
    match kind {
        Kind::Policy => Some(ApiResource::erase::<Policy>(&())),
        Kind::Isolation => Some(ApiResource::erase::<Isolation>(&())),
        Kind::ApiKeyScope => Some(ApiResource::erase::<ApiKeyScope>(&())),
        Kind::NetworkPolicy
        | Kind::RoleBinding
        | Kind::ServiceAccount
        | Kind::Holds
        | Kind::SuspendedUsers
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Namespace
        | Kind::Node
        | Kind::OthersNetworkPolicy
        | Kind::ReplicaSet => None,
    }
}
