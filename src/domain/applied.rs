//! What enforcement points have acknowledged: the other half of every status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::enforcement::Source;
use super::names::{DeviceId, ObjectKey};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    pub devices: BTreeMap<DeviceId, DeviceApplied>,
    /// NetworkPolicies that are stored in the API server as compiled.
    pub network_policies: BTreeSet<ObjectKey>,
    /// Scopes whose ServiceAccount and binding are as compiled.
    pub access: BTreeSet<ObjectKey>,
    /// Why a NetworkPolicy is not stored, by its key.
    pub network_policy_obstacles: BTreeMap<ObjectKey, Obstacle>,
    /// Why a scope's access is not bound, by the scope's key.
    pub access_obstacles: BTreeMap<ObjectKey, Obstacle>,
}

/// What stands in the way of an object in the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub kind: ObstacleKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// Somebody else's object has the name.
    Conflict,
    /// The API server refused it, or did not answer; it is tried again.
    Failed,
}

impl ObstacleKind {
    /// The reason of a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::Failed => "WriteFailed",
        }
    }
}

/// One device, as far as the operator knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceApplied {
    /// Its stream is open.
    pub connected: bool,
    /// The resources of the state that it last read back.
    pub sources: Arc<BTreeSet<Source>>,
    /// The hash of that state; empty before the first.
    pub state_hash: String,
    pub at: Option<Timestamp>,
    /// Why it refused what it was last sent, until it accepts something.
    pub refused: Option<String>,
    /// Connections it cut, by the UID of the Isolation that made it.
    pub connections_cut: BTreeMap<String, u64>,
}
