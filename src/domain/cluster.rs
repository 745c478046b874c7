//! Facts about the cluster: pods, nodes, namespaces, and the NetworkPolicies of others, each narrowed to
//! what decides who may talk to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde::{Deserialize, Serialize};

use super::enforcement::Ports;

/// A pod that is not finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// Where it was scheduled.
    pub node: Option<String>,
    /// None before its network is set up.
    pub addresses: BTreeSet<IpAddr>,
    /// It uses its node's network: it has no address of its own, and nothing tells its packets from the node's.
    pub host_network: bool,
    /// Ports that its containers name.
    pub named_ports: BTreeMap<String, Ports>,
    /// Ports at which the kubelet probes it over the network.
    pub probes: BTreeSet<Ports>,
    /// It has a liveness probe over the network: when that fails, its container is started anew.
    pub restarts_when_unreachable: bool,
    /// What made it, and would replace it.
    pub controller: Option<Controller>,
    /// When its first container was started.
    pub started: Option<Timestamp>,
}

/// The owner that is a pod's controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Such as `ReplicaSet`, `StatefulSet`, `Job`, `DaemonSet`.
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    pub addresses: BTreeSet<IpAddr>,
}

/// A NetworkPolicy that is not of our making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OthersPolicy {
    pub spec: NetworkPolicySpec,
}
