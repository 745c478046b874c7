//! The bounds of the schemas: every field of a spec has them, and the API server refuses what lies beyond
//! each. What to send is derived from the schemas, so a new field is tested when it is there.

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use seawall::yaml;
use serde_json::{Map, Value, json};

use crate::caller::Caller;
use crate::charts;
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![case(
        "every field of a spec is bounded, and what lies beyond a bound is refused by its name",
        bounds,
    )]
}

async fn bounds() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let mut failures = Vec::new();
    for definition in seawall::api::definitions() {
        let kind = definition.spec.names.kind.clone();
        let definition = serde_json::to_value(&definition)?;
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let full = full(&kind)?;
        let mut walk = Walk::default();
        walk.node(
            &schema["properties"]["spec"],
            &full["spec"],
            "spec",
            "/spec",
        );
        failures.extend(walk.problems.iter().map(|it| format!("{kind}: {it}")));
        ensure!(walk.beyond.len() > 20, "{kind} has bounds");
        for beyond in walk.beyond {
            let mut object = full.clone();
            beyond.put_into(&mut object)?;
            match admin.try_create(&object).await {
                Ok(_) => failures.push(format!("{kind}: {} is accepted", beyond.what)),
                Err(refusal) if beyond.is_named_in(&refusal.message) => {}
                Err(refusal) => failures.push(format!("{kind}: {}: {refusal}", beyond.what)),
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// A value beyond one bound.
struct Beyond {
    what: String,
    /// The field's name in the API server's words.
    field: String,
    /// A part of the words.
    words: String,
    pointer: String,
    /// None: take it away.
    value: Option<Value>,
}

impl Beyond {
    fn put_into(&self, object: &mut Value) -> anyhow::Result<()> {
        match &self.value {
            Some(value) => {
                *object.pointer_mut(&self.pointer).context("a field")? = value.clone();
            }
            None => {
                let (parent, name) = self.pointer.rsplit_once('/').context("a field")?;
                let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
                parent.context("an object")?.remove(name);
            }
        }
        Ok(())
    }

    fn is_named_in(&self, message: &str) -> bool {
        message.contains(&format!("{}: ", self.field)) && message.contains(&self.words)
    }
}

#[derive(Default)]
struct Walk {
    beyond: Vec<Beyond>,
    problems: Vec<String>,
}

impl Walk {
    fn node(&mut self, schema: &Value, value: &Value, field: &str, pointer: &str) {
        let kind = schema["type"].as_str().unwrap_or_default();
        let other = if kind == "string" {
            json!(7)
        } else {
            json!("seven")
        };
        let words = "must be of type".into();
        self.add("type", (field, pointer), words, Some(other));
        match kind {
            "string" => self.string(schema, field, pointer),
            "integer" => self.integer(schema, field, pointer),
            "array" => self.array(schema, value, field, pointer),
            "object" => self.object(schema, value, field, pointer),
            "boolean" => {}
            _ => self.problems.push(format!("{field} has the type {kind:?}")),
        }
    }

    fn add(&mut self, bound: &str, place: (&str, &str), words: String, value: Option<Value>) {
        self.beyond.push(Beyond {
            what: format!("{} beyond its {bound}", place.0),
            field: place.0.to_owned(),
            words,
            pointer: place.1.to_owned(),
            value,
        });
    }

    fn string(&mut self, schema: &Value, field: &str, pointer: &str) {
        let place = (field, pointer);
        if schema["enum"].is_array() {
            let words = "Unsupported value".into();
            self.add("enum", place, words, Some(json!("nonsense")));
        } else if schema["format"] == "date-time" {
            let words = "date-time".into();
            self.add("format", place, words, Some(json!("yesterday")));
        } else if let Some(most) = schema["maxLength"].as_u64() {
            let words = format!("more than {most}");
            let long = "a".repeat(most as usize + 1);
            self.add("maxLength", place, words, Some(long.into()));
        } else {
            self.problems.push(format!("{field} has no bound"));
        }
        if schema["pattern"].is_string() {
            self.add("pattern", place, "should match".into(), Some(json!(" !")));
        }
    }

    fn integer(&mut self, schema: &Value, field: &str, pointer: &str) {
        for (bound, step) in [("minimum", -1), ("maximum", 1)] {
            let Some(limit) = schema[bound].as_f64() else {
                self.problems.push(format!("{field} has no {bound}"));
                continue;
            };
            let wrong = json!(limit as i64 + step);
            let words = "should be ".into();
            self.add(bound, (field, pointer), words, Some(wrong));
        }
    }

    fn array(&mut self, schema: &Value, value: &Value, field: &str, pointer: &str) {
        let Some(first) = value.get(0) else {
            self.problems
                .push(format!("the full object lacks {field}[0]"));
            return;
        };
        match schema["maxItems"].as_u64() {
            Some(most) => {
                let words = format!("at most {most} items");
                let many = vec![first.clone(); most as usize + 1];
                self.add("maxItems", (field, pointer), words, Some(many.into()));
            }
            None => self.problems.push(format!("{field} has no maxItems")),
        }
        if let Some(least) = schema["minItems"].as_u64() {
            let words = format!("at least {least} item");
            self.add("minItems", (field, pointer), words, Some(json!([])));
        }
        let (field, pointer) = (format!("{field}[0]"), format!("{pointer}/0"));
        self.node(&schema["items"], first, &field, &pointer);
    }

    fn object(&mut self, schema: &Value, value: &Value, field: &str, pointer: &str) {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let (field, pointer) = (format!("{field}.{name}"), format!("{pointer}/{name}"));
            let words = "Required value".into();
            self.add("being required", (&field, &pointer), words, None);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let (field, pointer) = (format!("{field}.{name}"), format!("{pointer}/{name}"));
            match value.get(name) {
                Some(value) => self.node(property, value, &field, &pointer),
                None => self.problems.push(format!("the full object lacks {field}")),
            }
        }
        if schema["additionalProperties"].is_object() {
            self.map(schema, value, field, pointer);
        }
    }

    fn map(&mut self, schema: &Value, value: &Value, field: &str, pointer: &str) {
        let Some((name, first)) = value.as_object().and_then(|map| map.iter().next()) else {
            self.problems
                .push(format!("the full object lacks an entry in {field}"));
            return;
        };
        match schema["maxProperties"].as_u64() {
            Some(most) => {
                let words = format!("at most {most} items");
                let many: Map<String, Value> = (0..=most)
                    .map(|number| (format!("name{number}"), first.clone()))
                    .collect();
                self.add("maxProperties", (field, pointer), words, Some(many.into()));
            }
            None => self.problems.push(format!("{field} has no maxProperties")),
        }
        let (field, pointer) = (format!("{field}.{name}"), format!("{pointer}/{name}"));
        self.node(&schema["additionalProperties"], first, &field, &pointer);
    }
}

/// An object of the kind with every field of its spec, which is all that matters here: a schema looks at
/// the bounds before the rules.
fn full(kind: &str) -> anyhow::Result<Value> {
    let spec: Value = yaml::from_str(match kind {
        "Policy" => POLICY,
        "Isolation" => ISOLATION,
        "ApiKeyScope" => API_KEY_SCOPE,
        _ => anyhow::bail!("there is no full {kind} yet: write one here"),
    })?;
    Ok(json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "full", "namespace": "default"},
        "spec": spec,
    }))
}

