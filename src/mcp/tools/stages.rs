//! The parts of the way from a tool call to its answer.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::local::types::Moments;

/// Milliseconds of each part, in their order. One that went on while the part before it did counts only
/// what it added, so that the sum is the time from the request's arrival to the answer.
#[derive(Debug, Default, Serialize)]
pub struct Stages {
    /// The key was looked up.
    authenticated: f64,
    /// The scope allows it, and the operator would accept it.
    decided: f64,
    /// The intent is on disk in the audit log.
    intent_durable: f64,
    /// The API server has stored the resource.
    written: f64,
    /// How the operator and the device went on; absent when nothing new came into force.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    enforced: Option<Enforced>,
    /// The operator's answer came.
    answered: f64,
    /// The outcome is on disk in the audit log.
    recorded: f64,
}

#[derive(Debug, Default, Serialize)]
struct Enforced {
    /// The operator's watch told of it.
    seen: f64,
    /// The device's new state was compiled.
    compiled: f64,
    /// It was signed, and on its way.
    sent: f64,
    /// On the way, there and back, and waiting at either end.
    on_the_way: f64,
    /// The device checked the signature,
    device_verify: f64,
    /// wrote the state to its disk,
    device_persist: f64,
    /// changed its rules,
    device_apply: f64,
    /// ended open connections,
    device_cut: f64,
    /// and read the rules back.
    device_read_back: f64,
    /// The last connected peer had read it back too.
    peers: f64,
}

/// Takes the time of one part after the other.
pub struct Laps {
    pub stages: Stages,
    watch: Stopwatch,
}

impl Laps {
    /// The first part, from the request's arrival until now.
    pub fn authenticated(arrived: Instant) -> Self {
        let mut watch = Stopwatch(arrived);
        let stages = Stages {
            authenticated: watch.lap(),
            ..Stages::default()
        };
        Self { stages, watch }
    }

    pub fn decided(&mut self) {
        self.stages.decided = self.watch.lap();
    }

    pub fn intent_durable(&mut self) {
        self.stages.intent_durable = self.watch.lap();
    }

    pub fn written(&mut self) {
        self.stages.written = self.watch.lap();
    }

    /// The operator has just answered.
    pub fn answered(&mut self, moments: Option<&Moments>) {
        let now = Instant::now();
        let told = moments.map(|moments| Enforced::told(moments, now, &mut self.watch));
        self.stages.enforced = told;
        self.stages.answered = self.watch.lap();
    }

    pub fn recorded(&mut self) {
        self.stages.recorded = self.watch.lap();
    }
}

struct Stopwatch(Instant);

impl Stopwatch {
    /// The part that ends now.
    fn lap(&mut self) -> f64 {
        self.until(Instant::now())
    }

    /// The part that ended then; none of it if that was in an earlier part.
    fn until(&mut self, end: Instant) -> f64 {
        let took = end.saturating_duration_since(self.0);
        self.0 = self.0.max(end);
        milliseconds(took)
    }
}

impl Enforced {
    /// From what the operator told in an answer that came at `answered`.
    fn told(moments: &Moments, answered: Instant, watch: &mut Stopwatch) -> Self {
        let mut until = |before: f64| {
            let before = Duration::try_from_secs_f64(before / 1000.0).unwrap_or_default();
            watch.until(answered.checked_sub(before).unwrap_or(answered))
        };
        let (seen, compiled) = (until(moments.seen), until(moments.compiled));
        let (sent, delivered) = (until(moments.sent), until(moments.acknowledged));
        let peers = until(moments.peers.unwrap_or(moments.acknowledged));
        let steps = &moments.on_device;
        let on_device = steps.verify + steps.persist + steps.apply + steps.cut + steps.read_back;
        // Of a part that had begun before this call, or a device whose clock is off, only the share.
        let share = if on_device > delivered {
            delivered / on_device
        } else {
            1.0
        };
        let part = |step: f64| rounded(step * share);
        Self {
            seen,
            compiled,
            sent,
            on_the_way: rounded(delivered - on_device * share),
            device_verify: part(steps.verify),
            device_persist: part(steps.persist),
            device_apply: part(steps.apply),
            device_cut: part(steps.cut),
            device_read_back: part(steps.read_back),
            peers,
        }
    }
}

fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1000.0)
}

/// To microseconds.
fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::types::DeviceSteps;

    fn moments() -> Moments {
        Moments {
            seen: 40.0,
            compiled: 39.0,
            sent: 37.0,
            acknowledged: 20.0,
            peers: Some(2.0),
            on_device: DeviceSteps {
                verify: 1.0,
                persist: 2.0,
                apply: 3.0,
                cut: 4.0,
                read_back: 5.0,
            },
        }
    }

    /// The operator tells at 100 ms after the start, the last lap having ended at `written`.
    fn told(moments: &Moments, written: u64) -> (Enforced, f64) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Stopwatch(at(written));
        let told = Enforced::told(moments, at(100), &mut watch);
        (told, watch.until(at(100)))
    }

    fn sum(told: &Enforced) -> f64 {
        let value = serde_json::to_value(told).expect("JSON");
        let fields = value.as_object().expect("an object").values();
        fields.filter_map(serde_json::Value::as_f64).sum()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.05
    }

    #[test]
    fn the_parts_follow_each_other_and_add_up() {
        let (told, answered) = told(&moments(), 50);
        assert!(near(told.seen, 10.0) && near(told.compiled, 1.0) && near(told.sent, 2.0));
        assert!(near(told.on_the_way, 2.0) && near(told.device_read_back, 5.0));
        assert!(near(told.peers, 18.0) && near(answered, 2.0));
        assert!(near(sum(&told) + answered, 50.0), "{told:?}");
    }

    #[test]
    fn what_overlapped_an_earlier_part_counts_only_what_it_added() {
        // The watch told before the write was answered, and the device was fast.
        let (told, answered) = told(&moments(), 75);
        assert!(near(told.seen + told.compiled + told.sent, 0.0), "{told:?}");
        assert!(near(told.device_apply, 1.0), "{told:?}");
        assert!(near(sum(&told) + answered, 25.0), "{told:?}");
    }

    #[test]
    fn what_was_in_force_long_before_took_nothing() {
        let mut before = moments();
        before.seen += 1e9;
        before.compiled += 1e9;
        before.sent += 1e9;
        before.acknowledged += 1e9;
        before.peers = None;
        let (told, answered) = told(&before, 50);
        assert!(near(sum(&told), 0.0) && near(answered, 50.0), "{told:?}");
    }

    #[test]
    fn a_device_that_says_what_can_not_be_does_not_change_the_sum() {
        let mut lying = moments();
        lying.on_device.apply = 1e12;
        let (told, answered) = told(&lying, 50);
        assert!(near(sum(&told) + answered, 50.0), "{told:?}");
    }
}
