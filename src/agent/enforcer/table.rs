//! The agent's table in the kernel, with what it held when it was last read: changes are made from
//! there, so that an apply is one program run and a read-back another.

use std::collections::BTreeMap;

use crate::agent::nft::difference::first_difference;
use crate::agent::nft::transaction::transaction;
use crate::agent::nft::{Listing, Nft, NftError, Rendered};
use crate::fleet::proto::RuleCount;

/// Reports of counters name at most as many rules.
const MOST_COUNTS: usize = 1000;

pub struct Table {
    nft: Nft,
    /// `None` when what was read is out of date.
    found: Option<Option<Listing>>,
}

impl Table {
    pub fn new(nft: Nft) -> Self {
        Self { nft, found: None }
    }

    /// What the kernel holds now; no listing when there is no table.
    pub async fn read(&mut self) -> Result<Option<&Listing>, NftError> {
        let listing = self.nft.list().await?;
        Ok(self.found.insert(listing).as_ref())
    }

    /// The same without the elements of sets, which may be many.
    pub async fn glance(&self) -> Result<Option<Listing>, NftError> {
        self.nft.list_without_elements().await
    }

    /// From what the table held when last read; once more from what it holds now, when that was out of
    /// date.
    pub async fn bring_about(&mut self, wanted: &Rendered) -> Result<(), NftError> {
        let fresh = match self.found.take() {
            Some(found) => match self.change(found, wanted).await {
                Ok(()) => return Ok(()),
                Err(NftError::Refused(_)) => self.nft.list().await?,
                Err(error) => return Err(error),
            },
            None => self.nft.list().await?,
        };
        self.change(fresh, wanted).await
    }

    async fn change(&self, found: Option<Listing>, wanted: &Rendered) -> Result<(), NftError> {
        match transaction(found.as_ref(), &wanted.ruleset) {
            Some(transaction) => self.nft.apply(&transaction).await,
            None => Ok(()),
        }
    }

    /// Reads back, and where it differs tries once more: somebody may have changed the table between.
    /// The difference that stays, in words.
    pub async fn settle(&mut self, wanted: &Rendered) -> Option<String> {
        for last in [false, true] {
            let listing = match self.nft.list().await {
                Ok(listing) => listing,
                Err(error) => return Some(error.to_string()),
            };
            let difference = first_difference(&wanted.ruleset, listing.as_ref());
            self.found = Some(listing);
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

/// What the counters say, by rule. Rules that nothing has met are left out.
pub fn counts(rendered: &Rendered, listing: &Listing) -> Vec<RuleCount> {
    let mut by_rule: BTreeMap<(&str, bool), (u64, u64)> = BTreeMap::new();
    for (comment, counts) in &listing.counts {
        if let Some(counted) = rendered.counted.get(comment) {
            let sum = by_rule.entry((&counted.id, counted.observing)).or_default();
            sum.0 += counts.packets;
            sum.1 += counts.bytes;
        }
    }
    by_rule
        .into_iter()
        .filter(|(_, (packets, _))| *packets > 0)
        .take(MOST_COUNTS)
        .map(|((rule, observing), (packets, bytes))| RuleCount {
            rule: rule.to_owned(),
            packets,
            bytes,
            observing,
        })
        .collect()
}
