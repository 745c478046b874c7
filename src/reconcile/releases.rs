//! Isolations that are gone from the API server, between their deletion and their release.
//!
//! What vanished stays in force until it is quiet for a moment, so that a namespace that is deleted
//! object by object is seen as one event; then it is released, or, if it is too much at once, held
//! until a person confirms. Expiry never comes through here. No clock and no client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Deletions are settled once there was none for this long …
const QUIET: Duration = Duration::from_millis(300);
/// … or the first is this old.
const AT_MOST: Duration = Duration::from_secs(2);
/// Releases of this span count as one event.
const WINDOW: Duration = Duration::from_secs(10);

/// UIDs of Isolations.
pub type Uids = BTreeSet<String>;

#[derive(Debug, Default)]
pub struct Releases {
    /// Gone and not settled, each with why it has to be held whatever the number, if it has to be.
    pending: BTreeMap<String, Option<String>>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// When how many were gone, whatever became of them.
    settled: VecDeque<(Instant, usize)>,
}

/// What becomes of what vanished.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub release: Uids,
    /// Kept in force, and why.
    pub hold: Option<(Uids, String)>,
}

impl Releases {
    /// This Isolation is gone. `always_hold` says why it must not be released unseen.
    pub fn vanished(&mut self, uid: String, always_hold: Option<String>, now: Instant) {
        self.pending.insert(uid, always_hold);
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// It is back.
    pub fn returned(&mut self, uid: &str) {
        self.pending.remove(uid);
        if self.pending.is_empty() {
            self.first = None;
        }
    }

    /// When to call [`Releases::settle`].
    pub fn due(&self) -> Option<Instant> {
        Some((self.last? + QUIET).min(self.first? + AT_MOST))
    }

    /// Everything pending is forgotten.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Decides about all that is pending.
    pub fn settle(&mut self, now: Instant, threshold: usize) -> Settled {
        let pending = std::mem::take(&mut self.pending);
        self.first = None;
        self.last = None;
        self.settled.retain(|(at, _)| *at + WINDOW > now);
        let before: usize = self.settled.iter().map(|(_, count)| count).sum();
        let count = pending.len();
        if count == 0 {
            return Settled::default();
        }
        self.settled.push_back((now, count));
        let (forced, free): (BTreeMap<_, _>, BTreeMap<_, _>) =
            pending.into_iter().partition(|(_, why)| why.is_some());
        if before + count > threshold {
            let why = format!(
                "{} isolations were deleted within {} s, and more than {threshold} at once are not released before a person confirms",
                before + count,
                WINDOW.as_secs()
            );
            let uids = forced.into_keys().chain(free.into_keys()).collect();
            return Settled {
                release: Uids::new(),
                hold: Some((uids, why)),
            };
        }
        let why = forced.values().flatten().next().cloned();
        Settled {
            release: free.into_keys().collect(),
            hold: why.map(|why| (forced.into_keys().collect(), why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vanish(releases: &mut Releases, from: usize, to: usize, now: Instant) {
        for n in from..to {
            releases.vanished(format!("uid-{n:03}"), None, now);
        }
    }

    #[test]
    fn a_few_are_released_when_it_is_quiet() {
        let mut releases = Releases::default();
        let start = Instant::now();
        vanish(&mut releases, 0, 5, start);
        assert_eq!(releases.due(), Some(start + QUIET));
        let settled = releases.settle(start + QUIET, 5);
        assert_eq!((settled.release.len(), settled.hold), (5, None));
        assert_eq!(releases.due(), None);
    }

    #[test]
    fn more_than_the_threshold_are_all_held() {
        let mut releases = Releases::default();
        let start = Instant::now();
        vanish(&mut releases, 0, 6, start);
        let settled = releases.settle(start + QUIET, 5);
        assert!(settled.release.is_empty());
        assert_eq!(settled.hold.map(|(uids, _)| uids.len()), Some(6));
    }

    #[test]
    fn a_stream_of_deletions_is_settled_after_two_seconds_at_most() {
        let mut releases = Releases::default();
        let start = Instant::now();
        for step in 0..20 {
            releases.vanished(
                format!("{step}"),
                None,
                start + step * Duration::from_millis(200),
            );
        }
        assert_eq!(releases.due(), Some(start + AT_MOST));
    }

    #[test]
    fn slow_deletions_count_together_over_ten_seconds() {
        let mut releases = Releases::default();
        let start = Instant::now();
        vanish(&mut releases, 0, 4, start);
        assert_eq!(releases.settle(start + QUIET, 5).release.len(), 4);
        let later = start + Duration::from_secs(5);
        vanish(&mut releases, 4, 6, later);
        assert!(releases.settle(later, 5).hold.is_some(), "6 within 10 s");
        let much_later = start + Duration::from_secs(20);
        vanish(&mut releases, 6, 8, much_later);
        assert_eq!(releases.settle(much_later, 5).release.len(), 2);
    }

    #[test]
    fn stragglers_of_a_mass_release_are_held_with_it() {
        let mut releases = Releases::default();
        let start = Instant::now();
        vanish(&mut releases, 0, 6, start);
        assert!(releases.settle(start, 5).hold.is_some());
        let later = start + Duration::from_secs(3);
        vanish(&mut releases, 6, 7, later);
        assert!(releases.settle(later, 5).hold.is_some());
    }

    #[test]
    fn what_must_be_held_is_held_whatever_the_number() {
        let mut releases = Releases::default();
        let now = Instant::now();
        releases.vanished("a".to_owned(), Some("the kind was gone".to_owned()), now);
        releases.vanished("b".to_owned(), None, now);
        let settled = releases.settle(now, 5);
        assert_eq!(settled.release, ["b".to_owned()].into());
        let held = (["a".to_owned()].into(), "the kind was gone".to_owned());
        assert_eq!(settled.hold, Some(held));
    }

    #[test]
    fn what_returned_is_not_released() {
        let mut releases = Releases::default();
        let now = Instant::now();
        releases.vanished("a".to_owned(), None, now);
        releases.returned("a");
        assert_eq!(releases.due(), None);
        assert_eq!(releases.settle(now, 5), Settled::default());
    }
}
