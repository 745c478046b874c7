//! Recorded requests against the changes that the watches saw: what of the requests happened, what did not,
//! and which changes nobody asked for as far as is known. Pure: requests, changes and the time come in,
//! findings go out.
//!
//! The API server raises an object's generation by one with each change of its spec, so every generation
//! needs a request; the spec tells which one, where several asked for the same generation and one was
//! refused. A request is recorded before the object is stored, as a rule; the watch may still be first, so a
//! change waits a while before it is judged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::finding::{Cause, Finding, Happened, NotSeen, Unexplained};
use super::life::{Asked, Life};
use super::records::{Memory, ObjectId, Request, SeenObject, Wants};
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

/// How long a change waits for its request.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);
/// How long a request waits for its change. The API server gives up a request after a minute.
const LAPSE: SignedDuration = SignedDuration::from_mins(2);

/// A watched object, as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: ObjectKey,
    pub uid: String,
    pub generation: i64,
    /// Of its spec; None where it can't be read.
    pub spec: Option<String>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// By UID.
    lives: BTreeMap<String, Life>,
    /// The UID of what is there now.
    present: BTreeMap<(Kind, ObjectKey), String>,
    waiting: VecDeque<Waiting>,
    /// Found outside of what waits.
    found: Vec<Finding>,
    /// Kinds whose list was read since the start.
    listed: BTreeSet<Kind>,
    watched_until: Option<Timestamp>,
    /// UIDs of what has to be written down again, or removed.
    changed: BTreeSet<String>,
    removed: BTreeSet<String>,
}

#[derive(Debug)]
struct Waiting {
    uid: String,
    /// What it was seen as; for a deletion, None.
    shown: Option<(i64, Option<String>)>,
    from: Timestamp,
    at: Timestamp,
    cause: Cause,
}

impl Ledger {
    /// Goes on from what an earlier process knew.
    pub fn restore(memory: Memory, now: Timestamp) -> Self {
        let mut ledger = Self {
            watched_until: memory.watched_until,
            ..Self::default()
        };
        for row in memory.objects {
            let mut life = Life::new(row.object);
            (life.seen, life.judged) = (row.seen, row.seen);
            let asked = row.asked.into_iter().map(|request| Asked {
                request,
                at: now,
                found: false,
                done: false,
            });
            life.asked = asked.collect();
            if row.seen > 0 {
                let present = (life.object.kind, life.object.key.clone());
                ledger.present.insert(present, life.object.uid.clone());
            }
            ledger.lives.insert(life.object.uid.clone(), life);
        }
        ledger
    }

    /// A request is durable in the audit log.
    pub fn recorded(&mut self, object: ObjectId, request: Request, now: Timestamp) {
        let uid = object.uid.clone();
        let life = self.lives.entry(uid.clone());
        let life = life.or_insert_with(|| Life::new(object));
        let late = match &request.wants {
            Wants::Written { generation, spec } if *generation <= life.judged => {
                // Its change was judged without it, and is in a gap if nobody else was recorded.
                let same = spec.is_some() && *spec == life.spec;
                let is_it = life.unexplained && *generation == life.judged && same;
                Some(is_it.then_some(*generation))
            }
            _ => None,
        };
        if let Some(happened) = late {
            let object = life.object.clone();
            self.found.push(match happened {
                Some(generation) => Finding::Happened(Happened {
                    object,
                    generation: Some(generation),
                    requests: vec![request.clone()],
                    at: now,
                }),
                None => Finding::NotSeen(NotSeen {
                    object,
                    request: request.clone(),
                    why: "another change was stored in its place",
                }),
            });
            life.owe(1, life.judged);
        }
        life.asked.push(Asked {
            request,
            at: now,
            found: late.is_some(),
            done: false,
        });
        self.changed.insert(uid);
    }

    /// A watch shows an object.
    pub fn shown(&mut self, kind: Kind, shown: Shown, now: Timestamp) {
        let (from, cause) = (now, Cause::NotTold);
        self.show(kind, shown, from, now, cause);
    }

    /// A watch shows that an object is gone.
    pub fn gone(&mut self, kind: Kind, key: &ObjectKey, now: Timestamp) {
        self.end(kind, key, now, now, Cause::NotTold);
    }

    /// A watch shows the whole list: what is not in it is gone.
    pub fn list(&mut self, kind: Kind, objects: Vec<Shown>, now: Timestamp) {
        let (from, cause) = match (self.listed.insert(kind), self.watched_until) {
            (false, _) => (now, Cause::NotTold),
            (true, Some(until)) => (until.min(now), Cause::Away),
            (true, None) => (now, Cause::BeforeTheRecord),
        };
        let there: BTreeSet<&ObjectKey> = objects.iter().map(|it| &it.key).collect();
        let gone: Vec<ObjectKey> = self
            .present
            .keys()
            .filter(|(other, key)| *other == kind && !there.contains(key))
            .map(|(_, key)| key.clone())
            .collect();
        for key in gone {
            self.end(kind, &key, from, now, cause);
        }
        for shown in objects {
            self.show(kind, shown, from, now, cause);
        }
    }

