//! What goes over the Unix socket, as JSON. Paths:
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/ready` | [`Ready`], or [`Problem`] with 503 |
//! | `POST /v1/authenticate` [`Authenticate`] | [`Principal`], or [`Problem`] with 401 |
//! | `POST /v1/tenants/{tenant}/audit` [`AgentRecord`] | [`Appended`] once it is durable |
//! | `GET /v1/tenants/{tenant}/audit?…` [`AuditQuery`] | [`AuditPage`] |
//! | `GET /v1/tenants/{tenant}/devices` | [`Vec<DeviceView>`] |
//! | `GET /v1/tenants/{tenant}/devices/{id}` | [`DeviceView`], or [`Problem`] with 404 |
//! | `GET /v1/tenants/{tenant}/isolations/{name}/settled?…` [`SettledQuery`] | [`Standing`] as soon as every connected point has read it back (or has it no more), or as it is after the timeout |
//! | `GET /v1/tenants/{tenant}/policies/{name}/settled?…` | the same for a Policy |
//! | `GET /v1/tenants/{tenant}/held` | [`Vec<HeldIsolation>`] |
//! | `GET /v1/tenants/{tenant}/workloads` | [`Vec<WorkloadView>`](super::pods::WorkloadView) |
//! | `POST /v1/tenants/{tenant}/preview` [`Preview`] | [`Previewed`]: what compile would think of it, nothing written |
//! | `POST /v1/tenants/{tenant}/explain` [`Question`](crate::domain::explain::Question) | [`Explanation`](crate::domain::explain::Explanation), as far as the tenant sees it |
//! | `POST /v1/tenants/{tenant}/verify` [`VerifyRequest`] | [`VerifyReport`], read back from each device now |
//!
//! Every other answer is a [`Problem`]: 400 for a request that can't be read, 503 for what can't be
//! answered now.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use super::pods::{PodReadBack, PodsStanding};
use super::users::UserStanding;
use crate::api::api_key_scope::{Limits, UserTargets};
use crate::api::{Access, IsolationSpec, PolicySpec, TrustLevel};
use crate::domain::names::DeviceId;

/// Asks whose key this is. The key itself does not leave the sidecar.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authenticate {
    /// `sha256:` and hex.
    pub key_hash: String,
}

/// Who acts: one `ApiKeyScope`, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// The scope's namespace.
    pub tenant: String,
    /// The scope's name.
    pub agent: String,
    /// The Kubernetes user that writes are made as.
    pub user: String,
    pub access: Access,
    /// For `Custom`.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Devices that may be acted on, resolved.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
    /// Whether the scope acts on every device of the tenant, those to come included.
    #[serde(default)]
    pub all_devices: bool,
    /// The tags by which the scope chooses devices; what carries them all is a target.
    #[serde(default)]
    pub target_tags: BTreeMap<String, String>,
    /// Names of the pods that may be acted on, resolved.
    #[serde(default)]
    pub pods: Vec<String>,
    /// The selector by which the scope chooses pods; none for a scope that acts on none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_pods: Option<LabelSelector>,
    /// The users that may be suspended; none for a scope that suspends nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<UserTargets>,
    #[serde(default)]
    pub limits: Limits,
    /// Tools whose calls need a person's approval.
    #[serde(default)]
    pub needs_approval: Vec<String>,
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// The code of a [`Problem`] of what can't be answered now.
pub const UNAVAILABLE: &str = "unavailable";
/// The code of a [`Problem`] of what doesn't exist.
pub const NOT_FOUND: &str = "not_found";
/// The code of a refusal that is the API server's.
pub const INVALID: &str = "invalid";

pub const REFUSED_BY_API_SERVER: &str = "refused_by_api_server";

/// An error, in words for the caller, with the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Such as `key_unknown`, `key_expired`, `key_disabled`, `not_found`, `unavailable`.
    pub code: String,
    pub message: String,
}

/// Where an audit entry stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Appended {
    pub id: String,
    pub index: u64,
}

/// The operator can answer: its watches have synced and its log is writable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    pub version: String,
}

/// What the MCP server may enter in the audit log. The operator adds id and time; the tenant is the
/// path's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRecord {
    /// The scope's name.
    pub agent: String,
    /// The Kubernetes user that writes are made as.
    pub user: String,
    /// The program that the agent uses, as it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Program>,
    pub tool: String,
    /// Of the call, so that two calls are told apart.
    pub call: String,
    /// What it is about: a device's id, a network, a policy's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(flatten)]
    pub what: AgentAct,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum AgentAct {
    /// Before an action; it happens only once this is durable.
    Intent {
        /// As the agent gave them.
        arguments: serde_json::Value,
        reason: String,
        dry_run: bool,
    },
    /// After it.
    Outcome {
        /// The id of the intent's entry.
        intent: String,
        dry_run: bool,
        outcome: Outcome,
        /// What was written or deleted.
        resources: Vec<Touched>,
        message: String,
        milliseconds: u64,
    },
    /// An action that was not begun.
    Refusal {
        arguments: serde_json::Value,
        /// Such as `outside_targets`.
        code: String,
        message: String,
    },
    /// A tool that reads. The operator enters a keyed hash of the arguments, not the arguments.
    Read {
        arguments: serde_json::Value,
        outcome: Outcome,
        milliseconds: u64,
    },
}

/// A resource of the tenant that an agent wrote or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Touched {
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// The API server refused it.
    Refused,
    Failed,
}

/// Entries of one tenant, newest first. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditQuery {
    /// Such as `intent` or `refusal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// An agent's name or a Kubernetes user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Occurs in the entry, whatever its case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Entries below this index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    pub limit: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    pub entries: Vec<AuditEntry>,
    /// There may be more below this index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// An entry as it is in the log, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    pub index: u64,
    pub entry: serde_json::Value,
}

