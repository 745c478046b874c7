//! What `compile` thinks of each resource: whether it is accepted, and which enforcement points it
//! needs. `status` joins a verdict with what was applied; nothing here knows what was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::names::{DeviceId, ObjectKey};
use crate::api::Access;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    pub policies: BTreeMap<ObjectKey, Arc<PolicyVerdict>>,
    pub isolations: BTreeMap<ObjectKey, Arc<IsolationVerdict>>,
    pub scopes: BTreeMap<ObjectKey, ScopeVerdict>,
}

impl Verdicts {
    /// Of exactly this Isolation, to add to it: another may speak for the name.
    pub fn isolation(&mut self, key: &ObjectKey, uid: &str) -> Option<&mut IsolationVerdict> {
        let verdict = self.isolations.get_mut(key)?;
        (verdict.uid == uid).then(|| Arc::make_mut(verdict))
    }
}

/// Whether a resource is valid, understood and allowed; what is not accepted has no effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Acceptance {
    #[default]
    Accepted,
    /// Not now; it may be later without being edited (`UnknownTarget`, `Expired`, `Disabled`).
    Waiting { reason: Reason, message: String },
    /// Never, as it is written.
    Refused { reason: Reason, message: String },
}

/// CamelCase word of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    UnknownTarget,
    Expired,
    Disabled,
    /// The target or network would cut the operator, the API server, or what else is protected.
    WouldCutOperator,
    /// The resource speaks for another namespace and is not in the system namespace.
    OtherTenant,
    /// A field that this version does not enforce.
    NotSupported,
    /// Wider than may be blocked.
    TooWide,
    /// A key that another scope holds too.
    DuplicateKey,
    /// An Isolation suspends the scope's agent.
    Suspended,
    Malformed,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownTarget => "UnknownTarget",
            Self::Expired => "Expired",
            Self::Disabled => "Disabled",
            Self::WouldCutOperator => "WouldCutOperator",
            Self::OtherTenant => "OtherTenant",
            Self::NotSupported => "NotSupported",
            Self::TooWide => "TooWide",
            Self::DuplicateKey => "DuplicateKey",
            Self::Suspended => "Suspended",
            Self::Malformed => "Malformed",
        }
    }
}

/// The pods that a resource is about, and who enforces for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workloads {
    pub wards: BTreeMap<ObjectKey, Ward>,
    /// Pods for which no agent can enforce, each with why.
    pub without_agent: BTreeMap<ObjectKey, String>,
    /// Pods that have no address yet, and nothing to send or receive with.
    pub without_address: BTreeSet<ObjectKey>,
    /// Pods without an agent that are cut off by taking their labels away.
    pub stripped: BTreeMap<ObjectKey, Strip>,
}

/// A pod whose labels are taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strip {
    /// What made its replacement.
    pub deployment: String,
    /// What allows it nothing but what `management` needs.
    pub network_policy: ObjectKey,
    /// The labels are gone, as the API server told.
    pub done: bool,
    /// What is waited for before they are taken away.
    pub waits: Option<String>,
    /// A NetworkPolicy that selects it all the same and allows something.
    pub let_through: Option<String>,
    /// Of `management`, what a NetworkPolicy can't say.
    pub not_carried: Option<String>,
}

/// A pod that an agent enforces for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ward {
    /// The device that is its node.
    pub device: DeviceId,
    pub addresses: BTreeSet<IpAddr>,
    /// When its first container was started, if that was after the resource was made.
    pub started: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyVerdict {
    pub uid: String,
    pub generation: i64,
    pub acceptance: Acceptance,
    /// Devices whose state holds this policy.
    pub devices: BTreeSet<DeviceId>,
    /// Ids that it names and no enrolled device has. It is in force without them, and on them when they enrol.
    pub unknown: BTreeSet<String>,
    /// The pods that it chooses.
    pub workloads: Workloads,
    /// The NetworkPolicy that carries its portable part, if it has one.
    pub network_policy: Option<ObjectKey>,
    /// What can't be enforced, each with what stands in the way.
    pub not_enforceable: Vec<String>,
    /// It reports and changes nothing.
    pub observing: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct IsolationVerdict {
    pub uid: String,
    pub generation: i64,
    pub acceptance: Acceptance,
    /// `device/dev_…`, `workload/web-0`, `user/…`, `node/…`.
    pub target: String,
    /// The isolated device, once it is enrolled.
    pub device: Option<DeviceId>,
    /// The isolated pods; none for what is no workload.
    pub workloads: Option<Workloads>,
    /// Of them, those whose container the kubelet starts anew when its probe is cut.
    pub evidence_at_risk: BTreeSet<ObjectKey>,
    /// The suspended user; none for what is no user.
    pub user: Option<SuspendedUser>,
    /// Pods that the selector chooses and that are left alone, each with what it would cut.
    pub spared: BTreeMap<ObjectKey, String>,
    /// Devices that drop its addresses.
    pub peers: BTreeSet<DeviceId>,
    /// Why nothing can enforce it, if nothing can.
    pub not_enforceable: Option<String>,
    /// Addresses the target claims that are not used, each with why.
    pub address_notes: Vec<String>,
    /// Other Isolations in force on the same target.
    pub also_isolated_by: BTreeSet<ObjectKey>,
    /// It is gone from the API server and kept in force until a person confirms.
    pub held: bool,
}

/// A user, by each of the names, and what has to refuse it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuspendedUser {
    /// Accounts on devices.
    pub os: BTreeSet<String>,
    /// The devices that drop their traffic.
    pub devices: BTreeSet<DeviceId>,
    /// Nodes of the cluster, whose agents see no accounts.
    pub nodes: BTreeSet<DeviceId>,
    pub kubernetes: BTreeSet<String>,
    /// Their writes are refused in this namespace; none for the whole cluster.
    pub namespace: Option<String>,
    pub seawall: BTreeSet<String>,
    /// Scopes of these names, whose keys are refused.
    pub scopes: BTreeSet<ObjectKey>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScopeVerdict {
    pub uid: String,
    pub generation: i64,
    pub acceptance: Acceptance,
    /// The Kubernetes user of the agent.
    pub agent: String,
    /// Devices that it may act on now.
    pub devices: BTreeSet<DeviceId>,
    pub all_devices: bool,
    /// Names of the pods of its namespace that it may act on now.
    pub pods: BTreeSet<String>,
    /// Ids that it names and no enrolled device has.
    pub unknown: BTreeSet<String>,
    /// The fixed role that it is bound to; none for a scope that is not accepted.
    pub role: Option<Access>,
    /// The tools that the agent sees.
    pub tools: BTreeSet<String>,
    /// Keys that it holds and nobody may use, each with who else holds it.
    pub shared_keys: Vec<String>,
}
