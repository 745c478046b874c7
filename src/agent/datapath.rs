//! Whether the packets of wards pass netfilter at all. What their interfaces carried is compared with what
//! the rules counted: an eBPF datapath moves packets that no rule meets. Only what wards sent is looked at,
//! since what is flooded to a port says nothing of its ward.

use std::collections::BTreeMap;

use super::nft::{ANSWERS_TO_HOST, Found, Place};
use crate::domain::applied::Datapath;
use crate::domain::enforcement::WARDS;

/// Fewer packets that nobody accounts for may be ARP, neighbour discovery and multicast.
const CLEAR: u64 = 500;
/// Fewer packets that rules met show little.
const FEW: u64 = 20;
/// Looks after which the sums begin anew, so that what trickles never adds up to much.
const LONGEST: u32 = 60;

/// Totals at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Packets that came from wards, by interface.
    pub carried: BTreeMap<u32, u64>,
    /// Of those, what the rules saw on its way to others, and on its way to this host.
    pub forwarded: u64,
    pub to_host: u64,
}

impl Sample {
    pub fn new(carried: BTreeMap<u32, u64>, found: &Found) -> Self {
        let mut sample = Self {
            carried,
            ..Self::default()
        };
        let listings = found.inet.iter().chain(&found.bridge);
        for ((chain, comment), counts) in listings.flat_map(|listing| &listing.counts) {
            let of_wards = comment.starts_with(WARDS) || comment == ANSWERS_TO_HOST;
            match Place::of_chain(chain) {
                Some(Place::From) if of_wards => sample.forwarded += counts.packets,
                Some(Place::In) if of_wards => sample.to_host += counts.packets,
                _ => {}
            }
        }
        sample
    }
}

/// Sums since the last verdict.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    carried: u64,
    forwarded: u64,
    to_host: u64,
    looks: u32,
}

impl Sums {
    fn verdict(self) -> Option<Datapath> {
        let accounted = self.forwarded + self.to_host;
        let unaccounted = self.carried.saturating_sub(accounted);
        if self.forwarded >= FEW && self.forwarded >= unaccounted {
            return Some(Datapath::Passes);
        }
        let around =
            unaccounted >= CLEAR && unaccounted > self.to_host && self.forwarded < unaccounted / 10;
        around.then_some(Datapath::Bypasses)
    }
}

#[derive(Debug, Default)]
pub struct Probe {
    last: Option<Sample>,
    sums: Sums,
    verdict: Datapath,
}

impl Probe {
    pub fn verdict(&self) -> Datapath {
        self.verdict
    }

    /// There is nothing to look at.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    pub fn look(&mut self, now: Sample) {
        let Some(last) = self.last.replace(now.clone()) else {
            return;
        };
        let (Some(forwarded), Some(to_host)) = (
            now.forwarded.checked_sub(last.forwarded),
            now.to_host.checked_sub(last.to_host),
        ) else {
            // The rules were loaded anew, and count from zero.
            self.sums = Sums::default();
            return;
        };
        let since = |(interface, packets): (&u32, &u64)| {
            Some(packets.saturating_sub(*last.carried.get(interface)?))
        };
        self.sums.carried += now.carried.iter().filter_map(since).sum::<u64>();
        self.sums.forwarded += forwarded;
        self.sums.to_host += to_host;
        self.sums.looks += 1;
        if let Some(verdict) = self.sums.verdict() {
            self.verdict = verdict;
            self.sums = Sums::default();
        } else if self.sums.looks >= LONGEST {
            self.sums = Sums::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::nft::{Counts, Listing};

    /// One look after each of these: packets that interface 7 carried, that were forwarded, and that came
    /// to the host.
    fn after(looks: &[(u64, u64, u64)]) -> Datapath {
        let mut probe = Probe::default();
        for (carried, forwarded, to_host) in looks {
            probe.look(Sample {
                carried: [(7, *carried)].into(),
                forwarded: *forwarded,
                to_host: *to_host,
            });
        }
        probe.verdict()
    }

    #[test]
    fn packets_that_the_rules_meet_pass_and_those_that_only_interfaces_see_go_around() {
        assert_eq!(after(&[(0, 0, 0), (1000, 990, 0)]), Datapath::Passes);
        assert_eq!(after(&[(0, 0, 0), (1000, 0, 0)]), Datapath::Bypasses);
        assert_eq!(
            after(&[(0, 0, 0), (300, 0, 0), (600, 0, 0)]),
            Datapath::Bypasses
        );
    }

    #[test]
    fn what_was_carried_before_the_first_look_shows_nothing() {
        assert_eq!(after(&[(90_000, 0, 0)]), Datapath::Unknown);
        assert_eq!(after(&[(90_000, 0, 0), (90_100, 0, 0)]), Datapath::Unknown);
    }

    #[test]
    fn answers_to_probes_of_the_host_neither_show_that_packets_pass_nor_that_they_dont() {
        assert_eq!(after(&[(0, 0, 0), (9000, 0, 8800)]), Datapath::Unknown);
        assert_eq!(after(&[(0, 0, 0), (9000, 0, 3000)]), Datapath::Bypasses);
    }

    #[test]
    fn a_trickle_that_nobody_accounts_for_never_adds_up() {
        let looks: Vec<(u64, u64, u64)> = (0..500).map(|n| (n * 5, 0, 0)).collect();
        assert_eq!(after(&looks), Datapath::Unknown);
    }

    #[test]
    fn rules_that_were_loaded_anew_begin_a_new_comparison() {
        let looks = [(0, 900, 0), (450, 0, 0), (900, 0, 0), (950, 50, 0)];
        assert_eq!(after(&looks), Datapath::Unknown);
    }

    #[test]
    fn only_packets_that_wards_sent_are_summed_over_both_tables() {
        let listing = |chain: &str, comment: &str, packets| Listing {
            counts: [((chain.into(), comment.into()), Counts { packets, bytes: 0 })].into(),
            ..Listing::default()
        };
        let mut inet = listing("ward_a_from", "wards/a", 5);
        inet.counts
            .extend(listing("ward_a_to", "wards/a", 7).counts);
        inet.counts
            .extend(listing("ward_a_in", ANSWERS_TO_HOST, 11).counts);
        inet.counts
            .extend(listing("ward_a_from", "isolation/a", 13).counts);
        let found = Found {
            inet: Some(inet),
            bridge: Some(listing("ward_a_from", "wards/a", 17)),
        };
        let sample = Sample::new(BTreeMap::new(), &found);
        assert_eq!((sample.forwarded, sample.to_host), (22, 11));
    }
}
