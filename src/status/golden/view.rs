//! How a golden case writes down what comes out: complete, and short enough to be read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::{ApiKeyScopeStatus, IsolationStatus, PolicyStatus};
use crate::domain::applied::Applied;
use crate::domain::compile::Compiled;
use crate::domain::enforcement::{
    AccessGrant, DefaultRule, Defaults, DeviceState, Enforcement, Found, ManagementRule,
    ObservedRule, PeerSet, Ports, QuarantinePath, Rule, SelfIsolation, Source, StrippedPod,
    SuspendedUsers, WardGroup, WardIsolation,
};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{
    Acceptance, IsolationVerdict, PolicyVerdict, ScopeVerdict, Strip, SuspendedUser, Verdicts,
    Workloads,
};
use crate::status;

pub fn compiled(compiled: &Compiled) -> Value {
    let Compiled {
        enforcement,
        verdicts,
        wake_at,
    } = compiled;
    let Enforcement {
        devices,
        network_policies,
        access,
        suspended_users,
        stripped,
    } = enforcement;
    let Verdicts {
        policies,
        isolations,
        scopes,
    } = verdicts;
    short(json!({
        "wakeAt": wake_at,
        "devices": map(devices, |it| state(it)),
        "networkPolicies": map(network_policies, |spec| json!(spec)),
        "access": map(access, |AccessGrant { service_account, role }| {
            json!({"serviceAccount": service_account, "role": role})
        }),
        "suspendedUsers": suspended_users_of(suspended_users),
        "stripped": map(stripped, stripped_pod),
        "policies": map(policies, |it| policy(it)),
        "isolations": map(isolations, |it| isolation(it)),
        "scopes": map(scopes, scope),
    }))
}

/// Without what is absent, false or empty, except a device of which nothing is asked.
fn short(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, short(value)));
            let kept = fields.filter(|(key, value)| {
                let nothing = match value {
                    Value::Null | Value::Bool(false) => true,
                    Value::String(text) => text.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    Value::Object(fields) => fields.is_empty(),
                    _ => false,
                };
                !nothing || key.starts_with("dev_") || key == "isolation"
            });
            Value::Object(kept.collect())
        }
        other => other,
    }
}

