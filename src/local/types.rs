//! What goes over the Unix socket, as JSON. Paths:
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /v1/authenticate` [`Authenticate`] | [`Principal`], or [`Problem`] with 401 |
//! | `POST /v1/audit` an audit entry | [`Appended`] once it is durable |
//! | `GET /v1/audit?…` a search | a page of audit entries |
//! | `GET /v1/tenants/{tenant}/devices` | [`Vec<DeviceView>`] |
//! | `GET /v1/tenants/{tenant}/devices/{id}` | [`DeviceView`], or [`Problem`] with 404 |
//! | `GET /v1/tenants/{tenant}/isolations/{name}/settled?uid=…&generation=…&timeoutMs=…` | [`Standing`] as soon as every connected point has read it back, or as it is after the timeout |
//! | `GET /v1/tenants/{tenant}/policies/{name}/settled?…` | the same for a Policy |
//! | `POST /v1/tenants/{tenant}/verify` [`VerifyRequest`] | [`VerifyReport`], read back from each device now |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::api_key_scope::Limits;
use crate::api::{Access, TrustLevel};
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
    #[serde(default)]
    pub limits: Limits,
    /// Tools whose calls need a person's approval.
    #[serde(default)]
    pub needs_approval: Vec<String>,
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

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

/// A device as people and agents see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    pub id: DeviceId,
    pub tenant: String,
    pub tags: BTreeMap<String, String>,
    pub trust: TrustLevel,
    pub connected: bool,
    /// Every resource that should be in force on it is, read back.
    pub up_to_date: bool,
    pub addresses: Vec<String>,
    /// What the device says of itself.
    pub host_name: String,
    pub os: String,
    pub kernel: String,
    pub agent_version: String,
    pub enrolled_at: Timestamp,
    pub last_seen: Option<Timestamp>,
    /// Names of the Isolations that target it.
    pub isolated_by: Vec<String>,
    /// Names of the Policies that have rules on it.
    pub policies: Vec<String>,
}

/// Where one resource stands.
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
    pub matched: usize,
    pub programmed_points: usize,
    pub offline: usize,
    #[serde(default)]
    pub connections_cut: u64,
    /// For an Isolation that is gone: others of the same target, by name.
    #[serde(default)]
    pub still_isolated_by: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRequest {
    /// Devices to ask; empty means all of the tenant that are connected.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    pub devices: Vec<DeviceReadBack>,
}

/// One device's answer to being asked now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceReadBack {
    pub device: DeviceId,
    pub connected: bool,
    /// The kernel holds what the agent says, and the agent says what the operator wants.
    pub matches: bool,
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
