//! What an isolated ward keeps, and the drop of the rest.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::super::expr::{self, Side, State};
use super::super::super::networks::Family;
use super::super::containment::{ISOLATION, peers_in};
use super::super::policy::Way;
use super::super::{HookPoint, Rendered, Statements, port_conditions};
use super::{Place, Table, pass, pass_neighbour_discovery};
use crate::api::{Direction, Protocol};
use crate::domain::enforcement::{ManagementRule, Ports, WardGroup, WardIsolation};

pub fn isolate(
    rendered: &mut Rendered,
    chain: &str,
    place: Place,
    (name, group): (&str, &WardGroup),
    isolation: &WardIsolation,
    table: &Table,
) {
    if place.way() == Way::Arriving && table.tracks {
        pass_path_mtu(rendered, chain);
    }
    for rule in &isolation.management {
        pass_management(rendered, chain, place.way(), rule, table.tracks);
    }
    if place.is_of_host() {
        for (ward, ports) in &isolation.probes {
            if let Some(addresses) = group.members.get(ward) {
                pass_probes(rendered, chain, place.way(), addresses, ports);
            }
        }
    }
    let id = format!("{ISOLATION}/{name}");
    rendered.add_counted(chain, &id, false, vec![expr::counter(), expr::drop()]);
}

/// As for an isolated host: a router's word that a packet of a connection that stays was too big.
fn pass_path_mtu(rendered: &mut Rendered, chain: &str) {
    let related = || expr::connection_state(&[State::Related]);
    let v4 = vec![
        expr::icmp_type(Family::V4, &[3]),
        expr::icmp_code(4),
        related(),
    ];
    pass(rendered, chain, v4);
    let v6 = vec![expr::icmp_type(Family::V6, &[2]), related()];
    pass(rendered, chain, v6);
}

/// Connections that management opens, both directions of them. Where connections aren't tracked, what comes
/// from the ward's ports counts as an answer, but for a packet that opens a TCP connection.
fn pass_management(
    rendered: &mut Rendered,
    chain: &str,
    way: Way,
    rule: &ManagementRule,
    tracks: bool,
) {
    let family = Family::of(rule.network.addr());
    let network = expr::address_in(&rule.network, way.peer());
    if !tracks && way == Way::Leaving {
        for ports in answering_ports(&rule.ports, family) {
            let conditions = std::iter::once(network.clone()).chain(ports).collect();
            pass(rendered, chain, conditions);
        }
        return;
    }
    for ports in port_conditions(&rule.ports, way.own(), Some(family)) {
        let mut conditions = vec![network.clone()];
        conditions.extend(ports);
        if tracks {
            conditions.push(expr::connection_side(way.side_of(Direction::Ingress)));
        }
        pass(rendered, chain, conditions);
    }
}

/// The ways in which a packet from these ports can be an answer.
fn answering_ports(ports: &BTreeSet<Ports>, family: Family) -> Vec<Statements> {
    if ports.is_empty() {
        return vec![
            vec![expr::acknowledges()],
            vec![expr::other_than_layer4(expr::TCP)],
        ];
    }
    let (tcp, others): (BTreeSet<Ports>, BTreeSet<Ports>) = ports
        .iter()
        .partition(|span| span.protocol == Protocol::Tcp);
    let own = Way::Leaving.own();
    let mut ways = Vec::new();
    if !tcp.is_empty() {
        for mut conditions in port_conditions(&tcp, own, Some(family)) {
            conditions.push(expr::acknowledges());
            ways.push(conditions);
        }
    }
    if !others.is_empty() {
        ways.extend(port_conditions(&others, own, Some(family)));
    }
    ways
}

/// Connections that this host opens to the ward's ports.
fn pass_probes(
    rendered: &mut Rendered,
    chain: &str,
    way: Way,
    addresses: &BTreeSet<IpAddr>,
    ports: &BTreeSet<Ports>,
) {
    let networks: BTreeSet<IpNet> = addresses.iter().copied().map(IpNet::from).collect();
    if ports.is_empty() {
        return;
    }
    for family in Family::BOTH {
        let Some(ward) = peers_in(rendered, &networks, family, way.own()) else {
            continue;
        };
        for ports in port_conditions(ports, way.own(), Some(family)) {
            let mut conditions = ward.clone();
            conditions.extend(ports);
            conditions.push(expr::connection_side(way.side_of(Direction::Ingress)));
            pass(rendered, chain, conditions);
        }
    }
}

/// Between the ports of a bridge, as long as a ward is isolated: a pod has a link-local address that nobody
/// was told of, and could go on talking to its neighbours by that. Routers forward none.
pub fn drop_link_local(rendered: &mut Rendered) {
    let chain = "ward_link_local";
    rendered.add_chain(chain);
    pass_neighbour_discovery(rendered, chain);
    let statements = vec![expr::counter(), expr::drop()];
    rendered.add_counted(chain, &format!("{ISOLATION}/link-local"), false, statements);
    let network = "fe80::/10".parse().expect("a network");
    for side in [Side::Source, Side::Destination] {
        let statements = vec![expr::address_in(&network, side), expr::jump(chain)];
        rendered.add(HookPoint::Forward, statements);
    }
}
