//! Which connections isolation and quarantine let pass: the same decision as the rules of the table
//! make, for a connection instead of a packet. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netlink_packet_netfilter::conntrack::Tuple;

use crate::api::Protocol;
use crate::domain::enforcement::{
    DeviceState, ManagementRule, Ports, QuarantinePath, SelfIsolation, WardGroup,
};

const TCP: u8 = 6;
const UDP: u8 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: IpAddr,
    /// 0 where the protocol has none.
    pub port: u16,
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    pub opener: Endpoint,
    /// Who answers, after destination NAT: where the packets really go.
    pub responder: Endpoint,
    /// Whom the opener asked for, which a Service's address may stand for.
    pub asked: Endpoint,
    /// The kernel's own name of the entry: its tuple in the direction of opening.
    pub(super) tuple: Vec<Tuple>,
}

impl Flow {
    pub fn tcp(opener: Endpoint, responder: Endpoint) -> Self {
        Self {
            protocol: TCP,
            opener,
            responder,
            asked: responder,
            tuple: Vec::new(),
        }
    }

    pub fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// As it would be learnt anew when the responder's packet is seen first.
    pub fn flipped(&self) -> Self {
        Self {
            protocol: self.protocol,
            opener: self.responder,
            responder: self.opener,
            asked: self.opener,
            tuple: Vec::new(),
        }
    }
}

/// The part of a state that isolates and quarantines, with what it takes to judge connections by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containment {
    operator: BTreeSet<SocketAddr>,
    isolation: Option<SelfIsolation>,
    quarantined: BTreeSet<IpAddr>,
    paths: BTreeSet<QuarantinePath>,
    /// Isolated wards, by address.
    wards: BTreeMap<IpAddr, Arc<Ward>>,
    /// Addresses of this host.
    local: BTreeSet<IpAddr>,
}

/// What an isolated ward keeps.
#[derive(Debug, PartialEq, Eq)]
struct Ward {
    management: BTreeSet<ManagementRule>,
    /// This host may connect there.
    probes: BTreeSet<Ports>,
}

impl Containment {
    pub fn new(
        state: &DeviceState,
        pinned: impl IntoIterator<Item = SocketAddr>,
        local: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        Self {
            operator: state.operator.iter().copied().chain(pinned).collect(),
            isolation: state.isolation.clone(),
            quarantined: state.quarantined.clone(),
            paths: state.quarantine_paths.clone(),
            wards: state
                .wards
                .values()
                .flat_map(|group| isolated(group))
                .collect(),
            local: local.into_iter().collect(),
        }
    }

    pub fn contains_anything(&self) -> bool {
        self.isolation.is_some() || !self.quarantined.is_empty() || !self.wards.is_empty()
    }

    /// Whether a connection with this address at an end may not pass.
    pub fn may_concern(&self, address: IpAddr) -> bool {
        self.isolation.is_some()
            || self.quarantined.contains(&address)
            || self.wards.contains_key(&address)
    }

    pub fn passes(&self, flow: &Flow) -> bool {
        let (opener, responder) = (flow.opener, flow.responder);
        if self.is_local(opener.ip) && self.is_local(responder.ip) {
            return true;
        }
        let mut called = [responder, flow.asked].into_iter();
        let is_operator =
            |end: Endpoint| self.operator.contains(&SocketAddr::new(end.ip, end.port));
        if flow.is_tcp() && self.is_local(opener.ip) && called.any(is_operator) {
            return true;
        }
        if self.quarantined.contains(&opener.ip) || self.quarantined.contains(&responder.ip) {
            return self.isolation.is_none() && self.paths.iter().any(|p| keeps(p, flow));
        }
        if !self.wards_keep(flow) {
            return false;
        }
        let Some(isolation) = &self.isolation else {
            return true;
        };
        is_dhcp(flow) || self.is_local(responder.ip) && managed(&isolation.management, flow)
    }

    /// Whether the isolated wards among its ends let it pass: one lets nothing out that it opened.
    fn wards_keep(&self, flow: &Flow) -> bool {
        if self.wards.contains_key(&flow.opener.ip) {
            return false;
        }
        self.wards.get(&flow.responder.ip).is_none_or(|ward| {
            managed(&ward.management, flow)
                || self.is_local(flow.opener.ip)
                    && !ward.probes.is_empty()
                    && among(&ward.probes, flow)
        })
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.contains(&address)
    }
}

