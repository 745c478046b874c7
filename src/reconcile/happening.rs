//! What the loop and the status writer see happen and the audit log has to know.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::holds::Hold;
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::world::HeldIsolation;

/// One thing that happened, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    pub at: Timestamp,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    LeadershipGained {
        epoch: u64,
    },
    LeadershipLost,
    /// The isolated device itself read it back, or the agents of all the isolated pods' nodes, or all that can
    /// refuse the suspended user.
    Isolated(Isolated),
    /// Every connected peer drops the device's addresses.
    PeersComplete {
        isolation: Named,
        device: DeviceId,
        peers: usize,
        milliseconds: u64,
    },
    /// It was deleted and is not in force any more.
    Released {
        isolation: Named,
        device: Option<DeviceId>,
    },
    /// Its time is over.
    Expired {
        isolation: Named,
        device: Option<DeviceId>,
    },
    /// The labels of a pod without an agent were taken away.
    PodStripped(PodChange),
    /// A pod whose labels were taken away was deleted, its isolation being over.
    PodDeleted(PodChange),
    HoldOpened {
        hold: Hold,
        isolations: Vec<HeldIsolation>,
    },
    HoldConfirmed {
        hold: Hold,
        isolations: Vec<HeldIsolation>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Isolated {
    pub isolation: Named,
    /// None for pods and users.
    pub device: Option<DeviceId>,
    /// The first of the isolated pods, as many as an entry names.
    pub pods: Vec<ObjectKey>,
    /// `user/…`, of a suspended user.
    pub user: Option<String>,
    /// From the watch event to the read-back.
    pub milliseconds: u64,
    pub connections_cut: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PodChange {
    pub pod: ObjectKey,
    pub uid: String,
    /// What replaced it.
    pub deployment: String,
    /// Names of the Isolations that it is under, or was, by UID.
    pub isolations: BTreeMap<String, String>,
}

/// An Isolation, and the agent that wrote it, if one did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub key: ObjectKey,
    pub uid: String,
    pub generation: i64,
    pub written_by: Option<String>,
}

impl Named {
    pub fn of(held: &HeldIsolation) -> Self {
        Self {
            key: held.key.clone(),
            uid: held.isolation.uid.clone(),
            generation: held.isolation.generation,
            written_by: held.isolation.written_by.clone(),
        }
    }
}
