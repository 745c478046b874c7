//! Where one resource stands, for the MCP server: asked again at every change, so that a tool call
//! answers as soon as the last device has acknowledged, and not when a status was written.

use std::collections::BTreeSet;

use super::users;
use crate::domain::applied::{Applied, DeviceApplied};
use crate::domain::enforcement::{Found, Source, StrippedPod};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{
    Acceptance, IsolationVerdict, PolicyVerdict, SuspendedUser, Workloads,
};
use crate::domain::words::{a_few, confirm_release};
use crate::local::Kind;
use crate::local::types::{SettledQuery, Standing};
use crate::reconcile::view::View;
use crate::status::user::UserFacts;
use crate::status::wards::{Stripped, stands};

/// What is known at one moment.
pub struct Moment<'a> {
    pub view: &'a View,
    pub applied: &'a Applied,
}

/// A standing, and whether it is what was waited for.
pub struct Assessed {
    pub standing: Standing,
    pub settled: bool,
}

impl Moment<'_> {
    /// `None` while the operator has not seen the resource, at this generation.
    pub fn assess(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
        had_it: &mut BTreeSet<DeviceId>,
    ) -> Option<Assessed> {
        if query.gone {
            return self.gone(kind, resource, query, had_it);
        }
        let fresh = |uid: &str, generation: i64| uid == query.uid && generation >= query.generation;
        match kind {
            Kind::Isolation => {
                let verdicts = &self.view.compiled.verdicts.isolations;
                let verdict = verdicts
                    .get(resource)
                    .filter(|verdict| fresh(&verdict.uid, verdict.generation))?;
                Some(self.isolation(resource, verdict))
            }
            Kind::Policy => {
                let verdicts = &self.view.compiled.verdicts.policies;
                let verdict = verdicts
                    .get(resource)
                    .filter(|verdict| fresh(&verdict.uid, verdict.generation))?;
                Some(self.policy(verdict))
            }
        }
    }

    fn isolation(&self, key: &ObjectKey, verdict: &IsolationVerdict) -> Assessed {
        if let Some(user) = &verdict.user {
            return self.user(key, verdict, user);
        }
        let mut standing = self.points(&verdict.uid, verdict.generation, &verdict.peers);
        let mut self_done = true;
        if let Some(workloads) = &verdict.workloads {
            let pods = self.pods(&verdict.uid, verdict.generation, workloads);
            standing.self_programmed = Some(pods.programmed == pods.matched && pods.matched > 0);
            standing.matched += pods.matched;
            standing.programmed_points += pods.programmed;
            standing.offline += pods.offline;
            // A pod without an address is waited for: it is about to have one.
            self_done = !pods.waited_for && workloads.without_address.is_empty();
        }
        let (accepted, reason, message) = words(&verdict.acceptance);
        standing.accepted = accepted;
        standing.reason = reason;
        standing.message = message;
        if let Some(device) = &verdict.device {
            let programmed = self.has(device, &verdict.uid, verdict.generation);
            let connected = self.connected(device);
            standing.self_programmed = Some(programmed);
            standing.offline += usize::from(!connected);
            self_done = programmed || !connected;
        }
        if let Some(why) = &verdict.not_enforceable {
            standing.reason = "NotEnforceable".to_owned();
            standing.message = why.clone();
        }
        standing.programmed &= accepted && self_done && verdict.not_enforceable.is_none();
        standing.still_isolated_by = others(verdict);
        let settled = standing.programmed || !accepted || verdict.not_enforceable.is_some();
        Assessed { standing, settled }
    }

    /// Settled when what can refuse the user has read it back, or nothing can.
    fn user(&self, key: &ObjectKey, verdict: &IsolationVerdict, user: &SuspendedUser) -> Assessed {
        let mut standing = self.points(&verdict.uid, verdict.generation, &user.devices);
        let facts = UserFacts::of(user, self.applied, &users::source(key, verdict));
        let (accepted, reason, message) = words(&verdict.acceptance);
        let programmed = facts.programmed();
        standing.accepted = accepted;
        (standing.reason, standing.message) = match accepted {
            true if facts.matches_nothing() => ("NotEnforceable".to_owned(), programmed.message),
            true => (reason, programmed.message),
            false => (reason, message),
        };
        standing.programmed = accepted && !facts.waits() && !facts.matches_nothing();
        standing.still_isolated_by = others(verdict);
        let settled = !accepted || !facts.waits();
        Assessed { standing, settled }
    }

    fn policy(&self, verdict: &PolicyVerdict) -> Assessed {
        let mut standing = self.points(&verdict.uid, verdict.generation, &verdict.devices);
        let pods = self.pods(&verdict.uid, verdict.generation, &verdict.workloads);
        standing.matched += pods.matched;
        standing.programmed_points += pods.programmed;
        standing.offline += pods.offline;
        standing.programmed &= !pods.waited_for;
        let (accepted, reason, message) = words(&verdict.acceptance);
        standing.accepted = accepted;
        standing.reason = reason;
        standing.message = message;
        if accepted && let Some(why) = verdict.not_enforceable.first() {
            standing.reason = "NotEnforceable".to_owned();
            standing.message = why.clone();
        }
        standing.programmed &= accepted;
        let settled = standing.programmed || !accepted;
        Assessed { standing, settled }
    }

    /// Settled when nothing wants it any more and no connected device has it; held is settled too.
    fn gone(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
        had_it: &mut BTreeSet<DeviceId>,
    ) -> Option<Assessed> {
        let having: BTreeSet<DeviceId> = self
            .applied
            .devices
            .iter()
            .filter(|(_, applied)| enforces(applied, &query.uid))
            .map(|(device, _)| device.clone())
            .collect();
        had_it.extend(having.iter().cloned());
        let verdicts = &self.view.compiled.verdicts;
        let (known, uid_of_name) = match kind {
            Kind::Isolation => (
                self.view.isolations.get(resource).map(|b| &b.uid),
                verdicts.isolations.get(resource).map(|v| &v.uid),
            ),
            Kind::Policy => (
                self.view.policies.get(resource).map(|b| &b.uid),
                verdicts.policies.get(resource).map(|v| &v.uid),
            ),
        };
        let off = kind == Kind::Policy
            && verdicts.policies.get(resource).is_some_and(|verdict| {
                verdict.uid == query.uid
                    && verdict.generation >= query.generation
                    && verdict.acceptance != Acceptance::Accepted
            });
        // The watch has not told of the deletion yet, or of what turned it off.
        if known == Some(&query.uid) && !off {
            return None;
        }
        let mut standing = Standing {
            uid: query.uid.clone(),
            generation: query.generation,
            accepted: true,
            reason: "Released".to_owned(),
            message: String::new(),
            programmed: false,
            self_programmed: None,
            matched: had_it.len(),
            programmed_points: had_it.len() - having.len(),
            offline: having
                .iter()
                .filter(|device| !self.connected(device))
                .count(),
            connections_cut: 0,
            still_isolated_by: Vec::new(),
            pods: None,
            user: None,
            moments: None,
        };
        if let Some(hold) = self.view.holds.get(&query.uid) {
            standing.reason = "ReleaseHeld".to_owned();
            standing.message = format!(
                "so many isolations were released at once that this one stays in force until a person confirms: {}",
                confirm_release(hold)
            );
            return Some(Assessed {
                standing,
                settled: true,
            });
        }
        let wanted = (uid_of_name == Some(&query.uid) && !off)
            || self.view.pending_release.contains(&query.uid);
        let leaving = self.leaving(&query.uid);
        if !leaving.is_empty() {
            standing.message = format!(
                "pods that a Deployment replaced stay cut off until they are deleted: {}",
                a_few(leaving)
            );
        }
        let nobody = having.iter().all(|device| !self.connected(device));
        standing.programmed = !wanted && nobody && self.leaving(&query.uid).is_empty();
        if query.of_user && standing.programmed && self.refuses_too_much() {
            standing.programmed = false;
            let obstacle = self.applied.suspended_users_obstacle.as_ref();
            standing.message = match obstacle {
                Some(obstacle) => obstacle.message.clone(),
                None => "the API server is still to let the user write again".to_owned(),
            };
        }
        let settled = standing.programmed;
        Some(Assessed { standing, settled })
    }

    /// Whether the API server refuses somebody whom nothing suspends any more.
    fn refuses_too_much(&self) -> bool {
        let wanted = &self.view.compiled.enforcement.suspended_users;
        !self.applied.suspended_users.is_within(wanted)
    }

    /// Pods without an agent that are still to be deleted, for nothing else isolates them.
    fn leaving(&self, uid: &str) -> Vec<&ObjectKey> {
        let stripped = self.view.compiled.enforcement.stripped.iter();
        let leaving = stripped.filter(|(_, pod)| is_leaving(pod, uid));
        leaving.map(|(key, _)| key).collect()
    }

    fn points(&self, uid: &str, generation: i64, points: &BTreeSet<DeviceId>) -> Standing {
        let programmed_points = points
            .iter()
            .filter(|device| self.has(device, uid, generation))
            .count();
        let waited_for = points
            .iter()
            .any(|device| self.connected(device) && !self.has(device, uid, generation));
        let connections_cut = self
            .applied
            .devices
            .values()
            .filter_map(|applied| applied.connections_cut.get(uid))
            .sum();
        Standing {
            uid: uid.to_owned(),
            generation,
            accepted: true,
            reason: String::new(),
            message: String::new(),
            programmed: !waited_for,
            self_programmed: None,
            matched: points.len(),
            programmed_points,
            offline: points
                .iter()
                .filter(|device| !self.connected(device))
                .count(),
            connections_cut,
            still_isolated_by: Vec::new(),
            pods: None,
            user: None,
            moments: None,
        }
    }

    /// The pods among the points.
    fn pods(&self, uid: &str, generation: i64, workloads: &Workloads) -> Pods {
        let mut pods = Pods {
            matched: workloads.wards.len()
                + workloads.without_agent.len()
                + workloads.stripped.len(),
            ..Pods::default()
        };
        for (pod, strip) in &workloads.stripped {
            match stands(pod, strip, self.applied) {
                Stripped::Stored => pods.programmed += 1,
                Stripped::Waiting(why) => pods.waited_for |= why.is_none(),
                Stripped::Not(..) => {}
            }
        }
        for (pod, ward) in &workloads.wards {
            let device = self.applied.devices.get(&ward.device);
            let connected = device.is_some_and(|device| device.connected);
            let covered = device.is_some_and(|it| it.covers(pod, ward, uid, generation));
            pods.programmed += usize::from(covered);
            pods.offline += usize::from(!connected);
            pods.waited_for |= connected && !covered;
        }
        pods
    }

    fn connected(&self, device: &DeviceId) -> bool {
        self.applied
            .devices
            .get(device)
            .is_some_and(|applied| applied.connected)
    }

    fn has(&self, device: &DeviceId, uid: &str, generation: i64) -> bool {
        self.applied.devices.get(device).is_some_and(|applied| {
            applied
                .sources
                .iter()
                .any(|source| source.uid == uid && source.generation == generation)
        })
    }
}

