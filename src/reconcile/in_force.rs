//! Writes down what is in force. A task of its own: the loop does not wait for a disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::records::{InForce, InForceStore};
use crate::backoff::Backoff;

const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is to be written down; `None` while this replica does not lead.
pub type Latest = Option<Arc<BTreeMap<String, InForce>>>;

/// Writes what changed, each time the latest, until `stop`; then once more.
pub async fn keep(
    store: Arc<dyn InForceStore>,
    mut latest: watch::Receiver<Latest>,
    stop: CancellationToken,
) -> Result<()> {
    let mut written: Latest = None;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            changed = latest.changed() => changed.is_err(),
        };
        let mut wanted = latest.borrow_and_update().clone();
        loop {
            match save(store.as_ref(), written.as_deref(), wanted.as_deref()).await {
                Ok(()) => break backoff.reset(),
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "what is in force was not written down, trying again"
                ),
            }
            if stopping
                || stop
                    .run_until_cancelled(sleep(backoff.pause()))
                    .await
                    .is_none()
            {
                break;
            }
            // Who leads no more has nothing to write any more.
            wanted = latest.borrow_and_update().clone();
        }
        written = wanted;
        if stopping {
            return Ok(());
        }
    }
}

/// Without knowing what is written, everything is written, and what is not wanted any more is read.
async fn save(
    store: &dyn InForceStore,
    written: Option<&BTreeMap<String, InForce>>,
    wanted: Option<&BTreeMap<String, InForce>>,
) -> Result<()> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let saving = async {
        let read;
        let written = match written {
            Some(written) => written,
            None => {
                read = store.in_force().await?;
                &read
            }
        };
        let put: BTreeMap<String, InForce> = wanted
            .iter()
            .filter(|(uid, entry)| written.get(*uid) != Some(*entry))
            .map(|(uid, entry)| (uid.clone(), entry.clone()))
            .collect();
        let remove: Vec<String> = written
            .keys()
            .filter(|uid| !wanted.contains_key(*uid))
            .cloned()
            .collect();
        if put.is_empty() && remove.is_empty() {
            return Ok(());
        }
        store.save_in_force(&put, &remove).await
    };
    timeout(STORE_TIMEOUT, saving)
        .await
        .map_err(|_| anyhow::anyhow!("the store did not answer within 10 s"))?
}