/// The addresses of an isolated group, each with what its ward keeps.
fn isolated(group: &WardGroup) -> Vec<(IpAddr, Arc<Ward>)> {
    let Some(isolation) = &group.isolation else {
        return Vec::new();
    };
    let mut wards = Vec::new();
    for (name, addresses) in &group.members {
        let ward = Arc::new(Ward {
            management: isolation.management.clone(),
            probes: isolation.probes.get(name).cloned().unwrap_or_default(),
        });
        wards.extend(addresses.iter().map(|ip| (*ip, Arc::clone(&ward))));
    }
    wards
}

fn managed(management: &BTreeSet<ManagementRule>, flow: &Flow) -> bool {
    let mut rules = management.iter();
    rules.any(|rule| rule.network.contains(&flow.opener.ip) && among(&rule.ports, flow))
}

fn keeps(path: &QuarantinePath, flow: &Flow) -> bool {
    path.from.contains(&flow.opener.ip)
        && path.to.contains(&flow.responder.ip)
        && among(&path.ports, flow)
}

/// Whether the port at which the connection was opened is one of these.
fn among(ports: &BTreeSet<Ports>, flow: &Flow) -> bool {
    ports.is_empty()
        || ports.iter().any(|span| {
            let numbers: &[u8] = match span.protocol {
                Protocol::Tcp => &[TCP],
                Protocol::Udp => &[UDP],
                Protocol::Sctp => &[132],
                Protocol::Icmp => &[1, 58],
            };
            numbers.contains(&flow.protocol)
                && (span.protocol == Protocol::Icmp
                    || (span.first..=span.last).contains(&flow.responder.port))
        })
}

