//! What the webhook records into: a queue that is never waited for. A request that finds it full is let
//! through and counted, and the change it makes becomes a gap.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Counts;
use super::review::{Asked, Request, asked};

#[derive(Clone)]
pub struct Recorder {
    operator: Arc<str>,
    queue: mpsc::Sender<Asked>,
    counts: Counts,
}

impl Recorder {
    pub(super) fn new(system_namespace: &str, queue: mpsc::Sender<Asked>, counts: Counts) -> Self {
        let operator = format!("system:serviceaccount:{system_namespace}:seawall");
        Self {
            operator: operator.into(),
            queue,
            counts,
        }
    }

    /// Queues what the request says, if it changes anything.
    pub fn record(&self, request: &Request) {
        let Some(asked) = asked(request, &self.operator) else {
            self.counts.count(if request.dry_run {
                "dry_run"
            } else {
                "unchanged"
            });
            return;
        };
        if self.queue.try_send(asked).is_err() {
            self.counts.count("dropped");
        }
    }

    pub(super) fn unreadable(&self) {
        self.counts.count("unreadable");
    }
}
