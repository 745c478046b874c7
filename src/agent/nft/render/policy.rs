//! Rules of policies: one chain for each direction of connections and each hook, entered by the
//! packet's side of its connection. Policies that observe have chains of their own, visited first, whose
//! rules count and never decide.

use std::sync::Arc;

use nftables::stmt::Statement;

use super::super::expr::{self, ConnectionSide, Side, State};
use super::super::networks::Family;
use super::super::ruleset::Rule as NftRule;
use super::containment::peers_in;
use super::{HookPoint, Rendered, Statements, port_conditions};
use crate::api::policy::DefaultAction;
use crate::api::{Action, Direction};
use crate::domain::enforcement::{
    DefaultRule, Defaults, DeviceState, ObservedRule, PeerSet, Rule, WardGroup,
};

pub const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Whether a packet comes from the one that the rules are about, or goes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Leaving,
    Arriving,
}

impl Way {
    /// Its own address and port in such packets.
    pub fn own(self) -> Side {
        match self {
            Self::Leaving => Side::Source,
            Self::Arriving => Side::Destination,
        }
    }

    pub fn peer(self) -> Side {
        match self {
            Self::Leaving => Side::Destination,
            Self::Arriving => Side::Source,
        }
    }

    /// The side on which such packets are, of connections of this direction.
    pub fn side_of(self, direction: Direction) -> ConnectionSide {
        match (self, direction) {
            (Self::Leaving, Direction::Egress) | (Self::Arriving, Direction::Ingress) => {
                ConnectionSide::Original
            }
            (Self::Leaving, Direction::Ingress) | (Self::Arriving, Direction::Egress) => {
                ConnectionSide::Reply
            }
        }
    }
}

/// The policies that one is under, who may be this host or a group of its wards.
pub struct Policies<'a> {
    pub rules: &'a [Arc<Rule>],
    pub defaults: &'a Defaults,
    pub observed_rules: &'a [ObservedRule],
    pub observed_defaults: &'a Defaults,
    /// The verdict of an Allow.
    pub allow: fn() -> Statement<'static>,
}

impl<'a> Policies<'a> {
    fn of_host(state: &'a DeviceState) -> Self {
        Self {
            rules: &state.rules,
            defaults: &state.defaults,
            observed_rules: &state.observed_rules,
            observed_defaults: &state.observed_defaults,
            allow: expr::accept,
        }
    }

    /// What is allowed goes on: a packet between two wards has to pass the rules of both.
    pub fn of_wards(group: &'a WardGroup) -> Self {
        Self {
            rules: &group.rules,
            defaults: &group.defaults,
            observed_rules: &group.observed_rules,
            observed_defaults: &group.observed_defaults,
            allow: expr::leave_chain,
        }
    }

    pub fn observes(&self, direction: Direction) -> bool {
        let mut rules = self.observed_rules.iter();
        rules.any(|r| r.rule.direction == direction)
            || default_of(self.observed_defaults, direction).is_some()
    }

    pub fn enforces(&self, direction: Direction) -> bool {
        self.rules.iter().any(|r| r.direction == direction)
            || default_of(self.defaults, direction).is_some()
    }

    /// Whether no packet of this direction is left to what comes after the rules.
    pub fn decides_all(&self, direction: Direction) -> bool {
        default_of(self.defaults, direction).is_some()
    }
}

pub fn judge_connections(rendered: &mut Rendered, state: &DeviceState) {
    let policies = Policies::of_host(state);
    if DIRECTIONS.into_iter().any(|d| policies.enforces(d)) {
        for hook in [HookPoint::Output, HookPoint::Input] {
            pass_icmp_errors(rendered, hook.name(), &policies);
        }
    }
    for (hook, way) in [
        (HookPoint::Output, Way::Leaving),
        (HookPoint::Input, Way::Arriving),
    ] {
        let enter = |rendered: &mut Rendered, direction, chain: &str| {
            let side = expr::connection_side(way.side_of(direction));
            rendered.add(hook, vec![side, expr::jump(chain)]);
        };
        for direction in DIRECTIONS.into_iter().filter(|d| policies.observes(*d)) {
            let chain = format!("observe_{}", chain(direction, hook));
            observe(rendered, &policies, direction, way, &chain);
            enter(rendered, direction, &chain);
        }
        for direction in DIRECTIONS.into_iter().filter(|d| policies.enforces(*d)) {
            let chain = chain(direction, hook);
            enforce(rendered, &policies, direction, way, &chain);
            enter(rendered, direction, &chain);
        }
        judge_untracked(rendered, &policies, hook, way);
    }
}

