//! The answer agrees with a second evaluation of NetworkPolicies, written down from Kubernetes' documentation
//! without regard to the first, over clusters that nobody thought of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Explanation, Known, Place, Port, Question, Verdict, explain};
use crate::api::Protocol;
use crate::domain::cluster::{Namespace, OthersPolicy, Pod};
use crate::domain::compile::Compiled;
use crate::domain::enforcement::Ports;
use crate::domain::names::ObjectKey;
use crate::domain::world::World;

const NAMESPACES: [&str; 3] = ["shop", "bank", "lab"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

fn pick<T: Clone + std::fmt::Debug + 'static>(from: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(from.to_vec())
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("(app|tier)", "(a|b)", 0..3)
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = (
        pick(&["app", "tier"]),
        pick(&["In", "NotIn", "Exists", "DoesNotExist"]),
        prop::collection::vec(pick(&["a", "b", "c"]), 1..3),
    );
    let expression = expression.prop_map(|(key, operator, values)| match operator {
        "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
        _ => json!({"key": key, "operator": operator}),
    });
    (labels(), prop::collection::vec(expression, 0..2)).prop_map(
        |(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}),
    )
}

fn peer() -> impl Strategy<Value = Value> {
    let block = pick(&[
        "10.0.0.0/30",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "2001:db8::/126",
        "::/0",
    ]);
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|spaces| json!({"namespaceSelector": spaces})),
        (selector(), selector())
            .prop_map(|(pods, spaces)| json!({"podSelector": pods, "namespaceSelector": spaces})),
        (
            block,
            prop::collection::vec(
                pick(&["10.0.0.2/32", "10.0.0.0/31", "2001:db8::2/128"]),
                0..2
            )
        )
            .prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just(json!({})),
        (80i32..86).prop_map(|port| json!({"port": port})),
        (80i32..84, 0i32..4).prop_map(|(port, more)| json!({"port": port, "endPort": port + more})),
        pick(&["web", "dns"]).prop_map(|name| json!({"port": name})),
    ];
    (number, prop::option::of(pick(&["TCP", "UDP", "SCTP"]))).prop_map(|(mut port, protocol)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

fn policy() -> impl Strategy<Value = (ObjectKey, OthersPolicy)> {
    let rules = |peers: &'static str| {
        let rule = (
            prop::collection::vec(peer(), 0..3),
            prop::collection::vec(port(), 0..3),
        );
        let rule = rule.prop_map(move |(some, ports)| json!({peers: some, "ports": ports}));
        prop::option::of(prop::collection::vec(rule, 0..3))
    };
    let types = prop::option::of(pick(&[
        vec!["Ingress"],
        vec!["Egress"],
        vec!["Ingress", "Egress"],
    ]));
    ((pick(&NAMESPACES), 0u8..20), selector(), types, rules("from"), rules("to")).prop_map(
        |((namespace, number), pods, types, ingress, egress)| {
            let spec = json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress});
            let spec = serde_json::from_value(spec).expect("a spec");
            (ObjectKey::new(namespace, number.to_string()), OthersPolicy { spec })
        },
    )
}

fn pod(number: usize) -> impl Strategy<Value = (ObjectKey, Pod)> {
    let named = (pick(&["web", "dns"]), pick(&PROTOCOLS), 80u16..86);
    let named = prop::option::of(named);
    (
        pick(&NAMESPACES),
        labels(),
        named,
        prop::bool::weighted(0.1),
        pick(&["n1", "n2"]),
    )
        .prop_map(move |(namespace, labels, named, host_network, node)| {
            let named = named.map(|(name, protocol, port)| {
                (
                    name.to_owned(),
                    Ports {
                        protocol,
                        first: port,
                        last: port,
                    },
                )
            });
            let last = number + 1 + if host_network { 100 } else { 0 };
            let addresses = [format!("10.0.0.{last}"), format!("2001:db8::{last}")];
            let pod = Pod {
                labels,
                node: Some(node.to_owned()),
                addresses: addresses
                    .iter()
                    .map(|a| a.parse().expect("an address"))
                    .collect(),
                host_network,
                named_ports: named.into_iter().collect(),
                ..Pod::default()
            };
            (ObjectKey::new(namespace, format!("p{number}")), pod)
        })
}

