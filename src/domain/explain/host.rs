//! An agent's point for its own host: quarantine of others, isolation of the host, and its policies, in the
//! order of the agent's table. What is forwarded meets the first two alone.

use std::net::IpAddr;

use super::answer::{Did, ResourceName};
use super::rules::{RuleSet, has_port};
use super::steps::{Outcome, Steps, of_source};
use super::{Connection, Facts};
use crate::api::Direction;
use crate::domain::enforcement::{DeviceState, Source, SourceKind};
use crate::domain::names::{DeviceId, ObjectKey};

/// Where a packet that opens a connection meets the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It is for the host.
    Input,
    /// The host sends it.
    Output,
    /// It passes between others.
    Forward,
}

/// A host with an agent, and what has to be in force there.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    pub id: &'a DeviceId,
    pub state: &'a DeviceState,
    pub facts: &'a Facts<'a>,
}

impl Host<'_> {
    /// Isolation of others and of the host itself. What is allowed here is judged no further by this agent.
    pub fn contain(&self, hook: Hook, on: &Connection, steps: &mut Steps) -> Outcome {
        match self.quarantine(hook, on, steps) {
            Outcome::Undecided => self.isolate(hook, on, steps),
            decided => decided,
        }
    }

    /// The host's own policies.
    pub fn judge(&self, hook: Hook, on: &Connection, steps: &mut Steps) -> Outcome {
        let direction = match hook {
            Hook::Input => Direction::Ingress,
            Hook::Output => Direction::Egress,
            Hook::Forward => return Outcome::Undecided,
        };
        RuleSet::of_device(self.state).judge(direction, on, steps)
    }

    fn quarantine(&self, hook: Hook, on: &Connection, steps: &mut Steps) -> Outcome {
        let looked_at: &[IpAddr] = match hook {
            Hook::Input => &[on.from],
            Hook::Output => &[on.to],
            Hook::Forward => &[on.from, on.to],
        };
        let quarantined = |address: &&IpAddr| self.state.quarantined.contains(*address);
        let Some(quarantined) = looked_at.iter().find(quarantined) else {
            return Outcome::Undecided;
        };
        let resources = self.isolations_of_address(*quarantined);
        if hook == Hook::Output && self.keeps_path(on) {
            steps.add_all(resources, "management", Did::Allowed);
            return Outcome::Allowed;
        }
        steps.add_all(resources, "quarantine", Did::Denied);
        Outcome::Denied
    }

    /// Whether the host, holding a management address, may still open this to a quarantined one. A host that
    /// is itself isolated has no such path.
    fn keeps_path(&self, on: &Connection) -> bool {
        let mut paths = self.state.quarantine_paths.iter();
        self.state.isolation.is_none()
            && paths.any(|path| {
                path.from.contains(&on.from)
                    && path.to.contains(&on.to)
                    && has_port(&path.ports, on)
            })
    }

    fn isolate(&self, hook: Hook, on: &Connection, steps: &mut Steps) -> Outcome {
        let Some(isolation) = &self.state.isolation else {
            return Outcome::Undecided;
        };
        let resources = self.own_isolations();
        let mut management = isolation.management.iter();
        let managed = hook == Hook::Input
            && management.any(|rule| rule.network.contains(&on.from) && has_port(&rule.ports, on));
        if managed {
            steps.add_all(resources, "management", Did::Allowed);
            return Outcome::Allowed;
        }
        steps.add_all(resources, "isolation", Did::Denied);
        Outcome::Denied
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        let sources = self.state.sources.iter();
        sources.filter(|source| source.kind == SourceKind::Isolation)
    }

    /// The Isolations of this host.
    fn own_isolations(&self) -> Vec<ResourceName> {
        self.sources()
            .filter(|source| isolates(self.facts, source, self.id))
            .map(of_source)
            .collect()
    }

    /// The Isolations for which an address of somebody else is dropped here.
    fn isolations_of_address(&self, address: IpAddr) -> Vec<ResourceName> {
        let Facts {
            compiled,
            addresses,
            ..
        } = self.facts;
        let mut dropped_for: Vec<&Source> = Vec::new();
        for (id, state) in &compiled.enforcement.devices {
            let isolated = state.wards.values().filter(|group| {
                group.isolation.is_some() && group.members.values().any(|m| m.contains(&address))
            });
            dropped_for.extend(isolated.flat_map(|group| &group.sources));
            if state.isolation.is_some() && addresses.of_device(id).contains(&address) {
                let sources = state.sources.iter();
                dropped_for.extend(sources.filter(|source| isolates(self.facts, source, id)));
            }
        }
        self.sources()
            .filter(|source| dropped_for.contains(source))
            .map(of_source)
            .collect()
    }
}

/// Whether it is an Isolation of this device. One that is gone and held may have lost its name to another.
fn isolates(facts: &Facts<'_>, source: &Source, id: &DeviceId) -> bool {
    let key = ObjectKey::new(&source.namespace, &source.name);
    let verdict = facts.compiled.verdicts.isolations.get(&key);
    match verdict.filter(|verdict| verdict.uid == source.uid) {
        Some(verdict) => verdict.device.as_ref() == Some(id),
        None => facts.world.held.get(&source.uid).is_some_and(|held| {
            let target = &held.isolation.spec.target;
            target.device.as_deref() == Some(id.as_str())
        }),
    }
}