pub fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

fn chain(direction: Direction, hook: HookPoint) -> String {
    format!("{}_{}", direction_name(direction), hook.name())
}

fn default_of(defaults: &Defaults, direction: Direction) -> Option<&DefaultRule> {
    match direction {
        Direction::Egress => defaults.egress.as_ref(),
        Direction::Ingress => defaults.ingress.as_ref(),
    }
}

/// Packets without a connection: first as if they opened one, then as if they answered one.
fn judge_untracked(rendered: &mut Rendered, policies: &Policies, hook: HookPoint, way: Way) {
    for side in [ConnectionSide::Original, ConnectionSide::Reply] {
        for direction in DIRECTIONS {
            if way.side_of(direction) == side && policies.enforces(direction) {
                rendered.add(
                    hook,
                    vec![
                        expr::connection_state(&[State::Invalid, State::Untracked]),
                        expr::jump(&chain(direction, hook)),
                    ],
                );
            }
        }
    }
}

/// Errors about connections that are tracked.
pub fn pass_icmp_errors(rendered: &mut Rendered, chain: &str, policies: &Policies) {
    for (family, types) in [
        (Family::V4, &[3, 11, 12][..]),
        (Family::V6, &[1, 2, 3, 4][..]),
    ] {
        let statements = vec![
            expr::connection_state(&[State::Related]),
            expr::icmp_type(family, types),
            (policies.allow)(),
        ];
        rendered.add_rule(chain, NftRule::new(statements));
    }
}

/// Fills the chain with the rules of this direction and the default.
pub fn enforce(
    rendered: &mut Rendered,
    policies: &Policies,
    direction: Direction,
    way: Way,
    chain: &str,
) {
    enforce_rules(rendered, policies, direction, way, chain);
    if let Some(default) = default_of(policies.defaults, direction) {
        let verdict = match default.action {
            DefaultAction::Allow => (policies.allow)(),
            DefaultAction::Deny => expr::drop(),
        };
        let statements = vec![expr::counter(), verdict];
        rendered.add_counted(chain, &default.id, false, statements);
    }
}

pub fn enforce_rules(
    rendered: &mut Rendered,
    policies: &Policies,
    direction: Direction,
    way: Way,
    chain: &str,
) {
    rendered.add_chain(chain);
    for rule in policies.rules.iter().filter(|r| r.direction == direction) {
        for mut statements in conditions(rendered, rule, way) {
            statements.push(expr::counter());
            statements.extend(match rule.action {
                Action::Allow => Some((policies.allow)()),
                Action::Deny => Some(expr::drop()),
                Action::Audit => None,
            });
            rendered.add_counted(chain, &rule.id, false, statements);
        }
    }
}

/// A rule of a policy that enforces ends the evaluation here as it does there, and is not news.
pub fn observe(
    rendered: &mut Rendered,
    policies: &Policies,
    direction: Direction,
    way: Way,
    chain: &str,
) {
    rendered.add_chain(chain);
    for observed in policies.observed_rules {
        let rule = &observed.rule;
        let ends = rule.action != Action::Audit;
        if rule.direction != direction || !(observed.observing || ends) {
            continue;
        }
        for mut statements in conditions(rendered, rule, way) {
            if observed.observing {
                statements.push(expr::counter());
            }
            if ends {
                statements.push(expr::leave_chain());
            }
            match observed.observing {
                true => rendered.add_counted(chain, &rule.id, true, statements),
                false => rendered.add_rule(chain, NftRule::new(statements)),
            }
        }
    }
    if let Some(default) = default_of(policies.observed_defaults, direction)
        && default.observing
    {
        rendered.add_counted(chain, &default.id, true, vec![expr::counter()]);
    }
}

/// The ways in which such a packet matches the rule; none when its peers are nobody.
fn conditions(rendered: &mut Rendered, rule: &Rule, way: Way) -> Vec<Statements> {
    let port = match rule.direction {
        Direction::Egress => way.peer(),
        Direction::Ingress => way.own(),
    };
    let peers: Vec<(Option<Family>, Statements)> = match &rule.peers {
        PeerSet::Any => vec![(None, Vec::new())],
        PeerSet::Networks(networks) => Family::BOTH
            .into_iter()
            .filter_map(|family| {
                peers_in(rendered, networks, family, way.peer()).map(|s| (Some(family), s))
            })
            .collect(),
    };
    let mut ways = Vec::new();
    for (family, peer) in peers {
        for ports in port_conditions(&rule.ports, port, family) {
            ways.push(peer.iter().cloned().chain(ports).collect());
        }
    }
    ways
}
