//! What a device's heartbeats say of the packets of its wards.

use std::collections::BTreeMap;

use super::member::Member;
use crate::domain::applied::Datapath;
use crate::domain::enforcement::WARDS;
use crate::local::types::RuleCount;

impl Member {
    /// Takes what a heartbeat says of its wards, and whether statuses may depend on what is new in it:
    /// numbers alone that grow are no news.
    pub fn saw(&mut self, counts: Vec<RuleCount>, datapath: Datapath) -> bool {
        let before = (self.datapath, self.seen());
        self.counts = counts;
        self.datapath = datapath;
        let seen = self.seen();
        before.0 != datapath || !before.1.keys().eq(seen.keys())
    }

    /// What its rules met of each group of wards.
    pub(super) fn seen(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.iter();
        counts
            .filter_map(|count| {
                let group = count.rule.strip_prefix(WARDS)?;
                Some((group.to_owned(), count.packets))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::member;
    use super::*;

    fn counted(rule: &str, packets: u64) -> Vec<RuleCount> {
        vec![RuleCount {
            rule: rule.to_owned(),
            packets,
            bytes: 0,
            observing: false,
        }]
    }

    #[test]
    fn packets_of_wards_that_are_seen_first_are_news_and_more_of_them_are_not() {
        let mut member = member();
        assert!(member.saw(counted("wards/g1", 3), Datapath::Unknown));
        assert!(!member.saw(counted("wards/g1", 9), Datapath::Unknown));
        assert!(member.saw(counted("wards/g2", 9), Datapath::Unknown));
        assert_eq!(member.applied().seen, [("g2".to_owned(), 9)].into());
    }

    #[test]
    fn a_datapath_that_goes_around_the_rules_is_news_and_told() {
        let mut member = member();
        assert!(member.saw(Vec::new(), Datapath::Bypasses));
        assert!(!member.saw(counted("acme/p/r", 1), Datapath::Bypasses));
        assert_eq!(member.applied().datapath, Datapath::Bypasses);
    }
}
