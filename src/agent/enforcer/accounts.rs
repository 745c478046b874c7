//! The accounts of suspended users on this host: asked of the host's name service, again at each check, for
//! accounts come and go. What can't be told now stays as it was last known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::unistd::User;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Enforcer;
use crate::agent::conntrack;
use crate::agent::facts;
use crate::agent::nft::{Situation, Suspended, suspended};
use crate::domain::enforcement::DeviceState;

/// A name service on the network may take as long, or for ever: then the rules don't wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The uid of each account, none for one that doesn't exist. A name is missing where that isn't known.
type Found = BTreeMap<String, Option<u32>>;

/// Asks who has which uid. One question at a time: one that hangs is not asked again beside it.
#[derive(Default)]
pub struct Lookup {
    asked: Option<JoinHandle<Found>>,
}

impl Lookup {
    /// Brings `known` up to date for these accounts, and forgets all others.
    pub async fn refresh(
        &mut self,
        known: &mut BTreeMap<String, u32>,
        accounts: &BTreeSet<String>,
    ) {
        known.retain(|account, _| accounts.contains(account));
        if accounts.is_empty() {
            return;
        }
        let asked = self.asked.take();
        let late = asked.is_some();
        let found = self.wait(asked.unwrap_or_else(|| ask(accounts))).await;
        let mut found = found.unwrap_or_default();
        // What was asked for some other bundle may leave out what is asked now.
        if late && self.asked.is_none() {
            found.extend(self.wait(ask(accounts)).await.unwrap_or_default());
        }
        for (account, uid) in found {
            match uid {
                Some(uid) if accounts.contains(&account) => known.insert(account, uid),
                _ => known.remove(&account),
            };
        }
    }

    async fn wait(&mut self, mut asked: JoinHandle<Found>) -> Option<Found> {
        match timeout(PATIENCE, &mut asked).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::error!("accounts could not be looked up: {error}");
                None
            }
            Err(_) => {
                tracing::warn!(
                    "the host's name service does not answer: the accounts of suspended users are those last known"
                );
                self.asked = Some(asked);
                None
            }
        }
    }
}

fn ask(accounts: &BTreeSet<String>) -> JoinHandle<Found> {
    let accounts = accounts.clone();
    tokio::task::spawn_blocking(move || {
        let found = accounts
            .into_iter()
            .filter_map(|account| match User::from_name(&account) {
                Ok(user) => Some((account, user.map(|user| user.uid.as_raw()))),
                Err(error) => {
                    tracing::warn!(account, "an account could not be looked up: {error}");
                    None
                }
            });
        found.collect()
    })
}

impl Enforcer {
    pub(super) async fn look_up_accounts(&mut self, state: &DeviceState) {
        let known = &mut self.situation.accounts;
        self.lookup.refresh(known, &state.suspended_users).await;
    }

    /// What becomes of the accounts that the state in force suspends.
    pub fn accounts(&self) -> Suspended {
        suspended(self.state(), &self.situation)
    }

    /// Ends the connections of accounts that are suspended and were not `before`. The rules drop their packets
    /// whether or not this succeeds.
    pub(super) async fn end_sockets(&self, before: &Suspended, state: &DeviceState) -> u32 {
        let now = suspended(state, &self.situation);
        if !now.spared.is_empty() && now.spared != before.spared {
            tracing::warn!(
                accounts = ?now.spared,
                "suspended accounts that are root or the agent's own are left alone: isolate the device"
            );
        }
        let before = before.uids();
        let uids = now.uids();
        let fresh: BTreeSet<u32> = uids.difference(&before).copied().collect();
        if fresh.is_empty() {
            return 0;
        }
        let ending = tokio::task::spawn_blocking(move || {
            let local = facts::local_addresses();
            conntrack::end_of_users(&fresh, |ip| ip.is_loopback() || local.contains(&ip))
        });
        match ending.await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                tracing::debug!(%error, "connections of suspended users are dropped by the rules, but not ended");
                0
            }
            Err(error) => {
                tracing::error!("connections of suspended users were not ended: {error}");
                0
            }
        }
    }
}

/// What was known of a host when nothing was suspended there.
pub fn nobody() -> Suspended {
    suspended(&DeviceState::default(), &Situation::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn accounts_that_exist_have_their_uid_and_others_none() {
        let mut known = [("gone".to_owned(), 7), ("not-asked".to_owned(), 8)].into();
        let mut lookup = Lookup::default();
        let asked = accounts(&["root", "gone", "no such account"]);
        lookup.refresh(&mut known, &asked).await;
        assert_eq!(known, [("root".to_owned(), 0)].into());
    }

    #[tokio::test]
    async fn while_the_name_service_hangs_what_was_known_stays_and_nothing_more_is_asked() {
        let mut known = [("mallory".to_owned(), 1000)].into();
        let (answer, waiting) = tokio::sync::oneshot::channel::<Found>();
        let mut lookup = Lookup {
            asked: Some(tokio::spawn(async { waiting.await.unwrap_or_default() })),
        };
        lookup.refresh(&mut known, &accounts(&["mallory"])).await;
        assert_eq!(known, [("mallory".to_owned(), 1000)].into());
        assert!(lookup.asked.is_some(), "the question is still out");
        answer
            .send([("mallory".to_owned(), Some(1001))].into())
            .expect("somebody waits");
        let hanging = lookup.asked.take().expect("asked");
        let found = lookup.wait(hanging).await.expect("an answer");
        assert_eq!(found["mallory"], Some(1001));
    }
}
