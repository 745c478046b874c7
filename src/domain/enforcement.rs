//! What has to be in force, as `compile` says it: the state of each device's enforcement point, the
//! NetworkPolicies, and the access of agents. These types are what is signed and sent, so their JSON
//! form is a wire format: fields are added, never renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::names::{DeviceId, ObjectKey};
use crate::api::policy::DefaultAction;
use crate::api::{Access, Action, Direction, Protocol};

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Enforcement {
    /// One that stays as it was is the same in memory from one time to the next.
    pub devices: BTreeMap<DeviceId, Arc<DeviceState>>,
    pub network_policies: BTreeMap<ObjectKey, NetworkPolicySpec>,
    /// By the scope's key.
    pub access: BTreeMap<ObjectKey, AccessGrant>,
    pub suspended_users: SuspendedUsers,
    /// Pods whose labels are to be taken away, or were.
    pub stripped: BTreeMap<ObjectKey, StrippedPod>,
}

/// A pod that is cut off without an agent: its labels, by which others select it, are taken away, and a
/// NetworkPolicy that selects it by the one that it has instead allows what `management` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrippedPod {
    pub uid: String,
    /// What made its replacement.
    pub deployment: String,
    /// Names of the Isolations that it is under, by UID. Under none any more it is released: deleted, for
    /// its replacement runs.
    pub isolations: BTreeMap<String, String>,
    /// It has to be stored before the labels are taken away.
    pub network_policy: ObjectKey,
    /// As the pod stands.
    pub found: Found,
}

/// How far a pod is stripped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not at all.
    Whole,
    Stripped {
        /// It has the one label and no other.
        bare: bool,
        /// The Isolations that are written on it.
        noted: BTreeMap<String, String>,
        /// It is being deleted.
        terminating: bool,
    },
}

/// Kubernetes users whose writes admission refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuspendedUsers {
    /// In the whole cluster.
    pub everywhere: BTreeSet<String>,
    /// In one namespace.
    pub in_namespace: BTreeMap<String, BTreeSet<String>>,
}

impl SuspendedUsers {
    /// Those of an Isolation: of the whole cluster without a namespace.
    pub fn add(&mut self, namespace: Option<&str>, users: impl IntoIterator<Item = String>) {
        let mut users = users.into_iter().peekable();
        if users.peek().is_none() {
            return;
        }
        let known = match namespace {
            Some(namespace) => self.in_namespace.entry(namespace.to_owned()).or_default(),
            None => &mut self.everywhere,
        };
        known.extend(users);
    }

    /// Whether the other has all of these too.
    pub fn is_within(&self, other: &Self) -> bool {
        let none = BTreeSet::new();
        let mut here = self.in_namespace.iter();
        self.everywhere.is_subset(&other.everywhere)
            && here.all(|(namespace, users)| {
                users.is_subset(other.in_namespace.get(namespace).unwrap_or(&none))
            })
    }

    pub fn holds(&self, namespace: Option<&str>, user: &str) -> bool {
        let known = match namespace {
            Some(namespace) => self.in_namespace.get(namespace),
            None => Some(&self.everywhere),
        };
        known.is_some_and(|users| users.contains(user))
    }
}

/// The binding of one agent's ServiceAccount in its tenant's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessGrant {
    /// In the namespace of the agents.
    pub service_account: String,
    /// One of the fixed ClusterRoles; none for a scope that is disabled, expired or refused.
    pub role: Option<Access>,
}

/// The full state of one device's enforcement point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    /// Every resource that contributed, at the generation that did. An acknowledged state tells from
    /// this which resources are programmed on the device.
    pub sources: BTreeSet<Source>,
    /// The operator's addresses, reachable for the agent whatever else is in force.
    pub operator: BTreeSet<SocketAddr>,
    /// Set when this device is isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<SelfIsolation>,
    /// Addresses of other devices that are isolated: nothing to or from them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub quarantined: BTreeSet<IpAddr>,
    /// What this device, holding a management address, may still open to quarantined ones.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub quarantine_paths: BTreeSet<QuarantinePath>,
    /// Rules in the order of evaluation, both directions; the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Arc<Rule>>,
    /// What unmatched traffic meets.
    #[serde(default)]
    pub defaults: Defaults,
    /// The evaluation as it would be if the policies that observe enforced: rules in order, those of
    /// enforcing policies included. Empty when no policy observes here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed_rules: Vec<ObservedRule>,
    #[serde(default, skip_serializing_if = "Defaults::is_empty")]
    pub observed_defaults: Defaults,
    /// What the device enforces for others: the pods of its node. Each ward is in one group, by a name that
    /// follows from what the group is under.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wards: BTreeMap<String, Arc<WardGroup>>,
    /// Accounts of suspended users, by name: what their processes send is dropped.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub suspended_users: BTreeSet<String>,
}