/// A device as people and agents see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    pub id: DeviceId,
    pub tenant: String,
    pub tags: BTreeMap<String, String>,
    /// The node of the cluster that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub trust: TrustLevel,
    pub connected: bool,
    /// Every resource that should be in force on it is, read back.
    pub up_to_date: bool,
    pub addresses: Vec<String>,
    /// How many more it says to hold: nobody drops those.
    #[serde(default)]
    pub addresses_left_out: u32,
    /// Where its connection to the operator comes from; of an isolated device, where it came from before.
    #[serde(default)]
    pub connects_from: Option<String>,
    /// What the device says of itself.
    pub host_name: String,
    pub os: String,
    pub kernel: String,
    pub agent_version: String,
    pub enrolled_at: Timestamp,
    pub last_seen: Option<Timestamp>,
    /// Names of the Isolations that target it.
    pub isolated_by: Vec<String>,
    /// Those of them that were deleted and are held in force.
    #[serde(default)]
    pub held: Vec<Held>,
    /// Names of the Policies that have rules on it.
    pub policies: Vec<String>,
}

/// An Isolation that was deleted in a mass release, and is in force until a person confirms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The Isolation's name.
    pub isolation: String,
    /// The hold's id, which `seawall release confirm` takes.
    pub hold: String,
}

/// The same, with what it isolates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldIsolation {
    #[serde(flatten)]
    pub held: Held,
    /// Such as `device/dev_…` or `workload/web-0`.
    pub target: String,
}

/// Waits until a resource stands as it should, at most so long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettledQuery {
    pub uid: String,
    /// The generation that must be in force, or that disabled it.
    #[serde(default)]
    pub generation: i64,
    /// It was deleted or disabled: settled means that no connected point has it any more.
    #[serde(default)]
    pub gone: bool,
    /// It is an Isolation of a user: gone means also that the API server lets the user write again.
    #[serde(default)]
    pub of_user: bool,
    pub timeout_ms: u64,
}

/// A resource that nobody has written yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// The Kubernetes user of the agent that would write it.
    pub written_by: String,
    pub name: String,
    pub resource: Unwritten,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unwritten {
    Isolation(IsolationSpec),
    Policy(PolicySpec),
}

/// What would become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Previewed {
    pub accepted: bool,
    /// The condition's reason, such as `WouldCutOperator`; empty when accepted.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    /// Devices that would have rules of it: for an Isolation the target and its peers.
    pub devices: usize,
    /// For an Isolation of pods: how they would stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsStanding>,
    /// For an Isolation of a user: how it would stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserStanding>,
}

/// Where one resource stands. For one that is gone, the points are those that had it, and
/// `programmed` says that none of the connected ones has it any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub uid: String,
    pub generation: i64,
    pub accepted: bool,
    /// The reason and words of the condition that says most.
    pub reason: String,
    pub message: String,
    /// Every connected enforcement point has read it back.
    pub programmed: bool,
    /// For an Isolation: the target itself has.
    #[serde(default)]
    pub self_programmed: Option<bool>,
    /// Enforcement points; of an Isolation the peers alone, without the target itself; of a user the devices.
    pub matched: usize,
    pub programmed_points: usize,
    /// Of these points, how many are not connected; of an Isolation the target itself included.
    pub offline: usize,
    #[serde(default)]
    pub connections_cut: u64,
    /// For an Isolation that is not gone: others of the same target, by namespace and name.
    #[serde(default)]
    pub still_isolated_by: Vec<String>,
    /// For an Isolation of pods that is not gone: how they stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsStanding>,
    /// For an Isolation of a user that is not gone: how it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserStanding>,
    /// For an Isolation that came into force lately: how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<Moments>,
}

/// When what happened on the way of an Isolation, in milliseconds before this answer: two processes
/// need no common clock for that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moments {
    /// The watch told of it.
    pub seen: f64,
    pub compiled: f64,
    /// The target's bundle was signed, and on its way.
    pub sent: f64,
    /// The target had read it back, and said so.
    pub acknowledged: f64,
    /// The last of the peers that have it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<f64>,
    /// What the target's own steps took, in milliseconds.
    pub on_device: DeviceSteps,
}

/// The steps of a device's agent, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSteps {
    pub verify: f64,
    pub persist: f64,
    pub apply: f64,
    pub cut: f64,
    pub read_back: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRequest {
    /// Devices to ask.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
    /// Names of pods whose nodes' agents to ask. Where neither is given, all of the tenant's devices that
    /// are connected are asked, and for all of its pods that something is in force for.
    #[serde(default)]
    pub pods: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    pub devices: Vec<DeviceReadBack>,
    #[serde(default)]
    pub pods: Vec<PodReadBack>,
}

/// One device's answer to being asked now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReadBack {
    pub device: DeviceId,
    pub connected: bool,
    /// The kernel holds what the agent says, and the agent says what the operator wants.
    pub matches: bool,
    /// Of that the first alone; none when it did not answer.
    #[serde(default)]
    pub kernel: Option<bool>,
    pub detail: String,
    pub counts: Vec<RuleCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCount {
    pub rule: String,
    pub packets: u64,
    pub bytes: u64,
    /// It would have decided, and did not: its policy observes.
    pub observing: bool,
}