fn is_leaving(pod: &StrippedPod, uid: &str) -> bool {
    match &pod.found {
        Found::Stripped {
            noted,
            terminating: false,
            ..
        } => {
            noted.contains_key(uid)
                && (pod.isolations.is_empty() || pod.isolations.contains_key(uid))
        }
        _ => false,
    }
}

#[derive(Default)]
struct Pods {
    matched: usize,
    programmed: usize,
    offline: usize,
    /// The agent of some pod's node is connected and has not read it back.
    waited_for: bool,
}

/// Whether the device has the resource, for itself or for a ward.
fn enforces(applied: &DeviceApplied, uid: &str) -> bool {
    let has = |sources: &BTreeSet<Source>| sources.iter().any(|source| source.uid == uid);
    has(&applied.sources) || applied.wards.values().any(|ward| has(&ward.sources))
}

fn others(verdict: &IsolationVerdict) -> Vec<String> {
    let others = verdict.also_isolated_by.iter();
    others.map(ToString::to_string).collect()
}

fn words(acceptance: &Acceptance) -> (bool, String, String) {
    match acceptance {
        Acceptance::Accepted => (true, "Accepted".to_owned(), String::new()),
        Acceptance::Waiting { reason, message } | Acceptance::Refused { reason, message } => {
            (false, reason.as_str().to_owned(), message.clone())
        }
    }
}

#[cfg(test)]
#[path = "standings_tests.rs"]
mod tests;
