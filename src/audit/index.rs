//! The search index over the log: what it holds, what can be asked, and how it follows the log.
//!
//! Who implements [`AuditIndex`] knows SQL; this module doesn't. The index proves nothing and can be
//! thrown away: it is filled from the log's published entries, from where it stopped.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::log::Published;
use super::reader::LogReader;

/// The most records in a page.
pub const MAX_LIMIT: u64 = 500;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// One entry as the index keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexRecord {
    /// Its place in the log.
    pub index: u64,
    pub id: String,
    pub time: Timestamp,
    pub kind: String,
    pub tenant: String,
    /// Name and, where it is another, user of the actor.
    pub actor: String,
    pub actor_kind: String,
    pub tool: Option<String>,
    pub target: Option<String>,
    /// `done`, `refused`, `failed`.
    pub result: Option<String>,
    /// The entry as it was logged.
    pub json: String,
}

impl IndexRecord {
    /// What is indexed of an entry's bytes. An entry of a kind that this version doesn't know is
    /// found by its index and text.
    pub fn of(index: u64, bytes: &[u8]) -> Self {
        let json = String::from_utf8_lossy(bytes).into_owned();
        let Ok(entry) = Entry::decode(bytes) else {
            return Self {
                index,
                id: String::new(),
                time: Timestamp::UNIX_EPOCH,
                kind: "unknown".into(),
                tenant: String::new(),
                actor: String::new(),
                actor_kind: "unknown".into(),
                tool: None,
                target: None,
                result: None,
                json,
            };
        };
        let actor = match &entry.actor.user {
            Some(user) => format!("{} {user}", entry.actor.name),
            None => entry.actor.name.clone(),
        };
        Self {
            index,
            time: entry.time,
            kind: entry.body.kind().as_str().into(),
            actor,
            actor_kind: entry.actor.kind.as_str().into(),
            tool: entry.body.tool().map(str::to_owned),
            target: entry.body.target(),
            result: entry.body.result().map(str::to_owned),
            id: entry.id,
            tenant: entry.tenant,
            json,
        }
    }
}

/// All that is given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditQuery {
    pub since: Option<Timestamp>,
    /// Not included.
    pub until: Option<Timestamp>,
    pub tenant: Option<String>,
    pub kind: Option<String>,
    pub tool: Option<String>,
    /// Occurs in the actor's name or user, whatever its case.
    pub actor: Option<String>,
    /// Exactly what the entry is about, such as a device's id.
    pub target: Option<String>,
    pub result: Option<String>,
    /// Occurs in the entry, whatever its case.
    pub text: Option<String>,
    /// Entries below this index: the cursor of the page before.
    pub before: Option<u64>,
    /// Records wanted; at most [`MAX_LIMIT`], which is also what 0 means.
    pub limit: u64,
}

impl AuditQuery {
    pub fn page_size(&self) -> u64 {
        match self.limit {
            0 => MAX_LIMIT,
            limit => limit.min(MAX_LIMIT),
        }
    }
}

/// Records, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditPage {
    pub records: Vec<IndexRecord>,
    /// There are more below this index.
    pub next: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("the audit log's index can't be used: {0}")]
pub struct IndexError(pub String);

/// Keeps records and answers queries.
#[async_trait]
pub trait AuditIndex: Send + Sync {
    /// Adds records whose indexes follow on those that are there. All of them or none.
    async fn record(&self, batch: &[IndexRecord]) -> Result<(), IndexError>;

    async fn search(&self, query: &AuditQuery) -> Result<AuditPage, IndexError>;

    /// The newest record.
    async fn last(&self) -> Result<Option<IndexRecord>, IndexError>;

    /// Forgets everything.
    async fn clear(&self) -> Result<(), IndexError>;
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("the audit log can't be read: {0}")]
    Log(#[from] io::Error),
}

/// Indexes what was published and what will be, until stopped or the log is closed. An index that
/// is of another log, or beyond this one, is filled anew.
pub async fn follow(
    reader: LogReader,
    mut published: watch::Receiver<Published>,
    index: &dyn AuditIndex,
    stop: CancellationToken,
) {
    let mut next = None;
    let mut retry = FIRST_RETRY;
    loop {
        let size = published.borrow_and_update().size;
        let wait = match catch_up(&reader, index, &mut next, size).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                None
            }
            Err(error) => {
                tracing::warn!(%error, "audit index: will try again");
                let wait = retry.mul_f64(rand::random_range(0.5..1.0));
                retry = (retry * 2).min(LAST_RETRY);
                // Whatever failed, what the index holds is asked again.
                next = None;
                Some(wait)
            }
        };
        let more = async {
            match wait {
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    true
                }
                None => published.changed().await.is_ok(),
            }
        };
        tokio::select! {
            more = more => if !more { return },
            () = stop.cancelled() => return,
        }
    }
}

async fn catch_up(
    reader: &LogReader,
    index: &dyn AuditIndex,
    next: &mut Option<u64>,
    size: u64,
) -> Result<(), FollowError> {
    let mut from = match *next {
        Some(next) => next,
        None => first_missing(reader, index, size).await?,
    };
    while from < size {
        let reader = reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.entries(from..size));
        let entries = read.await.map_err(io::Error::other).flatten()?;
        let records: Vec<IndexRecord> = (from..)
            .zip(&entries)
            .map(|(index, entry)| IndexRecord::of(index, entry))
            .collect();
        index.record(&records).await?;
        from += records.len() as u64;
        *next = Some(from);
    }
    *next = Some(from);
    Ok(())
}

/// Where indexing goes on. The newest record must be the log's entry of that index.
async fn first_missing(
    reader: &LogReader,
    index: &dyn AuditIndex,
    size: u64,
) -> Result<u64, FollowError> {
    let Some(last) = index.last().await? else {
        return Ok(0);
    };
    if last.index < size {
        let reader = reader.clone();
        let range = last.index..last.index + 1;
        let read = tokio::task::spawn_blocking(move || reader.entries(range));
        let entries = read.await.map_err(io::Error::other).flatten()?;
        if entries.first().map(Vec::as_slice) == Some(last.json.as_bytes()) {
            return Ok(last.index + 1);
        }
    }
    tracing::warn!("audit index: it is of another log than this one and is filled anew");
    index.clear().await?;
    Ok(0)
}
