//! Watches: one task a kind turns the API server's events into [`Change`]s on one channel.
//!
//! Objects are read as plain JSON and narrowed one by one, so that a malformed one is reported and
//! skipped and the watch goes on. A list that can't be had (a missing CRD, a missing right) is
//! [`Change::Lost`], never an empty list. Nothing is decided here: the loop owns the World, the
//! appliers own what they made.

pub mod cluster;
mod narrow;
pub mod pod;
mod stream;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

pub use narrow::{Watched, narrow};
pub use stream::Watch;

use crate::api::stamps;
use crate::domain::names::ObjectKey;

/// The watched kinds: of what decides what is in force, and of what the operator makes. What others make
/// of the same kind is watched apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Policy,
    Isolation,
    ApiKeyScope,
    NetworkPolicy,
    RoleBinding,
    ServiceAccount,
    Holds,
    SuspendedUsers,
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    Node,
    OthersNetworkPolicy,
    ReplicaSet,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "Policy",
            Self::Isolation => "Isolation",
            Self::ApiKeyScope => "ApiKeyScope",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::RoleBinding => "RoleBinding",
            Self::ServiceAccount => "ServiceAccount",
            Self::Holds => "ConfigMap",
            Self::SuspendedUsers => "ConfigMap of suspended users",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::OthersNetworkPolicy => "NetworkPolicy of others",
            Self::ReplicaSet => "ReplicaSet",
        }
    }
}

/// What one watch saw.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// An object is there, or is different.
    Apply(ObjectKey, T),
    /// An object is there and can't be understood. What was known of it stays.
    Malformed(Malformed),
    /// An object is gone.
    Delete(ObjectKey),
    /// The whole list: what is not in it is gone. `malformed` objects are there all the same.
    Reset {
        objects: BTreeMap<ObjectKey, T>,
        malformed: Vec<Malformed>,
    },
    /// The list can't be had: nothing is known to be gone, and nothing known to be there.
    Lost { why: String },
}

/// An object whose content this version does not understand.
#[derive(Clone, Debug, PartialEq)]
pub struct Malformed {
    pub key: ObjectKey,
    pub uid: String,
    pub generation: i64,
    pub resource_version: String,
    /// As it is stored.
    pub status: Option<Value>,
    pub why: String,
}

/// A watched object as it came: its metadata and the rest as JSON.
#[derive(Clone, Debug)]
pub struct Raw {
    pub metadata: ObjectMeta,
    pub data: Value,
}

/// Namespace and name of an object; cluster-scoped objects have an empty namespace.
pub fn key_of(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// Whether the operator made the object. Our label alone could be anybody's; our field manager's entry comes only from our writes.
pub fn is_ours(metadata: &ObjectMeta, manager: &str) -> bool {
    let labelled = metadata.labels.as_ref().is_some_and(|labels| {
        labels
            .get(stamps::MANAGED_BY)
            .is_some_and(|value| value == stamps::MANAGED_BY_SEAWALL)
    });
    let mut entries = metadata.managed_fields.iter().flatten();
    labelled
        && entries.any(|entry| {
            entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
        })
}