const POLICY: &str = r#"
description: everything
mode: Observe
disabled: true
priority: 7
subjects:
  devices: {ids: [dev_01k9x2v7rq4m8n0p3s5t6w7y8z], tags: {kind: camera}, trustLevels: [Standard]}
  workloads: {podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [web]}]}}
  users: {ids: [alice], groups: [operators]}
  applications: [{executable: /usr/bin/ssh, unit: ssh.service}]
  all: true
rules:
  - name: everything
    direction: Egress
    action: Deny
    peers:
      cidrs: [10.0.0.0/8]
      domains: [example.com]
      devices: {ids: [dev_01k9x2v7rq4m8n0p3s5t6w7y8z], tags: {kind: camera}, trustLevels: [Standard]}
      workloads: {podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [web]}]}}
      countries: [AQ]
      feeds: [some-feed]
      any: true
    ports: [{protocol: TCP, port: 22, endPort: 23}]
default: {egress: Deny, ingress: Deny}
expiresAt: "2030-01-01T00:00:00Z"
"#;

const ISOLATION: &str = r#"
target:
  device: dev_01k9x2v7rq4m8n0p3s5t6w7y8z
  workload:
    pod: web-0
    podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [web]}]}
  user: alice
  node: worker-1
userNames: {os: [alice], kubernetes: [alice@example.com], seawall: [alices-bot]}
reason: everything
management: [{cidr: 10.0.9.0/24, ports: [{protocol: TCP, port: 22, endPort: 23}]}]
incident: inc_01
probes: Keep
expiresAt: "2030-01-01T00:00:00Z"
"#;

const API_KEY_SCOPE: &str = r#"
access: Contain
tools: [get_device]
credentials: {keyHashes: ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}
targets:
  devices: {ids: [dev_01k9x2v7rq4m8n0p3s5t6w7y8z], tags: {kind: camera}, all: true}
  workloads: {podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [web]}]}}
  users: {ids: [mallory], all: true}
limits: {callsPerMinute: 120, actionsPerHour: 20, maxIsolation: 24h}
approval: {tools: [isolate_device]}
disabled: true
expiresAt: "2030-01-01T00:00:00Z"
"#;
