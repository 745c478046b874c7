//! The portable part of a Policy for workloads: what a NetworkPolicy can carry, and in words what it can't.
//!
//! A NetworkPolicy only allows, and what it does not allow is denied in the directions that it names. So it
//! carries Allow rules of the directions whose default is Deny. It never allows what the Policy denies: the
//! networks of a Deny are left out of what it allows, though another NetworkPolicy may still allow them,
//! which is why the Deny is reported all the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Draft;
use super::order::written;
use super::stripping::chooses_isolated;
use crate::api::policy::DefaultAction;
use crate::api::stamps;
use crate::api::{Action, Direction, Mode, PolicySpec, Protocol, WorkloadSelector};
use crate::domain::enforcement::{PeerSet, Ports, Rule};
use crate::domain::names::ObjectKey;

/// The longest name that Kubernetes takes.
const LONGEST_NAME: usize = 253;

impl Draft<'_> {
    /// Makes the NetworkPolicy of a Policy, if it can have one. Answers with its name, and what it does not
    /// carry, each with why.
    pub(super) fn portable(
        &mut self,
        key: &ObjectKey,
        spec: &PolicySpec,
        rules: &[Arc<Rule>],
    ) -> (Option<ObjectKey>, Vec<String>) {
        if let Some(words) = obstacle(key, spec) {
            return (None, vec![words.into()]);
        }
        let rules_of = spec.rules.iter().zip(rules);
        let not_carried = rules_of.filter_map(|(rule, resolved)| {
            let words = rule_obstacle(resolved, denied(spec, rule.direction))?;
            Some(format!("rule {}: {words}", rule.name))
        });
        let name = name_of(key);
        let policy = network_policy(spec, rules);
        let policies = &mut self.compiled.enforcement.network_policies;
        policies.insert(name.clone(), policy);
        (Some(name), not_carried.collect())
    }
}

fn name_of(key: &ObjectKey) -> ObjectKey {
    ObjectKey::new(&key.namespace, format!("seawall-{}", key.name))
}

fn denied(spec: &PolicySpec, direction: Direction) -> bool {
    written(spec.default, direction) == Some(DefaultAction::Deny)
}

/// What stands in the way of the whole.
fn obstacle(key: &ObjectKey, spec: &PolicySpec) -> Option<&'static str> {
    if spec.mode == Mode::Observe {
        return Some("mode Observe for workloads needs an agent on their nodes, and there is none");
    }
    if !denied(spec, Direction::Egress) && !denied(spec, Direction::Ingress) {
        return Some(
            "for workloads, only a default of Deny with Allow rules can be carried by a NetworkPolicy; the rest needs an agent on the pods' nodes, and there is none",
        );
    }
    (name_of(key).name.len() > LONGEST_NAME).then_some(
        "the NetworkPolicy's name, seawall- and the policy's, would be longer than 253 characters: give the policy a shorter name",
    )
}

/// What stands in the way of one rule, or of a part of it.
fn rule_obstacle(rule: &Rule, denied: bool) -> Option<&'static str> {
    match rule.action {
        Action::Deny => Some(
            "a NetworkPolicy can't deny, so another one may allow this: that needs an agent on the pods' nodes, and there is none",
        ),
        Action::Audit => {
            Some("Audit for workloads needs an agent on their nodes, and there is none")
        }
        Action::Allow if !denied => Some(
            "Allow means something to a NetworkPolicy only where default is Deny for the direction",
        ),
        Action::Allow => {
            let mut ports = rule.ports.iter();
            ports
                .any(|ports| ports.protocol == Protocol::Icmp)
                .then_some("a NetworkPolicy can't name ICMP, so ICMP is not allowed")
        }
    }
}

fn network_policy(spec: &PolicySpec, rules: &[Arc<Rule>]) -> NetworkPolicySpec {
    let directions = [Direction::Egress, Direction::Ingress];
    let types = directions
        .into_iter()
        .filter(|direction| denied(spec, *direction))
        .map(|direction| format!("{direction:?}"))
        .collect();
    let allowed = |direction| denied(spec, direction).then(|| allowed(spec, rules, direction));
    let selector = spec.subjects.workloads.as_ref();
    NetworkPolicySpec {
        pod_selector: selector.map(|selector| without_isolated(&selector.pod_selector)),
        policy_types: Some(types),
        egress: allowed(Direction::Egress).map(|allowed| {
            let rules = allowed.into_iter();
            let rule = |(to, ports)| NetworkPolicyEgressRule { to, ports };
            rules.map(rule).collect()
        }),
        ingress: allowed(Direction::Ingress).map(|allowed| {
            let rules = allowed.into_iter();
            let rule = |(from, ports)| NetworkPolicyIngressRule { from, ports };
            rules.map(rule).collect()
        }),
    }
}

