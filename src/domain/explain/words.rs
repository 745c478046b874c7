//! The sentences of an answer.

use std::collections::BTreeSet;

use super::answer::{Did, Layer, Path, Point, ResourceName, Verdict};
use super::place::Found;
use crate::api::{Direction, Protocol};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::words::{a_few, a_few_words};
use crate::domain::world::World;

pub const ENFORCED_BY_PLUGIN: &str = "a NetworkPolicy decides: whether the cluster's network plugin enforces NetworkPolicies is not known from the API, and the answer holds where it does";
pub const POD_BY_ADDRESS: &str = "an ipBlock allows this by the address of a pod: Kubernetes leaves open whether a network plugin takes ipBlocks for pods, and some don't";
pub const ICMP_IS_UNDEFINED: &str = "Kubernetes says nothing of ICMP and NetworkPolicies: network plugins differ, and what is said here is the strict reading, that only a rule without ports allows it";

pub const BRIDGED: &str = "both pods are on one node: where they are ports of one bridge, their packets pass the node's rules only if net.bridge.bridge-nf-call-iptables is on";

pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
    }
}

pub fn protocol_named(name: &str) -> Option<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
    all.into_iter()
        .find(|known| protocol(*known).eq_ignore_ascii_case(name))
}

pub fn policy_type(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "Egress",
        Direction::Ingress => "Ingress",
    }
}

/// Where the rules of a direction are in a NetworkPolicy.
pub fn section(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

pub fn host(world: &World, id: &DeviceId) -> String {
    let device = world.devices.get(id);
    match device.and_then(|device| device.node.as_ref()) {
        Some(node) => format!("node/{node}"),
        None => format!("device/{id}"),
    }
}

pub fn of_protocol(asked: Protocol, from: &Found<'_>, to: &Found<'_>) -> Option<String> {
    let pods = from.is_pod() || to.is_pod();
    (asked == Protocol::Sctp && pods).then(|| {
        "not every network plugin knows SCTP: one that doesn't may let it pass or drop it"
            .to_owned()
    })
}

/// That nobody enforces for it, unless nobody could.
pub fn without_agent(end: &Found<'_>) -> Option<String> {
    let node = end.node()?;
    Some(match end.is_pod() {
        true => format!(
            "no agent runs on node/{node}: of its pods, NetworkPolicies alone are looked at"
        ),
        false => format!("no agent runs on node/{node}: nothing of its own is looked at"),
    })
}

pub fn of_policies_without_agent(end: &Found<'_>, policies: &[&ObjectKey]) -> Option<String> {
    (!policies.is_empty()).then(|| {
        format!(
            "for {} nothing more of Policy {} is in force than what a NetworkPolicy can carry",
            end.shown(),
            a_few(policies)
        )
    })
}

/// What cuts it there.
pub fn cut(point: &Point) -> String {
    let denied = point.steps.iter().filter(|step| step.did == Did::Denied);
    let resources: BTreeSet<&ResourceName> = denied
        .clone()
        .filter_map(|step| step.resource.as_ref())
        .collect();
    let rule = denied.clone().map(|step| step.rule.as_str()).next();
    let names = a_few(&resources);
    match (point.layer, rule.unwrap_or_default()) {
        (Layer::NetworkPolicies, _) => {
            let which = if resources.len() == 1 {
                "selects it and allows not this"
            } else {
                "select it and none of them allows this"
            };
            format!("at {}, {names} {which}", point.at)
        }
        (_, rule) if resources.is_empty() => format!("at {}, {rule} cuts it", point.at),
        (_, rule @ ("quarantine" | "isolation")) => {
            format!("at {}, {rule} by {names} cuts it", point.at)
        }
        (_, rule) => format!("at {}, {rule} of {names} denies it", point.at),
    }
}

/// What lets it through.
pub fn let_through(points: &[Point]) -> String {
    let allowed = points.iter().flat_map(|point| {
        let steps = point.steps.iter().filter(|step| step.did == Did::Allowed);
        steps.map(|step| match &step.resource {
            Some(resource) => format!("{} of {resource}", step.rule),
            None => step.rule.clone(),
        })
    });
    let mut named: Vec<String> = Vec::new();
    for words in allowed {
        if !named.contains(&words) {
            named.push(words);
        }
    }
    match named.is_empty() {
        true => "nothing that is known stands in the way".to_owned(),
        false => format!("allowed by {}", a_few(named)),
    }
}

/// One verdict for all pairs of addresses, or that there is none.
pub fn summary(
    from: &Found<'_>,
    to: &Found<'_>,
    paths: &[Path],
    left_out: bool,
) -> (Verdict, String) {
    let Some(first) = paths.first() else {
        return (Verdict::Unknown, without_pair(from, to));
    };
    if paths.iter().any(|path| path.verdict != first.verdict) {
        let each = paths.iter().map(|path| {
            let verdict = match path.verdict {
                Verdict::Reaches => "reaches",
                Verdict::Blocked => "is blocked",
                Verdict::Unknown => "is not known",
            };
            let pair = &path.pairs[0];
            format!("{} to {} {verdict}", pair.from, pair.to)
        });
        let words = format!(
            "it depends on the addresses: {}; ask with addresses",
            a_few_words(each)
        );
        return (Verdict::Unknown, words);
    }
    let mut because: Vec<&str> = Vec::new();
    for path in paths {
        if !because.contains(&path.because.as_str()) {
            because.push(&path.because);
        }
    }
    let because = a_few_words(because);
    match left_out {
        false => (first.verdict, because),
        true => (
            Verdict::Unknown,
            format!(
                "one side holds more addresses than are looked at: ask with one of them; of those that were, {because}"
            ),
        ),
    }
}

fn without_pair(from: &Found<'_>, to: &Found<'_>) -> String {
    let mut ends = [from, to].into_iter();
    match ends.find(|end| end.addresses.is_empty()) {
        Some(end) => format!("{} has no address yet that is known", end.shown()),
        None => format!(
            "{} and {} have no family of addresses in common",
            from.shown(),
            to.shown()
        ),
    }
}
