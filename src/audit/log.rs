//! The audit log as the rest of the operator sees it: append an entry, and it is durable.
//!
//! Owns the queue in front of the one [`Writer`] and the times of committing and publishing. An
//! [`AuditLog`] is a cheap handle; [`LogTask::run`] is the task behind it, which its spawner joins.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::entry::{EncodeError, Entry};
use super::keys::LogKeys;
use super::reader::LogReader;
pub use super::recover::OpenError;
pub use super::writer::Opened;
use super::writer::{CommitFailure, Writer};

/// Entries in one commit.
const BATCH_ENTRIES: usize = 512;
/// Bytes in one commit, about.
const BATCH_BYTES: usize = 1 << 20;
/// How long an entry may wait to become durable.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

pub struct Options {
    pub directory: PathBuf,
    pub keys: LogKeys,
    /// How long after a commit its tiles and checkpoint are written; commits in between share one.
    pub publish_delay: Duration,
    /// Appends that may wait for a commit.
    pub queue: usize,
}

impl Options {
    pub fn new(directory: impl Into<PathBuf>, keys: LogKeys) -> Self {
        Self {
            directory: directory.into(),
            keys,
            publish_delay: Duration::from_millis(50),
            queue: 1024,
        }
    }
}

/// An entry that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log.
    pub index: u64,
    /// Its id, `aud_…`.
    pub id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the entry was not logged: {0}")]
    Entry(#[from] EncodeError),
    #[error(
        "the entry was not logged: the audit log can't be written: {0}. Check the volume's \
             space and health; nothing that must be logged is done until it can be"
    )]
    Io(String),
    #[error("the entry was not confirmed within {} s: the audit log doesn't keep up; check the \
             speed of its volume", APPEND_TIMEOUT.as_secs())]
    Slow,
    #[error("the entry was not logged: the audit log is closed, the process is ending")]
    Closed,
}

/// How far the tiles and the checkpoint are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Entries in the published checkpoint.
    pub size: u64,
    /// Why the newest entries, although durable, could not be published yet.
    pub failing: Option<String>,
}

/// Appends to the log. Clones share one queue.
#[derive(Debug, Clone)]
pub struct AuditLog {
    requests: mpsc::Sender<Request>,
    published: watch::Receiver<Published>,
    directory: Arc<Path>,
}

#[derive(Debug)]
enum Request {
    Append {
        bytes: Vec<u8>,
        reply: oneshot::Sender<Result<u64, AppendError>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

impl AuditLog {
    /// Takes the directory, recovers what a crash left, and publishes it. Reads and writes files;
    /// nothing can be appended until the returned task runs.
    pub fn open(options: Options) -> Result<(Self, LogTask, Opened), OpenError> {
        let (writer, opened) = Writer::open(&options.directory, options.keys)?;
        let (log, task) = Self::over(
            writer,
            options.directory,
            options.publish_delay,
            options.queue,
        );
        Ok((log, task, opened))
    }

    fn over(
        writer: Writer,
        directory: PathBuf,
        publish_delay: Duration,
        queue: usize,
    ) -> (Self, LogTask) {
        let (requests, received) = mpsc::channel(queue);
        let (publish, published) = watch::channel(Published {
            size: writer.size(),
            failing: None,
        });
        let log = Self {
            requests,
            published,
            directory: directory.into(),
        };
        let task = LogTask {
            writer: Some(writer),
            requests: received,
            published: publish,
            publish_delay,
            publish_at: None,
            retry: FIRST_RETRY,
        };
        (log, task)
    }

    /// Returns once the entry is durable. After [`AppendError::Slow`] it may be in the log or not.
    pub async fn append(&self, entry: &Entry) -> Result<Appended, AppendError> {
        let bytes = entry.encode()?;
        let index = self.append_bytes(bytes).await?;
        Ok(Appended {
            index,
            id: entry.id.clone(),
        })
    }

    async fn append_bytes(&self, bytes: Vec<u8>) -> Result<u64, AppendError> {
        let (reply, answer) = oneshot::channel();
        let appended = async {
            self.requests
                .send(Request::Append { bytes, reply })
                .await
                .map_err(|_| AppendError::Closed)?;
            answer.await.map_err(|_| AppendError::Closed)?
        };
        tokio::time::timeout(APPEND_TIMEOUT, appended)
            .await
            .map_err(|_| AppendError::Slow)?
    }

    /// Commits what was queued before, publishes, and ends the task. Later appends are refused.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.requests.send(Request::Close { reply }).await.is_ok() {
            // An error means that the task has ended, which is what was wanted.
            let _ = closed.await;
        }
    }

