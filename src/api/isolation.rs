//! `Isolation`: who is in quarantine, or suspended.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::ManagementPath;
use super::selectors::pod_selector_schema;

/// Puts one device, workload, node or user in quarantine until the resource is deleted or expires.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "seawall.dev",
    version = "v1alpha1",
    kind = "Isolation",
    namespaced,
    shortname = "swi",
    category = "seawall",
    status = "IsolationStatus",
    derive = "PartialEq",
    doc = "Puts one device, workload, node or user in quarantine until it is deleted or expires.",
    printcolumn(name = "Target", type_ = "string", json_path = ".status.targetSummary"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Self", type_ = "string", json_path = ".status.self"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".status.peers.summary"),
    printcolumn(
        name = "Pods",
        type_ = "string",
        json_path = ".status.workloads.summary"
    ),
    printcolumn(
        name = "Accounts",
        type_ = "string",
        json_path = ".status.accounts.summary",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".spec.reason",
        priority = 1
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".spec.expiresAt",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.probes == 'Cut' || has(self.target.workload)", "only a workload has probes to keep: leave probes out"),
    validation = ("!has(self.userNames) || has(self.target.user)", "userNames are the names of target.user: name a user, or leave them out"),
    validation = ("has(self.userNames) == has(oldSelf.userNames) && (!has(self.userNames) || self.userNames == oldSelf.userNames)", "userNames cannot be changed: delete this Isolation and create another"),
    validation = ("!has(self.target.user) || !has(self.management) || size(self.management) == 0", "a suspended user has no management paths: leave management out")
)]
pub struct IsolationSpec {
    /// What is isolated. It cannot be changed: delete this Isolation and make another.
    #[x_kube(validation = ("self == oldSelf", "target cannot be changed: delete this Isolation and create another"))]
    pub target: Target,
    /// What target.user is called where it is suspended. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_names: Option<UserNames>,
    /// Why, for the people who read this later.
    #[schemars(length(max = 1024))]
    #[x_kube(
        validation = ("self.trim().size() > 0", "say why in reason: it is what the people who come later read first"),
        validation = (r"!self.matches(r'[\x00-\x08\x0b-\x1f\x7f]')", "reason must be plain text: no control characters but tab and newline")
    )]
    pub reason: String,
    /// What may still reach the target. The operator's own address is always reachable for a device's agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub management: Vec<ManagementPath>,
    /// The incident this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("self.matches('^inc_[0-9A-Za-z]{1,60}$')", "an incident's id is inc_ and letters and digits"))]
    pub incident: Option<String>,
    /// For workloads: whether the kubelet's probes are cut as well.
    #[serde(default)]
    pub probes: Probes,
    /// When the isolation ends by itself; absent means when it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("[has(self.device), has(self.workload), has(self.user), has(self.node)].exists_one(x, x)", "name exactly one target: device, workload, user or node")
)]
pub struct Target {
    /// A device's id, as `seawall fleet list` shows it. A device that is not enrolled yet is isolated when it enrols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("self.matches('^dev_[0-9a-z]{26}$')", "a device's id is dev_ and 26 lower-case letters and digits, as `seawall fleet list` shows it"))]
    pub device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadTarget>,
    /// A user's canonical id: what people call them. userNames says what they are called elsewhere, if differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = ("!self.startsWith('system:')", "system: users are Kubernetes' own and cannot be suspended"),
        validation = ("self == self.trim() && size(self) > 0", "a user's id is not empty and has no blanks around it"),
        validation = ("self != 'root'", "root is no person, and the agents' own account: name the person, or isolate the device"),
        validation = (r"!self.matches(r'[\x00-\x1f\x7f]')", "a user's id has no control characters")
    )]
    pub user: Option<String>,
    /// A node of the cluster; only for Isolations in the system namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = ("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')", "node is the name of a node, as `kubectl get nodes` shows it"))]
    pub node: Option<String>,
}

/// One pod by name, or the pods that a selector chooses, in the Isolation's namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.pod) != has(self.podSelector)", "name either pod or podSelector")
)]
pub struct WorkloadTarget {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = ("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')", "pod is the name of a pod, as `kubectl get pods` shows it"))]
    pub pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_selector_schema")]
    pub pod_selector: Option<LabelSelector>,
}

