//! The agent's tables in the kernel, with what they held when they were last read: changes are made from
//! there, so that an apply is one program run and a read-back another.

use std::collections::BTreeMap;

use crate::agent::nft::difference::first_difference;
use crate::agent::nft::transaction::transaction;
use crate::agent::nft::{Found, Nft, NftError, Rendered};
use crate::domain::enforcement::WARDS;
use crate::fleet::proto::RuleCount;

/// Reports of counters name at most as many rules.
const MOST_COUNTS: usize = 1000;

pub struct Table {
    nft: Nft,
    /// `None` when what was read is out of date.
    found: Option<Found>,
    /// There is a table for bridges, or there may be.
    bridge: bool,
}

impl Table {
    pub fn new(nft: Nft) -> Self {
        Self {
            nft,
            found: None,
            bridge: true,
        }
    }

    pub fn nft(&self) -> &Nft {
        &self.nft
    }

    /// What the kernel holds now.
    pub async fn read(&mut self) -> Result<&Found, NftError> {
        let found = self.nft.list(self.bridge).await?;
        Ok(self.found.insert(found))
    }

    /// The same without the elements of sets, which may be many.
    pub async fn glance(&self) -> Result<Found, NftError> {
        self.nft.list_without_elements(self.bridge).await
    }

    /// From what the tables held when last read; once more from what they hold now, when that was out of
    /// date.
    pub async fn bring_about(&mut self, wanted: &Rendered) -> Result<(), NftError> {
        self.bridge |= wanted.bridge.is_some();
        let fresh = match self.found.take() {
            Some(found) => match self.change(found, wanted).await {
                Ok(()) => return Ok(()),
                Err(NftError::Refused(_)) => self.nft.list(self.bridge).await?,
                Err(error) => return Err(error),
            },
            None => self.nft.list(self.bridge).await?,
        };
        self.change(fresh, wanted).await
    }

    async fn change(&self, found: Found, wanted: &Rendered) -> Result<(), NftError> {
        match transaction(&found, wanted) {
            Some(transaction) => self.nft.apply(&transaction).await,
            None => Ok(()),
        }
    }

    /// Reads back, and where it differs tries once more: somebody may have changed a table between.
    /// The difference that stays, in words.
    pub async fn settle(&mut self, wanted: &Rendered) -> Option<String> {
        for last in [false, true] {
            let found = match self.nft.list(self.bridge).await {
                Ok(found) => found,
                Err(error) => return Some(error.to_string()),
            };
            let difference = first_difference(wanted, &found);
            self.bridge = wanted.bridge.is_some() || found.bridge.is_some();
            self.found = Some(found);
            match difference {
                None => return None,
                Some(difference) if last => return Some(difference),
                Some(_) => {
                    if let Err(error) = self.bring_about(wanted).await {
                        return Some(error.to_string());
                    }
                }
            }
        }
        None
    }
}

/// What the counters say, by rule, those of wards first: what they are under depends on them. Rules that
/// nothing has met are left out.
pub fn counts(rendered: &Rendered, found: &Found) -> Vec<RuleCount> {
    let mut by_rule: BTreeMap<(bool, &str, bool), (u64, u64)> = BTreeMap::new();
    let listings = found.inet.iter().chain(&found.bridge);
    for ((_, comment), counts) in listings.flat_map(|listing| &listing.counts) {
        if let Some(counted) = rendered.counted.get(comment) {
            let of_others = !counted.id.starts_with(WARDS);
            let key = (of_others, counted.id.as_str(), counted.observing);
            let sum = by_rule.entry(key).or_default();
            sum.0 += counts.packets;
            sum.1 += counts.bytes;
        }
    }
    by_rule
        .into_iter()
        .filter(|(_, (packets, _))| *packets > 0)
        .take(MOST_COUNTS)
        .map(|((_, rule, observing), (packets, bytes))| RuleCount {
            rule: rule.to_owned(),
            packets,
            bytes,
            observing,
        })
        .collect()
}
