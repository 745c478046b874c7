//! What enforcement points have acknowledged: the other half of every status.

use std::collections::{BTreeMap, BTreeSet};

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
}

/// One device, as far as the operator knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceApplied {
    /// Its stream is open.
    pub connected: bool,
    /// The resources of the state that it last read back.
    pub sources: BTreeSet<Source>,
    /// The hash of that state; empty before the first.
    pub state_hash: String,
    pub at: Option<Timestamp>,
    /// Why it refused what it was last sent, until it accepts something.
    pub refused: Option<String>,
    /// Connections it cut, by the UID of the Isolation that made it.
    pub connections_cut: BTreeMap<String, u64>,
}
