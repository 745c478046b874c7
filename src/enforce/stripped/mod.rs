//! Pods without an agent, cut off by taking their labels away: once the NetworkPolicy that is to hold a pod is
//! stored, one write takes its labels, notes them on it and gives it the label that the policy selects. A
//! release deletes the pod, for its replacement runs. Nothing but that is ever written on a pod, and none is
//! deleted that was not marked so.

mod pods;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::owned::Placed;
use crate::backoff::Backoff;
use crate::domain::applied::{Obstacle, ObstacleKind};
use crate::domain::enforcement::{Found, StrippedPod};
use crate::domain::names::ObjectKey;
use crate::leadership::Mandate;
use crate::metrics::Metrics;
use crate::reconcile::happening::{Happening, PodChange, What};
use steps::{Step, step};

/// At most this many writes at a time.
const CONCURRENT: usize = 8;
/// With the tries that a pod takes which changes meanwhile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

pub type Obstacles = BTreeMap<ObjectKey, Obstacle>;

/// What is to be stripped, or was; `None` while this replica doesn't lead.
pub type WantedPods = Option<Arc<BTreeMap<ObjectKey, StrippedPod>>>;

pub struct Stripper {
    pub client: Client,
    pub wanted: watch::Receiver<WantedPods>,
    /// NetworkPolicies that are stored.
    pub policies: watch::Receiver<Placed>,
    pub mandate: Mandate,
    pub obstacles: watch::Sender<Obstacles>,
    pub happenings: mpsc::Sender<Happening>,
    pub metrics: Metrics,
}

/// What was done to a pod of late: the watch tells of it a moment later, and what doesn't last isn't done again
/// at once.
struct Attempt {
    backoff: Backoff,
    not_before: Instant,
    obstacle: Option<Obstacle>,
}

type Attempts = BTreeMap<ObjectKey, Attempt>;

impl Stripper {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut attempts = Attempts::new();
        loop {
            let retry = attempts.values().map(|attempt| attempt.not_before).min();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                changed = self.policies.changed() => if changed.is_err() { return Ok(()) },
                changed = self.mandate.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(retry.unwrap_or_else(Instant::now)),
                    if retry.is_some() && self.mandate.leads() => {}
            }
            let wanted = self.wanted.borrow_and_update().clone().unwrap_or_default();
            let stored = self.policies.borrow_and_update().in_place.clone();
            let steps: BTreeMap<&ObjectKey, Step> = wanted
                .iter()
                .filter_map(|(key, pod)| Some((key, step(pod, &stored)?)))
                .collect();
            attempts.retain(|key, _| steps.contains_key(key));
            if self.mandate.leads() {
                self.round(&wanted, &steps, &mut attempts, &stop).await;
            }
            self.publish(&attempts);
        }
    }

    /// Does what is due: first what tightens.
    async fn round(
        &self,
        wanted: &BTreeMap<ObjectKey, StrippedPod>,
        steps: &BTreeMap<&ObjectKey, Step>,
        attempts: &mut Attempts,
        stop: &CancellationToken,
    ) {
        let now = Instant::now();
        let due = |key: &ObjectKey| attempts.get(key).is_none_or(|it| it.not_before <= now);
        let due = steps.iter().filter(|(key, _)| due(key));
        let due: Vec<(ObjectKey, Step)> = due.map(|(key, step)| ((*key).clone(), *step)).collect();
        for turn in [Step::Strip, Step::Delete] {
            let due: Vec<_> = due
                .iter()
                .filter(|(_, step)| *step == turn)
                .cloned()
                .collect();
            let doing = futures::stream::iter(due)
                .map(|(key, step)| async move {
                    let done = self.take(&key, &wanted[&key], step).await;
                    (key, done)
                })
                .buffer_unordered(CONCURRENT);
            let mut doing = std::pin::pin!(doing);
            while let Some(Some((key, done))) = stop.run_until_cancelled(doing.next()).await {
                note(attempts, key, done);
            }
        }
    }

    async fn take(&self, key: &ObjectKey, pod: &StrippedPod, step: Step) -> Result<(), String> {
        // A leader that was frozen asks once more, right before each write.
        if !self.mandate.leads() {
            return Err("this replica does not lead".to_owned());
        }
        let writing = async {
            match step {
                Step::Strip => pods::strip(&self.client, key, pod).await,
                Step::Delete => pods::delete(&self.client, key, pod).await,
            }
        };
        let late = |_| Err("the API server did not answer within 10 s".to_owned());
        let done = timeout(WRITE_TIMEOUT, writing).await.unwrap_or_else(late)?;
        if done {
            self.tell(key, pod, step);
        }
        Ok(())
    }

    /// For the audit log.
    fn tell(&self, key: &ObjectKey, pod: &StrippedPod, step: Step) {
        let change = PodChange {
            pod: key.clone(),
            uid: pod.uid.clone(),
            deployment: pod.deployment.clone(),
            isolations: match &pod.found {
                Found::Stripped { noted, .. } if step == Step::Delete => noted.clone(),
                _ => pod.isolations.clone(),
            },
        };
        let what = match step {
            Step::Strip => {
                info!(pod = %key, "its labels are taken away: isolated without an agent");
                What::PodStripped(change)
            }
            Step::Delete => {
                info!(pod = %key, "deleted: its isolation is over and its replacement runs");
                What::PodDeleted(change)
            }
        };
        let at = Timestamp::now();
        if self.happenings.try_send(Happening { at, what }).is_err() {
            self.metrics.audit_failures.inc();
            warn!("the audit log does not keep up; an entry about enforcement is lost");
        }
    }

    fn publish(&self, attempts: &Attempts) {
        let obstacles: Obstacles = attempts
            .iter()
            .filter_map(|(key, attempt)| Some((key.clone(), attempt.obstacle.clone()?)))
            .collect();
        self.obstacles.send_if_modified(|known| {
            let differs = *known != obstacles;
            if differs {
                *known = obstacles;
            }
            differs
        });
    }
}

fn note(attempts: &mut Attempts, key: ObjectKey, done: Result<(), String>) {
    let obstacle = done.err().map(|message| Obstacle {
        kind: ObstacleKind::Failed,
        message,
    });
    let known = attempts.get(&key).and_then(|it| it.obstacle.as_ref());
    if let Some(obstacle) = obstacle.as_ref().filter(|it| known != Some(it)) {
        warn!(pod = %key, "trying again: {}", obstacle.message);
    }
    let attempt = attempts.entry(key).or_insert_with(|| Attempt {
        backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
        not_before: Instant::now(),
        obstacle: None,
    });
    attempt.obstacle = obstacle;
    attempt.not_before = Instant::now() + attempt.backoff.pause();
}
