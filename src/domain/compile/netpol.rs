//! The portable part of a Policy for workloads: what a NetworkPolicy can carry, and in words what it can't.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Draft;
use crate::api::policy::DefaultAction;
use crate::api::{Action, Direction, Mode, PolicyRule, PolicySpec, Protocol, WorkloadSelector};
use crate::domain::enforcement::{PeerSet, Ports, Rule};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::PolicyVerdict;

impl Draft<'_> {
    pub(super) fn portable(
        &mut self,
        key: &ObjectKey,
        spec: &PolicySpec,
        selector: &WorkloadSelector,
        verdict: &mut PolicyVerdict,
    ) {
        let denied = |direction| {
            let default = spec.default.unwrap_or_default();
            let default = match direction {
                Direction::Egress => default.egress,
                Direction::Ingress => default.ingress,
            };
            default == Some(DefaultAction::Deny)
        };
        let mut carried = Vec::new();
        for rule in &spec.rules {
            match obstacle(rule, spec.mode, denied(rule.direction)) {
                Some(words) => verdict
                    .not_enforceable
                    .push(format!("rule {}: {words}", rule.name)),
                None => carried.push(self.rule(key, rule)),
            }
        }
        if spec.mode == Mode::Observe {
            let words =
                "mode Observe for workloads needs an agent on their nodes, and there is none";
            verdict.not_enforceable = vec![words.into()];
            return;
        }
        let directions = [Direction::Egress, Direction::Ingress];
        let types: Vec<String> = directions
            .into_iter()
            .filter(|direction| denied(*direction))
            .map(|direction| format!("{direction:?}"))
            .collect();
        if types.is_empty() {
            return;
        }
        let of = |direction| {
            carried
                .iter()
                .filter(move |rule| rule.direction == direction)
        };
        let policy = NetworkPolicySpec {
            pod_selector: Some(selector.pod_selector.clone()),
            policy_types: Some(types),
            egress: denied(Direction::Egress).then(|| of(Direction::Egress).map(egress).collect()),
            ingress: denied(Direction::Ingress)
                .then(|| of(Direction::Ingress).map(ingress).collect()),
        };
        let name = ObjectKey::new(&key.namespace, format!("seawall-{}", key.name));
        verdict.network_policy = Some(name.clone());
        self.compiled
            .enforcement
            .network_policies
            .insert(name, policy);
    }
}

/// What stands in the way of a rule, if anything does.
fn obstacle(rule: &PolicyRule, mode: Mode, denied: bool) -> Option<&'static str> {
    if mode == Mode::Observe {
        return None;
    }
    match rule.action {
        Action::Deny => {
            return Some(
                "a NetworkPolicy can't deny: that needs an agent on the pods' nodes, and there is none",
            );
        }
        Action::Audit => {
            return Some("Audit for workloads needs an agent on their nodes, and there is none");
        }
        Action::Allow => {}
    }
    if !denied {
        return Some(
            "Allow means something to a NetworkPolicy only where default is Deny for the direction",
        );
    }
    let icmp = rule
        .ports
        .iter()
        .any(|port| port.protocol == Protocol::Icmp);
    icmp.then_some("a NetworkPolicy can't name ICMP")
}

fn egress(rule: &Rule) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: peers(&rule.peers),
        ports: ports(rule),
    }
}

fn ingress(rule: &Rule) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: peers(&rule.peers),
        ports: ports(rule),
    }
}

/// Absent peers are everybody to a NetworkPolicy, so nobody has to be written out.
fn peers(peers: &PeerSet) -> Option<Vec<NetworkPolicyPeer>> {
    let PeerSet::Networks(networks) = peers else {
        return None;
    };
    let block = |network: String| NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: network,
            except: None,
        }),
        ..NetworkPolicyPeer::default()
    };
    if networks.is_empty() {
        // An address that no packet has: matches nobody.
        return Some(vec![block("255.255.255.255/32".into())]);
    }
    Some(networks.iter().map(IpNet::to_string).map(block).collect())
}

fn ports(rule: &Rule) -> Option<Vec<NetworkPolicyPort>> {
    if rule.ports.is_empty() {
        return None;
    }
    Some(rule.ports.iter().map(port).collect())
}

fn port(ports: &Ports) -> NetworkPolicyPort {
    let every = (ports.first, ports.last) == (0, u16::MAX);
    NetworkPolicyPort {
        protocol: Some(format!("{:?}", ports.protocol).to_uppercase()),
        port: (!every).then(|| IntOrString::Int(ports.first.into())),
        end_port: (!every && ports.last > ports.first).then(|| ports.last.into()),
    }
}
