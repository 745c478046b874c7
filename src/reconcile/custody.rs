//! Which Isolations are in force, which of them are gone from the API server, and which are held.
//!
//! An Isolation that vanished moves from the World's list to its `held`, where `compile` keeps it in
//! force, and leaves that only when its release is settled, or confirmed by a person. What is in force
//! is written down, so that the leader after this one sees what vanished while nobody looked. No clock,
//! no client and no store here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::holds::Hold;
use super::records::InForce;
use super::releases::Releases;
use crate::api::IsolationSpec;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, IsolationVerdict};
use crate::domain::world::{HeldIsolation, Resource, World};
use crate::watch::Malformed;

#[derive(Debug, Default)]
pub struct Custody {
    releases: Releases,
    /// By UID; on a replica that does not lead, only what it saw itself.
    in_force: BTreeMap<String, InForce>,
    /// `in_force` is not what was written down last.
    unwritten: bool,
}

/// What a settlement or a confirmation did.
#[derive(Debug, Default, PartialEq)]
pub struct Settlement {
    pub released: Vec<HeldIsolation>,
    pub held: Option<(Hold, Vec<HeldIsolation>)>,
}

impl Custody {
    /// An Isolation vanished from the API server. One that was not in force is simply forgotten.
    pub fn gone(
        &mut self,
        world: &mut World,
        key: ObjectKey,
        isolation: Resource<IsolationSpec>,
        always_hold: Option<String>,
        now: Instant,
    ) {
        let uid = isolation.uid.clone();
        if !self.in_force.contains_key(&uid) {
            return;
        }
        world
            .held
            .insert(uid.clone(), HeldIsolation { key, isolation });
        self.releases.vanished(uid, always_hold, now);
    }

    /// Isolations that are listed (again) are not gone.
    pub fn returned(&mut self, world: &mut World) {
        if world.held.is_empty() {
            return;
        }
        for isolation in world.isolations.values() {
            if world.held.remove(&isolation.uid).is_some() {
                self.releases.returned(&isolation.uid);
                self.unwritten = true;
                if let Some(entry) = self.in_force.get_mut(&isolation.uid) {
                    entry.hold = None;
                }
            }
        }
    }

    /// Begins a leadership from what the last leader wrote down. What is malformed now is in force as
    /// it was when it could be read.
    pub fn restore(
        &mut self,
        world: &mut World,
        stored: BTreeMap<String, InForce>,
        malformed: &BTreeMap<ObjectKey, Malformed>,
        now: Instant,
    ) {
        world.held.clear();
        self.releases.clear();
        for (uid, entry) in &stored {
            let HeldIsolation { key, isolation } = &entry.isolation;
            let listed = world
                .isolations
                .values()
                .any(|isolation| isolation.uid == *uid);
            let unreadable = malformed.get(key).is_some_and(|object| object.uid == *uid);
            if unreadable {
                world.isolations.insert(key.clone(), isolation.clone());
            } else if !listed {
                world.held.insert(uid.clone(), entry.isolation.clone());
                if entry.hold.is_none() {
                    self.releases.vanished(uid.clone(), None, now);
                }
            }
        }
        self.in_force = stored;
    }

    /// Takes note of what the compile made of it all; `true` if that has to be written down.
    pub fn note(
        &mut self,
        world: &World,
        verdicts: &BTreeMap<ObjectKey, Arc<IsolationVerdict>>,
    ) -> bool {
        let mut now = BTreeMap::new();
        for (key, isolation) in &world.isolations {
            let accepted = verdicts.get(key).is_some_and(|verdict| {
                verdict.uid == isolation.uid && verdict.acceptance == Acceptance::Accepted
            });
            if accepted {
                let entry = InForce {
                    isolation: HeldIsolation {
                        key: key.clone(),
                        isolation: isolation.clone(),
                    },
                    hold: None,
                };
                now.insert(isolation.uid.clone(), entry);
            }
        }
        for (uid, isolation) in &world.held {
            let entry = InForce {
                isolation: isolation.clone(),
                hold: self.in_force.get(uid).and_then(|known| known.hold.clone()),
            };
            now.insert(uid.clone(), entry);
        }
        let changed = now != self.in_force;
        self.in_force = now;
        std::mem::take(&mut self.unwritten) || changed
    }

