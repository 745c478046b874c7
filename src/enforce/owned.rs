//! The engine of the appliers: keeps the objects of one kind that carry our label as they are wanted.
//!
//! One task a kind. It hears of wanted content, of stored objects (its own watch, so that drift is
//! repaired), and of leadership; it writes by server-side apply with its kind's field manager, and
//! tells which objects are in place and what stands in the way of the others. It never touches an
//! object that it did not make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::known::{Known, Outcome};
use super::plan::{Step, Stored};
use crate::api::stamps;
use crate::domain::applied::Obstacle;
use crate::domain::names::ObjectKey;
use crate::leadership::Mandate;
use crate::watch::{Change, Kind, Raw, is_ours};

/// At most this many writes of one kind at a time: the API server is not ours alone.
const CONCURRENT: usize = 8;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A kind of object that the operator makes.
pub trait Owned: 'static {
    /// What is wanted of an object, and compared.
    type Content: Clone + PartialEq + Send + Sync + 'static;
    const KIND: Kind;
    const MANAGER: &'static str;
    /// Whether removing comes first because removing is what tightens.
    const DELETES_FIRST: bool;
    fn resource() -> ApiResource;
    /// The object's JSON without `apiVersion`, `kind` and `metadata`.
    fn body(content: &Self::Content) -> Value;
    fn content(data: &Value) -> Result<Self::Content, String>;
}

/// What is in place, and why the rest is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    pub in_place: BTreeSet<ObjectKey>,
    pub obstacles: BTreeMap<ObjectKey, Obstacle>,
}

/// What is wanted; `None` until the world is known.
pub type Wanted<K> = Option<Arc<BTreeMap<ObjectKey, <K as Owned>::Content>>>;

/// Narrows a watched object of the kind.
pub fn stored<K: Owned>(raw: Raw) -> Result<Stored<K::Content>, String> {
    Ok(Stored {
        uid: raw.metadata.uid.clone().unwrap_or_default(),
        resource_version: raw.metadata.resource_version.clone().unwrap_or_default(),
        ours: is_ours(&raw.metadata, K::MANAGER),
        terminating: raw.metadata.deletion_timestamp.is_some(),
        content: K::content(&raw.data)?,
    })
}

/// One applier's task.
pub struct Applier<K: Owned> {
    pub client: Client,
    pub wanted: watch::Receiver<Wanted<K>>,
    pub changes: mpsc::Receiver<Change<Stored<K::Content>>>,
    pub mandate: Mandate,
    pub placed: watch::Sender<Placed>,
}

impl<K: Owned> Applier<K> {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut known = Known::<K>::default();
        loop {
            let retry = known.next_retry();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                change = self.changes.recv() => match change {
                    Some(change) => known.observe(change),
                    // Asked to stop, the watch may end between the two looks of one poll.
                    None if stop.is_cancelled() => return Ok(()),
                    None => anyhow::bail!("the watch of {} ended", K::resource().kind),
                },
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                changed = self.mandate.changed() => if changed.is_err() { return Ok(()) },
                () = async { sleep_until(retry.expect("guarded")).await }, if retry.is_some() => {}
            }
            while let Ok(change) = self.changes.try_recv() {
                known.observe(change);
            }
            let wanted = self.wanted.borrow_and_update().clone();
            let leading = self.mandate.leads();
            if let Some(wanted) = wanted {
                if leading {
                    self.round(&mut known, &wanted, &stop).await;
                }
                self.publish(&known, &wanted);
            }
        }
    }

    /// Does what is to be done now, a few writes at a time.
    async fn round(
        &self,
        known: &mut Known<K>,
        wanted: &BTreeMap<ObjectKey, K::Content>,
        stop: &CancellationToken,
    ) {
        for steps in known.steps(wanted, Instant::now()) {
            let outcomes = futures::stream::iter(steps)
                .map(|step| self.take(step))
                .buffer_unordered(CONCURRENT);
            let mut outcomes = std::pin::pin!(outcomes);
            while let Some(Some((step, outcome))) = stop.run_until_cancelled(outcomes.next()).await
            {
                known.record(step, outcome);
                if !self.mandate.leads() {
                    return;
                }
            }
        }
    }

    async fn take(&self, step: Step<K::Content>) -> (Step<K::Content>, Result<Outcome, String>) {
        // A leader that was frozen asks once more, right before each write.
        if !self.mandate.leads() {
            return (step, Err("this replica does not lead".to_owned()));
        }
        let outcome = timeout(WRITE_TIMEOUT, self.write(&step)).await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API server did not answer within 10 s".to_owned()),
        };
        (step, outcome)
    }

    async fn write(&self, step: &Step<K::Content>) -> kube::Result<Outcome> {
        let key = step.key();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &K::resource());
        match step {
            Step::Blocked(_) => Ok(Outcome::Blocked),
            Step::Create(_, content) => {
                // The watch sees labelled objects only; somebody else's may have the name.
                if let Some(found) = api.get_opt(&key.name).await?
                    && !is_ours(&found.metadata, K::MANAGER)
                {
                    return Ok(Outcome::Blocked);
                }
                self.apply(&api, key, content, false).await
            }
            Step::Update(_, content) => self.apply(&api, key, content, true).await,
            Step::Delete {
                uid,
                resource_version,
                ..
            } => {
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: Some(uid.clone()),
                        resource_version: Some(resource_version.clone()),
                    }),
                    ..DeleteParams::default()
                };
                match api.delete(&key.name, &params).await {
                    Ok(_) => Ok(Outcome::Deleted),
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Deleted),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// `force` only where the object is known to be ours: it takes back what somebody edited in it.
    async fn apply(
        &self,
        api: &Api<DynamicObject>,
        key: &ObjectKey,
        content: &K::Content,
        force: bool,
    ) -> kube::Result<Outcome> {
        let resource = K::resource();
        let mut object = K::body(content);
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        object["metadata"] = json!({
            "name": key.name,
            "namespace": key.namespace,
            "labels": {(stamps::MANAGED_BY): stamps::MANAGED_BY_SEAWALL},
        });
        let mut params = PatchParams::apply(K::MANAGER);
        params.force = force;
        let object = api.patch(&key.name, &params, &Patch::Apply(object)).await?;
        info!(kind = resource.kind, object = %key, "applied");
        Ok(Outcome::Applied(Box::new(object)))
    }

    fn publish(&self, known: &Known<K>, wanted: &BTreeMap<ObjectKey, K::Content>) {
        let placed = known.placed(wanted);
        self.placed.send_if_modified(|old| {
            let differs = *old != placed;
            if differs {
                *old = placed;
            }
            differs
        });
    }
}
