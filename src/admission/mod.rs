//! Who asked for a change: the webhook that the API server tells of each, and the gaps where it did not.
//!
//! Owns the recording of requests for policies, isolations, scopes and the confirmation of holds as
//! `change_request` entries of the audit log, the `resource_change` and `change_not_seen` entries that say
//! what became of them, and the `gap` entries for changes that the watches saw and no recorded request
//! explains. It refuses nothing and holds nobody up: refusing is the schemas' and the
//! admission policies' part, which work without us. Requests come from the API server over TLS, changes
//! from the operator's watches; entries go to the audit log, and what was seen goes to the store, so that
//! changes while the operator was away are gaps too.

mod actor;
mod certificate;
mod finding;
mod ledger;
mod life;
mod observer;
mod recorder;
pub mod records;
mod registration;
mod review;
mod server;
mod telling;
#[cfg(test)]
mod tests;
mod witness;

use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc;

use crate::audit::entry::Entry;
use crate::audit::log::AuditLog;
use crate::metrics::Metrics;

pub use certificate::{Identity, PROTOCOLS};
pub use observer::{Observer, observed};
pub use recorder::Recorder;
pub use registration::{Registration, Told};
pub use server::{Certificate, router, serve};
pub use witness::Witness;

/// Requests that wait to be written. Twenty a second is what an API server can do with custom resources.
const REVIEWS: usize = 1024;
/// Changes that wait for the witness.
const OBSERVATIONS: usize = 1024;

/// Where entries go.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Returns once the entry is durable.
    async fn append(&self, entry: &Entry) -> anyhow::Result<()>;
}

#[async_trait]
impl Journal for AuditLog {
    async fn append(&self, entry: &Entry) -> anyhow::Result<()> {
        AuditLog::append(self, entry).await?;
        Ok(())
    }
}

/// What is counted.
#[derive(Clone, Default)]
pub struct Counts {
    /// Requests that the webhook was told of, by what became of them.
    pub reviews: Family<OutcomeLabel, Counter>,
    /// Changes whose author nobody recorded.
    pub unexplained: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `recorded`, `dry_run`, `unchanged`, `dropped`, `failed` or `unreadable`.
    pub outcome: &'static str,
}

impl Counts {
    pub fn registered(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.with_registry(|registry| {
            registry.register(
                "admission_reviews",
                "Requests for changes that the API server told the webhook of",
                counts.reviews.clone(),
            );
            registry.register(
                "unexplained_changes",
                "Changes of resources whose author nobody recorded",
                counts.unexplained.clone(),
            );
        });
        counts
    }

    fn count(&self, outcome: &'static str) {
        self.reviews.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// The three ends: what the webhook records into, what the watches tell, and the task behind both.
pub fn open(
    journal: Arc<dyn Journal>,
    store: Arc<dyn records::SeenStore>,
    system_namespace: &str,
    counts: Counts,
) -> (Recorder, Observer, Witness) {
    let (reviews, received) = mpsc::channel(REVIEWS);
    let (observations, observed) = mpsc::channel(OBSERVATIONS);
    let recorder = Recorder::new(system_namespace, reviews, counts.clone());
    let observer = Observer::new(observations);
    let witness = Witness::new(
        journal,
        store,
        received,
        observed,
        observer.lost(),
        system_namespace,
        counts,
    );
    (recorder, observer, witness)
}
