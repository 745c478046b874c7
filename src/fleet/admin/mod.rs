//! The operator's admin socket: what a person's `seawall fleet` asks of the operator.
//!
//! A Unix socket that only the operator's own user can open (mode 0600), so whoever speaks on it may
//! already act as the operator: `kubectl exec deploy/seawall -c operator -- seawall fleet list` is guarded
//! by the right to exec. Each change is told to the witness with the caller's user id.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/devices?tenant=…` | [`Vec<DeviceView>`](crate::local::types::DeviceView) |
//! | `GET /v1/devices/{id}` | [`DeviceDetail`] |
//! | `POST /v1/devices/{id}/tags` [`Tagging`] | the tags as they are then |
//! | `POST /v1/devices/{id}/revoke?release=…` | 204; 409 for one that is isolated, unless `release=true` |
//! | `POST /v1/nodes/{node}/readmit` | the id of its device |
//! | `GET /v1/join-tokens?tenant=…` | [`Vec<JoinTokenView>`] |
//! | `POST /v1/join-tokens` [`JoinTokenRequest`] | [`NewToken`] |
//! | `POST /v1/join-tokens/{id}/revoke` | 204 |
//! | `POST /v1/epoch` [`AdvanceEpoch`] | [`Epoch`] |
//!
//! Errors are [`Problem`](crate::local::types::Problem)s.

pub mod client;
mod router;
pub mod socket;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::records::JoinTokenRecord;
use crate::local::types::{DeviceView, RuleCount};

pub use router::router;

/// Where the socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/seawall/admin.sock";

/// One device, with what is in force on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceDetail {
    #[serde(flatten)]
    pub view: DeviceView,
    /// Hash of the state it last read back; empty before the first.
    pub state_hash: String,
    pub applied_at: Option<Timestamp>,
    /// `Isolation acme/incident-7`, …: what that state is made of, where it is known.
    pub in_force: Vec<String>,
    /// Why it refused what it was last sent.
    pub refused: Option<String>,
    /// As of its last heartbeat.
    pub counts: Vec<RuleCount>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tagging {
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    #[serde(default)]
    pub remove: BTreeSet<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinTokenRequest {
    pub tenant: String,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    pub uses: u32,
    pub ttl_seconds: u64,
}

/// The only time that a token's text is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewToken {
    #[serde(flatten)]
    pub view: JoinTokenView,
    pub token: String,
}

/// A join token without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenView {
    pub id: String,
    pub tenant: String,
    pub tags: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Timestamp,
    pub uses_left: u32,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvanceEpoch {
    pub beyond: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub epoch: u64,
}

impl From<JoinTokenRecord> for JoinTokenView {
    fn from(record: JoinTokenRecord) -> Self {
        let JoinTokenRecord {
            id,
            secret_sha256: _,
            tenant,
            tags,
            created_at,
            created_by,
            expires_at,
            uses_left,
            revoked_at,
        } = record;
        Self {
            id,
            tenant,
            tags,
            created_at,
            created_by,
            expires_at,
            uses_left,
            revoked_at,
        }
    }
}

#[cfg(test)]
mod tests;