/// Before a group's name, what reports call all packets to and from its wards.
pub const WARDS: &str = "wards/";

/// Wards that are under the same resources. Isolated ones have no rules: they are judged by their isolation
/// alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WardGroup {
    /// By `namespace/pod`, the addresses of each.
    pub members: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The resources that these wards are under.
    pub sources: BTreeSet<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<WardIsolation>,
    /// As [`DeviceState::rules`], with a ward in the device's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Arc<Rule>>,
    #[serde(default, skip_serializing_if = "Defaults::is_empty")]
    pub defaults: Defaults,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed_rules: Vec<ObservedRule>,
    #[serde(default, skip_serializing_if = "Defaults::is_empty")]
    pub observed_defaults: Defaults,
}

impl WardGroup {
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.members.values().flatten().copied().collect()
    }
}

/// Everything of a ward is cut but these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WardIsolation {
    /// Connections that others may open to the wards.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub management: BTreeSet<ManagementRule>,
    /// Ports at which the device itself, whose kubelet probes there, may connect to each ward, by
    /// `namespace/pod`. A ward that is not in it is not probed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<String, BTreeSet<Ports>>,
}

impl DeviceState {
    /// Every resource that contributed, to what is in force for the device itself and for its wards.
    pub fn every_source(&self) -> impl Iterator<Item = &Source> {
        let of_wards = self.wards.values().flat_map(|group| &group.sources);
        self.sources.iter().chain(of_wards)
    }

    /// SHA-256 of the canonical JSON, in hex. The same state gives the same hash on every machine.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).expect("a device state is always JSON");
        hex::encode(Sha256::digest(json))
    }
}

/// A resource at a generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub kind: SourceKind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SourceKind {
    Isolation,
    Policy,
}

/// Everything is cut but the operator for the agent, DHCP, neighbour discovery and these paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfIsolation {
    /// Connections that others may open to this device.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub management: BTreeSet<ManagementRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagementRule {
    pub network: IpNet,
    /// Local ports; empty means every protocol and port.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Ports>,
}

/// The peer's side of a management path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantinePath {
    /// Local addresses in this network may connect …
    pub from: IpNet,
    /// … to these addresses of the isolated device …
    pub to: BTreeSet<IpAddr>,
    /// … at these ports; empty means every protocol and port.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Ports>,
}

/// A protocol and a range of ports in it; `first` 0 to `last` 65535 is every port, and the only
/// range of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

/// One rule, for connections of one direction. Both directions of the connection's packets meet it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `namespace/policy/rule`, as reports name it.
    pub id: String,
    pub direction: Direction,
    pub action: Action,
    pub peers: PeerSet,
    /// Remote ports of Egress, local ports of Ingress; empty means every protocol and port.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<Ports>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedRule {
    #[serde(flatten)]
    pub rule: Arc<Rule>,
    /// Whether its policy observes; the verdict of one that enforces is not news.
    pub observing: bool,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerSet {
    Any,
    /// No networks match nobody: a peer device that holds no address yet.
    Networks(BTreeSet<IpNet>),
}

/// Per direction, the default and the policy that gives it (`namespace/policy`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<DefaultRule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<DefaultRule>,
}

impl Defaults {
    pub fn is_empty(&self) -> bool {
        self.egress.is_none() && self.ingress.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DefaultRule {
    pub id: String,
    pub action: DefaultAction,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub observing: bool,
}

/// What the operator signs and an agent applies: one device's whole state at a point of the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// The one device that may apply it.
    pub device: DeviceId,
    /// The leader's epoch; with `revision`, ordered. An agent refuses what is not newer.
    pub epoch: u64,
    pub revision: u64,
    /// [`DeviceState::hash`] of `state`.
    pub state_hash: String,
    /// For people; nothing is decided by it.
    pub issued_at: Timestamp,
    pub state: DeviceState,
}

/// Signed before the payload, so that the signature means nothing elsewhere.
pub const BUNDLE_CONTEXT: &[u8] = b"seawall-bundle-v1\0";
