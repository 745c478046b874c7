//! Which changes that the watches saw a recorded request explains, and which nobody asked for as far as is
//! known. Pure: requests, changes and the time come in, unexplained changes go out.
//!
//! The API server raises an object's generation by one with each change of its spec, so every generation
//! needs a request. A request is recorded before the object is stored, as a rule; the watch may still be
//! first, so a change waits a while before it is called unexplained.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::records::{Memory, ObjectId, SeenObject};
use super::review::{Explained, Explains};
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

/// How long a change waits for its request.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);
/// How long a request waits for its change: it may have been refused after it was recorded.
const LAPSE: SignedDuration = SignedDuration::from_mins(10);

/// A change that no recorded request explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexplained {
    pub object: ObjectId,
    /// The newest generation that was seen.
    pub generation: i64,
    pub deleted: bool,
    /// It happened between these.
    pub from: Timestamp,
    pub to: Timestamp,
    pub cause: Cause,
}

/// Why nobody was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It is older than the record.
    BeforeTheRecord,
    /// No operator ran.
    Away,
    /// An operator ran, and was not told.
    NotTold,
}

/// A watched object, as a watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: ObjectKey,
    pub uid: String,
    pub generation: i64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// By UID.
    lives: BTreeMap<String, Life>,
    /// The UID of what is there now.
    present: BTreeMap<(Kind, ObjectKey), String>,
    waiting: VecDeque<Waiting>,
    /// Kinds whose list was read since the start.
    listed: BTreeSet<Kind>,
    watched_until: Option<Timestamp>,
    /// UIDs of what has to be written down again, or removed.
    changed: BTreeSet<String>,
    removed: BTreeSet<String>,
}

#[derive(Debug)]
struct Life {
    object: ObjectId,
    /// The newest generation that a watch showed.
    seen: i64,
    /// Up to here, it was decided whether each is explained.
    judged: i64,
    /// Generations above `judged` that a request explains, and when it was recorded.
    explained: BTreeMap<i64, Timestamp>,
    deletion_asked: Option<Timestamp>,
    /// Gaps about it that are not in the audit log yet, and what was judged before the first of them: an
    /// operator that ends now leaves them to the next.
    owed: Option<(usize, i64)>,
}

#[derive(Debug)]
struct Waiting {
    uid: String,
    /// The generation it was seen at; for a deletion, None.
    generation: Option<i64>,
    from: Timestamp,
    at: Timestamp,
    cause: Cause,
}

impl Life {
    fn new(object: ObjectId) -> Self {
        Self {
            object,
            seen: 0,
            judged: 0,
            explained: BTreeMap::new(),
            deletion_asked: None,
            owed: None,
        }
    }

    /// Whether requests explain every generation from the last one that was judged to this.
    fn explains(&self, generation: i64) -> bool {
        let known = self.explained.range(self.judged + 1..=generation).count();
        let needed = generation - self.judged;
        self.deletion_asked.is_some() || i64::try_from(known) == Ok(needed)
    }

    fn row(&self) -> SeenObject {
        let seen = self.owed.map_or(self.judged, |(_, before)| before);
        let explained =
            self.explained.keys().fold(
                seen,
                |reached, next| {
                    if *next == reached + 1 { *next } else { reached }
                },
            );
        SeenObject {
            object: self.object.clone(),
            seen,
            explained,
            deletion_asked: self.deletion_asked.is_some(),
        }
    }
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
            life.explained = (row.seen + 1..=row.explained).map(|it| (it, now)).collect();
            life.deletion_asked = row.deletion_asked.then_some(now);
            if row.seen > 0 {
                let present = (life.object.kind, life.object.key.clone());
                ledger.present.insert(present, life.object.uid.clone());
            }
            ledger.lives.insert(life.object.uid.clone(), life);
        }
        ledger
    }

    /// A request is durable in the audit log.
    pub fn recorded(&mut self, explains: Explains, now: Timestamp) {
        let uid = explains.object.uid.clone();
        let fresh = || Life::new(explains.object);
        let life = self.lives.entry(uid.clone()).or_insert_with(fresh);
        match explains.change {
            Explained::Written(generation) if generation > life.judged => {
                life.explained.insert(generation, now);
            }
            // Only its metadata changed.
            Explained::Written(_) => return,
            Explained::Deleted => life.deletion_asked = Some(now),
        }
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
            self.wait(shown.uid, Some(shown.generation), from, now, cause);
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
        generation: Option<i64>,
        from: Timestamp,
        at: Timestamp,
        cause: Cause,
    ) {
        self.waiting.push_back(Waiting {
            uid,
            generation,
            from,
            at,
            cause,
        });
    }

    /// When the next change has waited long enough.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.waiting.front().map(|next| next.at + PATIENCE)
    }

    /// What has waited long enough and is not explained.
    pub fn due(&mut self, now: Timestamp) -> Vec<Unexplained> {
        let mut unexplained = Vec::new();
        while self.due_at().is_some_and(|due| due <= now) {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            unexplained.extend(self.judge(&waiting));
        }
        unexplained
    }

    fn judge(&mut self, waiting: &Waiting) -> Option<Unexplained> {
        let life = self.lives.get_mut(&waiting.uid)?;
        let before = life.judged;
        let explained = match waiting.generation {
            Some(generation) => {
                let explained = life.explains(generation);
                life.judged = life.judged.max(generation);
                life.explained = life.explained.split_off(&(life.judged + 1));
                self.changed.insert(waiting.uid.clone());
                explained
            }
            None => life.deletion_asked.is_some(),
        };
        if explained {
            if waiting.generation.is_none() && life.owed.is_none() {
                self.forget(&waiting.uid);
            }
            return None;
        }
        let owed = life.owed.get_or_insert((0, before));
        owed.0 += 1;
        Some(Unexplained {
            object: life.object.clone(),
            generation: life.seen,
            deleted: waiting.generation.is_none(),
            from: waiting.from,
            to: waiting.at,
            cause: waiting.cause,
        })
    }

    /// The audit log has the gap.
    pub fn settled(&mut self, unexplained: &Unexplained) {
        let uid = &unexplained.object.uid;
        let Some(life) = self.lives.get_mut(uid) else {
            return;
        };
        life.owed = match life.owed {
            Some((owed, before)) if owed > 1 => Some((owed - 1, before)),
            _ => None,
        };
        self.changed.insert(uid.clone());
        let place = (life.object.kind, life.object.key.clone());
        let gone = self.present.get(&place) != Some(uid);
        if gone && life.owed.is_none() && life.seen > 0 {
            let waits = self.waiting.iter().any(|waiting| waiting.uid == *uid);
            if !waits {
                self.forget(&uid.clone());
            }
        }
    }

    /// Drops requests that led to nothing.
    pub fn lapse(&mut self, now: Timestamp) {
        let old = now - LAPSE;
        let mut empty = Vec::new();
        for (uid, life) in &mut self.lives {
            let before = (life.explained.len(), life.deletion_asked);
            life.explained.retain(|_, at| *at > old);
            life.deletion_asked = life.deletion_asked.filter(|at| *at > old);
            if before != (life.explained.len(), life.deletion_asked) {
                self.changed.insert(uid.clone());
            }
            let unused = life.explained.is_empty() && life.deletion_asked.is_none();
            if life.seen == 0 && unused {
                empty.push(uid.clone());
            }
        }
        for uid in empty {
            self.forget(&uid);
        }
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
