//! Who is sent a new state when: the first wave at once, each later one when those before it have
//! settled, or a moment later, whichever comes first.
//!
//! The device that is isolated then isn't slowed by two hundred peers that hear of it, and what
//! loosens waits for what tightens, without ever depending on a device that does not answer.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::DeviceId;

/// How long a wave waits for the one before it: longer than a device takes that isn't busy with
/// something else, so that in practice only one that does not answer is waited for in vain.
pub const WAVE_PATIENCE: Duration = Duration::from_millis(100);

/// Waves that are not sent yet.
#[derive(Debug, Default)]
pub struct Waves {
    waiting: Vec<Wave>,
}

#[derive(Debug)]
struct Wave {
    /// Devices of earlier waves that were not seen settled.
    after: BTreeSet<DeviceId>,
    until: Instant,
    devices: BTreeSet<DeviceId>,
}

impl Waves {
    /// Adds waves that go after `first`, which is sent now. A device that waits already keeps its
    /// place, so that a stream of plans can't hold it back for ever.
    pub fn plan(
        &mut self,
        first: BTreeSet<DeviceId>,
        later: Vec<BTreeSet<DeviceId>>,
        now: Instant,
    ) {
        for wave in &mut self.waiting {
            wave.devices.retain(|device| !first.contains(device));
        }
        let mut until = now;
        let mut before = first;
        let mut added = Vec::new();
        for mut devices in later.into_iter().filter(|wave| !wave.is_empty()) {
            until += WAVE_PATIENCE;
            devices.retain(|device| !self.waits(device));
            let after = before.clone();
            before.extend(devices.iter().cloned());
            added.push(Wave {
                after,
                until,
                devices,
            });
        }
        self.waiting.extend(added);
        self.waiting.retain(|wave| !wave.devices.is_empty());
    }

    /// Whose turn it is now.
    pub fn due(
        &mut self,
        now: Instant,
        mut settled: impl FnMut(&DeviceId) -> bool,
    ) -> BTreeSet<DeviceId> {
        let mut due = BTreeSet::new();
        self.waiting.retain_mut(|wave| {
            // Sent in this very call counts as not settled: it was just told.
            wave.after
                .retain(|device| due.contains(device) || !settled(device));
            let now_or_never = wave.until <= now || wave.after.is_empty();
            if now_or_never {
                due.append(&mut wave.devices);
            }
            !now_or_never
        });
        due
    }

    /// When to ask [`Self::due`] again at the latest.
    pub fn next(&self) -> Option<Instant> {
        self.waiting.iter().map(|wave| wave.until).min()
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    fn waits(&self, device: &DeviceId) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|wave| wave.devices.contains(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> DeviceId {
        DeviceId::from_ulid(ulid::Ulid::from_parts(0, n))
    }

    fn ids(numbers: &[u128]) -> BTreeSet<DeviceId> {
        numbers.iter().copied().map(id).collect()
    }

    #[test]
    fn later_waves_wait_for_earlier_ones_to_settle() {
        let now = Instant::now();
        let mut waves = Waves::default();
        waves.plan(ids(&[1]), vec![ids(&[2, 3]), ids(&[4])], now);
        assert_eq!(waves.due(now, |_| false), ids(&[]));
        assert_eq!(waves.due(now, |device| *device == id(1)), ids(&[2, 3]));
        let settled = ids(&[1, 2]);
        assert_eq!(waves.due(now, |device| settled.contains(device)), ids(&[]));
        assert_eq!(waves.due(now, |_| true), ids(&[4]));
        assert_eq!(waves.next(), None);
    }

    #[test]
    fn a_device_that_never_settles_delays_the_next_wave_by_so_much_at_most() {
        let now = Instant::now();
        let mut waves = Waves::default();
        waves.plan(ids(&[1]), vec![ids(&[2]), ids(&[3])], now);
        assert_eq!(waves.next(), Some(now + WAVE_PATIENCE));
        assert_eq!(waves.due(now + WAVE_PATIENCE, |_| false), ids(&[2]));
        assert_eq!(waves.due(now + 2 * WAVE_PATIENCE, |_| false), ids(&[3]));
    }

    #[test]
    fn a_stream_of_plans_does_not_starve_the_last_wave() {
        let start = Instant::now();
        let mut waves = Waves::default();
        let mut sent = BTreeSet::new();
        for step in 0..6 {
            let now = start + step * (WAVE_PATIENCE / 5);
            waves.plan(ids(&[1]), vec![ids(&[2])], now);
            sent.append(&mut waves.due(now, |_| false));
        }
        assert_eq!(sent, ids(&[2]));
    }

    #[test]
    fn a_device_that_becomes_urgent_is_not_sent_to_a_second_time() {
        let now = Instant::now();
        let mut waves = Waves::default();
        waves.plan(ids(&[1]), vec![ids(&[2])], now);
        waves.plan(ids(&[2]), Vec::new(), now);
        assert_eq!(waves.due(now + WAVE_PATIENCE, |_| true), ids(&[]));
    }

    #[test]
    fn a_wave_of_nobody_takes_no_time() {
        let now = Instant::now();
        let mut waves = Waves::default();
        waves.plan(ids(&[1]), vec![ids(&[]), ids(&[2])], now);
        assert_eq!(waves.next(), Some(now + WAVE_PATIENCE));
    }
}