/// The names of one user. A list that is left out stands for the user's id; an empty one for nobody there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.os) || has(self.kubernetes) || has(self.seawall)", "empty userNames are refused: give os, kubernetes or seawall, or leave userNames out where all of them are the user's id"),
    validation = ("!has(self.os) || size(self.os) > 0 || !has(self.kubernetes) || size(self.kubernetes) > 0 || !has(self.seawall) || size(self.seawall) > 0", "os, kubernetes and seawall are all empty: nobody would be suspended")
)]
pub struct UserNames {
    /// Accounts on devices, by name: the traffic of their processes is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(
        validation = ("self.all(n, n != 'root')", "root cannot be suspended: it is the agents' own account, and whoever is root can take another; isolate the device"),
        validation = ("self.all(n, !n.matches('^[0-9]+$'))", "os has names of accounts, not their numbers: the same number is somebody else on another device"),
        validation = (r"self.all(n, n.matches(r'^[^\x00-\x20\x7f:/]+$'))", "the name of an account has no blanks, colons, slashes or control characters"),
        validation = ("self.all(x, self.exists_one(y, x == y))", "a name is given twice")
    )]
    pub os: Option<Vec<String>>,
    /// Users as the API server knows them: their writes are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(
        validation = ("self.all(n, !n.startsWith('system:'))", "system: users are Kubernetes' own and cannot be suspended: they are its parts and ServiceAccounts, Seawall's among them"),
        validation = (r"self.all(n, n == n.trim() && !n.matches(r'[\x00-\x1f\x7f]'))", "the name of a Kubernetes user has no blanks around it and no control characters"),
        validation = ("self.all(x, self.exists_one(y, x == y))", "a name is given twice")
    )]
    pub kubernetes: Option<Vec<String>>,
    /// Agents of Seawall, by the names of their ApiKeyScopes: their keys are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(
        validation = ("self.all(n, n.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'))", "seawall has names of ApiKeyScopes, as `kubectl get apikeyscopes` shows them"),
        validation = ("self.all(x, self.exists_one(y, x == y))", "a name is given twice")
    )]
    pub seawall: Option<Vec<String>>,
}

/// What happens to the kubelet's probes of an isolated workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Probes {
    #[default]
    Cut,
    Keep,
}

/// Where the isolation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Phase {
    /// Nothing is in force yet.
    #[default]
    Pending,
    /// The target itself and every connected peer have read it back.
    Isolated,
    /// A user's traffic, writes and keys are refused wherever that can be done now.
    Suspended,
    /// Some enforcement points have it; the conditions name what is missing.
    Partial,
    /// Nothing can enforce it; the conditions say what stands in the way.
    NotEnforceable,
    /// It is not accepted, and has no effect; the conditions say why.
    Refused,
    /// Its time is over.
    Expired,
}

/// Whether the target's own enforcement point has the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum SelfState {
    #[default]
    Pending,
    Programmed,
    /// The target's agent is not connected; its peers drop it all the same.
    Offline,
}

/// The other side: the agents that drop the target's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerCoverage {
    pub matched: i32,
    pub programmed: i32,
    /// `programmed/matched`, for `kubectl get`.
    pub summary: String,
}

/// The pods of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadCoverage {
    /// Pods with an address that the target chooses.
    pub matched: i32,
    /// Of these, those that are cut off: read back by the agent of their node.
    pub programmed: i32,
    /// Of these, those that nothing can cut off.
    pub not_enforceable: i32,
    /// `programmed/matched`, for `kubectl get`.
    pub summary: String,
    /// The longest that one of the pods ran before it was cut off, in seconds, of pods that came after the
    /// isolation; absent while none was seen to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap_seconds: Option<i32>,
}

/// The devices on which a user's accounts are suspended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountCoverage {
    /// Devices of the Isolation's reach.
    pub matched: i32,
    /// Of these, those that have read it back.
    pub programmed: i32,
    /// Of these, those on which one of the accounts exists.
    pub with_account: i32,
    /// `programmed/matched`, for `kubectl get`.
    pub summary: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IsolationStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::conditions::schema")]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub phase: Phase,
    /// `device/dev_…`, for `kubectl get`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target_summary: String,
    /// The target's own enforcement point.
    #[serde(default, rename = "self", skip_serializing_if = "Option::is_none")]
    pub self_state: Option<SelfState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<PeerCoverage>,
    /// Of a workload: its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadCoverage>,
    /// Of a user: the devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<AccountCoverage>,
    /// Open connections whose tracking entries were deleted, at the target and its peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_cut: Option<i32>,
    /// When the target's own enforcement was first read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated_at: Option<Timestamp>,
}
