//! The task that writes what was asked and what became of it, and calls a gap what nobody asked for.
//!
//! Three loops that don't wait for each other: requests to the audit log; changes against requests; what was
//! found to the audit log, tried again until it is in it. An audit log that is away costs records, which become
//! gaps when it is back; it never costs a change, nor a turn of the operator's loop.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::finding::Finding;
use super::ledger::Ledger;
use super::observer::Observation;
use super::records::{ObjectId, Request, SeenStore};
use super::review::Asked;
use super::telling::{Telling, gap, tellings};
use super::{Counts, Journal};
use crate::audit::entry::Body;
use crate::backoff::Backoff;

/// Requests that share one wait for the disk.
const BATCH: usize = 64;
/// Findings that wait for the audit log.
const FINDINGS: usize = 1024;
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
        let (tell, findings) = mpsc::channel(FINDINGS);
        let (settle, settled) = mpsc::channel(FINDINGS);
        let judging = Judging {
            ledger: Ledger::restore(memory, Timestamp::now()),
            store: self.store,
            findings: tell,
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
        let telling = write_findings(self.journal, findings, settle, stop.clone());
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
    explain: mpsc::Sender<(ObjectId, Request)>,
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
                    if let Some(recorded) = recorded(asked) {
                        // The other end goes only when everything ends.
                        let _ = explain.send(recorded).await;
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

/// What there is to remember of a request that is in the audit log.
fn recorded(asked: Asked) -> Option<(ObjectId, Request)> {
    let (object, wants) = asked.wants?;
    let Body::ChangeRequest(request) = asked.entry.body else {
        return None;
    };
    let request = Request {
        id: asked.entry.id,
        actor: asked.entry.actor,
        user: request.user,
        verb: request.verb,
        wants,
    };
    Some((object, request))
}

async fn write_findings(
    journal: Arc<dyn Journal>,
    mut findings: mpsc::Receiver<Telling>,
    settle: mpsc::Sender<Vec<Finding>>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut batch = Vec::with_capacity(BATCH);
    // Ends when the judge says that there are no more, which is at `stop`.
    while findings.recv_many(&mut batch, BATCH).await > 0 {
        while !batch.is_empty() {
            let appends = batch.iter().map(|telling| journal.append(&telling.entry));
            let written = join_all(appends).await;
            let mut failed = Vec::new();
            for (telling, result) in batch.drain(..).zip(written) {
                if let Err(error) = result {
                    warn!(
                        error = format!("{error:#}"),
                        kind = telling.entry.body.kind().as_str(),
                        "what was seen was not logged; trying again"
                    );
                    failed.push(telling);
                    continue;
                }
                // The other end goes only when everything ends.
                let _ = settle.send(telling.findings).await;
            }
            batch = failed;
            if batch.is_empty() {
                backoff.reset();
                break;
            }
            let pause = tokio::time::sleep(backoff.pause());
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}

/// What the judge listens to.
struct Heard {
    observations: mpsc::Receiver<Observation>,
    explained: mpsc::Receiver<(ObjectId, Request)>,
    settled: mpsc::Receiver<Vec<Finding>>,
}

/// Changes against requests.
struct Judging {
    ledger: Ledger,
    store: Arc<dyn SeenStore>,
    findings: mpsc::Sender<Telling>,
    /// Those that found no room yet.
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
                Some((object, request)) = heard.explained.recv() => {
                    self.ledger.recorded(object, request, Timestamp::now());
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
        drop(std::mem::replace(&mut self.findings, ended));
        while let Some((object, request)) = heard.explained.recv().await {
            self.ledger.recorded(object, request, Timestamp::now());
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

    fn settle(&mut self, told: &[Finding]) {
        for finding in told {
            self.ledger.settled(finding);
        }
    }

    fn judge(&mut self) {
        let now = Timestamp::now();
        let found = self.ledger.due(now);
        self.tell(found);
    }

    fn tell(&mut self, found: Vec<Finding>) {
        let now = Timestamp::now();
        let unexplained = |finding: &&Finding| matches!(finding, Finding::Unexplained(_));
        let unexplained = found.iter().filter(unexplained).count();
        self.counts.unexplained.inc_by(unexplained as u64);
        for telling in tellings(found) {
            if self.pending.len() < FINDINGS {
                self.pending.push_back(telling);
            } else {
                // The store still owes it: the next operator finds it again.
                self.lost.store(true, Ordering::Relaxed);
            }
        }
        if self.pending.len() < FINDINGS && self.lost.swap(false, Ordering::Relaxed) {
            let why = "more changes at once than could be looked at";
            self.pending.push_back(Telling {
                entry: gap(&self.system_namespace, now, now, why, Vec::new()),
                findings: Vec::new(),
            });
        }
        while let Some(entry) = self.pending.pop_front() {
            if let Err(full) = self.findings.try_send(entry) {
                self.pending.push_front(full.into_inner());
                return;
            }
        }
    }

    /// Writes down what changed; how long until the next time.
    async fn save(&mut self) -> Duration {
        let until = Timestamp::now();
        let lapsed = self.ledger.lapse(until);
        self.tell(lapsed);
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
