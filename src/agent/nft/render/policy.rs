//! Rules of policies: one chain for each direction of connections and each hook, entered by the
//! packet's side of its connection. Policies that observe have chains of their own, visited first, whose
//! rules count and never decide.

use super::super::expr::{self, ConnectionSide, Side, State};
use super::super::networks::Family;
use super::super::ruleset::Rule as NftRule;
use super::containment::peers_in;
use super::{HookPoint, Rendered, Statements, port_conditions};
use crate::api::policy::DefaultAction;
use crate::api::{Action, Direction};
use crate::domain::enforcement::{DefaultRule, Defaults, DeviceState, PeerSet, Rule};

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];
const HOOKS: [HookPoint; 2] = [HookPoint::Output, HookPoint::Input];

pub fn judge_connections(rendered: &mut Rendered, state: &DeviceState) {
    let observes = |direction| {
        state
            .observed_rules
            .iter()
            .any(|r| r.rule.direction == direction)
            || default_of(&state.observed_defaults, direction).is_some()
    };
    let enforces = |direction| {
        state.rules.iter().any(|r| r.direction == direction)
            || default_of(&state.defaults, direction).is_some()
    };
    if DIRECTIONS.into_iter().any(enforces) {
        accept_icmp_errors(rendered);
    }
    for hook in HOOKS {
        for direction in DIRECTIONS.into_iter().filter(|d| observes(*d)) {
            observe(rendered, state, direction, hook);
            enter(rendered, hook, direction, &observing_chain(direction, hook));
        }
        for direction in DIRECTIONS.into_iter().filter(|d| enforces(*d)) {
            enforce(rendered, state, direction, hook);
            enter(rendered, hook, direction, &chain(direction, hook));
        }
        judge_untracked(rendered, hook, &enforces);
    }
}

fn chain(direction: Direction, hook: HookPoint) -> String {
    let direction = match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    };
    format!("{direction}_{}", hook.name())
}

fn observing_chain(direction: Direction, hook: HookPoint) -> String {
    format!("observe_{}", chain(direction, hook))
}

fn default_of(defaults: &Defaults, direction: Direction) -> Option<&DefaultRule> {
    match direction {
        Direction::Egress => defaults.egress.as_ref(),
        Direction::Ingress => defaults.ingress.as_ref(),
    }
}

/// The side on which packets at this hook are, of connections of this direction.
fn side_of(direction: Direction, hook: HookPoint) -> ConnectionSide {
    match (direction, super::side_of_own_connections(hook)) {
        (Direction::Egress, side) => side,
        (Direction::Ingress, ConnectionSide::Original) => ConnectionSide::Reply,
        (Direction::Ingress, ConnectionSide::Reply) => ConnectionSide::Original,
    }
}

fn enter(rendered: &mut Rendered, hook: HookPoint, direction: Direction, chain: &str) {
    rendered.add(
        hook,
        vec![
            expr::connection_side(side_of(direction, hook)),
            expr::jump(chain),
        ],
    );
}

/// Packets without a connection: first as if they opened one, then as if they answered one.
fn judge_untracked(rendered: &mut Rendered, hook: HookPoint, enforces: &dyn Fn(Direction) -> bool) {
    for side in [ConnectionSide::Original, ConnectionSide::Reply] {
        for direction in DIRECTIONS {
            if side_of(direction, hook) == side && enforces(direction) {
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

fn accept_icmp_errors(rendered: &mut Rendered) {
    for hook in HOOKS {
        for (family, types) in [
            (Family::V4, &[3, 11, 12][..]),
            (Family::V6, &[1, 2, 3, 4][..]),
        ] {
            rendered.add(
                hook,
                vec![
                    expr::connection_state(&[State::Related]),
                    expr::icmp_type(family, types),
                    expr::accept(),
                ],
            );
        }
    }
}

fn enforce(rendered: &mut Rendered, state: &DeviceState, direction: Direction, hook: HookPoint) {
    let chain = chain(direction, hook);
    rendered.ruleset.chains.entry(chain.clone()).or_default();
    for rule in state.rules.iter().filter(|r| r.direction == direction) {
        for mut statements in conditions(rendered, rule, hook) {
            statements.push(expr::counter());
            statements.extend(match rule.action {
                Action::Allow => Some(expr::accept()),
                Action::Deny => Some(expr::drop()),
                Action::Audit => None,
            });
            rendered.add_counted(&chain, &rule.id, false, statements);
        }
    }
    if let Some(default) = default_of(&state.defaults, direction) {
        let verdict = match default.action {
            DefaultAction::Allow => expr::accept(),
            DefaultAction::Deny => expr::drop(),
        };
        let statements = vec![expr::counter(), verdict];
        rendered.add_counted(&chain, &default.id, false, statements);
    }
}

/// A rule of a policy that enforces ends the evaluation here as it does there, and is not news.
fn observe(rendered: &mut Rendered, state: &DeviceState, direction: Direction, hook: HookPoint) {
    let chain = observing_chain(direction, hook);
    rendered.ruleset.chains.entry(chain.clone()).or_default();
    for observed in &state.observed_rules {
        let rule = &observed.rule;
        let ends = rule.action != Action::Audit;
        if rule.direction != direction || !(observed.observing || ends) {
            continue;
        }
        for mut statements in conditions(rendered, rule, hook) {
            if observed.observing {
                statements.push(expr::counter());
            }
            if ends {
                statements.push(expr::leave_chain());
            }
            match observed.observing {
                true => rendered.add_counted(&chain, &rule.id, true, statements),
                false => rendered.add_rule(&chain, NftRule::new(statements)),
            }
        }
    }
    if let Some(default) = default_of(&state.observed_defaults, direction)
        && default.observing
    {
        rendered.add_counted(&chain, &default.id, true, vec![expr::counter()]);
    }
}

/// The ways in which a packet at this hook matches the rule; none when its peers are nobody.
fn conditions(rendered: &mut Rendered, rule: &Rule, hook: HookPoint) -> Vec<Statements> {
    let (peer, own) = match hook {
        HookPoint::Output => (Side::Destination, Side::Source),
        HookPoint::Input | HookPoint::Forward => (Side::Source, Side::Destination),
    };
    let port = match rule.direction {
        Direction::Egress => peer,
        Direction::Ingress => own,
    };
    let peers: Vec<(Option<Family>, Statements)> = match &rule.peers {
        PeerSet::Any => vec![(None, Vec::new())],
        PeerSet::Networks(networks) => Family::BOTH
            .into_iter()
            .filter_map(|family| {
                peers_in(rendered, networks, family, peer).map(|s| (Some(family), s))
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
