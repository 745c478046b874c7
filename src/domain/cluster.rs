//! Facts about the cluster: pods, nodes, namespaces, and the NetworkPolicies of others, each narrowed to
//! what decides who may talk to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde::{Deserialize, Serialize};

use super::enforcement::Ports;
use crate::api::stamps;

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
    /// By the API server's clock.
    pub created: Option<Timestamp>,
    /// Set when its labels were taken away.
    pub stripped: Option<Box<Stripped>>,
}

impl Pod {
    /// The labels that people gave it, which by now may be taken away: Isolations and scopes choose it by them,
    /// everything else by those that it has.
    pub fn given_labels(&self) -> &BTreeMap<String, String> {
        match &self.stripped {
            Some(stripped) => &stripped.mark.labels,
            None => &self.labels,
        }
    }

    /// Nothing is left by which others select it.
    pub fn is_bare(&self) -> bool {
        let mut labels = self.labels.iter();
        let ours = labels.next() == Some((&stamps::ISOLATED.to_owned(), &self.uid));
        ours && labels.next().is_none()
    }
}

/// A pod whose labels were taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stripped {
    pub mark: Mark,
    /// It is being deleted.
    pub terminating: bool,
}

/// What is written on a pod in the same write that takes its labels away: by it the pod is known until it
/// is released.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mark {
    /// The pod's UID: a copy of the pod is another one.
    pub pod: String,
    /// What made its replacement.
    pub deployment: String,
    pub labels: BTreeMap<String, String>,
    /// Names of the Isolations that it is under, by UID.
    pub isolations: BTreeMap<String, String>,
}

/// The owner that is a pod's controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Such as `ReplicaSet`, `StatefulSet`, `Job`, `DaemonSet`.
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

/// A ReplicaSet, by what made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSet {
    pub uid: String,
    /// The Deployment that is its controller.
    pub deployment: Option<String>,
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
