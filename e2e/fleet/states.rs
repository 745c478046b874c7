//! States of devices, in the form in which they are signed and sent.

use seawall::domain::enforcement::{DeviceState, QuarantinePath, SelfIsolation};
use serde_json::{Value, json};

use crate::lab::{Family, Host};

/// From its JSON; what is left out is empty.
pub fn state(fields: Value) -> anyhow::Result<DeviceState> {
    let mut all = json!({"sources": [], "operator": []});
    let (Some(all_fields), Some(fields)) = (all.as_object_mut(), fields.as_object()) else {
        anyhow::bail!("a state is an object");
    };
    all_fields.extend(fields.clone());
    Ok(serde_json::from_value(all)?)
}

/// Rules alone, with ids from their place.
pub fn rules(rules: &[Value]) -> anyhow::Result<DeviceState> {
    let numbered: Vec<Value> = rules
        .iter()
        .enumerate()
        .map(|(n, rule)| {
            let mut rule = rule.clone();
            rule["id"] = json!(format!("acme/test/r{n}"));
            rule
        })
        .collect();
    state(json!({"rules": numbered}))
}

/// An isolated device that this host may manage at these TCP ports; every port when there are none.
pub fn isolated(management: &Host, ports: &[u16]) -> anyhow::Result<DeviceState> {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"protocol": "TCP", "first": port, "last": port}))
        .collect();
    let rules: Vec<Value> = Family::BOTH
        .iter()
        .map(|family| json!({"network": single(management, *family), "ports": ports}))
        .collect();
    let source = json!({"kind": "Isolation", "namespace": "acme", "name": "test", "uid": "u1", "generation": 1});
    state(json!({"sources": [source], "isolation": {"management": rules}}))
}

/// What a peer of the isolated host has to do: drop it, but for the paths of management that it holds.
pub fn peer_of(
    isolated: &Host,
    isolation: Option<&SelfIsolation>,
    itself: &Host,
) -> anyhow::Result<DeviceState> {
    let addresses = Family::BOTH.map(|family| isolated.address(family));
    let mut peer = state(json!({"quarantined": addresses}))?;
    for rule in isolation.iter().flat_map(|isolation| &isolation.management) {
        if Family::BOTH
            .iter()
            .any(|family| rule.network.contains(&itself.address(*family)))
        {
            peer.quarantine_paths.insert(QuarantinePath {
                from: rule.network,
                to: addresses.into(),
                ports: rule.ports.clone(),
            });
        }
    }
    Ok(peer)
}

fn single(host: &Host, family: Family) -> String {
    match family {
        Family::V4 => format!("{}/32", host.v4()),
        Family::V6 => format!("{}/128", host.v6()),
    }
}
