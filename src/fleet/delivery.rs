//! How a state came to be in force on a device: when it was compiled, sent and acknowledged, and what
//! the device says each of its own steps took. For answers and metrics; nothing is decided by it, and
//! nothing of it outlives the process.
//!
//! The operator's times are of its own clock and the device's are durations, so no two clocks are
//! compared.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::member::Member;
use super::proto::{Ack, Applied};
use crate::domain::enforcement::{Source, SourceKind};

/// Deliveries of one device that are remembered.
const MOST: usize = 4;

#[derive(Clone, Debug)]
pub struct Delivery {
    /// The Isolations that came into force with it, by UID and generation.
    pub news: BTreeSet<(String, i64)>,
    /// The state was compiled.
    pub compiled: Instant,
    /// It was signed, and on its way.
    pub sent: Instant,
    /// The device had read it back, and said so.
    pub acknowledged: Instant,
    pub on_device: OnDevice,
}

/// How long the device took for each of its steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDevice {
    pub verify: Duration,
    pub persist: Duration,
    pub apply: Duration,
    pub cut: Duration,
    pub read_back: Duration,
}

impl OnDevice {
    pub fn said(ack: &Ack) -> Self {
        Self {
            verify: Duration::from_micros(ack.verify_us),
            persist: Duration::from_micros(ack.persist_us),
            apply: Duration::from_micros(ack.apply_us),
            cut: Duration::from_micros(ack.cut_us),
            read_back: Duration::from_micros(ack.read_back_us),
        }
    }

    /// By name, in their order.
    pub fn steps(&self) -> [(&'static str, Duration); 5] {
        [
            ("verify", self.verify),
            ("persist", self.persist),
            ("apply", self.apply),
            ("cut", self.cut),
            ("read_back", self.read_back),
        ]
    }

    pub fn total(&self) -> Duration {
        let steps = self.steps().into_iter().map(|(_, took)| took);
        // A device can say anything.
        steps.fold(Duration::ZERO, Duration::saturating_add)
    }
}

impl Delivery {
    /// From being sent to being acknowledged, without what the device needed: the network both ways,
    /// and waiting at either end.
    pub fn on_the_way(&self) -> Duration {
        let both = self.acknowledged.saturating_duration_since(self.sent);
        both.saturating_sub(self.on_device.total())
    }
}

/// The last deliveries of one device.
#[derive(Default)]
pub struct Deliveries(VecDeque<Arc<Delivery>>);

impl Deliveries {
    /// One that brought no Isolation is not kept.
    pub fn add(&mut self, delivery: Delivery) {
        if delivery.news.is_empty() {
            return;
        }
        self.0.push_back(Arc::new(delivery));
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }

    /// The one that brought this Isolation at this generation.
    pub fn of(&self, uid: &str, generation: i64) -> Option<Arc<Delivery>> {
        let brought = |delivery: &&Arc<Delivery>| {
            let mut news = delivery.news.iter();
            news.any(|(u, g)| u == uid && *g == generation)
        };
        self.0.iter().rev().find(brought).cloned()
    }
}

impl Member {
    /// The device acknowledged a state: takes note of it, and of how the Isolations that are new with it
    /// came here.
    pub fn delivered(
        &mut self,
        applied: &Applied,
        cut: u32,
        on_device: OnDevice,
        (now, at): (Instant, Timestamp),
    ) {
        let before = self.in_force.clone();
        self.acknowledged(applied, cut, at);
        let signed = self.signed.as_ref();
        let signed = signed.filter(|signed| signed.hash == applied.state_hash);
        let (Some(state), Some(signed)) = (&self.in_force, signed) else {
            return;
        };
        let had = |source: &&Source| {
            let before = before.as_ref();
            before.is_some_and(|before| before.state.every_source().any(|had| had == *source))
        };
        let isolations = state.state.every_source();
        let isolations = isolations.filter(|source| source.kind == SourceKind::Isolation);
        let news = isolations.filter(|source| !had(source));
        self.deliveries.add(Delivery {
            news: news.map(|s| (s.uid.clone(), s.generation)).collect(),
            compiled: state.since,
            sent: signed.sent,
            acknowledged: now,
            on_device,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_it_took_is_never_more_than_what_it_took() {
        let sent = Instant::now();
        let said = |apply| Delivery {
            news: BTreeSet::new(),
            compiled: sent,
            sent,
            acknowledged: sent + Duration::from_millis(20),
            on_device: OnDevice {
                apply,
                read_back: Duration::from_millis(4),
                ..OnDevice::default()
            },
        };
        let honest = said(Duration::from_millis(10));
        assert_eq!(honest.on_the_way(), Duration::from_millis(6));
        assert_eq!(said(Duration::MAX).on_the_way(), Duration::ZERO);
    }
}
