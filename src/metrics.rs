//! Prometheus metrics of the operator. Labels are bounded: kinds, parts and outcomes, never names of
//! objects, devices or users.

use std::sync::{Arc, Mutex};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::tls_pair::Gauges;

/// Cheap to clone: all clones count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// 1 while the list of the kind is known.
    pub watch_synced: Family<KindLabel, Gauge>,
    /// Objects that are skipped because this version can't read them.
    pub malformed: Family<KindLabel, Gauge>,
    /// Facts about the cluster that the loop knows, by the kind of object that they are of.
    pub world_objects: Family<KindLabel, Gauge>,
    /// 1 while this replica writes.
    pub leading: Gauge,
    /// 1 while the database answers.
    pub database_up: Gauge,
    pub compiles: Counter,
    pub compile_seconds: Histogram,
    /// From the watch event of an Isolation to the target's read-back.
    pub isolation_seconds: Histogram,
    /// Its parts, and those of the peers' way.
    pub isolation_stage_seconds: Family<StageLabels, Histogram>,
    pub status_writes: Family<OutcomeLabel, Counter>,
    /// Isolations that are gone from the API server and kept until a person confirms.
    pub held_isolations: Gauge,
    /// Addresses that no agent's resource may cut, beside those given by flag.
    pub protected_addresses: Family<PartLabel, Gauge>,
    /// 1 while the list of the kind, where such addresses are, can be read.
    pub protected_read: Family<PartKindLabel, Gauge>,
    /// Entries that the audit log could not take.
    pub audit_failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartLabel {
    /// `api_server` or `cluster_dns`.
    pub part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartKindLabel {
    /// As in [`PartLabel`].
    pub part: &'static str,
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabels {
    /// `self`, the Isolation's target, or `peer`.
    pub point: &'static str,
    /// `compile`, `send`, `on_the_way`, and of the device `verify`, `persist`, `apply`, `cut`, `read_back`.
    pub stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `written`, `conflict` or `failed`.
    pub outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Seconds; an isolation is meant to take tens of milliseconds.
const LATENCY_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

impl Metrics {
    pub fn new() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            watch_synced: Family::default(),
            malformed: Family::default(),
            world_objects: Family::default(),
            leading: Gauge::default(),
            database_up: Gauge::default(),
            compiles: Counter::default(),
            compile_seconds: Histogram::new(LATENCY_BUCKETS),
            isolation_seconds: Histogram::new(LATENCY_BUCKETS),
            isolation_stage_seconds: Family::new_with_constructor(latency),
            status_writes: Family::default(),
            held_isolations: Gauge::default(),
            protected_addresses: Family::default(),
            protected_read: Family::default(),
            audit_failures: Counter::default(),
        };
        metrics.register_own();
        metrics
    }

    fn register_own(&self) {
        self.with_registry(|registry| {
            registry.register(
                "watch_synced",
                "1 while the list of the kind is known",
                self.watch_synced.clone(),
            );
            registry.register(
                "malformed_objects",
                "Objects that are skipped because they can't be read",
                self.malformed.clone(),
            );
            registry.register(
                "world_objects",
                "Objects of the cluster that decide who may talk to whom, as the loop knows them",
                self.world_objects.clone(),
            );
            registry.register(
                "leading",
                "1 while this replica writes",
                self.leading.clone(),
            );
            registry.register(
                "database_up",
                "1 while the database answers",
                self.database_up.clone(),
            );
            registry.register("compiles", "Compilations", self.compiles.clone());
            registry.register(
                "compile_seconds",
                "Time of a compilation",
                self.compile_seconds.clone(),
            );
            registry.register(
                "isolation_seconds",
                "From the watch event of an Isolation to its target's read-back",
                self.isolation_seconds.clone(),
            );
            registry.register(
                "isolation_stage_seconds",
                "Parts of the way of an Isolation, from the watch event to the read-back",
                self.isolation_stage_seconds.clone(),
            );
            registry.register(
                "status_writes",
                "Writes of a status",
                self.status_writes.clone(),
            );
            registry.register(
                "held_isolations",
                "Isolations that are gone from the API server and kept until a person confirms",
                self.held_isolations.clone(),
            );
            registry.register(
                "protected_addresses",
                "Addresses that no agent's resource may cut, beside those given by flag",
                self.protected_addresses.clone(),
            );
            registry.register(
                "protected_read",
                "1 while the list of the kind, where such addresses are, can be read",
                self.protected_read.clone(),
            );
            registry.register(
                "audit_failures",
                "Entries that the audit log could not take",
                self.audit_failures.clone(),
            );
        });
    }

    /// For parts that count things of their own.
    pub fn with_registry(&self, register: impl FnOnce(&mut Registry)) {
        let mut registry = self.registry.lock().expect("nobody panics with this lock");
        register(registry.sub_registry_with_prefix("seawall"));
    }

    /// Of a certificate that is served; `of` goes before each name.
    pub fn certificate(&self, of: &str) -> Gauges {
        let mut gauges = Gauges::default();
        self.with_registry(|registry| gauges = Gauges::registered(registry, of));
        gauges
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let registry = self.registry.lock().expect("nobody panics with this lock");
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes everything");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_exposed_under_the_projects_prefix() {
        let metrics = Metrics::new();
        metrics
            .watch_synced
            .get_or_create(&KindLabel { kind: "Policy" })
            .set(1);
        let text = metrics.text();
        assert!(
            text.contains("seawall_watch_synced{kind=\"Policy\"} 1"),
            "{text}"
        );
    }
}
