//! Isolation of this host, and quarantine of others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::expr::{self, ConnectionSide, Side, State};
use super::super::networks::{self, Family};
use super::super::ruleset::Elements;
use super::{HookPoint, Rendered, Statements, port_conditions};
use crate::domain::enforcement::{DeviceState, QuarantinePath, SelfIsolation};

/// What reports call the packets that quarantine and isolation dropped.
pub const QUARANTINE: &str = "quarantine";
pub const ISOLATION: &str = "isolation";

fn quarantine_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "quarantine4",
        Family::V6 => "quarantine6",
    }
}

/// The sets are there when they are empty too, so that a peer's isolation changes elements and no rule.
/// An isolated host has no path to a quarantined one: whatever its management networks say, two hosts
/// that were breached don't talk.
pub fn drop_quarantined(rendered: &mut Rendered, state: &DeviceState) {
    for family in Family::BOTH {
        let addresses: BTreeSet<IpAddr> = state
            .quarantined
            .iter()
            .copied()
            .filter(|address| Family::of(*address) == family)
            .collect();
        let elements = match family {
            Family::V4 => Elements::V4Addresses(addresses),
            Family::V6 => Elements::V6Addresses(addresses),
        };
        rendered
            .ruleset
            .sets
            .insert(quarantine_set(family).to_owned(), elements);
    }
    if state.isolation.is_none() {
        for path in &state.quarantine_paths {
            keep_path(rendered, path);
        }
    }
    for hook in HookPoint::ALL {
        let sides: &[Side] = match hook {
            HookPoint::Input => &[Side::Source],
            HookPoint::Output => &[Side::Destination],
            HookPoint::Forward => &[Side::Source, Side::Destination],
        };
        for family in Family::BOTH {
            for side in sides {
                rendered.add_counted(
                    hook.name(),
                    QUARANTINE,
                    false,
                    vec![
                        expr::address_in_set(quarantine_set(family), family, *side),
                        expr::counter(),
                        expr::drop(),
                    ],
                );
            }
        }
    }
}

/// Router solicitations and advertisements of quarantined hosts, which come before the rest of neighbour
/// discovery is accepted: else a breached host goes on telling its peers by which way they send.
pub fn drop_routers_that_are_quarantined(rendered: &mut Rendered) {
    rendered.add_counted(
        HookPoint::Input.name(),
        QUARANTINE,
        false,
        vec![
            expr::icmp_type(Family::V6, &[133, 134]),
            expr::address_in_set(quarantine_set(Family::V6), Family::V6, Side::Source),
            expr::counter(),
            expr::drop(),
        ],
    );
}

/// From a management address of this host to a quarantined one: connections that this host opens.
fn keep_path(rendered: &mut Rendered, path: &QuarantinePath) {
    let family = Family::of(path.from.addr());
    let to: BTreeSet<IpNet> = path.to.iter().copied().map(IpNet::from).collect();
    for (hook, own, peer) in [
        (HookPoint::Output, Side::Source, Side::Destination),
        (HookPoint::Input, Side::Destination, Side::Source),
    ] {
        let Some(peers) = peers_in(rendered, &to, family, peer) else {
            return;
        };
        for ports in port_conditions(&path.ports, peer, Some(family)) {
            let mut statements = vec![expr::address_in(&path.from, own)];
            statements.extend(peers.clone());
            statements.extend(ports);
            statements.push(expr::connection_side(super::side_of_own_connections(hook)));
            statements.push(expr::accept());
            rendered.add(hook, statements);
        }
    }
}

/// Management may open connections to the named ports, and those are answered; nothing else passes,
/// forwarded packets included.
pub fn isolate(rendered: &mut Rendered, isolation: &SelfIsolation) {
    accept_path_mtu(rendered);
    for rule in &isolation.management {
        let family = Family::of(rule.network.addr());
        for (hook, peer, own_port, side) in [
            (
                HookPoint::Input,
                Side::Source,
                Side::Destination,
                ConnectionSide::Original,
            ),
            (
                HookPoint::Output,
                Side::Destination,
                Side::Source,
                ConnectionSide::Reply,
            ),
        ] {
            for ports in port_conditions(&rule.ports, own_port, Some(family)) {
                let mut statements = vec![expr::address_in(&rule.network, peer)];
                statements.extend(ports);
                statements.push(expr::connection_side(side));
                statements.push(expr::accept());
                rendered.add(hook, statements);
            }
        }
    }
    for hook in HookPoint::ALL {
        rendered.add_counted(
            hook.name(),
            ISOLATION,
            false,
            vec![expr::counter(), expr::drop()],
        );
    }
}

/// Routers may say that a packet of a connection that stays was too big for the path: without it the
/// stream to the operator hangs behind a tunnel. Only about tracked connections, only inwards.
fn accept_path_mtu(rendered: &mut Rendered) {
    rendered.add(
        HookPoint::Input,
        vec![
            expr::icmp_type(Family::V4, &[3]),
            expr::icmp_code(4),
            expr::connection_state(&[State::Related]),
            expr::accept(),
        ],
    );
    rendered.add(
        HookPoint::Input,
        vec![
            expr::icmp_type(Family::V6, &[2]),
            expr::connection_state(&[State::Related]),
            expr::accept(),
        ],
    );
}

/// The condition that the packet's peer is in these networks: one network is written into the rule,
/// several become a set. None when there are none of the family.
pub fn peers_in(
    rendered: &mut Rendered,
    peers: &BTreeSet<IpNet>,
    family: Family,
    side: Side,
) -> Option<Statements> {
    let networks = networks::aggregated(peers, family);
    match networks.as_slice() {
        [] => None,
        [one] => Some(vec![expr::address_in(one, side)]),
        several => {
            let name = networks::set_name(several, family);
            let ranges = networks::ranges(several);
            let elements = match family {
                Family::V4 => Elements::V4Ranges(ranges),
                Family::V6 => Elements::V6Ranges(ranges),
            };
            rendered.ruleset.sets.insert(name.clone(), elements);
            Some(vec![expr::address_in_set(&name, family, side)])
        }
    }
}
