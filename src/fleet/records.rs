//! What the fleet keeps in the store, and the trait through which it does. The implementation is in
//! `store`, the only place that knows SQL.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::clean::DeviceFacts;
use crate::api::TrustLevel;
use crate::domain::names::DeviceId;

/// SHA-256 of a device's certificate, by which every session is recognised.
pub type Fingerprint = [u8; 32];

/// An enrolled device. Times are whole milliseconds, as they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceRecord {
    pub id: DeviceId,
    pub tenant: String,
    pub tags: BTreeMap<String, String>,
    pub trust: TrustLevel,
    pub fingerprint: Fingerprint,
    pub enrolled_at: Timestamp,
    /// The join token that it came with; empty of a node.
    pub token: String,
    /// The node of the cluster that it is, as the API server said.
    pub node: Option<String>,
    pub revoked_at: Option<Timestamp>,
    pub standing: DeviceStanding,
}

/// The part of a device's record that its own messages change; written in batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceStanding {
    pub facts: DeviceFacts,
    /// Each address with when the device first claimed it, since it last did not.
    pub addresses: BTreeMap<IpAddr, Timestamp>,
    /// Where its stream came from when it was last not isolated; at first, its enrolment.
    pub connects_from: Option<IpAddr>,
    pub last_seen: Option<Timestamp>,
    /// The state that it last read back.
    pub applied: Option<AppliedState>,
    /// Connections cut, by the UID of the Isolation that made it.
    pub connections_cut: BTreeMap<String, u64>,
}

/// A state that a device acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedState {
    pub epoch: u64,
    pub revision: u64,
    pub state_hash: String,
    pub at: Timestamp,
    /// UIDs of the Isolations in it.
    pub isolations: BTreeSet<String>,
}

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTokenRecord {
    pub id: String,
    pub secret_sha256: [u8; 32],
    pub tenant: String,
    /// Devices that enrol with it get these.
    pub tags: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Timestamp,
    pub uses_left: u32,
    pub revoked_at: Option<Timestamp>,
}

/// How an attempt to use up one use of a token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// One use is gone, and the device is stored.
    Taken,
    /// Another took the last use, or the token expired or was revoked in between; nothing changed.
    Lost,
}

/// The fleet's tables. Each method is one transaction.
#[async_trait]
pub trait DeviceStore: Send + Sync {
    /// Every device that ever enrolled, revoked ones included.
    async fn devices(&self) -> anyhow::Result<Vec<DeviceRecord>>;

    /// Takes one use of the token, unless it is used up, expired at `device.enrolled_at` or revoked,
    /// and stores the device with it.
    async fn enrol(&self, device: &DeviceRecord) -> anyhow::Result<TokenUse>;

    /// The device of the node, revoked or not.
    async fn of_node(&self, node: &str) -> anyhow::Result<Option<DeviceRecord>>;

    /// Stores a node's device.
    async fn insert_node(&self, device: &DeviceRecord) -> anyhow::Result<()>;

    /// A device has another certificate from here on.
    async fn renew(
        &self,
        device: &DeviceId,
        fingerprint: Fingerprint,
        at: Timestamp,
    ) -> anyhow::Result<()>;

    /// Stores what devices said. Unknown devices are skipped.
    async fn save_standings(&self, standings: &[(DeviceId, DeviceStanding)]) -> anyhow::Result<()>;

    async fn set_tags(
        &self,
        device: &DeviceId,
        tags: &BTreeMap<String, String>,
    ) -> anyhow::Result<()>;

    async fn revoke_device(&self, device: &DeviceId, at: Timestamp) -> anyhow::Result<()>;

    /// It is no longer revoked, and its certificate is another.
    async fn readmit(&self, device: &DeviceId, fingerprint: Fingerprint) -> anyhow::Result<()>;

    async fn create_join_token(&self, token: &JoinTokenRecord) -> anyhow::Result<()>;

    async fn join_token(&self, id: &str) -> anyhow::Result<Option<JoinTokenRecord>>;

    /// Newest first.
    async fn join_tokens(&self) -> anyhow::Result<Vec<JoinTokenRecord>>;

    /// Whether there is such a token.
    async fn revoke_join_token(&self, id: &str, at: Timestamp) -> anyhow::Result<bool>;

    /// The epoch of the last leadership; 0 before the first.
    async fn epoch(&self) -> anyhow::Result<u64>;

    /// Raises the epoch above both itself and `beyond`, and answers with it.
    async fn next_epoch(&self, beyond: u64) -> anyhow::Result<u64>;
}

/// Now, in the precision of the store.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
