//! The task that writes what was asked, and calls a gap what nobody asked for.
//!
//! Three loops that don't wait for each other: requests to the audit log; changes against requests; gaps to
//! the audit log, tried again until they are in it. An audit log that is away costs records, which become
//! gaps when it is back; it never costs a change, nor a turn of the operator's loop.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ledger::{Cause, Ledger, Unexplained};
use super::observer::Observation;
use super::records::SeenStore;
use super::review::{Asked, Explains};
use super::{Counts, Journal};
use crate::audit::entry::{Actor, ActorKind, Body, Entry, Gap, ObjectRef};
use crate::backoff::Backoff;

/// Requests that share one wait for the disk.
const BATCH: usize = 64;
/// Objects that one gap names; an entry has 60,000 bytes.
const NAMED: usize = 100;
/// Gaps that wait for the audit log.
const GAPS: usize = 256;
/// How long changes of what is known may gather before they are written down.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is written down until when was watched, though nothing changed.
const QUIET: Duration = Duration::from_secs(30);

pub struct Witness {
    journal: Arc<dyn Journal>,
    store: Arc<dyn SeenStore>,
    reviews: mpsc::Receiver<Asked>,
    observations: mpsc::Receiver<Observation>,
    lost: Arc<AtomicBool>,
    system_namespace: String,
    counts: Counts,
}

impl Witness {
    pub(super) fn new(
        journal: Arc<dyn Journal>,
        store: Arc<dyn SeenStore>,
        reviews: mpsc::Receiver<Asked>,
        observations: mpsc::Receiver<Observation>,
        lost: Arc<AtomicBool>,
        system_namespace: &str,
        counts: Counts,
    ) -> Self {
        Self {
            journal,
            store,
            reviews,
            observations,
            lost,
            system_namespace: system_namespace.to_owned(),
            counts,
        }
    }

    /// Until `stop`; what was told before is still written. Fails if the store can't be read.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let memory = self.store.memory().await?;
        let (explain, explained) = mpsc::channel(BATCH);
        let (tell, gaps) = mpsc::channel(GAPS);
        let (settle, settled) = mpsc::channel(GAPS);
        let judging = Judging {
            ledger: Ledger::restore(memory, Timestamp::now()),
            store: self.store,
            gaps: tell,
            pending: VecDeque::new(),
            lost: self.lost,
            system_namespace: self.system_namespace,
            counts: self.counts.clone(),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
        };
        let writing = write_reviews(
            self.journal.clone(),
            self.reviews,
            explain,
            self.counts,
            stop.clone(),
        );
        let telling = write_gaps(self.journal, gaps, settle, stop.clone());
        let heard = Heard {
            observations: self.observations,
            explained,
            settled,
        };
        tokio::join!(writing, telling, judging.run(heard, stop));
        Ok(())
    }
}

async fn write_reviews(
    journal: Arc<dyn Journal>,
    mut reviews: mpsc::Receiver<Asked>,
    explain: mpsc::Sender<Explains>,
    counts: Counts,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            biased;
            received = reviews.recv_many(&mut batch, BATCH) => received,
            () = stop.cancelled() => 0,
        };
        if received == 0 {
            return;
        }
        let appends = batch.iter().map(|asked| journal.append(&asked.entry));
        let written = join_all(appends).await;
        for (asked, result) in batch.drain(..).zip(written) {
            match result {
                Ok(()) => {
                    counts.count("recorded");
                    if let Some(explains) = asked.explains {
                        // The other end goes only when everything ends.
                        let _ = explain.send(explains).await;
                    }
                }
                Err(error) => {
                    counts.count("failed");
                    warn!(
                        error = format!("{error:#}"),
                        "who asked for a change was not logged"
                    );
                }
            }
        }
    }
}

/// A gap on its way to the audit log, and what it is about.
struct Telling {
    entry: Entry,
    unexplained: Vec<Unexplained>,
}

