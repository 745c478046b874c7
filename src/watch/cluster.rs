//! From namespaces, nodes and the NetworkPolicies of others to the facts of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Raw, is_ours};
use crate::api::stamps;
use crate::domain::cluster::{Controller, Namespace, Node, OthersPolicy, ReplicaSet};

pub fn namespace(raw: Raw) -> Result<Option<Namespace>, String> {
    let labels = raw.metadata.labels.unwrap_or_default();
    Ok(Some(Namespace { labels }))
}

pub fn node(mut raw: Raw) -> Result<Option<Node>, String> {
    let status: NodeStatus = part(&mut raw.data, "status")?.unwrap_or_default();
    let all = status.addresses.iter().flatten();
    Ok(Some(Node {
        addresses: addresses(all.map(|address| address.address.as_str())),
    }))
}

/// None for a NetworkPolicy of our making. Our label alone does not make it one: with it, anybody could
/// hide what they allow.
pub fn others_policy(mut raw: Raw) -> Result<Option<OthersPolicy>, String> {
    if is_ours(&raw.metadata, stamps::NETWORK_POLICY_MANAGER) {
        return Ok(None);
    }
    let spec = part(&mut raw.data, "spec")?.unwrap_or_default();
    Ok(Some(OthersPolicy { spec }))
}

/// Of its metadata, which is all that is watched.
pub fn replica_set(raw: Raw) -> Result<Option<ReplicaSet>, String> {
    let owner = controller(&raw.metadata);
    let deployment = owner.filter(|owner| owner.kind == "Deployment");
    Ok(Some(ReplicaSet {
        uid: raw.metadata.uid.clone().ok_or("it has no uid")?,
        deployment: deployment.map(|owner| owner.name),
    }))
}

/// The owner that would replace it.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<Controller> {
    let owners = metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.next().map(|owner| Controller {
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

/// A part of an object's JSON, if it is there.
pub(super) fn part<T: DeserializeOwned>(data: &mut Value, name: &str) -> Result<Option<T>, String> {
    let Some(part) = data.get_mut(name).map(Value::take) else {
        return Ok(None);
    };
    serde_json::from_value(part).map_err(|error| format!("its {name} can't be read ({error})"))
}

/// Those that are addresses: a node lists its name among them.
pub(super) fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<IpAddr> {
    let addresses = texts.filter_map(|text| text.parse::<IpAddr>().ok());
    addresses
        .map(|address| address.to_canonical())
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(object: Value) -> Raw {
        let object: kube::core::DynamicObject =
            serde_json::from_value(object).expect("an object of the API");
        Raw {
            metadata: object.metadata,
            data: object.data,
        }
    }

    #[test]
    fn a_namespace_is_its_labels() {
        let labels = json!({"kubernetes.io/metadata.name": "plant", "tier": "1"});
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "plant", "labels": labels}, "status": {"phase": "Active"}});
        let namespace = namespace(raw(object)).expect("readable").expect("a fact");
        assert_eq!(json!(namespace.labels), labels);
    }

    #[test]
    fn a_node_is_its_addresses() {
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.168.7.11"},
                    {"type": "InternalIP", "address": "fd00:7::11"},
                    {"type": "ExternalIP", "address": "203.0.113.5"},
                    {"type": "Hostname", "address": "worker-1"},
                ],
                "conditions": [{"type": "Ready", "status": "True",
                    "lastHeartbeatTime": "2026-11-21T10:00:00Z"}],
            },
        });
        let facts = node(raw(object)).expect("readable").expect("a fact");
        let expected = json!({"addresses": ["192.168.7.11", "203.0.113.5", "fd00:7::11"]});
        assert_eq!(json!(facts), expected);
        let new = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "new"}});
        assert_eq!(node(raw(new)).expect("readable"), Some(Node::default()));
    }

    #[test]
    fn a_replica_set_is_the_deployments_that_controls_it() {
        let of = |kind: &str, controller: bool| {
            let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "d", "controller": controller});
            let object = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {"name": "web-5d9", "namespace": "shop", "uid": "r", "ownerReferences": [owner]}});
            let facts = replica_set(raw(object)).expect("readable").expect("a fact");
            (facts.uid == "r").then_some(facts.deployment)
        };
        assert_eq!(of("Deployment", true), Some(Some("web".to_owned())));
        assert_eq!(of("Deployment", false), Some(None));
        assert_eq!(of("Rollout", true), Some(None));
    }

    fn policy(labels: Value, manager: &str) -> Raw {
        raw(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {
                "name": "web", "namespace": "plant", "labels": labels,
                "managedFields": [{"manager": manager, "operation": "Apply"}],
            },
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        }))
    }

    #[test]
    fn a_network_policy_that_the_operator_wrote_is_no_others() {
        let ours = json!({(stamps::MANAGED_BY): stamps::MANAGED_BY_SEAWALL});
        let written = policy(ours.clone(), stamps::NETWORK_POLICY_MANAGER);
        assert_eq!(others_policy(written).expect("readable"), None);
        for (labels, manager) in [
            (ours, "kubectl"),
            (json!({"app": "web"}), "helm"),
            (json!({}), stamps::NETWORK_POLICY_MANAGER),
        ] {
            let facts = others_policy(policy(labels, manager)).expect("readable");
            let facts = facts.expect("somebody else's");
            assert_eq!(facts.spec.policy_types, Some(vec!["Ingress".to_owned()]));
        }
    }

    #[test]
    fn what_can_not_be_read_says_which_part() {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"addresses": "none"}});
        let why = node(raw(object)).expect_err("no list");
        assert!(why.contains("its status can't be read"), "{why}");
    }
}
