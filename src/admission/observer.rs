//! Between the watches and their reader: the witness is told of every change, and nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::ledger::Shown;
use super::review::digest;
use crate::domain::names::ObjectKey;
use crate::watch::{Change, Kind, Malformed, Watched};

/// What a watch saw, as far as it matters here.
#[derive(Debug)]
pub enum Observation {
    Shown(Kind, Shown),
    Gone(Kind, ObjectKey),
    Listed(Kind, Vec<Shown>),
}

/// Tells the witness. Clones tell the same one.
#[derive(Clone, Debug)]
pub struct Observer {
    observations: mpsc::Sender<Observation>,
    /// Something could not be told.
    lost: Arc<AtomicBool>,
}

impl Observer {
    pub(super) fn new(observations: mpsc::Sender<Observation>) -> Self {
        Self {
            observations,
            lost: Arc::default(),
        }
    }

    pub(super) fn lost(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    fn tell(&self, observation: Observation) {
        if let Err(TrySendError::Full(_)) = self.observations.try_send(observation) {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    fn observe<Spec: Serialize, Status>(&self, kind: Kind, change: &Change<Watched<Spec, Status>>) {
        match change {
            Change::Apply(key, watched) => {
                self.tell(Observation::Shown(kind, shown(key, watched)));
            }
            Change::Malformed(it) => {
                self.tell(Observation::Shown(kind, unread(it)));
            }
            Change::Delete(key) => self.tell(Observation::Gone(kind, key.clone())),
            Change::Reset { objects, malformed } => {
                let read = objects.iter().map(|(key, watched)| shown(key, watched));
                let all = read.chain(malformed.iter().map(unread)).collect();
                self.tell(Observation::Listed(kind, all));
            }
            Change::Lost { .. } => {}
        }
    }
}

fn shown<Spec: Serialize, Status>(key: &ObjectKey, watched: &Watched<Spec, Status>) -> Shown {
    Shown {
        key: key.clone(),
        uid: watched.resource.uid.clone(),
        generation: watched.resource.generation,
        spec: digest(&watched.resource.spec),
    }
}

fn unread(malformed: &Malformed) -> Shown {
    Shown {
        key: malformed.key.clone(),
        uid: malformed.uid.clone(),
        generation: malformed.generation,
        spec: None,
    }
}

/// Passes every change of a watch on to its reader, and tells the observer of it. Ends with either.
pub async fn observed<Spec: Serialize, Status>(
    kind: Kind,
    mut changes: mpsc::Receiver<Change<Watched<Spec, Status>>>,
    out: mpsc::Sender<Change<Watched<Spec, Status>>>,
    observer: Observer,
) {
    while let Some(change) = changes.recv().await {
        observer.observe(kind, &change);
        if out.send(change).await.is_err() {
            return;
        }
    }
}
