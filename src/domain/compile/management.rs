//! Management paths: what may still reach an isolated device, and what is left where several Isolations
//! each name their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::ports::{common, covers, merged, ports};
use crate::api::ManagementPath;
use crate::domain::enforcement::{ManagementRule, Ports, QuarantinePath};

/// The paths of one Isolation. What is no network or no port, which the schema refuses, opens nothing.
pub fn management(paths: &[ManagementPath]) -> BTreeSet<ManagementRule> {
    let rules = paths.iter().filter_map(|path| {
        Some(ManagementRule {
            network: path.cidr.parse::<IpNet>().ok()?.trunc(),
            ports: ports(&path.ports).ok()?,
        })
    });
    fewest(rules)
}

/// What both allow.
pub fn intersection(
    a: &BTreeSet<ManagementRule>,
    b: &BTreeSet<ManagementRule>,
) -> BTreeSet<ManagementRule> {
    let pairs = a
        .iter()
        .flat_map(|one| b.iter().map(move |other| (one, other)));
    fewest(pairs.filter_map(|(one, other)| {
        let network = if one.network.contains(&other.network) {
            other.network
        } else if other.network.contains(&one.network) {
            one.network
        } else {
            return None;
        };
        let ports = common(&one.ports, &other.ports)?;
        Some(ManagementRule { network, ports })
    }))
}

/// The same paths with one rule a network, and none that another one already allows.
fn fewest(rules: impl Iterator<Item = ManagementRule>) -> BTreeSet<ManagementRule> {
    let mut by_network: BTreeMap<IpNet, BTreeSet<Ports>> = BTreeMap::new();
    for ManagementRule { network, ports } in rules {
        by_network
            .entry(network)
            .and_modify(|known| {
                let every = known.is_empty() || ports.is_empty();
                let both = known.union(&ports).copied().collect();
                *known = if every { BTreeSet::new() } else { merged(both) };
            })
            .or_insert(ports);
    }
    let rules = by_network.iter().filter(|(network, ports)| {
        let mut wider = by_network.iter().filter(|(other, _)| other != network);
        !wider.any(|(other, allowed)| other.contains(*network) && covers(allowed, ports))
    });
    rules
        .map(|(network, ports)| ManagementRule {
            network: *network,
            ports: ports.clone(),
        })
        .collect()
}

/// The peer's side of a path, for a peer that holds an address of its network.
pub fn path(
    rule: &ManagementRule,
    own: &BTreeSet<IpAddr>,
    target: &BTreeSet<IpAddr>,
) -> Option<QuarantinePath> {
    let of_family = |address: &&IpAddr| address.is_ipv4() == rule.network.addr().is_ipv4();
    let to: BTreeSet<IpAddr> = target.iter().filter(of_family).copied().collect();
    let holds = own.iter().any(|address| rule.network.contains(address));
    (holds && !to.is_empty()).then(|| QuarantinePath {
        from: rule.network,
        to,
        ports: rule.ports.clone(),
    })
}

/// Whether everything that `inner` lets through is let through by `outer` as well.
pub fn within(inner: &BTreeSet<ManagementRule>, outer: &BTreeSet<ManagementRule>) -> bool {
    inner.iter().all(|inner| {
        outer.iter().any(|outer| {
            outer.network.contains(&inner.network) && covers(&outer.ports, &inner.ports)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PortRange, Protocol};

    fn paths(written: &[(&str, &[i32])]) -> BTreeSet<ManagementRule> {
        let paths: Vec<ManagementPath> = written
            .iter()
            .map(|(cidr, ports)| ManagementPath {
                cidr: (*cidr).to_owned(),
                ports: ports
                    .iter()
                    .map(|port| PortRange {
                        protocol: Protocol::Tcp,
                        port: Some(*port),
                        end_port: None,
                    })
                    .collect(),
            })
            .collect();
        management(&paths)
    }

    #[test]
    fn a_path_inside_another_is_left_out() {
        let written = paths(&[("10.0.0.0/8", &[]), ("10.0.9.0/24", &[22])]);
        assert_eq!(written, paths(&[("10.0.0.0/8", &[])]));
        let ports = paths(&[("10.0.0.0/8", &[22]), ("10.0.0.0/8", &[443])]);
        assert_eq!(ports, paths(&[("10.0.0.0/8", &[22, 443])]));
    }

    #[test]
    fn two_isolations_allow_what_both_name() {
        let one = paths(&[("10.0.0.0/8", &[22, 443]), ("192.0.2.0/24", &[])]);
        let other = paths(&[("10.0.9.0/24", &[22]), ("198.51.100.0/24", &[])]);
        let both = paths(&[("10.0.9.0/24", &[22])]);
        assert_eq!(intersection(&one, &other), both);
        assert_eq!(intersection(&other, &one), both);
    }

    #[test]
    fn no_port_in_common_is_no_path_rather_than_every_port() {
        let one = paths(&[("10.0.9.0/24", &[22])]);
        let other = paths(&[("10.0.9.0/24", &[443])]);
        assert_eq!(intersection(&one, &other), BTreeSet::new());
    }
}
