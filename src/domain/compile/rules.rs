//! One Policy's rules in the form that enforcement points take. Networks are written in their shortest
//! form, so that the same peers always give the same state.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::Draft;
use super::ports::ports;
use super::selectors::Reach;
use crate::api::{Peers, PolicyRule};
use crate::domain::enforcement::{PeerSet, Rule};
use crate::domain::names::{DeviceId, ObjectKey};

/// The rules of a Policy, and the ids in them that stand for no enrolled device or for another tenant's.
#[derive(Debug, Default)]
pub struct Resolved {
    pub rules: Vec<Arc<Rule>>,
    pub unknown: BTreeSet<String>,
    pub foreign: BTreeSet<DeviceId>,
}

impl Draft<'_> {
    /// In the order in which they are written. What is no network or no port is named in the error.
    pub(super) fn rules(
        &self,
        key: &ObjectKey,
        reach: Reach<'_>,
        rules: &[PolicyRule],
    ) -> Result<Resolved, String> {
        let mut resolved = Resolved::default();
        for rule in rules {
            let of_rule = |error| format!("rule {}: {error}", rule.name);
            let peers = self
                .peers(reach, &rule.peers, &mut resolved)
                .map_err(of_rule)?;
            resolved.rules.push(Arc::new(Rule {
                id: format!("{key}/{}", rule.name),
                direction: rule.direction,
                action: rule.action,
                peers,
                ports: ports(&rule.ports).map_err(of_rule)?,
            }));
        }
        Ok(resolved)
    }

    fn peers(
        &self,
        reach: Reach<'_>,
        peers: &Peers,
        resolved: &mut Resolved,
    ) -> Result<PeerSet, String> {
        if peers.any {
            return Ok(PeerSet::Any);
        }
        let mut networks = networks(peers)?;
        if let Some(selector) = &peers.devices {
            let chosen = self.select(reach, selector);
            for device in &chosen.devices {
                let addresses = self.addresses.of_device(device);
                networks.extend(addresses.into_iter().map(IpNet::from));
            }
            resolved.unknown.extend(chosen.unknown);
            resolved.foreign.extend(chosen.foreign);
        }
        let networks = IpNet::aggregate(&networks);
        Ok(PeerSet::Networks(networks.into_iter().collect()))
    }
}

/// The networks that a rule writes out. The schema refuses anything else.
pub fn networks(peers: &Peers) -> Result<Vec<IpNet>, String> {
    let network = |cidr: &String| {
        let network = cidr.parse::<IpNet>().ok();
        let network = network.filter(|network| network.trunc() == *network).ok_or_else(|| {
            format!("{cidr:?} is no network: write one such as 10.0.9.0/24 or 2001:db8::/64, with no host bits set")
        })?;
        match ipv4_in_ipv6(&network) {
            None => Ok(network),
            Some(ipv4) => Err(format!(
                "{cidr} is an IPv4 network in IPv6's notation, and no packet has such an address: write {ipv4}"
            )),
        }
    };
    peers.cidrs.iter().map(network).collect()
}

/// What `::ffff:10.0.9.0/120` and the like stand for.
pub fn ipv4_in_ipv6(network: &IpNet) -> Option<IpNet> {
    let IpNet::V6(network) = network else {
        return None;
    };
    let address = network.addr().to_ipv4_mapped()?;
    let length = network.prefix_len().checked_sub(96)?;
    IpNet::new(address.into(), length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_in_the_notation_of_ipv6_is_refused_with_what_to_write() {
        for (cidr, write) in [
            ("::ffff:10.0.9.0/120", "10.0.9.0/24"),
            ("::ffff:1.2.3.4/128", "1.2.3.4/32"),
            ("0:0:0:0:0:ffff:a00:0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let peers = Peers {
                cidrs: vec![cidr.to_owned()],
                ..Peers::default()
            };
            let error = networks(&peers).expect_err(cidr);
            assert!(error.ends_with(&format!("write {write}")), "{error}");
        }
        let peers = Peers {
            cidrs: vec!["::/0".to_owned(), "::/64".to_owned()],
            ..Peers::default()
        };
        assert_eq!(networks(&peers).map(|all| all.len()), Ok(2));
    }
}