    fn show(&mut self, kind: Kind, shown: Shown, from: Timestamp, now: Timestamp, cause: Cause) {
        let place = (kind, shown.key.clone());
        let before = self.present.insert(place, shown.uid.clone());
        if let Some(before) = before.filter(|before| *before != shown.uid) {
            self.wait(before, None, from, now, cause);
        }
        let fresh = || {
            Life::new(ObjectId {
                uid: shown.uid.clone(),
                kind,
                key: shown.key,
            })
        };
        let life = self.lives.entry(shown.uid.clone()).or_insert_with(fresh);
        if shown.generation > life.seen {
            life.seen = shown.generation;
            let state = (shown.generation, shown.spec);
            self.wait(shown.uid, Some(state), from, now, cause);
        } else if life.spec.is_none() && shown.generation == life.judged {
            // As an earlier process left it.
            life.spec = shown.spec;
        }
    }

    fn end(&mut self, kind: Kind, key: &ObjectKey, from: Timestamp, now: Timestamp, cause: Cause) {
        if let Some(uid) = self.present.remove(&(kind, key.clone())) {
            self.wait(uid, None, from, now, cause);
        }
    }

    fn wait(
        &mut self,
        uid: String,
        shown: Option<(i64, Option<String>)>,
        from: Timestamp,
        at: Timestamp,
        cause: Cause,
    ) {
        self.waiting.push_back(Waiting {
            uid,
            shown,
            from,
            at,
            cause,
        });
    }

    /// When there is something to tell.
    pub fn due_at(&self) -> Option<Timestamp> {
        if !self.found.is_empty() {
            return Some(Timestamp::MIN);
        }
        self.waiting.front().map(|next| next.at + PATIENCE)
    }

    /// What is known of changes that have waited long enough, and of requests that came too late for theirs.
    pub fn due(&mut self, now: Timestamp) -> Vec<Finding> {
        let mut findings = std::mem::take(&mut self.found);
        while self
            .waiting
            .front()
            .is_some_and(|next| next.at + PATIENCE <= now)
        {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            findings.extend(self.judge(waiting));
        }
        findings
    }

    fn judge(&mut self, waiting: Waiting) -> Vec<Finding> {
        let Some(life) = self.lives.get_mut(&waiting.uid) else {
            return Vec::new();
        };
        let (before, at) = (life.judged, waiting.at);
        let deleted = waiting.shown.is_none();
        let (mut findings, explained) = match waiting.shown {
            Some((generation, spec)) => {
                let judged = life.written(generation, spec.as_deref(), at);
                (life.judged, life.spec) = (generation, spec);
                life.unexplained = !judged.1;
                judged
            }
            None => {
                life.gone = true;
                life.deleted(at)
            }
        };
        if !explained {
            findings.push(Finding::Unexplained(Unexplained {
                object: life.object.clone(),
                generation: life.seen,
                deleted,
                from: waiting.from,
                to: at,
                cause: waiting.cause,
            }));
        }
        life.owe(findings.len(), before);
        self.changed.insert(waiting.uid);
        findings
    }

    /// The audit log has it.
    pub fn settled(&mut self, finding: &Finding) {
        let uid = finding.uid();
        let Some(life) = self.lives.get_mut(uid) else {
            return;
        };
        match finding {
            Finding::Unexplained(_) => {}
            Finding::Happened(it) => it.requests.iter().for_each(|it| life.told(&it.id)),
            Finding::NotSeen(it) => life.told(&it.request.id),
        }
        life.paid();
        self.changed.insert(uid.to_owned());
        let unknown = life.seen == 0 && life.asked.is_empty();
        if life.owed.is_none() && (life.gone || unknown) {
            self.forget(uid);
        }
    }

    /// What became of requests that have waited long enough for their change.
    pub fn lapse(&mut self, now: Timestamp) -> Vec<Finding> {
        let old = now - LAPSE;
        let mut findings = Vec::new();
        for life in self.lives.values_mut() {
            let lapsed = life.lapsed(old);
            life.owe(lapsed.len(), life.judged);
            findings.extend(lapsed);
        }
        findings
    }

    fn forget(&mut self, uid: &str) {
        self.lives.remove(uid);
        self.changed.remove(uid);
        self.removed.insert(uid.to_owned());
    }

    /// What has to be written down and removed since the last time.
    pub fn take_changes(&mut self) -> (Vec<SeenObject>, Vec<String>) {
        let changed = std::mem::take(&mut self.changed);
        let put = changed
            .iter()
            .filter_map(|uid| self.lives.get(uid))
            .map(Life::row)
            .collect();
        let removed = std::mem::take(&mut self.removed);
        (put, removed.into_iter().collect())
    }

    /// Says that what was taken could not be written down.
    pub fn put_back(&mut self, put: &[SeenObject], removed: Vec<String>) {
        self.changed
            .extend(put.iter().map(|row| row.object.uid.clone()));
        self.removed.extend(removed);
    }

    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.removed.is_empty()
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
