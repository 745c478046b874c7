//! What the store keeps of the watched objects, so that a change while no operator ran is seen as one.

use async_trait::async_trait;
use jiff::Timestamp;

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
    /// Up to this generation a recorded request explains each.
    pub explained: i64,
    /// Somebody was recorded who asked for its deletion.
    pub deletion_asked: bool,
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