    /// Changes each time a checkpoint was published or failed to be.
    pub fn published(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Reads entries and proofs of the published part.
    pub fn reader(&self) -> LogReader {
        LogReader::new(&*self.directory)
    }
}

/// Why the log can't go on in this process.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {what}: {error}; restart to recover it from its journal")]
pub struct LogFailure {
    what: &'static str,
    error: io::Error,
}

/// The task that commits and publishes. It ends after [`AuditLog::close`], when all handles are
/// gone, or when the log must be recovered.
pub struct LogTask {
    /// Away only while a blocking thread works with it.
    writer: Option<Writer>,
    requests: mpsc::Receiver<Request>,
    published: watch::Sender<Published>,
    publish_delay: Duration,
    publish_at: Option<Instant>,
    /// The wait after the next failure to publish.
    retry: Duration,
}

/// What appenders sent, and where their answers go.
#[derive(Default)]
struct Batch {
    entries: Vec<Vec<u8>>,
    replies: Vec<oneshot::Sender<Result<u64, AppendError>>>,
    bytes: usize,
    close: Option<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, request: Request) {
        match request {
            Request::Append { bytes, reply } => {
                self.bytes += bytes.len();
                self.entries.push(bytes);
                self.replies.push(reply);
            }
            Request::Close { reply } => self.close = Some(reply),
        }
    }

    fn is_full(&self) -> bool {
        self.close.is_some() || self.entries.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES
    }
}

impl LogTask {
    pub async fn run(mut self) -> Result<(), LogFailure> {
        let closed = loop {
            let due = self.publish_at.unwrap_or_else(Instant::now);
            let request = tokio::select! {
                request = self.requests.recv() => request,
                () = tokio::time::sleep_until(due), if self.publish_at.is_some() => {
                    self.publish().await?;
                    continue;
                }
            };
            let Some(first) = request else { break None };
            let close = self.commit_from(first).await?;
            if close.is_some() {
                break close;
            }
            // Under steady load the timer alone might never win.
            if self.publish_at.is_some_and(|at| at <= Instant::now()) {
                self.publish().await?;
            }
        };
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            self.commit_from(request).await?;
        }
        if let Some(writer) = self.writer.take() {
            let size = writer.size();
            let ended = tokio::task::spawn_blocking(move || writer.close()).await;
            ended
                .map_err(io::Error::other)
                .flatten()
                .map_err(|error| LogFailure {
                    what: "could not be published completely at the end",
                    error,
                })?;
            self.published.send_replace(Published {
                size,
                failing: None,
            });
        }
        if let Some(reply) = closed {
            let _ = reply.send(());
        }
        Ok(())
    }

    /// Commits this request and those that wait behind it, up to a batch.
    async fn commit_from(
        &mut self,
        first: Request,
    ) -> Result<Option<oneshot::Sender<()>>, LogFailure> {
        let mut batch = Batch::default();
        batch.add(first);
        while !batch.is_full() {
            let Ok(request) = self.requests.try_recv() else {
                break;
            };
            batch.add(request);
        }
        let Batch {
            entries,
            replies,
            close,
            ..
        } = batch;
        if entries.is_empty() {
            return Ok(close);
        }
        let committed = self
            .with_writer(move |writer| writer.commit(entries.iter().map(Vec::as_slice)))
            .await?;
        match committed {
            Ok(first) => {
                for (index, reply) in (first..).zip(replies) {
                    // An appender that gave up doesn't hear; its entry is in the log.
                    let _ = reply.send(Ok(index));
                }
                self.publish_at
                    .get_or_insert_with(|| Instant::now() + self.publish_delay);
                Ok(close)
            }
            Err(CommitFailure { error, fatal }) => {
                for reply in replies {
                    let _ = reply.send(Err(AppendError::Io(error.to_string())));
                }
                tracing::error!(%error, fatal, "audit log: a commit failed");
                if fatal {
                    return Err(LogFailure {
                        what: "can't tell what of its last entries is on the disk",
                        error,
                    });
                }
                Ok(close)
            }
        }
    }

    async fn publish(&mut self) -> Result<(), LogFailure> {
        let idle = self.requests.is_empty();
        let (size, outcome) = self
            .with_writer(move |writer| {
                let outcome = writer.publish().and_then(|()| {
                    if writer.wants_settling(idle) {
                        writer.settle()
                    } else {
                        Ok(())
                    }
                });
                (writer.size(), outcome)
            })
            .await?;
        match outcome {
            Ok(()) => {
                self.publish_at = None;
                self.retry = FIRST_RETRY;
                self.published.send_replace(Published {
                    size,
                    failing: None,
                });
            }
            Err(error) => {
                tracing::error!(%error, "audit log: tiles or checkpoint could not be written");
                let failing = error.to_string();
                self.published
                    .send_modify(|published| published.failing = Some(failing));
                let jitter = rand::random_range(0.5..1.0);
                self.publish_at = Some(Instant::now() + self.retry.mul_f64(jitter));
                self.retry = (self.retry * 2).min(LAST_RETRY);
            }
        }
        Ok(())
    }

    /// Runs file work on a blocking thread.
    async fn with_writer<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Writer) -> T + Send + 'static,
    ) -> Result<T, LogFailure> {
        let mut writer = self.writer.take().expect("the writer is at hand");
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut writer);
            (writer, result)
        });
        let (writer, result) = done.await.map_err(|error| LogFailure {
            what: "stopped while writing",
            error: io::Error::other(error),
        })?;
        self.writer = Some(writer);
        Ok(result)
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
