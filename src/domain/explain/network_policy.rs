//! NetworkPolicies, those of others and those that Policies became, with Kubernetes' own semantics: what
//! the policies that select a pod allow adds up, and what none of them allows is denied. A pod that none
//! selects is open.

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::answer::{Did, ResourceKind};
use super::place::Found;
use super::steps::{Outcome, Steps, named};
use super::{Connection, words};
use crate::api::Direction;
use crate::domain::cluster::Pod;
use crate::domain::compile::Compiled;
use crate::domain::labels::selects;
use crate::domain::names::ObjectKey;
use crate::domain::world::World;

/// One side of a connection as NetworkPolicies see it: the pod that they select, and its peer.
pub struct Judged<'a> {
    pub direction: Direction,
    pub pod: (&'a ObjectKey, &'a Pod),
    pub peer: &'a Found<'a>,
    /// Ports are always the destination's, named ones too.
    pub listener: Option<&'a Pod>,
}

/// What came of it.
#[derive(Debug)]
pub struct Decided {
    pub outcome: Outcome,
    /// What allows is a network, and the peer that is in it a pod.
    pub by_address_of_pod: bool,
}

/// Every NetworkPolicy there is: others' first, since one of ours that has another's name is not stored.
pub fn all<'a>(
    world: &'a World,
    compiled: &'a Compiled,
) -> BTreeMap<&'a ObjectKey, &'a NetworkPolicySpec> {
    let ours = compiled.enforcement.network_policies.iter();
    let others = world.others_policies.iter();
    let others = others.map(|(key, policy)| (key, &policy.spec));
    ours.chain(others).collect()
}

/// Adds a step for each policy that selects the pod; undecided when none does.
pub fn judge(
    policies: &BTreeMap<&ObjectKey, &NetworkPolicySpec>,
    world: &World,
    judged: &Judged<'_>,
    on: &Connection,
    steps: &mut Steps,
) -> Decided {
    let selecting = policies
        .iter()
        .filter(|(key, spec)| is_selected(key, spec, judged));
    let mut looked_at = Vec::new();
    for (key, spec) in selecting {
        let resource = Some(named(ResourceKind::NetworkPolicy, key));
        let mut allowed_by = None;
        for (number, (peers, ports)) in entries(spec, judged.direction).enumerate() {
            if has_port(ports, judged, on)
                && let Some(by) = peer_of(peers, key, world, judged, on)
            {
                allowed_by = Some((number, by));
                break;
            }
        }
        if let Some((number, by)) = allowed_by {
            for passed_over in looked_at {
                steps.add(Some(passed_over), "", Did::NoMatch);
            }
            let rule = format!("{}[{number}]", words::section(judged.direction));
            steps.add(resource, &rule, Did::Allowed);
            return Decided {
                outcome: Outcome::Allowed,
                by_address_of_pod: by == By::Network && judged.peer.is_pod(),
            };
        }
        looked_at.extend(resource);
    }
    let outcome = match looked_at.is_empty() {
        true => Outcome::Undecided,
        false => Outcome::Denied,
    };
    // Each of them selects the pod and allows not this: to reach it, one of them has to.
    for resource in looked_at {
        steps.add(Some(resource), "default", Did::Denied);
    }
    Decided {
        outcome,
        by_address_of_pod: false,
    }
}

fn is_selected(key: &ObjectKey, spec: &NetworkPolicySpec, judged: &Judged<'_>) -> bool {
    let (pod_key, pod) = judged.pod;
    let selected = spec
        .pod_selector
        .as_ref()
        .is_none_or(|selector| selects(selector, &pod.labels));
    key.namespace == pod_key.namespace && selected && is_about(spec, judged.direction)
}

/// Without types a policy is about Ingress, and about Egress if it has rules for it.
fn is_about(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match direction {
        _ if !types.is_empty() => types.iter().any(|t| *t == words::policy_type(direction)),
        Direction::Ingress => true,
        Direction::Egress => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    }
}

/// Peers and ports of each rule. Absent and empty, both are everything.
fn entries(
    spec: &NetworkPolicySpec,
    direction: Direction,
) -> Box<dyn Iterator<Item = (&[NetworkPolicyPeer], &[NetworkPolicyPort])> + '_> {
    match direction {
        Direction::Ingress => {
            let rules = spec.ingress.iter().flatten();
            Box::new(rules.map(|rule| {
                let peers = rule.from.as_deref().unwrap_or_default();
                (peers, rule.ports.as_deref().unwrap_or_default())
            }))
        }
        Direction::Egress => {
            let rules = spec.egress.iter().flatten();
            Box::new(rules.map(|rule| {
                let peers = rule.to.as_deref().unwrap_or_default();
                (peers, rule.ports.as_deref().unwrap_or_default())
            }))
        }
    }
}

/// By what a peer is one of those that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Everybody,
    Labels,
    Network,
}

fn peer_of(
    peers: &[NetworkPolicyPeer],
    key: &ObjectKey,
    world: &World,
    judged: &Judged<'_>,
    on: &Connection,
) -> Option<By> {
    if peers.is_empty() {
        return Some(By::Everybody);
    }
    let address = match judged.direction {
        Direction::Ingress => on.from,
        Direction::Egress => on.to,
    };
    let by_labels = peers
        .iter()
        .any(|peer| is_pod_of(peer, key, world, judged.peer));
    let in_block = |peer: &NetworkPolicyPeer| {
        let block = peer.ip_block.as_ref();
        block.is_some_and(|block| holds(block, address))
    };
    if by_labels {
        return Some(By::Labels);
    }
    peers.iter().any(in_block).then_some(By::Network)
}

/// A peer without a selector of namespaces is of the policy's own; without one of pods, it is all pods of
/// the namespaces.
fn is_pod_of(peer: &NetworkPolicyPeer, key: &ObjectKey, world: &World, found: &Found<'_>) -> bool {
    let Some((pod_key, pod)) = found.pod() else {
        return false;
    };
    let (namespaces, pods) = (&peer.namespace_selector, &peer.pod_selector);
    if peer.ip_block.is_some() || (namespaces.is_none() && pods.is_none()) {
        return false;
    }
    let in_namespace = match namespaces {
        None => pod_key.namespace == key.namespace,
        Some(selector) => {
            let namespace = world.namespaces.get(&pod_key.namespace);
            let none = BTreeMap::new();
            let labels = namespace.map_or(&none, |namespace| &namespace.labels);
            selects(selector, labels)
        }
    };
    let chosen = pods
        .as_ref()
        .is_none_or(|selector| selects(selector, &pod.labels));
    in_namespace && chosen
}

fn holds(block: &IPBlock, address: std::net::IpAddr) -> bool {
    let contains = |cidr: &String| {
        let network = cidr.parse::<IpNet>();
        network.is_ok_and(|network| network.contains(&address))
    };
    contains(&block.cidr) && !block.except.iter().flatten().any(contains)
}

fn has_port(ports: &[NetworkPolicyPort], judged: &Judged<'_>, on: &Connection) -> bool {
    ports.is_empty() || ports.iter().any(|port| is_port(port, judged, on))
}

fn is_port(port: &NetworkPolicyPort, judged: &Judged<'_>, on: &Connection) -> bool {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let (Some(asked), true) = (on.port, words::protocol(on.protocol) == protocol) else {
        return false;
    };
    match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            let last = port.end_port.unwrap_or(*first);
            (*first..=last).contains(&i32::from(asked))
        }
        Some(IntOrString::String(name)) => {
            let named = judged.listener.and_then(|pod| pod.named_ports.get(name));
            named.is_some_and(|ports| super::rules::is_in(ports, on))
        }
    }
}
