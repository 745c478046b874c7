//! Holds, shown to people and confirmed by them: keeps the ConfigMap `seawall-holds` as the loop wants
//! it, raises a Kubernetes Event when a hold opens, and passes a person's confirmation on to the loop.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::stamps;
use crate::backoff::Backoff;
use crate::leadership::Mandate;
use crate::reconcile::holds::{CONFIG_MAP, FIELD_MANAGER, FILE, HoldList, ListedHold};
use crate::watch::{Change, Raw};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The ConfigMap, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredHolds {
    pub text: Option<String>,
    /// The id that a person put into the annotation.
    pub confirm: Option<String>,
}

/// Narrows the watched ConfigMap.
pub fn stored(raw: Raw) -> Result<StoredHolds, String> {
    Ok(StoredHolds {
        text: raw.data["data"][FILE].as_str().map(str::to_owned),
        confirm: raw
            .metadata
            .annotations
            .and_then(|mut all| all.remove(stamps::CONFIRM)),
    })
}

pub struct HoldKeeper {
    pub client: Client,
    pub namespace: String,
    /// Who Events come from.
    pub reporter: Reporter,
    pub wanted: watch::Receiver<Option<HoldList>>,
    pub changes: mpsc::Receiver<Change<StoredHolds>>,
    pub mandate: Mandate,
    pub confirmations: mpsc::Sender<String>,
}

impl HoldKeeper {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut stored: Option<StoredHolds> = None;
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let mut retry = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                change = self.changes.recv() => {
                    let Some(change) = change else {
                        // Asked to stop, the watch may end between the two looks of one poll.
                        ensure!(stop.is_cancelled(), "the watch of the ConfigMap seawall-holds ended");
                        return Ok(());
                    };
                    observe(&mut stored, change);
                }
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                changed = self.mandate.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
            if !self.mandate.leads() {
                continue;
            }
            retry = match self.keep(&mut stored).await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "the ConfigMap {CONFIG_MAP} was not brought up to date, trying again"
                    );
                    Some(Instant::now() + backoff.pause())
                }
            };
        }
    }

    async fn keep(&mut self, stored: &mut Option<StoredHolds>) -> Result<()> {
        let Some(known) = stored.as_mut() else {
            return Ok(());
        };
        let Some(wanted) = self.wanted.borrow_and_update().clone() else {
            return Ok(());
        };
        if let Some(id) = known.confirm.take() {
            self.confirmations
                .send(id)
                .await
                .context("the loop ended")?;
            self.clear_annotation().await?;
        }
        let listed = match &known.text {
            Some(text) => crate::yaml::from_str::<HoldList>(text).ok(),
            None => Some(HoldList::default()),
        };
        if listed.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let text = file(&wanted)?;
        self.write(&text).await?;
        known.text = Some(text);
        let shown: BTreeSet<String> = listed
            .unwrap_or_default()
            .holds
            .into_iter()
            .map(|hold| hold.id)
            .collect();
        for hold in wanted.holds.iter().filter(|hold| !shown.contains(&hold.id)) {
            self.raise(hold).await;
        }
        Ok(())
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn write(&self, text: &str) -> Result<()> {
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": self.namespace},
            "data": {(FILE): text},
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let maps = self.maps();
        timeout(
            CALL_TIMEOUT,
            maps.patch(CONFIG_MAP, &params, &Patch::Apply(body)),
        )
        .await
        .context("the API server did not answer within 10 s")?
        .context("writing it: the chart makes it empty and lets the operator patch it")?;
        Ok(())
    }

    async fn clear_annotation(&self) -> Result<()> {
        let body = json!({"metadata": {"annotations": {(stamps::CONFIRM): null}}});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let maps = self.maps();
        timeout(
            CALL_TIMEOUT,
            maps.patch(CONFIG_MAP, &params, &Patch::Merge(body)),
        )
        .await
        .context("the API server did not answer within 10 s")?
        .context("taking the confirmation away")?;
        Ok(())
    }

    /// A Kubernetes Event; without the right to make one, the log and the ConfigMap have to do.
    async fn raise(&self, hold: &ListedHold) {
        let event = Event {
            type_: EventType::Warning,
            reason: "ReleaseHeld".to_owned(),
            note: Some(format!(
                "{}. {} isolations stay in force until a person runs: {}",
                hold.why, hold.count, hold.to_release
            )),
            action: "Hold".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            name: Some(CONFIG_MAP.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        };
        // One that remembers would count a second hold into the first one's Event, with the first one's words.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let raised = timeout(CALL_TIMEOUT, recorder.publish(&event, &about)).await;
        match raised {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "no Kubernetes Event was made about the hold"),
            Err(_) => warn!("no Kubernetes Event was made about the hold in time"),
        }
    }
}

fn observe(stored: &mut Option<StoredHolds>, change: Change<StoredHolds>) {
    *stored = match change {
        Change::Apply(_, object) => Some(object),
        Change::Reset { objects, .. } => Some(objects.into_values().next().unwrap_or_default()),
        Change::Delete(_) | Change::Malformed(_) => Some(StoredHolds::default()),
        Change::Lost { .. } => None,
    };
}

/// What people read, with what to do on top.
fn file(list: &HoldList) -> Result<String> {
    let body = crate::yaml::to_string(list).context("writing YAML")?;
    if list.holds.is_empty() {
        return Ok(format!("# Nothing is held.\n{body}"));
    }
    Ok(format!(
        "# These Isolations are gone from the API server and still in force, because so many were\n\
         # released at once. Look whether that was meant. Then run what toRelease says, or annotate this\n\
         # ConfigMap: kubectl -n NAMESPACE annotate configmap {CONFIG_MAP} {}=ID\n{body}",
        stamps::CONFIRM
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::holds::Hold;
    use jiff::Timestamp;

    #[test]
    fn the_file_that_people_read_is_yaml_that_reads_back() {
        let hold = Hold {
            id: "hold_1".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            why: "6 were deleted".to_owned(),
        };
        let list = HoldList {
            holds: vec![ListedHold::new(&hold, &[])],
        };
        let text = file(&list).expect("YAML");
        assert!(text.contains("seawall release confirm hold_1"), "{text}");
        assert_eq!(
            crate::yaml::from_str::<HoldList>(&text).expect("reads"),
            list
        );
    }
}
