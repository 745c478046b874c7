//! What the store keeps of the watched objects, so that a change while no operator ran is seen as one.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::entry::Actor;
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

/// One life of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    pub uid: String,
    pub kind: Kind,
    pub key: ObjectKey,
}

/// How far one object is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenObject {
    pub object: ObjectId,
    /// The newest generation that a watch showed; 0 before it showed any.
    pub seen: i64,
    /// Recorded requests of which it is not in the audit log yet what became of them, oldest first.
    pub asked: Vec<Request>,
}

/// A request that is in the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Of its entry.
    pub id: String,
    pub actor: Actor,
    pub user: String,
    /// `create`, `update`, `delete`.
    pub verb: String,
    pub wants: Wants,
}

/// What a request does to its object, if it is not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// The object at this generation, with a spec of this digest where one could be made.
    Written {
        generation: i64,
        spec: Option<String>,
    },
    Deleted {
        /// It was seen to be marked for deletion, which a finalizer may keep it from.
        marked: bool,
        /// The audit log has that it was not gone in time.
        told: bool,
    },
}

/// Everything that was known, and until when.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub objects: Vec<SeenObject>,
    /// None: nothing was ever watched.
    pub watched_until: Option<Timestamp>,
}

#[async_trait]
pub trait SeenStore: Send + Sync + 'static {
    async fn memory(&self) -> anyhow::Result<Memory>;

    /// Writes and removes, in one transaction.
    async fn remember(
        &self,
        put: &[SeenObject],
        remove: &[String],
        watched_until: Timestamp,
    ) -> anyhow::Result<()>;
}