fn map<K: ToString, V>(map: &BTreeMap<K, V>, view: impl Fn(&V) -> Value) -> Value {
    let fields = map
        .iter()
        .map(|(key, value)| (key.to_string(), view(value)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn state(state: &DeviceState) -> Value {
    let DeviceState {
        sources,
        operator: _,
        isolation,
        quarantined,
        quarantine_paths,
        rules,
        defaults,
        observed_rules,
        observed_defaults,
        wards,
        suspended_users,
    } = state;
    let mut value = json!({
        "sources": sources.iter().map(source).collect::<Vec<_>>(),
        "quarantined": quarantined,
        "quarantinePaths": quarantine_paths.iter().map(path).collect::<Vec<_>>(),
        "rules": rules.iter().map(|it| rule(it)).collect::<Vec<_>>(),
        "defaults": defaults_of(defaults),
        "observedRules": observed_rules.iter().map(observed).collect::<Vec<_>>(),
        "observedDefaults": defaults_of(observed_defaults),
        "suspendedUsers": suspended_users,
    });
    if let Some(SelfIsolation { management }) = isolation {
        let management: Vec<String> = management.iter().map(management_rule).collect();
        value["isolation"] = json!({"management": management});
    }
    if !wards.is_empty() {
        value["wards"] = wards.values().map(|it| ward_group(it)).collect();
    }
    value
}

fn ward_group(group: &WardGroup) -> Value {
    let WardGroup {
        members,
        sources,
        isolation,
        rules,
        defaults,
        observed_rules,
        observed_defaults,
    } = group;
    let mut value = json!({
        "members": members,
        "sources": sources.iter().map(source).collect::<Vec<_>>(),
        "rules": rules.iter().map(|it| rule(it)).collect::<Vec<_>>(),
        "defaults": defaults_of(defaults),
        "observedRules": observed_rules.iter().map(observed).collect::<Vec<_>>(),
        "observedDefaults": defaults_of(observed_defaults),
    });
    if let Some(WardIsolation { management, probes }) = isolation {
        let management: Vec<String> = management.iter().map(management_rule).collect();
        let probes = map(probes, |ports| at(ports).into());
        value["isolation"] = json!({"management": management, "probes": probes});
    }
    value
}

fn source(source: &Source) -> String {
    let Source {
        kind,
        namespace,
        name,
        uid,
        generation,
    } = source;
    format!("{kind:?} {namespace}/{name} uid {uid} generation {generation}")
}

fn management_rule(rule: &ManagementRule) -> String {
    let ManagementRule { network, ports } = rule;
    format!("from {network}{}", at(ports))
}

fn path(path: &QuarantinePath) -> String {
    let QuarantinePath { from, to, ports } = path;
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    format!("from {from} to {}{}", to.join(" "), at(ports))
}

fn rule(rule: &Rule) -> String {
    let Rule {
        id,
        direction,
        action,
        peers,
        ports,
    } = rule;
    let peers = match peers {
        PeerSet::Any => "any".to_owned(),
        PeerSet::Networks(networks) if networks.is_empty() => "nobody".to_owned(),
        PeerSet::Networks(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            networks.join(" ")
        }
    };
    format!("{id}: {action:?} {direction:?} {peers}{}", at(ports))
}

fn observed(observed: &ObservedRule) -> String {
    let ObservedRule {
        rule: decided,
        observing,
    } = observed;
    let observing = if *observing { ", observing" } else { "" };
    format!("{}{observing}", rule(decided))
}

fn defaults_of(defaults: &Defaults) -> Value {
    let Defaults { egress, ingress } = defaults;
    let view = |rule: &Option<DefaultRule>| {
        rule.as_ref().map(|rule| {
            let DefaultRule {
                id,
                action,
                observing,
            } = rule;
            let observing = if *observing { ", observing" } else { "" };
            format!("{action:?} by {id}{observing}")
        })
    };
    json!({"egress": view(egress), "ingress": view(ingress)})
}

fn at(ports: &BTreeSet<Ports>) -> String {
    let ports = ports.iter().map(|ports| {
        let Ports {
            protocol,
            first,
            last,
        } = ports;
        let protocol = format!("{protocol:?}").to_uppercase();
        match (*first, *last) {
            (0, u16::MAX) => format!(" {protocol}"),
            (first, last) if first == last => format!(" {protocol}/{first}"),
            (first, last) => format!(" {protocol}/{first}-{last}"),
        }
    });
    let ports: String = ports.collect();
    if ports.is_empty() {
        ports
    } else {
        format!(" at{ports}")
    }
}

fn acceptance(acceptance: &Acceptance) -> String {
    match acceptance {
        Acceptance::Accepted => "Accepted".to_owned(),
        Acceptance::Waiting { reason, message } => format!("Waiting {reason:?}: {message}"),
        Acceptance::Refused { reason, message } => format!("Refused {reason:?}: {message}"),
    }
}

fn names(keys: &BTreeSet<ObjectKey>) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn workloads_of(workloads: &Workloads) -> Value {
    let Workloads {
        wards,
        without_agent,
        without_address,
        stripped,
    } = workloads;
    json!({
        "wards": map(wards, |ward| json!({"device": ward.device, "addresses": ward.addresses, "started": ward.started.map(|at| at.to_string())})),
        "withoutAgent": map(without_agent, |words| words.clone().into()),
        "withoutAddress": names(without_address),
        "stripped": map(stripped, |strip| {
            let Strip { deployment, network_policy, done, waits, let_through, not_carried } = strip;
            json!({
                "deployment": deployment,
                "networkPolicy": network_policy.to_string(),
                "done": done,
                "waits": waits,
                "letThrough": let_through,
                "notCarried": not_carried,
            })
        }),
    })
}

fn stripped_pod(pod: &StrippedPod) -> Value {
    let StrippedPod {
        uid,
        deployment,
        isolations,
        network_policy,
        found,
    } = pod;
    let found = match found {
        Found::Whole => json!("Whole"),
        Found::Stripped {
            bare,
            noted,
            terminating,
        } => json!({"bare": bare, "noted": noted, "terminating": terminating}),
    };
    json!({
        "uid": uid,
        "deployment": deployment,
        "isolations": isolations,
        "networkPolicy": network_policy.to_string(),
        "found": found,
    })
}

fn suspended_users_of(users: &SuspendedUsers) -> Value {
    let SuspendedUsers {
        everywhere,
        in_namespace,
    } = users;
    json!({"everywhere": everywhere, "inNamespace": in_namespace})
}

fn user_of(user: &SuspendedUser) -> Value {
    let SuspendedUser {
        os,
        devices,
        nodes,
        kubernetes,
        namespace,
        seawall,
        scopes,
    } = user;
    json!({
        "os": os,
        "devices": devices,
        "nodes": nodes,
        "kubernetes": kubernetes,
        "namespace": namespace,
        "seawall": seawall,
        "scopes": names(scopes),
    })
}

fn policy(verdict: &PolicyVerdict) -> Value {
    let PolicyVerdict {
        uid: _,
        generation: _,
        acceptance: accepted,
        devices,
        unknown,
        workloads,
        network_policy,
        not_enforceable,
        observing,
    } = verdict;
    json!({
        "acceptance": acceptance(accepted),
        "devices": devices,
        "unknown": unknown,
        "workloads": workloads_of(workloads),
        "networkPolicy": network_policy.as_ref().map(ToString::to_string),
        "notEnforceable": not_enforceable,
        "observing": observing,
    })
}

fn isolation(verdict: &IsolationVerdict) -> Value {
    let IsolationVerdict {
        uid: _,
        generation: _,
        acceptance: accepted,
        target,
        device,
        workloads,
        evidence_at_risk,
        user,
        spared,
        peers,
        not_enforceable,
        address_notes,
        also_isolated_by,
        held,
    } = verdict;
    json!({
        "acceptance": acceptance(accepted),
        "target": target,
        "device": device,
        "workloads": workloads.as_ref().map(workloads_of),
        "evidenceAtRisk": names(evidence_at_risk),
        "user": user.as_ref().map(user_of),
        "spared": map(spared, |words| words.clone().into()),
        "peers": peers,
        "notEnforceable": not_enforceable,
        "addressNotes": address_notes,
        "alsoIsolatedBy": names(also_isolated_by),
        "held": held,
    })
}

fn scope(verdict: &ScopeVerdict) -> Value {
    let ScopeVerdict {
        uid: _,
        generation: _,
        acceptance: accepted,
        agent,
        devices,
        all_devices,
        pods,
        unknown,
        role,
        tools,
        shared_keys,
    } = verdict;
    json!({
        "acceptance": acceptance(accepted),
        "agent": agent,
        "devices": devices,
        "allDevices": all_devices,
        "pods": pods,
        "unknown": unknown,
        "role": role,
        "tools": tools,
        "sharedKeys": shared_keys,
    })
}

/// The status of every resource.
#[derive(Default)]
pub struct Statuses {
    policies: BTreeMap<ObjectKey, PolicyStatus>,
    isolations: BTreeMap<ObjectKey, IsolationStatus>,
    scopes: BTreeMap<ObjectKey, ApiKeyScopeStatus>,
}

impl Statuses {
    pub fn of(compiled: &Compiled, applied: &Applied, old: Option<&Self>, now: Timestamp) -> Self {
        let mut statuses = Self::default();
        for (key, verdict) in &compiled.verdicts.policies {
            let old = old.and_then(|old| old.policies.get(key));
            let status = status::policy(key, verdict, applied, old, now);
            statuses.policies.insert(key.clone(), status);
        }
        for (key, verdict) in &compiled.verdicts.isolations {
            let old = old.and_then(|old| old.isolations.get(key));
            let status = status::isolation(key, verdict, applied, old, now);
            statuses.isolations.insert(key.clone(), status);
        }
        for (key, verdict) in &compiled.verdicts.scopes {
            let old = old.and_then(|old| old.scopes.get(key));
            let tools = verdict.tools.iter().cloned().collect();
            let status = status::scope(key, verdict, applied, tools, None, old, now);
            statuses.scopes.insert(key.clone(), status);
        }
        statuses
    }

    pub fn json(&self) -> Value {
        json!({
            "policies": map(&self.policies, |status| json!(status)),
            "isolations": map(&self.isolations, |status| json!(status)),
            "scopes": map(&self.scopes, |status| json!(status)),
        })
    }
}

/// Conditions in one line each. Their time is that of the case, and their generation the status's.
pub fn statuses(compiled: &Compiled, applied: &Applied, now: Timestamp) -> Value {
    let mut statuses = Statuses::of(compiled, applied, None, now).json();
    let kinds = statuses.as_object_mut().into_iter().flatten();
    let of_all = kinds.flat_map(|(_, kind)| kind.as_object_mut().into_iter().flatten());
    for (_, status) in of_all {
        let generation = status["observedGeneration"].take();
        let Value::Array(conditions) = status["conditions"].take() else {
            continue;
        };
        let lines = conditions.into_iter().map(|condition| {
            assert_eq!(condition["observedGeneration"], generation);
            assert_eq!(condition["lastTransitionTime"], json!(now));
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            let line = format!("{} {}: {}", text("status"), text("reason"), text("message"));
            (text("type"), line.into())
        });
        status["conditions"] = Value::Object(lines.collect());
    }
    short(statuses)
}