    pub fn in_force(&self) -> &BTreeMap<String, InForce> {
        &self.in_force
    }

    /// When [`Custody::settle`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.releases.due()
    }

    /// Releases what vanished, or holds it. `all` says why all of it has to be held.
    pub fn settle(
        &mut self,
        world: &mut World,
        threshold: usize,
        all: Option<&str>,
        (now, at): (Instant, Timestamp),
    ) -> Settlement {
        let mut settled = self.releases.settle(now, threshold);
        self.unwritten = true;
        if let Some(why) = all {
            let mut uids = std::mem::take(&mut settled.release);
            uids.extend(
                settled
                    .hold
                    .take()
                    .map(|(uids, _)| uids)
                    .unwrap_or_default(),
            );
            settled.hold = (!uids.is_empty()).then(|| (uids, why.to_owned()));
        }
        let released = settled
            .release
            .iter()
            .filter_map(|uid| {
                self.in_force.remove(uid);
                world.held.remove(uid)
            })
            .collect();
        let held = settled.hold.map(|(uids, why)| {
            let hold = Hold {
                id: format!("hold_{}", ulid::Ulid::generate().to_string().to_lowercase()),
                since: at,
                why,
            };
            for uid in &uids {
                if let Some(entry) = self.in_force.get_mut(uid) {
                    entry.hold = Some(hold.clone());
                }
            }
            let isolations = uids
                .iter()
                .filter_map(|uid| world.held.get(uid).cloned())
                .collect();
            (hold, isolations)
        });
        Settlement { released, held }
    }

    /// A person confirmed the hold: what it kept is released. `None` if no such hold is open.
    pub fn confirm(&mut self, world: &mut World, id: &str) -> Option<(Hold, Vec<HeldIsolation>)> {
        let uids: Vec<String> = self
            .in_force
            .iter()
            .filter(|(_, entry)| entry.hold.as_ref().is_some_and(|hold| hold.id == id))
            .map(|(uid, _)| uid.clone())
            .collect();
        let mut hold = None;
        let mut released = Vec::new();
        self.unwritten = true;
        for uid in uids {
            hold = self.in_force.remove(&uid).and_then(|entry| entry.hold);
            released.extend(world.held.remove(&uid));
        }
        hold.map(|hold| (hold, released))
    }

    /// The hold of each held Isolation, by UID.
    pub fn held_by(&self) -> BTreeMap<String, String> {
        self.in_force
            .iter()
            .filter_map(|(uid, entry)| Some((uid.clone(), entry.hold.as_ref()?.id.clone())))
            .collect()
    }

    /// UIDs of what is gone and neither released nor held yet.
    pub fn pending(&self, world: &World) -> BTreeSet<String> {
        world
            .held
            .keys()
            .filter(|uid| {
                self.in_force
                    .get(*uid)
                    .is_some_and(|entry| entry.hold.is_none())
            })
            .cloned()
            .collect()
    }

    /// Open holds, oldest first, each with what it keeps in force.
    pub fn holds(&self) -> Vec<(&Hold, Vec<&HeldIsolation>)> {
        let mut holds: BTreeMap<&str, (&Hold, Vec<&HeldIsolation>)> = BTreeMap::new();
        for entry in self.in_force.values() {
            if let Some(hold) = &entry.hold {
                let (_, isolations) = holds.entry(&hold.id).or_insert_with(|| (hold, Vec::new()));
                isolations.push(&entry.isolation);
            }
        }
        holds.into_values().collect()
    }
}

#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
