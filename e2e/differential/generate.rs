//! A made-up cluster: namespaces, pods, NetworkPolicies that others wrote, Policies and Isolations. The same
//! seed makes the same one, so a disagreement is found again by its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seawall::api::{Isolation, Policy, Protocol};
use seawall::domain::cluster::{Namespace, OthersPolicy, Pod};
use seawall::domain::enforcement::Ports;
use seawall::domain::explain::{Place, Port, Question};
use seawall::domain::names::ObjectKey;
use seawall::domain::world::{Resource, World};
use serde_json::{Value, json};

/// How much of each there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub pods: usize,
    pub network_policies: usize,
    /// Policies for pods, which nodes' agents enforce.
    pub policies: usize,
    pub isolations: usize,
}

pub struct Scenario {
    pub seed: u64,
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: BTreeMap<ObjectKey, Planned>,
    /// As objects of the API.
    pub network_policies: Vec<Value>,
    pub policies: Vec<Value>,
    pub isolations: Vec<Value>,
}

type Labels = BTreeMap<String, String>;

/// A pod as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub labels: Labels,
    /// Which of the nodes it is put on.
    pub node: usize,
    /// Names of ports on which it listens.
    pub named: BTreeMap<String, u16>,
}

/// Every pod listens on these, TCP and UDP.
pub const PORTS: [u16; 3] = [8080, 8081, 8443];
const NAMESPACES: [&str; 3] = ["diff-a", "diff-b", "diff-c"];
const LABELS: [(&str, &[&str]); 2] = [("app", &["web", "db", "job"]), ("tier", &["front", "back"])];
/// Where pods' addresses may be, and where none is.
const NETWORKS: [&str; 4] = ["10.0.0.0/8", "10.244.0.0/24", "0.0.0.0/0", "203.0.113.0/24"];

struct Maker {
    random: StdRng,
}

impl Scenario {
    pub fn generate(seed: u64, size: Size) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut maker = Maker { random };
        let namespaces = NAMESPACES.map(|name| (name.to_owned(), maker.namespace_labels(name)));
        let pods = (0..size.pods).map(|number| {
            let namespace = *maker.one_of(&NAMESPACES);
            let key = ObjectKey::new(namespace, format!("pod-{number}"));
            (key, maker.pod())
        });
        let pods: BTreeMap<ObjectKey, Planned> = pods.collect();
        let network_policies = (0..size.network_policies).map(|n| maker.network_policy(n));
        let network_policies = network_policies.collect();
        let policies = (0..size.policies).map(|n| maker.policy(n)).collect();
        let all: Vec<&ObjectKey> = pods.keys().collect();
        let isolations = (0..size.isolations.min(all.len()))
            .map(|n| maker.isolation(n, &all))
            .collect();
        Self {
            seed,
            namespaces: namespaces.into(),
            pods,
            network_policies,
            policies,
            isolations,
        }
    }

    /// Everything but the pods, namespaces first.
    pub fn objects(&self) -> Vec<Value> {
        let namespaces = self.namespaces.iter().map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        });
        let written = self.network_policies.iter().chain(&self.policies);
        namespaces
            .chain(written.chain(&self.isolations).cloned())
            .collect()
    }

    /// The pods, with this image, put on these nodes.
    pub fn pods(&self, image: &str, nodes: &[&str]) -> Vec<Value> {
        let pods = self.pods.iter().map(|(key, pod)| {
            let named = pod.named.iter();
            let ports = named.map(|(name, port)| json!({"name": name, "containerPort": port}));
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": key.namespace, "name": key.name, "labels": pod.labels},
                "spec": {
                    "nodeName": nodes[pod.node % nodes.len()],
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "main", "image": image, "imagePullPolicy": "Never",
                        "ports": ports.collect::<Vec<_>>(),
                    }],
                },
            })
        });
        pods.collect()
    }

    /// Every pod to every other, on one port by TCP and another by UDP, of those that all listen on.
    pub fn questions(&self) -> Vec<Question> {
        let random = StdRng::seed_from_u64(self.seed ^ 0x7175_6573);
        let mut maker = Maker { random };
        let mut questions = Vec::new();
        for from in self.pods.keys() {
            for to in self.pods.keys().filter(|to| *to != from) {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    questions.push(Question {
                        from: Place::Pod(from.clone()),
                        to: Place::Pod(to.clone()),
                        protocol,
                        port: Some(Port::Number(*maker.one_of(&PORTS))),
                        tenant: None,
                    });
                }
            }
        }
        questions
    }

    /// The facts as the operator would know them, with the addresses that the pods got.
    pub fn world(
        &self,
        nodes: &[&str],
        addresses: &BTreeMap<ObjectKey, BTreeSet<IpAddr>>,
    ) -> anyhow::Result<World> {
        let mut world = World::default();
        for (name, labels) in &self.namespaces {
            let labels = labels.clone();
            world.namespaces.insert(name.clone(), Namespace { labels });
        }
        for (key, planned) in &self.pods {
            let pod = planned.as_fact(nodes[planned.node % nodes.len()], addresses.get(key));
            world.pods.insert(key.clone(), pod);
        }
        for object in &self.network_policies {
            let spec = serde_json::from_value(object["spec"].clone())?;
            world
                .others_policies
                .insert(key_of(object)?, OthersPolicy { spec });
        }
        for object in &self.policies {
            let policy: Policy = serde_json::from_value(object.clone())?;
            let key = key_of(object)?;
            world
                .policies
                .insert(key.clone(), resource(&key, policy.spec));
        }
        for object in &self.isolations {
            let isolation: Isolation = serde_json::from_value(object.clone())?;
            let key = key_of(object)?;
            world
                .isolations
                .insert(key.clone(), resource(&key, isolation.spec));
        }
        Ok(world)
    }
}

