//! What the ledger finds out about requests and changes, for the audit log.

use jiff::Timestamp;

use super::records::{ObjectId, Request};

/// What has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Unexplained(Unexplained),
    Happened(Happened),
    NotSeen(NotSeen),
}

/// A change that no recorded request explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexplained {
    pub object: ObjectId,
    /// The newest generation that was seen.
    pub generation: i64,
    pub deleted: bool,
    /// It happened between these.
    pub from: Timestamp,
    pub to: Timestamp,
    pub cause: Cause,
}

/// A change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    pub object: ObjectId,
    /// For a deletion, None.
    pub generation: Option<i64>,
    /// One, or several that can't be told apart.
    pub requests: Vec<Request>,
    /// When a watch showed it.
    pub at: Timestamp,
}

/// A request that led to nothing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSeen {
    pub object: ObjectId,
    pub request: Request,
    pub why: &'static str,
}

/// Why nobody was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It is older than the record.
    BeforeTheRecord,
    /// No operator ran.
    Away,
    /// An operator ran, and was not told.
    NotTold,
}

impl Finding {
    pub fn uid(&self) -> &str {
        match self {
            Self::Unexplained(it) => &it.object.uid,
            Self::Happened(it) => &it.object.uid,
            Self::NotSeen(it) => &it.object.uid,
        }
    }
}
