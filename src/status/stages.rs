//! Counts what each part of an Isolation's way took, from the watch to the acknowledgement.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::fleet::Delivery;
use crate::metrics::{Metrics, StageLabels};

/// The target's way, since the watch told of the Isolation.
pub fn of_target(metrics: &Metrics, delivery: &Delivery, seen: Timestamp) {
    // The clock of the day may have been set back meanwhile.
    let seen = Timestamp::now().duration_since(seen);
    let seen = Duration::try_from(seen).unwrap_or_default();
    let compiled = Instant::now().saturating_duration_since(delivery.compiled);
    observe(metrics, "self", "compile", seen.saturating_sub(compiled));
    of_point(metrics, "self", delivery);
}

/// A peer's way, since its state was compiled: with its wait for the target, which comes first.
pub fn of_peer(metrics: &Metrics, delivery: &Delivery) {
    of_point(metrics, "peer", delivery);
}

fn of_point(metrics: &Metrics, point: &'static str, delivery: &Delivery) {
    let sent = delivery.sent.saturating_duration_since(delivery.compiled);
    observe(metrics, point, "send", sent);
    observe(metrics, point, "on_the_way", delivery.on_the_way());
    for (stage, took) in delivery.on_device.steps() {
        observe(metrics, point, stage, took);
    }
}

fn observe(metrics: &Metrics, point: &'static str, stage: &'static str, took: Duration) {
    let labels = StageLabels { point, stage };
    let histogram = metrics.isolation_stage_seconds.get_or_create(&labels);
    histogram.observe(took.as_secs_f64());
}
