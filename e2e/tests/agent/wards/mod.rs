//! What an agent does to the packets of its node's pods, for each way in which pods are joined to a node.

mod isolation;
mod policy;
mod tables;

use libtest_mimic::Trial;
use seawall::domain::enforcement::DeviceState;
use serde_json::{Value, json};

use crate::fleet::{Agent, Operator, state};
use crate::lab::{Host, Lab, Node, Wiring};

pub fn all() -> Vec<Trial> {
    [isolation::all(), policy::all(), tables::all()]
        .into_iter()
        .flatten()
        .collect()
}

/// A node with an agent and three pods, and a host outside that knows the way to them.
struct Stand {
    node: Node,
    bad: Host,
    neighbour: Host,
    third: Host,
    outside: Host,
    operator: Operator,
    agent: Agent,
    _lab: Lab,
}

impl Stand {
    async fn new(wiring: Wiring) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let node = lab.node("node", wiring).await?;
        let outside = lab.host("outside")?;
        node.reached_by(&outside)?;
        let (bad, neighbour, third) =
            (node.pod("bad")?, node.pod("neighbour")?, node.pod("third")?);
        let operator = Operator::start(&lab).await?;
        let agent = operator.agent(node.host()).await?;
        Ok(Self {
            node,
            bad,
            neighbour,
            third,
            outside,
            operator,
            agent,
            _lab: lab,
        })
    }

    fn host(&self) -> &Host {
        self.node.host()
    }
}

/// Groups of wards alone.
fn wards(groups: Value) -> anyhow::Result<DeviceState> {
    let source = json!({"kind": "Isolation", "namespace": "acme", "name": "test", "uid": "u1", "generation": 1});
    let mut all = groups.as_object().into_iter().flatten();
    let sources: Vec<Value> = all
        .any(|(_, group)| group.get("isolation").is_some())
        .then_some(source)
        .into_iter()
        .collect();
    state(json!({"sources": sources, "wards": groups}))
}

/// A group of these pods, with these fields beside.
fn group(pods: &[&Host], fields: Value) -> Value {
    let mut group = json!({"sources": [], "members": {}});
    for pod in pods {
        group["members"][format!("shop/{}", pod.name())] = json!([pod.v4(), pod.v6()]);
    }
    for (name, value) in fields.as_object().into_iter().flatten() {
        group[name] = value.clone();
    }
    group
}

fn network(host: &Host) -> Value {
    json!({"networks": [format!("{}/32", host.v4()), format!("{}/128", host.v6())]})
}

/// Rules with ids from their place.
fn numbered(rules: &[Value]) -> Value {
    let rules = rules.iter().enumerate().map(|(n, rule)| {
        let mut rule = rule.clone();
        rule["id"] = json!(format!("shop/test/r{n}"));
        rule
    });
    rules.collect()
}

fn tcp(port: u16) -> Value {
    json!([{"protocol": "TCP", "first": port, "last": port}])
}

/// A default Deny of both directions.
fn deny_all() -> Value {
    let deny = json!({"id": "shop/test", "action": "Deny"});
    json!({"egress": deny, "ingress": deny})
}
