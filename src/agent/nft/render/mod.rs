//! A device state as the content of the agent's tables. The order in each base chain is: loopback, the
//! accounts of suspended users, the operator, neighbour discovery (a quarantined peer's word about routes
//! excepted), quarantined peers, the wards, DHCP, then either this host's isolation or its policies. An
//! isolated host forwards for nobody, so it has no rules for wards. Rules of policies are `policy`'s, those
//! for wards `wards`', those for accounts `users`', the rest of what cuts is `containment`'s; `bridge` is the
//! second table.

mod bridge;
mod containment;
mod policy;
mod users;
mod wards;

pub use wards::{ANSWERS_TO_HOST, Place};

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use nftables::stmt::Statement;
use sha2::{Digest, Sha256};

use super::bridges::Bridges;
use super::expr::{self, ConnectionSide, Side, State};
use super::networks::Family;
use super::ruleset::{Chain, Hook, Rule, Ruleset};
use crate::api::Protocol;
use crate::domain::enforcement::{DeviceState, Ports};

/// In front of the usual filter chains, which are at 0.
const PRIORITY: i64 = -10;
/// nft allows 128 bytes with the zero at the end.
const LONGEST_COMMENT: usize = 120;

/// What the rules need to know that is not in the state: facts of this agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// The agent's own; the operator's addresses are open to its sockets alone.
    pub uid: u32,
    /// Addresses of the operator from enrolment, open whatever a state says.
    pub pinned: BTreeSet<SocketAddr>,
    pub bridges: Bridges,
    /// The uids of accounts on this host.
    pub accounts: BTreeMap<String, u32>,
}

/// The content of the tables, and what their counters count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Of the table of family `inet`.
    pub ruleset: Ruleset,
    /// Of the table of family `bridge`, where one is needed.
    pub bridge: Option<Ruleset>,
    /// By the comment of the nft rules that count for it.
    pub counted: BTreeMap<String, Counted>,
}

/// What reports call a group of nft rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// `namespace/policy/rule`, `namespace/policy` for a default, `isolation` (`isolation/<group>` for wards),
    /// `quarantine`, `suspended:<account>`, or `wards/<group>` for all packets of a group of wards.
    pub id: String,
    pub observing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HookPoint {
    Input,
    Output,
    Forward,
}

impl HookPoint {
    const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Forward];

    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Forward => "forward",
        }
    }
}

pub use users::{Suspended, suspended};

type Statements = Vec<Statement<'static>>;

pub fn render(state: &DeviceState, situation: &Situation) -> Rendered {
    let mut rendered = Rendered::default();
    for hook in HookPoint::ALL {
        rendered.add_base_chain(hook);
    }
    rendered.keep_tracking();
    rendered.accept_loopback();
    users::drop_suspended(&mut rendered, state, situation);
    rendered.accept_operator(state, situation);
    containment::drop_routers_that_are_quarantined(&mut rendered);
    rendered.accept_neighbour_discovery(state.isolation.is_some());
    containment::drop_quarantined(&mut rendered, state);
    if state.isolation.is_none() {
        wards::judge(&mut rendered, &state.wards, &wards::Table::INET);
    }
    rendered.accept_dhcp(state.isolation.is_some());
    match &state.isolation {
        Some(isolation) => containment::isolate(&mut rendered, isolation),
        None => policy::judge_connections(&mut rendered, state),
    }
    bridge::add_table(&mut rendered, state, &situation.bridges);
    rendered
}

impl Rendered {
    fn add_base_chain(&mut self, hook: HookPoint) {
        self.ruleset.chains.insert(
            hook.name().to_owned(),
            Chain {
                hook: Some(Hook {
                    hook: hook.name().to_owned(),
                    priority: PRIORITY,
                    policy: "accept".to_owned(),
                }),
                rules: Vec::new(),
            },
        );
    }

    fn add(&mut self, hook: HookPoint, statements: Statements) {
        self.add_rule(hook.name(), Rule::new(statements));
    }

    /// Without rules, as yet.
    fn add_chain(&mut self, chain: &str) {
        self.ruleset.chains.entry(chain.to_owned()).or_default();
    }

    fn add_rule(&mut self, chain: &str, rule: Rule) {
        self.ruleset
            .chains
            .entry(chain.to_owned())
            .or_default()
            .rules
            .push(rule);
    }

    /// A rule whose counter is reported as `id`.
    fn add_counted(&mut self, chain: &str, id: &str, observing: bool, statements: Statements) {
        let comment = comment_for(id);
        self.add_rule(chain, Rule::new(statements).commented(&comment));
        self.counted.insert(
            comment,
            Counted {
                id: id.to_owned(),
                observing,
            },
        );
    }

    /// Connections are tracked in a network namespace only while some rule asks for them. They have
    /// to be known before the first isolation, with the direction in which they were opened.
    fn keep_tracking(&mut self) {
        let rule = Rule::new(vec![
            expr::connection_state(&[State::Invalid]),
            expr::counter(),
        ]);
        self.add_rule("input", rule.commented("tracking"));
    }

    fn accept_loopback(&mut self) {
        self.add(
            HookPoint::Input,
            vec![expr::input_interface_is_loopback(), expr::accept()],
        );
        self.add(
            HookPoint::Output,
            vec![expr::output_interface_is_loopback(), expr::accept()],
        );
    }

