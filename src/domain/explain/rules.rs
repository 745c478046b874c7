//! The rules of policies at an agent: the first that matches decides, then the default. What the policies
//! that observe would do is told beside it, and decides nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::Connection;
use super::answer::Did;
use super::steps::{Outcome, Steps, of_rule};
use crate::api::policy::DefaultAction;
use crate::api::{Action, Direction, Protocol};
use crate::domain::enforcement::{
    DefaultRule, Defaults, DeviceState, ObservedRule, PeerSet, Ports, Rule, WardGroup,
};

/// What is judged by, of a device itself or of a group of its wards.
pub struct RuleSet<'s> {
    rules: &'s [Arc<Rule>],
    defaults: &'s Defaults,
    observed_rules: &'s [ObservedRule],
    observed_defaults: &'s Defaults,
}

impl<'s> RuleSet<'s> {
    pub fn of_device(state: &'s DeviceState) -> Self {
        Self {
            rules: &state.rules,
            defaults: &state.defaults,
            observed_rules: &state.observed_rules,
            observed_defaults: &state.observed_defaults,
        }
    }

    pub fn of_wards(group: &'s WardGroup) -> Self {
        Self {
            rules: &group.rules,
            defaults: &group.defaults,
            observed_rules: &group.observed_rules,
            observed_defaults: &group.observed_defaults,
        }
    }

    /// Adds what is looked at to the steps.
    pub fn judge(&self, direction: Direction, on: &Connection, steps: &mut Steps) -> Outcome {
        self.observe(direction, on, steps);
        for rule in self.rules.iter().filter(|rule| rule.direction == direction) {
            let (policy, name) = of_rule(&rule.id);
            let did = match (matches(rule, on), rule.action) {
                (false, _) => Did::NoMatch,
                (true, Action::Audit) => Did::Audited,
                (true, Action::Allow) => Did::Allowed,
                (true, Action::Deny) => Did::Denied,
            };
            steps.add(policy, name, did);
            if did.ends() {
                return outcome(did);
            }
        }
        let Some(default) = of_direction(self.defaults, direction) else {
            return Outcome::Undecided;
        };
        let did = match default.action {
            DefaultAction::Allow => Did::Allowed,
            DefaultAction::Deny => Did::Denied,
        };
        steps.add(of_rule(&default.id).0, "default", did);
        outcome(did)
    }

    /// The evaluation as it would be if the policies that observe enforced; only those are news.
    fn observe(&self, direction: Direction, on: &Connection, steps: &mut Steps) {
        let observed = self.observed_rules.iter();
        for observed in observed.filter(|observed| observed.rule.direction == direction) {
            let ObservedRule { rule, observing } = observed;
            if !matches(rule, on) {
                continue;
            }
            let (policy, name) = of_rule(&rule.id);
            let did = match rule.action {
                Action::Audit => Did::Audited,
                Action::Allow => Did::WouldAllow,
                Action::Deny => Did::WouldDeny,
            };
            if *observing {
                steps.add(policy, name, did);
            }
            if did != Did::Audited {
                return;
            }
        }
        if let Some(default) = of_direction(self.observed_defaults, direction)
            && default.observing
        {
            let did = match default.action {
                DefaultAction::Allow => Did::WouldAllow,
                DefaultAction::Deny => Did::WouldDeny,
            };
            steps.add(of_rule(&default.id).0, "default", did);
        }
    }
}

fn outcome(did: Did) -> Outcome {
    match did {
        Did::Denied => Outcome::Denied,
        _ => Outcome::Allowed,
    }
}

fn of_direction(defaults: &Defaults, direction: Direction) -> Option<&DefaultRule> {
    match direction {
        Direction::Egress => defaults.egress.as_ref(),
        Direction::Ingress => defaults.ingress.as_ref(),
    }
}

fn matches(rule: &Rule, on: &Connection) -> bool {
    let peer: IpAddr = match rule.direction {
        Direction::Egress => on.to,
        Direction::Ingress => on.from,
    };
    let peers = match &rule.peers {
        PeerSet::Any => true,
        PeerSet::Networks(networks) => networks.iter().any(|network| network.contains(&peer)),
    };
    peers && has_port(&rule.ports, on)
}

/// Whether the connection is to one of these ports; empty means every protocol and port.
pub fn has_port(ports: &BTreeSet<Ports>, on: &Connection) -> bool {
    ports.is_empty() || ports.iter().any(|ports| is_in(ports, on))
}

pub fn is_in(ports: &Ports, on: &Connection) -> bool {
    let Ports {
        protocol,
        first,
        last,
    } = ports;
    let of_protocol = *protocol == on.protocol;
    let in_range = on.port.is_some_and(|port| (*first..=*last).contains(&port));
    of_protocol && (*protocol == Protocol::Icmp || in_range)
}
