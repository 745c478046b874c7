//! One Policy's rules in the form that enforcement points take.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Draft;
use crate::api::{Action, Peers, PolicyRule, PortRange, Protocol};
use crate::domain::enforcement::{PeerSet, Ports, Rule};
use crate::domain::names::ObjectKey;

impl Draft<'_> {
    pub(super) fn rule(&self, key: &ObjectKey, rule: &PolicyRule) -> Rule {
        Rule {
            id: format!("{key}/{}", rule.name),
            direction: rule.direction,
            action: rule.action,
            peers: self.peer_set(&key.namespace, &rule.peers),
            ports: ports(&rule.ports),
        }
    }

    fn peer_set(&self, namespace: &str, peers: &Peers) -> PeerSet {
        if peers.any {
            return PeerSet::Any;
        }
        let mut networks = networks(peers);
        if let Some(selector) = &peers.devices {
            for device in self.select(namespace, selector) {
                let addresses = self.addresses.of_device(&device);
                networks.extend(addresses.into_iter().map(IpNet::from));
            }
        }
        PeerSet::Networks(networks)
    }
}

/// The networks that a rule writes out. The schema refuses anything else.
pub fn networks(peers: &Peers) -> BTreeSet<IpNet> {
    let parsed = peers
        .cidrs
        .iter()
        .filter_map(|cidr| cidr.parse::<IpNet>().ok());
    parsed.map(|network| network.trunc()).collect()
}

/// Absent ports of a protocol are all of them.
pub fn ports(ranges: &[PortRange]) -> BTreeSet<Ports> {
    ranges
        .iter()
        .map(|range| {
            let port = |number: i32| u16::try_from(number).unwrap_or(0);
            let (first, last) = match (range.protocol, range.port) {
                (Protocol::Icmp, _) | (_, None) => (0, u16::MAX),
                (_, Some(first)) => (port(first), port(range.end_port.unwrap_or(first))),
            };
            Ports {
                protocol: range.protocol,
                first,
                last,
            }
        })
        .collect()
}

/// Of two actions at the same priority: one that reports comes first, since it ends nothing; then Deny.
pub fn rank(action: Action) -> u8 {
    match action {
        Action::Audit => 0,
        Action::Deny => 1,
        Action::Allow => 2,
    }
}