async fn write_gaps(
    journal: Arc<dyn Journal>,
    mut gaps: mpsc::Receiver<Telling>,
    settle: mpsc::Sender<Vec<Unexplained>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    // Ends when the judge says that there are no more, which is at `stop`.
    while let Some(telling) = gaps.recv().await {
        while let Err(error) = journal.append(&telling.entry).await {
            warn!(error = format!("{error:#}"), "a gap was not logged");
            let pause = tokio::time::sleep(backoff.pause());
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
        backoff.reset();
        // The other end goes only when everything ends.
        let _ = settle.send(telling.unexplained).await;
    }
}

/// What the judge listens to.
struct Heard {
    observations: mpsc::Receiver<Observation>,
    explained: mpsc::Receiver<Explains>,
    settled: mpsc::Receiver<Vec<Unexplained>>,
}

/// Changes against requests.
struct Judging {
    ledger: Ledger,
    store: Arc<dyn SeenStore>,
    gaps: mpsc::Sender<Telling>,
    /// Gaps that found no room yet.
    pending: VecDeque<Telling>,
    /// More happened than could be taken in.
    lost: Arc<AtomicBool>,
    system_namespace: String,
    counts: Counts,
    backoff: Backoff,
}

impl Judging {
    async fn run(mut self, mut heard: Heard, stop: CancellationToken) {
        let mut save_at = Instant::now() + QUIET;
        loop {
            let due = self.next_due(save_at);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(explains) = heard.explained.recv() => {
                    self.ledger.recorded(explains, Timestamp::now());
                }
                Some(told) = heard.settled.recv() => self.settle(&told),
                Some(observation) = heard.observations.recv() => self.observe(observation),
                () = sleep_until(due) => {}
            }
            self.judge();
            if self.ledger.has_changes() {
                save_at = save_at.min(Instant::now() + GATHER);
            }
            if Instant::now() >= save_at {
                save_at = Instant::now() + self.save().await;
            }
        }
        // What was recorded or told while this stopped must not be a gap for the next operator.
        let (ended, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.gaps, ended));
        while let Some(explains) = heard.explained.recv().await {
            self.ledger.recorded(explains, Timestamp::now());
        }
        while let Some(told) = heard.settled.recv().await {
            self.settle(&told);
        }
        self.save().await;
    }

    /// When there is something to do though nothing happens.
    fn next_due(&self, save_at: Instant) -> Instant {
        let Some(due) = self.ledger.due_at() else {
            return save_at;
        };
        let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        save_at.min(Instant::now() + left + Duration::from_millis(1))
    }

    fn observe(&mut self, observation: Observation) {
        let now = Timestamp::now();
        match observation {
            Observation::Shown(kind, shown) => self.ledger.shown(kind, shown, now),
            Observation::Gone(kind, key) => self.ledger.gone(kind, &key, now),
            Observation::Listed(kind, objects) => self.ledger.list(kind, objects, now),
        }
    }

    fn settle(&mut self, told: &[Unexplained]) {
        for unexplained in told {
            self.ledger.settled(unexplained);
        }
    }

    fn judge(&mut self) {
        let now = Timestamp::now();
        let unexplained = self.ledger.due(now);
        self.counts.unexplained.inc_by(unexplained.len() as u64);
        for telling in tellings(unexplained) {
            if self.pending.len() < GAPS {
                self.pending.push_back(telling);
            } else {
                // The store still owes it: the next operator finds it again.
                self.lost.store(true, Ordering::Relaxed);
            }
        }
        if self.pending.len() < GAPS && self.lost.swap(false, Ordering::Relaxed) {
            let why = "more changes at once than could be looked at";
            self.pending.push_back(Telling {
                entry: gap(&self.system_namespace, now, now, why, Vec::new()),
                unexplained: Vec::new(),
            });
        }
        while let Some(entry) = self.pending.pop_front() {
            if let Err(full) = self.gaps.try_send(entry) {
                self.pending.push_front(full.into_inner());
                return;
            }
        }
    }

    /// Writes down what changed; how long until the next time.
    async fn save(&mut self) -> Duration {
        let until = Timestamp::now();
        self.ledger.lapse(until);
        let (put, removed) = self.ledger.take_changes();
        match self.store.remember(&put, &removed, until).await {
            Ok(()) => {
                self.backoff.reset();
                QUIET
            }
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "what was seen of the resources was not stored; trying again"
                );
                self.ledger.put_back(&put, removed);
                self.backoff.pause()
            }
        }
    }
}

/// One gap for each namespace, cause, span, and whether things were written or deleted, in pieces that fit.
fn tellings(unexplained: Vec<Unexplained>) -> Vec<Telling> {
    let mut groups: BTreeMap<_, Vec<Unexplained>> = BTreeMap::new();
    for change in unexplained {
        let namespace = change.object.key.namespace.clone();
        let place = (namespace, change.cause, change.deleted, change.from);
        groups.entry(place).or_default().push(change);
    }
    let mut tellings = Vec::new();
    for ((namespace, cause, deleted, from), changes) in groups {
        let why = why(cause, deleted);
        info!(
            namespace,
            changes = changes.len(),
            why,
            "nobody was recorded"
        );
        for changes in changes.chunks(NAMED) {
            let to = changes.iter().map(|change| change.to).max();
            let objects = changes.iter().map(object).collect();
            tellings.push(Telling {
                entry: gap(&namespace, from, to.unwrap_or(from), why, objects),
                unexplained: changes.to_vec(),
            });
        }
    }
    tellings
}

fn gap(tenant: &str, from: Timestamp, to: Timestamp, why: &str, objects: Vec<ObjectRef>) -> Entry {
    let gap = Gap {
        from,
        to,
        why: why.to_owned(),
        objects,
    };
    let nobody = Actor::new(ActorKind::Unknown, "unknown");
    Entry::new(tenant, nobody, Body::Gap(gap))
}

fn object(change: &Unexplained) -> ObjectRef {
    let key = &change.object.key;
    ObjectRef {
        kind: change.object.kind.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: Some(change.object.uid.clone()),
        // None: it is gone.
        generation: (!change.deleted).then_some(change.generation),
    }
}

fn why(cause: Cause, deleted: bool) -> &'static str {
    match (cause, deleted) {
        (Cause::BeforeTheRecord, _) => "written before the record began",
        (Cause::Away, false) => "written while no operator was running",
        (Cause::Away, true) => "deleted while no operator was running",
        (Cause::NotTold, false) => "written, and the webhook was not told by whom",
        (Cause::NotTold, true) => "deleted, and the webhook was not told by whom",
    }
}
