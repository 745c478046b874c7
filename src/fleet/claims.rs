//! The addresses that a device claims: what it reports, and for the time of an isolation what it
//! reported before; and the one that it is seen to have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::clean;
use super::member::Member;

/// Addresses of an isolated device, those that it holds no more included.
pub const MOST_CLAIMS: usize = 2 * clean::MOST_ADDRESSES;

impl Member {
    /// Takes note of the addresses that the device reports. Each claim keeps the time of its first report.
    /// What is not reported any more is no claim, but a device that is isolated, or may be, gives up
    /// none: else whoever has its root could have its peers let it go. Answers whether the set changed.
    pub fn claim(&mut self, addresses: &BTreeSet<IpAddr>, at: Timestamp) -> bool {
        self.reported = Some(addresses.clone());
        let mut claims = self.record.standing.addresses.clone();
        for address in addresses {
            claims.entry(*address).or_insert(at);
        }
        if self.may_give_up_claims() {
            claims.retain(|address, _| addresses.contains(address));
        } else if claims.len() > MOST_CLAIMS {
            let mut oldest: Vec<_> = claims.into_iter().collect();
            oldest.sort_by_key(|(_, since)| *since);
            oldest.truncate(MOST_CLAIMS);
            claims = oldest.into_iter().collect();
        }
        self.set_claims(claims)
    }

    /// Takes note of where the device's stream comes from. An address that is protected counts as the
    /// device's own if it connects from there, which is a way out of an isolation for whoever can take
    /// over that address: while the device is isolated, or may be, what was known before stands. Answers
    /// whether that changed.
    pub fn comes_from(&mut self, from: Option<IpAddr>) -> bool {
        self.came_from = from.map(|from| from.to_canonical());
        self.settle_origin()
    }

    fn settle_origin(&mut self) -> bool {
        let from = self.came_from;
        let news = from.is_some() && self.record.standing.connects_from != from;
        if !news || !self.may_give_up_claims() {
            return false;
        }
        self.standing().connects_from = from;
        true
    }

    /// Gives up what was kept only for the time of an isolation. Answers whether anything changed.
    pub fn settle_claims(&mut self) -> bool {
        let moved = self.settle_origin();
        let Some(reported) = &self.reported else {
            return moved;
        };
        if !self.may_give_up_claims() {
            return moved;
        }
        let mut claims = self.record.standing.addresses.clone();
        claims.retain(|address, _| reported.contains(address));
        self.set_claims(claims) || moved
    }

    /// Others report these addresses: those that this device holds no more are theirs now.
    pub fn yield_claims(&mut self, to: &BTreeSet<IpAddr>) -> bool {
        let Some(reported) = &self.reported else {
            return false;
        };
        let mut claims = self.record.standing.addresses.clone();
        claims.retain(|address, _| reported.contains(address) || !to.contains(address));
        self.set_claims(claims)
    }

    fn may_give_up_claims(&self) -> bool {
        let desired = self.desired.as_ref();
        desired.is_some_and(|desired| desired.state.isolation.is_none())
    }

    fn set_claims(&mut self, claims: BTreeMap<IpAddr, Timestamp>) -> bool {
        let news = self.record.standing.addresses != claims;
        if news {
            self.standing().addresses = claims;
        }
        news
    }
}