fn world() -> impl Strategy<Value = World> {
    let spaces = prop::collection::vec(labels(), NAMESPACES.len());
    let pods = (pod(0), pod(1), pod(2));
    (spaces, pods, prop::collection::vec(policy(), 0..5)).prop_map(
        |(spaces, (a, b, c), policies)| {
            let mut world = World::default();
            for (name, labels) in NAMESPACES.iter().zip(spaces) {
                world
                    .namespaces
                    .insert(name.to_string(), Namespace { labels });
            }
            world.pods = [a, b, c].into();
            world.others_policies = policies.into_iter().collect();
            world
        },
    )
}

/// One connection in the second evaluation.
struct Try<'a> {
    world: &'a World,
    from: (&'a ObjectKey, &'a Pod),
    to: (&'a ObjectKey, &'a Pod),
    from_address: IpAddr,
    to_address: IpAddr,
    protocol: &'a str,
    port: u16,
}

impl Try<'_> {
    fn passes(&self) -> bool {
        let same_node = self.from.1.node == self.to.1.node;
        let a_host = self.from.1.host_network || self.to.1.host_network;
        if self.from.0 == self.to.0 || (same_node && a_host) {
            return true;
        }
        self.side_passes(true) && self.side_passes(false)
    }

    fn side_passes(&self, egress: bool) -> bool {
        let (pod, peer) = match egress {
            true => (self.from, self.to),
            false => (self.to, self.from),
        };
        if pod.1.host_network {
            return true;
        }
        let mut selected = false;
        for (key, policy) in &self.world.others_policies {
            let spec = &policy.spec;
            let about = match (&spec.policy_types, egress) {
                (None, false) => true,
                (None, true) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
                (Some(types), egress) => {
                    types.contains(&if egress { "Egress" } else { "Ingress" }.to_owned())
                }
            };
            let selector = spec.pod_selector.clone().unwrap_or_default();
            if !about || key.namespace != pod.0.namespace || !chosen(&selector, &pod.1.labels) {
                continue;
            }
            selected = true;
            for (peers, ports) in rules(spec, egress) {
                let address = if egress {
                    self.to_address
                } else {
                    self.from_address
                };
                let peers_match = peers.is_empty()
                    || peers
                        .iter()
                        .any(|p| self.is_peer(p, &key.namespace, peer, address));
                let ports_match = ports.is_empty() || ports.iter().any(|p| self.is_port(p));
                if peers_match && ports_match {
                    return true;
                }
            }
        }
        !selected
    }

    fn is_peer(
        &self,
        peer: &NetworkPolicyPeer,
        own: &str,
        (key, pod): (&ObjectKey, &Pod),
        address: IpAddr,
    ) -> bool {
        if let Some(block) = &peer.ip_block {
            let inside = |cidr: &str| {
                let network: ipnet::IpNet = cidr.parse().expect("a network");
                network.contains(&address)
            };
            let except = block.except.clone().unwrap_or_default();
            return inside(&block.cidr) && !except.iter().any(|cidr| inside(cidr));
        }
        if pod.host_network {
            return false;
        }
        let space = match &peer.namespace_selector {
            Some(selector) => chosen(selector, &self.world.namespaces[&key.namespace].labels),
            None => key.namespace == own,
        };
        let pods = peer.pod_selector.clone().unwrap_or_default();
        space && chosen(&pods, &pod.labels)
    }

    fn is_port(&self, port: &NetworkPolicyPort) -> bool {
        if port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()) != self.protocol {
            return false;
        }
        match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(first)), Some(last)) => {
                i32::from(self.port) >= *first && i32::from(self.port) <= last
            }
            (Some(IntOrString::Int(only)), None) => i32::from(self.port) == *only,
            (Some(IntOrString::String(name)), _) => {
                let named = self.to.1.named_ports.get(name);
                named.is_some_and(|it| {
                    format!("{:?}", it.protocol).to_uppercase() == self.protocol
                        && it.first == self.port
                })
            }
        }
    }
}