    /// Out by the owner of the socket; in by what connection tracking saw going out. Where this host itself
    /// translates the operator's address, as a node does with a Service's, packets show another one here, and
    /// the connection knows which was asked for.
    fn accept_operator(&mut self, state: &DeviceState, situation: &Situation) {
        for operator in state.operator.union(&situation.pinned) {
            let network = operator.ip().into();
            let port = [(operator.port(), operator.port())];
            self.add(
                HookPoint::Output,
                vec![
                    expr::socket_owner(situation.uid),
                    expr::address_in(&network, Side::Destination),
                    expr::port_in(Protocol::Tcp, &port, Side::Destination),
                    expr::accept(),
                ],
            );
            self.add(
                HookPoint::Input,
                vec![
                    expr::address_in(&network, Side::Source),
                    expr::port_in(Protocol::Tcp, &port, Side::Source),
                    expr::connection_state(&[State::Established]),
                    expr::accept(),
                ],
            );
            self.accept_translated(*operator, situation.uid);
        }
    }

    fn accept_translated(&mut self, operator: SocketAddr, uid: u32) {
        for (hook, owner, side) in [
            (HookPoint::Output, Some(uid), ConnectionSide::Original),
            (HookPoint::Input, None, ConnectionSide::Reply),
        ] {
            let mut statements: Statements = owner.map(expr::socket_owner).into_iter().collect();
            statements.extend(expr::asked_for(operator));
            statements.push(expr::connection_side(side));
            statements.push(expr::accept());
            self.add(hook, statements);
        }
    }

    /// Router and neighbour solicitations and advertisements (RFC 4861), whose hop limit shows that no
    /// router forwarded them; and multicast listener reports and queries (RFC 2710, RFC 3810), without
    /// which switches that watch them stop delivering the solicitations. An isolated host goes on
    /// hearing routers, for its addresses are theirs to prolong and management reaches it by them; it
    /// calls itself a router no more. Redirects are no part of it.
    fn accept_neighbour_discovery(&mut self, isolated: bool) {
        for hook in [HookPoint::Input, HookPoint::Output] {
            let types: &[u8] = match (hook, isolated) {
                (HookPoint::Output, true) => &[133, 135, 136],
                _ => &[133, 134, 135, 136],
            };
            self.add(
                hook,
                vec![
                    expr::icmp_type(Family::V6, types),
                    expr::hop_limit(255),
                    expr::accept(),
                ],
            );
            self.add(
                hook,
                vec![
                    expr::icmp_type(Family::V6, &[130, 131, 132, 143]),
                    expr::hop_limit(1),
                    expr::accept(),
                ],
            );
        }
    }

    /// The client's side of DHCP. An isolated host asks by broadcast and multicast only, as it does at
    /// boot and when a lease is about to end: a unicast renewal could go anywhere.
    fn accept_dhcp(&mut self, isolated: bool) {
        let everywhere: [(Family, (u16, u16), &str); 2] = [
            (Family::V4, (68, 67), "255.255.255.255/32"),
            (Family::V6, (546, 547), "ff02::1:2/128"),
        ];
        for (family, (client, server), group) in everywhere {
            let all = match family {
                Family::V4 => "0.0.0.0/0",
                Family::V6 => "::/0",
            };
            let network = |text: &str| text.parse().expect("a network");
            let to = if isolated { group } else { all };
            for (hook, peer, side, from, into) in [
                (HookPoint::Output, to, Side::Destination, client, server),
                (HookPoint::Input, all, Side::Source, server, client),
            ] {
                self.add(
                    hook,
                    vec![
                        expr::address_in(&network(peer), side),
                        expr::port_in(Protocol::Udp, &[(from, from)], Side::Source),
                        expr::port_in(Protocol::Udp, &[(into, into)], Side::Destination),
                        expr::accept(),
                    ],
                );
            }
        }
    }
}

/// A comment that stands for the id: itself, or, where it is too long, its beginning and a hash.
fn comment_for(id: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if id.len() <= LONGEST_COMMENT && id.chars().all(plain) {
        return id.to_owned();
    }
    let beginning: String = id.chars().filter(|c| plain(*c)).take(80).collect();
    let hash = hex::encode(&Sha256::digest(id)[..8]);
    format!("{beginning}~{hash}")
}

/// The ways in which a packet's port can be among these, each for an nft rule of its own; one way
/// without a condition when they are empty.
fn port_conditions(ports: &BTreeSet<Ports>, side: Side, family: Option<Family>) -> Vec<Statements> {
    if ports.is_empty() {
        return vec![Vec::new()];
    }
    let mut by_protocol: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
    for span in ports {
        by_protocol
            .entry(span.protocol)
            .or_default()
            .push((span.first, span.last));
    }
    by_protocol
        .into_iter()
        .map(|(protocol, spans)| {
            let number = match (protocol, family) {
                (Protocol::Tcp, _) => 6,
                (Protocol::Udp, _) => 17,
                (Protocol::Sctp, _) => 132,
                (Protocol::Icmp, Some(Family::V4)) => expr::ICMP,
                (Protocol::Icmp, Some(Family::V6)) => expr::ICMPV6,
                (Protocol::Icmp, None) => return vec![expr::layer4(&[expr::ICMP, expr::ICMPV6])],
            };
            let spans = merged(spans);
            match protocol == Protocol::Icmp || spans == [(0, u16::MAX)] {
                true => vec![expr::layer4(&[number])],
                false => vec![expr::port_in(protocol, &spans, side)],
            }
        })
        .collect()
}

/// Sorted spans of ports; what overlaps or touches is one.
fn merged(mut spans: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    spans.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The side of a connection that a packet at this hook is on when this host opened it.
fn side_of_own_connections(hook: HookPoint) -> ConnectionSide {
    match hook {
        HookPoint::Output => ConnectionSide::Original,
        HookPoint::Input | HookPoint::Forward => ConnectionSide::Reply,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod ward_tests;
