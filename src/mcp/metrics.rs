//! What this server counts, in Prometheus' terms. Labels are names of tools and fixed words.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::access::Tool;
use crate::tls_pair::Gauges;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    tool: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToolLabel {
    tool: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    seconds: Family<ToolLabel, Histogram>,
    keys_refused: Family<ReasonLabel, Counter>,
    reads_not_audited: Counter,
    sessions: Gauge,
    /// Of the certificate, where it is served here.
    pub certificate: Gauges,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("seawall_mcp");
        let calls = Family::default();
        registry.register("calls", "Tool calls, by how they ended", calls.clone());
        let seconds = Family::<ToolLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 2.0, 14))
        });
        registry.register("call_seconds", "How long tool calls took", seconds.clone());
        let keys_refused = Family::default();
        registry.register(
            "keys_refused",
            "Requests without a key that works",
            keys_refused.clone(),
        );
        let reads_not_audited = Counter::<u64, AtomicU64>::default();
        registry.register(
            "reads_not_audited",
            "Reads whose audit entry was lost because the operator was away",
            reads_not_audited.clone(),
        );
        let sessions = Gauge::default();
        registry.register("sessions", "Open sessions", sessions.clone());
        let certificate = Gauges::registered(&mut registry, "");
        Arc::new(Self {
            registry,
            calls,
            seconds,
            keys_refused,
            reads_not_audited,
            sessions,
            certificate,
        })
    }

    /// `outcome` is `done` or a failure's code.
    pub fn call(&self, tool: Tool, outcome: &'static str, seconds: f64) {
        let tool = tool.name();
        self.calls
            .get_or_create(&CallLabels { tool, outcome })
            .inc();
        self.seconds
            .get_or_create(&ToolLabel { tool })
            .observe(seconds);
    }

    pub fn key_refused(&self, reason: &'static str) {
        self.keys_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub fn reads_not_audited(&self, count: u64) {
        self.reads_not_audited.inc_by(count);
    }

    pub fn render(&self, sessions: usize) -> String {
        self.sessions
            .set(i64::try_from(sessions).unwrap_or(i64::MAX));
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("a string takes all that is written");
        page
    }
}
