//! What the processes of suspended users send is dropped, by the owner of the socket, and their answers to
//! what reaches them with it. Loopback stands before this, as before everything.

use super::{HookPoint, Rendered, Situation};
use crate::agent::nft::expr;
use crate::domain::enforcement::DeviceState;

use std::collections::{BTreeMap, BTreeSet};

const ROOT: u32 = 0;

/// What becomes of the accounts that a state suspends, on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspended {
    pub dropped: BTreeMap<String, u32>,
    /// They are root or the agent's own: dropping those would cut the agent off, and stop nobody who is root.
    pub spared: BTreeSet<String>,
}

impl Suspended {
    pub fn uids(&self) -> BTreeSet<u32> {
        self.dropped.values().copied().collect()
    }
}

/// Accounts that this host doesn't have are in neither.
pub fn suspended(state: &DeviceState, situation: &Situation) -> Suspended {
    let mut suspended = Suspended::default();
    for account in &state.suspended_users {
        match situation.accounts.get(account) {
            None => {}
            Some(uid) if *uid == ROOT || *uid == situation.uid => {
                suspended.spared.insert(account.clone());
            }
            Some(uid) => {
                suspended.dropped.insert(account.clone(), *uid);
            }
        }
    }
    suspended
}

pub(super) fn drop_suspended(rendered: &mut Rendered, state: &DeviceState, situation: &Situation) {
    for (account, uid) in suspended(state, situation).dropped {
        rendered.add_counted(
            HookPoint::Output.name(),
            &format!("suspended:{account}"),
            false,
            vec![expr::socket_owner(uid), expr::counter(), expr::drop()],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::nft::render::render;

    fn state(accounts: &[&str]) -> DeviceState {
        DeviceState {
            suspended_users: accounts
                .iter()
                .map(|account| (*account).to_owned())
                .collect(),
            ..DeviceState::default()
        }
    }

    fn situation() -> Situation {
        let accounts = [("mallory", 1000), ("toor", 0), ("seawall", 990)];
        let accounts = accounts.map(|(account, uid)| (account.to_owned(), uid));
        Situation {
            uid: 990,
            pinned: ["192.0.2.10:7443".parse().expect("an address")].into(),
            accounts: accounts.into(),
            ..Situation::default()
        }
    }

    #[test]
    fn root_by_any_name_and_the_agents_own_account_are_left_alone() {
        let found = suspended(
            &state(&["ghost", "mallory", "seawall", "toor"]),
            &situation(),
        );
        assert_eq!(found.uids(), [1000].into());
        assert_eq!(
            found.spared,
            ["seawall".to_owned(), "toor".to_owned()].into()
        );
    }

    #[test]
    fn a_suspended_account_is_dropped_before_anything_but_loopback_is_accepted() {
        let rendered = render(&state(&["mallory"]), &situation());
        let output = &rendered.ruleset.chains["output"].rules;
        let dropped = output.iter().position(|rule| {
            let comment = rule.comment.as_deref();
            comment == Some("suspended:mallory")
        });
        assert_eq!(dropped, Some(1), "{output:?}");
        assert_eq!(
            rendered.counted["suspended:mallory"].id,
            "suspended:mallory"
        );
    }
}
