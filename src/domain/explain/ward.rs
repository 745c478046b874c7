//! An agent's point for a pod of its node.

use super::Connection;
use super::answer::Did;
use super::host::Host;
use super::rules::{RuleSet, has_port, is_in};
use super::steps::{Outcome, Steps, of_source};
use crate::api::Direction;
use crate::domain::enforcement::{SourceKind, WardGroup, WardIsolation};

/// A pod, and the group that it is in.
pub struct Ward<'a> {
    /// `namespace/pod`.
    pub name: &'a str,
    pub group: &'a WardGroup,
}

impl<'a> Ward<'a> {
    /// The pod as its agent knows it, by the address that the packet has; none where nothing is in force for
    /// it. Of two pods that claim one address, the one that is isolated counts, as it does there.
    pub fn of(host: &Host<'a>, direction: Direction, on: &Connection) -> Option<Self> {
        let own = match direction {
            Direction::Egress => on.from,
            Direction::Ingress => on.to,
        };
        let claims = host.state.wards.values().filter_map(|group| {
            let mut members = group.members.iter();
            let (name, _) = members.find(|(_, addresses)| addresses.contains(&own))?;
            Some(Self { name, group })
        });
        let mut claims: Vec<Self> = claims.collect();
        claims.sort_by_key(|ward| ward.group.isolation.is_none());
        claims.into_iter().next()
    }

    /// `by_its_node` for a connection that the pod's own node opens, which policies don't judge.
    pub fn judge(
        &self,
        direction: Direction,
        on: &Connection,
        by_its_node: bool,
        steps: &mut Steps,
    ) -> Outcome {
        if let Some(isolation) = &self.group.isolation {
            return self.isolate(isolation, direction, on, by_its_node, steps);
        }
        if by_its_node {
            return Outcome::Undecided;
        }
        RuleSet::of_wards(self.group).judge(direction, on, steps)
    }

    fn isolate(
        &self,
        isolation: &WardIsolation,
        direction: Direction,
        on: &Connection,
        by_its_node: bool,
        steps: &mut Steps,
    ) -> Outcome {
        let sources = self.group.sources.iter();
        let resources = sources
            .filter(|source| source.kind == SourceKind::Isolation)
            .map(of_source)
            .collect();
        let opened_to_it = direction == Direction::Ingress;
        let mut management = isolation.management.iter();
        let managed =
            management.any(|rule| rule.network.contains(&on.from) && has_port(&rule.ports, on));
        let probed = || {
            let mut probes = isolation.probes.get(self.name).into_iter().flatten();
            by_its_node && probes.any(|ports| is_in(ports, on))
        };
        let (rule, did) = match opened_to_it {
            true if managed => ("management", Did::Allowed),
            true if probed() => ("probes", Did::Allowed),
            _ => ("isolation", Did::Denied),
        };
        steps.add_all(resources, rule, did);
        match did {
            Did::Allowed => Outcome::Allowed,
            _ => Outcome::Denied,
        }
    }
}