fn resource<Spec>(key: &ObjectKey, spec: Spec) -> Resource<Spec> {
    Resource {
        uid: key.to_string(),
        generation: 1,
        written_by: None,
        created: None,
        spec,
    }
}

fn key_of(object: &Value) -> anyhow::Result<ObjectKey> {
    let text = |field: &str| object["metadata"][field].as_str().context("a name");
    Ok(ObjectKey::new(text("namespace")?, text("name")?))
}

impl Planned {
    fn as_fact(&self, node: &str, addresses: Option<&BTreeSet<IpAddr>>) -> Pod {
        let named = self.named.iter().map(|(name, port)| {
            let ports = Ports {
                protocol: Protocol::Tcp,
                first: *port,
                last: *port,
            };
            (name.clone(), ports)
        });
        Pod {
            labels: self.labels.clone(),
            node: Some(node.to_owned()),
            addresses: addresses.cloned().unwrap_or_default(),
            named_ports: named.collect(),
            ..Pod::default()
        }
    }
}

impl Maker {
    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.random.random_range(0..all.len())]
    }

    fn up_to(&mut self, most: usize) -> usize {
        self.random.random_range(0..=most)
    }

    fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        for (key, values) in LABELS {
            if !self.chance(3) {
                labels.insert(key.to_owned(), (*self.one_of(values)).to_owned());
            }
        }
        labels
    }

    fn namespace_labels(&mut self, name: &str) -> Labels {
        let mut labels = self.labels();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        labels
    }

    fn pod(&mut self) -> Planned {
        let mut named = BTreeMap::new();
        if self.chance(2) {
            named.insert("main".to_owned(), *self.one_of(&PORTS));
        }
        Planned {
            labels: self.labels(),
            node: self.up_to(1),
            named,
        }
    }

    /// Never empty unless it may be: a Policy's selector must not be.
    fn selector(&mut self, may_be_empty: bool) -> Value {
        let (key, values) = *self.one_of(&LABELS);
        match self.up_to(4) {
            0 if may_be_empty => json!({}),
            1 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
            2 => {
                let operator = *self.one_of(&["In", "NotIn"]);
                let values = [*self.one_of(values), *self.one_of(values)];
                json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
            }
            3 => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
            _ => json!({"matchLabels": {key: self.one_of(values)}}),
        }
    }

    fn peer(&mut self) -> Value {
        match self.up_to(3) {
            0 => json!({"namespaceSelector": self.selector(true)}),
            1 => {
                json!({"namespaceSelector": self.selector(true), "podSelector": self.selector(true)})
            }
            2 => {
                let cidr = *self.one_of(&NETWORKS);
                match cidr == "0.0.0.0/0" && self.chance(2) {
                    true => json!({"ipBlock": {"cidr": cidr, "except": ["10.244.0.0/24"]}}),
                    false => json!({"ipBlock": {"cidr": cidr}}),
                }
            }
            _ => json!({"podSelector": self.selector(true)}),
        }
    }

    fn port(&mut self, may_be_named: bool) -> Value {
        let protocol = *self.one_of(&["TCP", "UDP"]);
        match self.up_to(3) {
            2 if !may_be_named => json!({"protocol": "TCP"}),
            0 => json!({"protocol": protocol}),
            1 => json!({"protocol": protocol, "port": 8080, "endPort": 8081}),
            2 => json!({"protocol": "TCP", "port": "main"}),
            _ => json!({"protocol": protocol, "port": self.one_of(&PORTS)}),
        }
    }

    fn rules(&mut self, peers: &str) -> Value {
        let rules = (0..self.up_to(2)).map(|_| {
            let some: Vec<Value> = (0..self.up_to(2)).map(|_| self.peer()).collect();
            // Whose port is meant when everybody or a network may be the peer, kube-router doesn't ask.
            let pods_alone = !some.is_empty() && some.iter().all(|it| it["ipBlock"].is_null());
            let may_be_named = peers == "from" || pods_alone;
            let ports = (0..self.up_to(2)).map(|_| self.port(may_be_named));
            let ports: Vec<Value> = ports.collect();
            json!({peers: some, "ports": ports})
        });
        rules.collect()
    }

    fn network_policy(&mut self, number: usize) -> Value {
        let mut spec = json!({"podSelector": self.selector(true)});
        match self.up_to(3) {
            0 => {}
            1 => spec["policyTypes"] = json!(["Ingress"]),
            2 => spec["policyTypes"] = json!(["Egress"]),
            _ => spec["policyTypes"] = json!(["Ingress", "Egress"]),
        }
        spec["ingress"] = self.rules("from");
        spec["egress"] = self.rules("to");
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": self.one_of(&NAMESPACES), "name": format!("others-{number}")},
            "spec": spec,
        })
    }

    fn policy(&mut self, number: usize) -> Value {
        let count = 1 + self.up_to(2);
        let rules: Vec<Value> = (0..count).map(|n| self.rule(n)).collect();
        let mut spec = json!({
            "priority": self.one_of(&[10, 100]),
            "subjects": {"workloads": {"podSelector": self.selector(false)}},
            "rules": rules,
        });
        if self.chance(2) {
            let direction = *self.one_of(&["ingress", "egress"]);
            spec["default"] = json!({direction: self.one_of(&["Deny", "Allow"])});
        }
        if self.chance(5) {
            spec["mode"] = json!("Observe");
        }
        json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
            "metadata": {"namespace": self.one_of(&NAMESPACES), "name": format!("ours-{number}")},
            "spec": spec,
        })
    }

    fn rule(&mut self, number: usize) -> Value {
        let peers = match self.up_to(2) {
            0 => json!({"any": true}),
            1 => json!({"cidrs": [self.one_of(&NETWORKS)]}),
            _ => json!({"workloads": {"podSelector": self.selector(false)}}),
        };
        let mut rule = json!({
            "name": format!("rule-{number}"),
            "direction": self.one_of(&["Ingress", "Egress"]),
            "action": self.one_of(&["Allow", "Deny", "Audit"]),
            "peers": peers,
        });
        if self.chance(2) {
            let port = *self.one_of(&PORTS);
            rule["ports"] = json!([{"protocol": self.one_of(&["TCP", "UDP"]), "port": port}]);
        }
        rule
    }

    fn isolation(&mut self, number: usize, pods: &[&ObjectKey]) -> Value {
        let pod = *self.one_of(pods);
        json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
            "metadata": {"namespace": pod.namespace, "name": format!("suspect-{number}")},
            "spec": {"target": {"workload": {"pod": pod.name}}, "reason": "differential test"},
        })
    }
}
