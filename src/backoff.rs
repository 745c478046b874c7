//! How long to wait before trying again: exponential, capped, with jitter, so that many who failed
//! together don't come back together.

use std::time::Duration;

use rand::RngExt;

/// A growing pause; `reset` after a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The pause before the next attempt; each is twice the one before, up to the cap, ±25 %.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.most);
        jittered(pause)
    }

    /// The pause before the next attempt, anywhere between nothing and the step: for a whole fleet that
    /// lost the same server at the same moment.
    pub fn spread_pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (self.next * 2).min(self.most);
        step.mul_f64(rand::rng().random_range(0.0..1.0))
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// The duration, ±25 %.
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.75..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        let bounds = |expected: u64| {
            Duration::from_millis(expected * 3 / 4)..=Duration::from_millis(expected * 5 / 4)
        };
        for expected in [100, 200, 400, 400] {
            assert!(bounds(expected).contains(&backoff.pause()));
        }
        backoff.reset();
        for most in [100, 200, 400, 400] {
            assert!(backoff.spread_pause() <= Duration::from_millis(most));
        }
        backoff.reset();
        assert!(bounds(100).contains(&backoff.pause()));
    }
}