/// The same, but for pods that have no label but ours: what isolates them, nothing else may open.
fn without_isolated(selector: &LabelSelector) -> LabelSelector {
    let mut selector = selector.clone();
    if chooses_isolated(&selector) {
        let expressions = selector.match_expressions.get_or_insert_default();
        expressions.push(LabelSelectorRequirement {
            key: stamps::ISOLATED.to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        });
    }
    selector
}

/// Absent, both are everything.
type Entry = (
    Option<Vec<NetworkPolicyPeer>>,
    Option<Vec<NetworkPolicyPort>>,
);

/// What the Policy allows of a direction. A rule of which nothing is left has no entry: an empty one would
/// allow everything.
fn allowed(spec: &PolicySpec, rules: &[Arc<Rule>], direction: Direction) -> Vec<Entry> {
    let of_direction = |action| {
        let rules = spec.rules.iter().zip(rules);
        rules.filter(move |(_, rule)| rule.direction == direction && rule.action == action)
    };
    let denials: Vec<&PeerSet> = of_direction(Action::Deny)
        .filter(|(_, rule)| rule.ports.is_empty())
        .map(|(_, rule)| &rule.peers)
        .collect();
    of_direction(Action::Allow)
        .filter_map(|(written, rule)| {
            let peers = peers(&rule.peers, written.peers.workloads.as_ref(), &denials)?;
            Some((peers, ports(&rule.ports)?))
        })
        .collect()
}

/// The peers without those denied at every port; `None` when nobody is left. Everybody stays everybody, for
/// a block of all addresses means something else to some network plugins. Pods are chosen by labels, and
/// a denied network that they have addresses in is not taken out.
fn peers(
    peers: &PeerSet,
    workloads: Option<&WorkloadSelector>,
    denials: &[&PeerSet],
) -> Option<Option<Vec<NetworkPolicyPeer>>> {
    let mut denied: Vec<IpNet> = Vec::new();
    for denial in denials {
        match denial {
            PeerSet::Any => return None,
            PeerSet::Networks(networks) => denied.extend(networks),
        }
    }
    let PeerSet::Networks(networks) = peers else {
        return Some(None);
    };
    let denied = IpNet::aggregate(&denied);
    let left = networks
        .iter()
        .filter(|network| !denied.iter().any(|denied| denied.contains(*network)));
    let blocks = left.map(|network| block(network, &denied));
    let peers: Vec<NetworkPolicyPeer> = blocks.chain(workloads.map(pods)).collect();
    (!peers.is_empty()).then_some(Some(peers))
}

/// Pods of the Policy's own namespace.
fn pods(workloads: &WorkloadSelector) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(workloads.pod_selector.clone()),
        ..NetworkPolicyPeer::default()
    }
}

pub(super) fn block(network: &IpNet, denied: &[IpNet]) -> NetworkPolicyPeer {
    let inside = denied.iter().filter(|denied| network.contains(*denied));
    let except: Vec<String> = inside.map(IpNet::to_string).collect();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: network.to_string(),
            except: (!except.is_empty()).then_some(except),
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// `None` when the rule's only ports are some that a NetworkPolicy can't name.
pub(super) fn ports(ports: &BTreeSet<Ports>) -> Option<Option<Vec<NetworkPolicyPort>>> {
    if ports.is_empty() {
        return Some(None);
    }
    let ports = ports.iter();
    let named = ports.filter(|ports| ports.protocol != Protocol::Icmp);
    let named: Vec<NetworkPolicyPort> = named.map(port).collect();
    (!named.is_empty()).then_some(Some(named))
}

fn port(ports: &Ports) -> NetworkPolicyPort {
    let every = (ports.first, ports.last) == (0, u16::MAX);
    NetworkPolicyPort {
        protocol: Some(format!("{:?}", ports.protocol).to_uppercase()),
        port: (!every).then(|| IntOrString::Int(ports.first.into())),
        end_port: (!every && ports.last > ports.first).then(|| ports.last.into()),
    }
}
