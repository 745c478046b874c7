//! The facts that `compile` reads, narrowed from watched objects and the device table. Watch events
//! become `apply`, `delete` and `reset`; there is no client here and no time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cluster::{Namespace, Node, OthersPolicy, Pod, ReplicaSet};
use super::facts::Facts;
use super::names::{DeviceId, ObjectKey};
use crate::api::{ApiKeyScopeSpec, IsolationSpec, PolicySpec, TrustLevel};

/// Everything that decides what is in force.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub settings: Settings,
    pub policies: Facts<ObjectKey, Resource<PolicySpec>>,
    pub isolations: Facts<ObjectKey, Resource<IsolationSpec>>,
    pub scopes: Facts<ObjectKey, Resource<ApiKeyScopeSpec>>,
    pub devices: Facts<DeviceId, Device>,
    /// Isolations that are gone from the API server and stay in force until a person confirms, by UID.
    pub held: Facts<String, HeldIsolation>,
    /// Pods that are not finished.
    pub pods: Facts<ObjectKey, Pod>,
    pub namespaces: Facts<String, Namespace>,
    pub nodes: Facts<String, Node>,
    /// NetworkPolicies that other people wrote.
    pub others_policies: Facts<ObjectKey, OthersPolicy>,
    pub replica_sets: Facts<ObjectKey, ReplicaSet>,
    pub stripping: Stripping,
}

/// Whether pods may be cut off where no agent runs, by taking their labels away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "detail", rename_all = "camelCase")]
pub enum Stripping {
    /// The operator was not asked to.
    #[default]
    Off,
    /// The API server does not let it, in words.
    Denied(String),
    /// From then on: before, agents may be about to come back.
    From(Timestamp),
}

/// What the operator was configured with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The tenant that may speak for the whole fleet.
    pub system_namespace: String,
    /// Where agents reach the operator; an isolated device keeps these for its agent.
    #[serde(default)]
    pub operator: BTreeSet<SocketAddr>,
    /// What no agent's Deny and no isolation may cut, each with what it is ("the API server").
    #[serde(default)]
    pub protected: Vec<Protected>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protected {
    pub what: String,
    pub network: IpNet,
}

/// A watched resource, without what does not matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<Spec> {
    pub uid: String,
    pub generation: i64,
    /// The Kubernetes user that an agent's stamp names.
    #[serde(default)]
    pub written_by: Option<String>,
    /// By the API server's clock.
    #[serde(default)]
    pub created: Option<Timestamp>,
    pub spec: Spec,
}

/// An Isolation that vanished in a mass release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldIsolation {
    pub key: ObjectKey,
    pub isolation: Resource<IsolationSpec>,
}

/// An enrolled device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The namespace it belongs to.
    pub tenant: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub trust: TrustLevel,
    /// What the device's interfaces hold, each with when the device first claimed it; loopback is left out.
    #[serde(default)]
    pub addresses: BTreeMap<IpAddr, Timestamp>,
    /// How many more it says to hold.
    #[serde(default)]
    pub addresses_left_out: u32,
    /// Where its connection to the operator comes from, as the operator sees it: the one address that
    /// is more than a claim.
    #[serde(default)]
    pub connects_from: Option<IpAddr>,
    /// The node of the cluster that it is, as the API server said at its enrolment. Its agent enforces for
    /// the node's pods too.
    #[serde(default)]
    pub node: Option<String>,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }
}
