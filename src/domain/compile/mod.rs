//! Facts and a time in, everything that has to be in force out. Pure: the same World and time give the
//! same answer on every replica and at every start.
//!
//! `isolations`, `policies` and `access` each judge their kind and write what follows from it; the rest are
//! the rules they share. A resource that is not accepted has no effect and a verdict that says why.

mod access;
mod addresses;
mod compiler;
mod isolations;
mod management;
mod netpol;
mod order;
mod policies;
mod ports;
#[cfg(test)]
mod properties;
mod protected;
mod question;
mod rules;
mod selectors;
mod stripping;
mod users;
mod wards;
mod waves;
mod width;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::enforcement::{DeviceState, Enforcement};
use super::names::{DeviceId, ObjectKey};
use super::verdict::{Acceptance, Reason, Verdicts};
use super::world::World;
pub(in crate::domain) use addresses::Addresses;
pub use compiler::Compiler;
use question::Question;
pub use rules::ipv4_in_ipv6;
use selectors::Tenants;
use wards::Wards;
pub use width::widest;
pub use workloads::NodeAgents;

/// What follows from the facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    pub enforcement: Enforcement,
    pub verdicts: Verdicts,
    /// When time alone changes the answer next: the earliest expiry.
    pub wake_at: Option<Timestamp>,
}

/// The work in progress.
struct Draft<'w> {
    world: &'w World,
    now: Timestamp,
    question: Question<'w>,
    tenants: Tenants<'w>,
    addresses: Addresses<'w>,
    node_agents: NodeAgents<'w>,
    wards: Wards<'w>,
    /// Scopes whose agents are suspended, each with the Isolations that do it.
    suspended_scopes: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    compiled: Compiled,
}

pub fn compile(world: &World, now: Timestamp) -> Compiled {
    compile_for(world, now, Question::Everybody)
}

/// What follows for these tenants, from their own facts; besides, of the nodes' devices what they enforce for
/// pods of theirs.
fn compile_for(world: &World, now: Timestamp, question: Question<'_>) -> Compiled {
    let mut draft = Draft {
        world,
        now,
        question,
        tenants: Tenants::of(world, question),
        addresses: Addresses::in_question(world, question),
        node_agents: NodeAgents::of(world),
        wards: Wards::default(),
        suspended_scopes: BTreeMap::new(),
        compiled: Compiled::default(),
    };
    for (id, _) in question.devices(world) {
        let state = draft.compiled.state(id);
        state.operator = world.settings.operator.clone();
    }
    draft.isolations();
    draft.policies();
    draft.access();
    draft.compiled
}

impl Compiled {
    fn state(&mut self, device: &DeviceId) -> &mut DeviceState {
        let devices = &mut self.enforcement.devices;
        Arc::make_mut(devices.entry(device.clone()).or_default())
    }
}

impl Draft<'_> {
    /// Whether `until` has passed; if not, the answer changes then.
    fn expired(&mut self, until: Option<Timestamp>) -> bool {
        let Some(until) = until else {
            return false;
        };
        if until <= self.now {
            return true;
        }
        let wake_at = self.compiled.wake_at.get_or_insert(until);
        *wake_at = (*wake_at).min(until);
        false
    }
}

fn expired_words() -> Acceptance {
    Acceptance::Waiting {
        reason: Reason::Expired,
        message: "expiresAt has passed: it has no effect any more".into(),
    }
}

fn refused(reason: Reason, message: impl Into<String>) -> Acceptance {
    Acceptance::Refused {
        reason,
        message: message.into(),
    }
}