fn is_dhcp(flow: &Flow) -> bool {
    flow.protocol == UDP
        && matches!(
            (flow.opener.port, flow.responder.port),
            (68, 67) | (67, 68) | (546, 547) | (547, 546)
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(json: serde_json::Value) -> DeviceState {
        let mut fields = json!({"sources": [], "operator": ["10.0.0.1:8443"]});
        let object = fields.as_object_mut().expect("an object");
        object.extend(json.as_object().expect("an object").clone());
        serde_json::from_value(fields).expect("a state")
    }

    fn flow(protocol: u8, opener: &str, responder: &str) -> Flow {
        let end = |text: &str| {
            let address: SocketAddr = text.parse().expect("address and port");
            Endpoint {
                ip: address.ip(),
                port: address.port(),
            }
        };
        Flow {
            protocol,
            ..Flow::tcp(end(opener), end(responder))
        }
    }

    fn containment(json: serde_json::Value) -> Containment {
        let local = ["10.0.0.5", "fd00::5"].map(|a| a.parse().expect("an address"));
        Containment::new(&state(json), [], local)
    }

    #[test]
    fn an_isolated_host_keeps_loopback_operator_and_management_only() {
        let isolated = containment(json!({"isolation": {"management": [
            {"network": "10.0.9.0/24", "ports": [{"protocol": "TCP", "first": 22, "last": 22}]}]}}));
        for kept in [
            flow(TCP, "127.0.0.1:5000", "127.0.0.1:80"),
            flow(TCP, "10.0.0.5:5000", "10.0.0.5:80"),
            flow(TCP, "10.0.0.5:5000", "10.0.0.1:8443"),
            flow(TCP, "10.0.9.7:5000", "10.0.0.5:22"),
        ] {
            assert!(isolated.passes(&kept), "{kept:?}");
        }
        for cut in [
            flow(TCP, "10.0.0.1:5000", "10.0.0.5:8443"),
            flow(UDP, "10.0.0.5:5000", "10.0.0.1:8443"),
            flow(TCP, "10.0.9.7:5000", "10.0.0.5:80"),
            flow(UDP, "10.0.9.7:5000", "10.0.0.5:22"),
            // Opened by the isolated host, from the port that management may reach.
            flow(TCP, "10.0.0.5:22", "10.0.9.7:5000"),
            flow(1, "10.0.9.7:0", "10.0.0.5:0"),
            // Forwarded through it.
            flow(TCP, "10.0.9.7:5000", "10.0.7.7:22"),
            flow(TCP, "[fd00::9]:5000", "[fd00::5]:22"),
        ] {
            assert!(!isolated.passes(&cut), "{cut:?}");
        }
    }

    #[test]
    fn an_isolated_host_keeps_the_operator_behind_an_address_that_it_translates() {
        let isolated = containment(json!({"isolation": {}}));
        let translated = |asked: &str| {
            let asked: SocketAddr = asked.parse().expect("address and port");
            Flow {
                asked: Endpoint {
                    ip: asked.ip(),
                    port: asked.port(),
                },
                ..flow(TCP, "10.0.0.5:5000", "10.1.0.9:8443")
            }
        };
        assert!(isolated.passes(&translated("10.0.0.1:8443")));
        assert!(!isolated.passes(&translated("10.0.0.2:8443")));
    }

    #[test]
    fn a_quarantined_peer_is_cut_both_ways_but_for_the_path_from_management() {
        let quarantine = containment(json!({
            "quarantined": ["10.0.7.7", "fd00::7"],
            "quarantinePaths": [{"from": "10.0.0.0/24", "to": ["10.0.7.7"],
                "ports": [{"protocol": "TCP", "first": 22, "last": 22}]}]}));
        assert!(quarantine.passes(&flow(TCP, "10.0.0.5:5000", "10.0.7.7:22")));
        assert!(quarantine.passes(&flow(TCP, "10.0.0.5:5000", "10.0.8.8:80")));
        for cut in [
            flow(TCP, "10.0.7.7:22", "10.0.0.5:5000"),
            flow(TCP, "10.0.0.5:5000", "10.0.7.7:80"),
            flow(UDP, "[fd00::7]:5000", "[fd00::5]:22"),
            flow(TCP, "10.0.8.8:5000", "10.0.7.7:22"),
        ] {
            assert!(!quarantine.passes(&cut), "{cut:?}");
        }
    }

    #[test]
    fn an_isolated_ward_keeps_what_management_opens_and_the_probes_of_this_host() {
        let wards = containment(json!({"wards": {
            "free": {"sources": [], "members": {"t/free": ["10.244.0.8"]}},
            "cut": {"sources": [], "members": {"t/bad": ["10.244.0.7", "fd44::7"], "t/worse": ["10.244.0.9"]},
                "isolation": {
                    "management": [{"network": "10.0.9.0/24", "ports": [{"protocol": "TCP", "first": 22, "last": 22}]}],
                    "probes": {"t/bad": [{"protocol": "TCP", "first": 8080, "last": 8080}]}}}}}));
        for kept in [
            flow(TCP, "10.0.9.7:5000", "10.244.0.7:22"),
            flow(TCP, "10.0.0.5:5000", "10.244.0.7:8080"),
            flow(TCP, "[fd00::5]:5000", "[fd44::7]:8080"),
            flow(TCP, "10.244.0.8:5000", "10.0.0.5:80"),
        ] {
            assert!(wards.passes(&kept), "{kept:?}");
        }
        for cut in [
            flow(TCP, "10.0.0.5:5000", "10.244.0.7:22"),
            flow(TCP, "10.0.0.5:5000", "10.244.0.9:8080"),
            // Not of this host.
            flow(TCP, "10.244.0.8:5000", "10.244.0.7:8080"),
            flow(TCP, "10.244.0.7:22", "10.0.9.7:5000"),
            flow(TCP, "10.244.0.7:5000", "10.0.0.5:80"),
            flow(TCP, "10.244.0.7:5000", "10.244.0.9:22"),
            flow(UDP, "[fd44::7]:5000", "[fd00::5]:80"),
        ] {
            assert!(!wards.passes(&cut), "{cut:?}");
        }
        let address = |text: &str| text.parse().expect("an address");
        assert!(wards.contains_anything() && wards.may_concern(address("fd44::7")));
        assert!(!wards.may_concern(address("10.244.0.8")));
    }

    #[test]
    fn an_isolated_host_has_no_path_to_a_quarantined_one() {
        let both = containment(json!({
            "isolation": {"management": [{"network": "10.0.0.0/8"}]},
            "quarantined": ["10.0.7.7"],
            "quarantinePaths": [{"from": "10.0.0.0/24", "to": ["10.0.7.7"]}]}));
        assert!(!both.passes(&flow(TCP, "10.0.0.5:5000", "10.0.7.7:22")));
        assert!(!both.passes(&flow(TCP, "10.0.7.7:5000", "10.0.0.5:22")));
        assert!(both.passes(&flow(TCP, "10.0.7.8:5000", "10.0.0.5:22")));
    }
}
