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
    validation = ("self.probes == 'Cut' || has(self.target.workload)", "only a workload has probes to keep: leave probes out")
)]
pub struct IsolationSpec {
    /// What is isolated. It cannot be changed: delete this Isolation and make another.
    #[x_kube(validation = ("self == oldSelf", "target cannot be changed: delete this Isolation and create another"))]
    pub target: Target,
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
    /// A user's canonical id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = ("!self.startsWith('system:')", "system: users are Kubernetes' own and cannot be suspended"),
        validation = ("self == self.trim() && size(self) > 0", "a user's id is not empty and has no blanks around it")
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
    /// A user's writes, keys and traffic are refused.
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
    /// Open connections whose tracking entries were deleted, at the target and its peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_cut: Option<i32>,
    /// When the target's own enforcement was first read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated_at: Option<Timestamp>,
}
