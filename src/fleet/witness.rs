//! What happens in the fleet that the audit log has to know, and who tells it.
//!
//! The fleet says it once, at the moment it happens, and never waits: a session must not stand still
//! because a disk does. What a full witness drops, it counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::domain::names::DeviceId;

/// Receives what happened. Must return at once.
pub trait Witness: Send + Sync {
    fn saw(&self, event: FleetEvent);
}

/// One thing that happened, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetEvent {
    pub at: Timestamp,
    /// `os:UID` of a person at the admin socket, `device:dev_…`, or `remote:ADDRESS` for one not known.
    pub who: String,
    /// Absent where no tenant is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(flatten)]
    pub what: Happening,
}

/// All text from devices is cleaned.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(
    tag = "what",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum Happening {
    JoinTokenCreated {
        token: String,
        tags: BTreeMap<String, String>,
        uses: u32,
        expires_at: Timestamp,
    },
    JoinTokenRevoked {
        token: String,
    },
    Enrolled {
        device: DeviceId,
        /// The join token, if it was one.
        #[serde(skip_serializing_if = "String::is_empty")]
        token: String,
        /// The node of the cluster, if it is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        host_name: String,
        tags: BTreeMap<String, String>,
    },
    EnrolmentRefused {
        /// As it was given, if it can be one.
        #[serde(skip_serializing_if = "String::is_empty")]
        token: String,
        reason: EnrolmentRefusal,
        /// In the words that the agent got, where it is a node's.
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    TagsChanged {
        device: DeviceId,
        tags: BTreeMap<String, String>,
    },
    DeviceRevoked {
        device: DeviceId,
    },
    /// A node that was revoked may enrol again.
    DeviceReadmitted {
        device: DeviceId,
        node: String,
    },
    /// Somebody with a certificate of ours that belongs to no device, or to one that was revoked.
    SessionRefused {
        fingerprint: String,
        /// The revoked device.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<DeviceId>,
    },
    BundleRefused {
        device: DeviceId,
        epoch: u64,
        revision: u64,
        reason: String,
        detail: String,
    },
    Tampered {
        device: DeviceId,
        description: String,
        repaired: bool,
        repair_us: u64,
    },
    /// A person told the operator that devices are ahead of its store.
    EpochAdvanced {
        epoch: u64,
    },
    /// A device applied a bundle of a later epoch than this operator's.
    DeviceAhead {
        device: DeviceId,
        device_epoch: u64,
        operator_epoch: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrolmentRefusal {
    /// No such token, or not its secret.
    NotAccepted,
    Expired,
    UsedUp,
    Revoked,
    BadRequest,
    /// This operator enrols no nodes.
    NodesNotEnrolled,
    /// The API server says that it is no token of an agent on a node.
    NodeTokenNotAccepted,
    /// The node was revoked, and nobody readmitted it.
    NodeRevoked,
}

/// A witness that hands events over to one task, in order.
pub struct Channel {
    sender: mpsc::Sender<FleetEvent>,
    dropped: AtomicU64,
}

impl Channel {
    /// The witness, and where its task takes the events from.
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<FleetEvent>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let dropped = AtomicU64::new(0);
        (Self { sender, dropped }, receiver)
    }

    /// Events that found the channel full or closed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Witness for Channel {
    fn saw(&self, event: FleetEvent) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_counts_what_it_drops_and_does_not_wait() {
        let (channel, mut receiver) = Channel::new(1);
        for token in ["a", "b", "c"] {
            channel.saw(FleetEvent {
                at: Timestamp::UNIX_EPOCH,
                who: "os:0".into(),
                tenant: Some("acme".into()),
                what: Happening::JoinTokenRevoked {
                    token: token.into(),
                },
            });
        }
        assert_eq!(channel.dropped(), 2);
        let first = serde_json::to_value(receiver.try_recv().unwrap()).unwrap();
        assert_eq!(
            first,
            serde_json::json!({
                "at": "1970-01-01T00:00:00Z", "who": "os:0", "tenant": "acme",
                "what": "join_token_revoked", "token": "a",
            })
        );
    }
}
