//! What an applier remembers between two rounds: the stored objects, what the API server made of our
//! writes, and which writes failed. No client here.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::core::DynamicObject;
use tokio::time::Instant;
use tracing::{info, warn};

use super::owned::{Owned, Placed, stored};
use super::plan::{Step, Stored, in_place, plan};
use crate::backoff::Backoff;
use crate::domain::applied::{Obstacle, ObstacleKind};
use crate::domain::names::ObjectKey;
use crate::watch::{Change, Raw};

pub struct Known<K: Owned> {
    /// `None` until the first list: then nothing is written, for nothing is known to be missing.
    stored: Option<BTreeMap<ObjectKey, Stored<K::Content>>>,
    /// Of each object that we wrote, what we asked for and what the API server made of it.
    accepted: BTreeMap<ObjectKey, (K::Content, K::Content)>,
    failed: BTreeMap<ObjectKey, Failure>,
}

/// What came of a step.
pub enum Outcome {
    Applied(Box<DynamicObject>),
    Deleted,
    /// Somebody else's object has the name.
    Blocked,
}

/// A write that did not work, and when to try again.
struct Failure {
    obstacle: Obstacle,
    backoff: Backoff,
    not_before: Instant,
}

impl<K: Owned> Default for Known<K> {
    fn default() -> Self {
        Self {
            stored: None,
            accepted: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }
}

impl<K: Owned> Known<K> {
    pub fn observe(&mut self, change: Change<Stored<K::Content>>) {
        match change {
            Change::Apply(key, object) => self.saw(key, object),
            Change::Malformed(malformed) => {
                // Ours with a content that can't be read is drift: writing it again repairs it.
                if let Some(stored) = self.stored.as_mut() {
                    stored.remove(&malformed.key);
                }
            }
            Change::Delete(key) => {
                if let Some(stored) = self.stored.as_mut() {
                    stored.remove(&key);
                }
                self.failed.remove(&key);
            }
            Change::Reset { objects, .. } => self.stored = Some(objects),
            Change::Lost { .. } => self.stored = None,
        }
    }

    /// An event from before our own last write is old news.
    fn saw(&mut self, key: ObjectKey, object: Stored<K::Content>) {
        let Some(stored) = self.stored.as_mut() else {
            return;
        };
        let version = |object: &Stored<K::Content>| object.resource_version.parse::<u64>().ok();
        let old_news = stored
            .get(&key)
            .is_some_and(|known| version(&object) < version(known));
        if !old_news {
            stored.insert(key, object);
        }
    }

    /// Steps to take now, in groups of which each is done before the next begins.
    pub fn steps(
        &mut self,
        wanted: &BTreeMap<ObjectKey, K::Content>,
        now: Instant,
    ) -> Vec<Vec<Step<K::Content>>> {
        let Some(stored) = self.stored.as_ref() else {
            return Vec::new();
        };
        self.failed
            .retain(|key, _| wanted.contains_key(key) || stored.contains_key(key));
        let (deletes, writes): (Vec<_>, Vec<_>) = plan(wanted, stored, &self.accepted)
            .into_iter()
            .filter(|step| {
                self.failed
                    .get(step.key())
                    .is_none_or(|failure| failure.not_before <= now)
            })
            .partition(|step| matches!(step, Step::Delete { .. }));
        if K::DELETES_FIRST {
            vec![deletes, writes]
        } else {
            vec![writes, deletes]
        }
    }

    pub fn record(&mut self, step: Step<K::Content>, outcome: Result<Outcome, String>) {
        let key = step.key().clone();
        match outcome {
            Ok(Outcome::Applied(object)) => self.applied(&key, step, *object),
            Ok(Outcome::Deleted) => {
                info!(kind = K::resource().kind, object = %key, "deleted");
                self.failed.remove(&key);
                self.accepted.remove(&key);
                if let Some(stored) = self.stored.as_mut() {
                    stored.remove(&key);
                }
            }
            Ok(Outcome::Blocked) => {
                let why = format!(
                    "{} {key} was made by somebody else and is left as it is: rename or delete it",
                    K::resource().kind
                );
                self.fail(key, ObstacleKind::Conflict, why);
            }
            Err(why) => self.fail(key, ObstacleKind::Failed, why),
        }
    }

    fn applied(&mut self, key: &ObjectKey, step: Step<K::Content>, object: DynamicObject) {
        self.failed.remove(key);
        let asked = match step {
            Step::Create(_, content) | Step::Update(_, content) => content,
            Step::Delete { .. } | Step::Blocked(_) => return,
        };
        let raw = Raw {
            metadata: object.metadata,
            data: object.data,
        };
        if let Ok(object) = stored::<K>(raw) {
            self.accepted
                .insert(key.clone(), (asked, object.content.clone()));
            self.saw(key.clone(), object);
        }
    }

    fn fail(&mut self, key: ObjectKey, kind: ObstacleKind, message: String) {
        let obstacle = Obstacle { kind, message };
        let known = self.failed.get(&key).map(|failure| &failure.obstacle);
        if known != Some(&obstacle) {
            let why = &obstacle.message;
            warn!(kind = K::resource().kind, object = %key, "not applied, trying again: {why}");
        }
        let failure = self.failed.entry(key).or_insert_with(|| Failure {
            obstacle: obstacle.clone(),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
            not_before: Instant::now(),
        });
        failure.obstacle = obstacle;
        failure.not_before = Instant::now() + failure.backoff.pause();
    }

    pub fn next_retry(&self) -> Option<Instant> {
        self.failed.values().map(|failure| failure.not_before).min()
    }

    pub fn placed(&self, wanted: &BTreeMap<ObjectKey, K::Content>) -> Placed {
        let Some(stored) = self.stored.as_ref() else {
            return Placed::default();
        };
        Placed {
            in_place: wanted
                .iter()
                .filter(|(key, content)| {
                    stored
                        .get(*key)
                        .is_some_and(|found| in_place(key, *content, found, &self.accepted))
                })
                .map(|(key, _)| key.clone())
                .collect(),
            obstacles: self
                .failed
                .iter()
                .map(|(key, failure)| (key.clone(), failure.obstacle.clone()))
                .collect(),
        }
    }
}
