//! The users whose writes the API server refuses: the ConfigMap `seawall-suspended-users`, which is the parameter
//! of the chart's admission policy of that name. Kept as the loop wants it; what is stored is told, for the
//! statuses.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::domain::applied::{Obstacle, ObstacleKind};
use crate::domain::enforcement::SuspendedUsers;
use crate::leadership::Mandate;
use crate::watch::{Change, Raw};

/// In the system namespace.
pub const CONFIG_MAP: &str = "seawall-suspended-users";
const FIELD_MANAGER: &str = "seawall/suspended-users";
/// The key of those who are suspended in the whole cluster. No namespace can have this name.
const EVERYWHERE: &str = "_all";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is stored, and why that isn't what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub users: SuspendedUsers,
    pub obstacle: Option<Obstacle>,
}

/// The users of the watched ConfigMap: under each key, one on a line.
pub fn stored(raw: Raw) -> Result<SuspendedUsers, String> {
    let mut users = SuspendedUsers::default();
    let data = raw.data["data"].as_object().cloned().unwrap_or_default();
    for (key, value) in data {
        let lines = value.as_str().unwrap_or_default().lines();
        let namespace = (key != EVERYWHERE).then_some(key.as_str());
        users.add(namespace, lines.map(str::to_owned));
    }
    Ok(users)
}

fn data(users: &SuspendedUsers) -> Map<String, Value> {
    let lines = |users: &BTreeSet<String>| {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        Value::from(users.join("\n"))
    };
    let namespaces = users.in_namespace.iter();
    let mut data: Map<String, Value> = namespaces
        .map(|(namespace, users)| (namespace.clone(), lines(users)))
        .collect();
    if !users.everywhere.is_empty() {
        data.insert(EVERYWHERE.to_owned(), lines(&users.everywhere));
    }
    data
}

pub struct Keeper {
    pub client: Client,
    pub namespace: String,
    pub wanted: watch::Receiver<Option<SuspendedUsers>>,
    pub changes: mpsc::Receiver<Change<SuspendedUsers>>,
    pub mandate: Mandate,
    pub kept: watch::Sender<Kept>,
}

impl Keeper {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        // `None` while it isn't known what is stored: then nothing is written.
        let mut stored = None;
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut retry = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                change = self.changes.recv() => {
                    let Some(change) = change else {
                        // Asked to stop, the watch may end between the two looks of one poll.
                        ensure!(stop.is_cancelled(), "the watch of the ConfigMap {CONFIG_MAP} ended");
                        return Ok(());
                    };
                    observe(&mut stored, change);
                }
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                changed = self.mandate.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
            let kept = if self.mandate.leads() {
                self.keep(&mut stored).await
            } else {
                Ok(())
            };
            retry = kept
                .as_ref()
                .err()
                .map(|_| Instant::now() + backoff.pause());
            if kept.is_ok() {
                backoff.reset();
            }
            self.publish(stored.as_ref(), kept);
        }
    }

    async fn keep(&mut self, stored: &mut Option<SuspendedUsers>) -> Result<()> {
        let Some(known) = stored.as_mut() else {
            return Ok(());
        };
        let Some(wanted) = self.wanted.borrow_and_update().clone() else {
            return Ok(());
        };
        if *known == wanted {
            return Ok(());
        }
        self.write(&wanted).await?;
        info!("the users whose writes are refused are stored");
        *known = wanted;
        Ok(())
    }

    async fn write(&self, users: &SuspendedUsers) -> Result<()> {
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": self.namespace},
            "data": data(users),
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = self.patch(&params, &Patch::Apply(body)).await?;
        // Keys of others don't go with an apply.
        let ours = data(users);
        let theirs = written.data.unwrap_or_default().into_keys();
        let theirs: Map<String, Value> = theirs
            .filter(|key| !ours.contains_key(key))
            .map(|key| (key, Value::Null))
            .collect();
        if !theirs.is_empty() {
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(json!({"data": theirs}));
            self.patch(&params, &patch).await?;
        }
        Ok(())
    }

    async fn patch(&self, params: &PatchParams, patch: &Patch<Value>) -> Result<ConfigMap> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        timeout(CALL_TIMEOUT, maps.patch(CONFIG_MAP, params, patch))
            .await
            .context("the API server did not answer within 10 s")?
            .with_context(|| format!("writing the ConfigMap {CONFIG_MAP}"))
    }

    fn publish(&self, stored: Option<&SuspendedUsers>, kept: Result<()>) {
        let obstacle = kept.err().map(|error| {
            let message = format!("the API server does not refuse the writes yet: {error:#}");
            warn!("{message}");
            Obstacle {
                kind: ObstacleKind::Failed,
                message,
            }
        });
        let kept = Kept {
            users: stored.cloned().unwrap_or_default(),
            obstacle,
        };
        self.kept.send_if_modified(|before| {
            let differs = *before != kept;
            if differs {
                *before = kept;
            }
            differs
        });
    }
}

fn observe(stored: &mut Option<SuspendedUsers>, change: Change<SuspendedUsers>) {
    *stored = match change {
        Change::Apply(_, users) => Some(users),
        Change::Reset { objects, .. } => Some(objects.into_values().next().unwrap_or_default()),
        Change::Delete(_) | Change::Malformed(_) => Some(SuspendedUsers::default()),
        Change::Lost { .. } => None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut users = SuspendedUsers::default();
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        users.add(None, names(&["mallory@example.com", "CN=eve,O=ops"]));
        users.add(Some("plant"), names(&["bob", "all"]));
        let data = data(&users);
        assert_eq!(data["_all"], "CN=eve,O=ops\nmallory@example.com");
        let raw = Raw {
            metadata: Default::default(),
            data: json!({"data": data}),
        };
        assert_eq!(stored(raw), Ok(users));
    }

    #[test]
    fn an_empty_map_suspends_nobody() {
        let raw = Raw {
            metadata: Default::default(),
            data: json!({"kind": "ConfigMap"}),
        };
        assert_eq!(stored(raw), Ok(SuspendedUsers::default()));
    }
}
