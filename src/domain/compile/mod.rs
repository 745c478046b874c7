//! Facts and a time in, everything that has to be in force out. Pure: the same World and time give the
//! same answer on every replica and at every start.

mod access;
mod addresses;
mod isolations;
mod netpol;
mod policies;
mod rules;
mod selectors;
mod waves;

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;

use super::enforcement::{DeviceState, Enforcement};
use super::verdict::{Acceptance, Reason, Verdicts};
use super::world::World;
use addresses::Addresses;

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
    addresses: Addresses,
    compiled: Compiled,
}

pub fn compile(world: &World, now: Timestamp) -> Compiled {
    let mut draft = Draft {
        world,
        now,
        addresses: Addresses::of(world),
        compiled: Compiled::default(),
    };
    for id in world.devices.keys() {
        let state = DeviceState {
            operator: world.settings.operator.clone(),
            ..DeviceState::default()
        };
        draft.compiled.enforcement.devices.insert(id.clone(), state);
    }
    draft.isolations();
    draft.policies();
    draft.access();
    draft.compiled
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

    fn is_system(&self, namespace: &str) -> bool {
        namespace == self.world.settings.system_namespace
    }

    /// What no rule may cut and these addresses hold: the operator, or something named as protected.
    fn protected(&self, addresses: &BTreeSet<IpAddr>) -> Option<String> {
        let settings = &self.world.settings;
        for address in addresses {
            if settings.operator.iter().any(|at| at.ip() == *address) {
                return Some(format!("{address} is the operator"));
            }
            let protected = settings.protected.iter();
            if let Some(found) = protected.into_iter().find(|p| p.network.contains(address)) {
                return Some(format!("{address} is {}", found.what));
            }
        }
        None
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