fn rules(
    spec: &NetworkPolicySpec,
    egress: bool,
) -> Vec<(Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>)> {
    if egress {
        let rules = spec.egress.clone().unwrap_or_default().into_iter();
        return rules
            .map(|rule| (rule.to.unwrap_or_default(), rule.ports.unwrap_or_default()))
            .collect();
    }
    let rules = spec.ingress.clone().unwrap_or_default().into_iter();
    rules
        .map(|rule| {
            (
                rule.from.unwrap_or_default(),
                rule.ports.unwrap_or_default(),
            )
        })
        .collect()
}

fn chosen(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    for (key, value) in selector.match_labels.clone().unwrap_or_default() {
        if labels.get(&key).cloned() != Some(value) {
            return false;
        }
    }
    for it in selector.match_expressions.clone().unwrap_or_default() {
        let values: BTreeSet<String> = it.values.unwrap_or_default().into_iter().collect();
        let has = labels.get(&it.key);
        let holds = match (it.operator.as_str(), has) {
            ("In", Some(value)) => values.contains(value),
            ("In", None) => false,
            ("NotIn", Some(value)) => !values.contains(value),
            ("NotIn", None) => true,
            ("Exists", has) => has.is_some(),
            ("DoesNotExist", has) => has.is_none(),
            _ => unreachable!("no such operator is made"),
        };
        if !holds {
            return false;
        }
    }
    true
}

fn ask(world: &World, from: Place, to: Place, protocol: Protocol, port: u16) -> Explanation {
    let compiled = Compiled::default();
    let known = Known {
        world,
        compiled: &compiled,
        applied: None,
    };
    let question = Question {
        from,
        to,
        protocol,
        port: Some(Port::Number(port)),
        tenant: None,
    };
    explain(&known, &question).expect("both are pods")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_answer_agrees_with_a_second_evaluation(
        world in world(), protocol in pick(&PROTOCOLS), port in 79u16..88,
    ) {
        for from in &world.pods {
            for to in &world.pods {
                let (asked_from, asked_to) = (Place::Pod(from.0.clone()), Place::Pod(to.0.clone()));
                let answer = ask(&world, asked_from, asked_to, protocol, port);
                let mut seen = 0;
                for path in &answer.paths {
                    for pair in &path.pairs {
                        let second = Try {
                            world: &world, from, to,
                            from_address: pair.from, to_address: pair.to,
                            protocol: &format!("{protocol:?}").to_uppercase(), port,
                        };
                        let expected = match second.passes() {
                            true => Verdict::Reaches,
                            false => Verdict::Blocked,
                        };
                        prop_assert_eq!(path.verdict, expected, "{:#?}", answer);
                        seen += 1;
                    }
                }
                prop_assert_eq!(seen, 2, "one pair for each family");
            }
        }
    }

    #[test]
    fn what_decides_is_marked_and_an_address_means_the_pod_that_holds_it(
        world in world(), protocol in pick(&PROTOCOLS), port in 79u16..88,
    ) {
        let pods: Vec<_> = world.pods.iter().filter(|(_, pod)| !pod.host_network).collect();
        for from in world.pods.keys() {
            for (to, pod) in &pods {
                let from = Place::Pod(from.clone());
                let whole = ask(&world, from.clone(), Place::Pod((*to).clone()), protocol, port);
                for path in &whole.paths {
                    let marked = path.points.iter().flat_map(|point| &point.steps);
                    let marked = marked.filter(|step| step.decisive).count();
                    prop_assert!(marked > 0 || path.verdict == Verdict::Reaches, "{whole:#?}");
                    prop_assert_eq!(
                        path.verdict == Verdict::Blocked,
                        path.points.iter().any(|point| !point.passes)
                    );
                }
                for address in &pod.addresses {
                    let one = ask(&world, from.clone(), Place::Address(*address), protocol, port);
                    let of_pair = whole.paths.iter().find(|path| {
                        path.pairs.iter().any(|pair| pair.to == *address)
                    });
                    prop_assert_eq!(Some(one.verdict), of_pair.map(|path| path.verdict));
                }
            }
        }
    }
}
