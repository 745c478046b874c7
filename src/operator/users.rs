//! Suspended users as the MCP server shows them: where the accounts are dropped, and what else refuses the user.

use crate::domain::applied::Applied;
use crate::domain::enforcement::{Source, SourceKind};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{IsolationVerdict, SuspendedUser};
use crate::local::users::{AccountStanding, UserStanding};
use crate::status::user::{UserFacts, outside};

/// Devices that an answer names.
const MOST: usize = 50;

/// How the suspension of a user stands; none for an Isolation of something else.
pub fn standing(
    key: &ObjectKey,
    verdict: &IsolationVerdict,
    applied: &Applied,
) -> Option<UserStanding> {
    let user = verdict.user.as_ref()?;
    let source = source(key, verdict);
    let writes_refused = UserFacts::of(user, applied, &source).writes_refused();
    let each = user.devices.iter().map(|id| {
        let device = applied.devices.get(id);
        let programmed = device.is_some_and(|device| device.sources.contains(&source));
        let said = device.filter(|_| programmed).map(|device| &device.accounts);
        let of_user = |accounts: fn(&_) -> &_| {
            let accounts = said.map(accounts).into_iter();
            let accounts = accounts.flat_map(|accounts| user.os.intersection(accounts));
            accounts.cloned().collect()
        };
        AccountStanding {
            device: id.clone(),
            programmed,
            connected: device.is_some_and(|device| device.connected),
            dropped: of_user(|accounts| &accounts.dropped),
            spared: of_user(|accounts| &accounts.spared),
        }
    });
    Some(bounded(user, each.collect(), writes_refused))
}

/// How the suspension of a user that is not written would stand.
pub fn would_stand(verdict: &IsolationVerdict, applied: &Applied) -> Option<UserStanding> {
    let user = verdict.user.as_ref()?;
    let each = user.devices.iter().map(|id| {
        let device = applied.devices.get(id);
        let connected = device.is_some_and(|device| device.connected);
        AccountStanding {
            device: id.clone(),
            programmed: connected,
            connected,
            dropped: Vec::new(),
            spared: Vec::new(),
        }
    });
    let each = each.collect();
    Some(bounded(user, each, !user.kubernetes.is_empty()))
}

pub fn source(key: &ObjectKey, verdict: &IsolationVerdict) -> Source {
    Source {
        kind: SourceKind::Isolation,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: verdict.uid.clone(),
        generation: verdict.generation,
    }
}

fn bounded(
    user: &SuspendedUser,
    mut each: Vec<AccountStanding>,
    writes_refused: bool,
) -> UserStanding {
    let count = |is: fn(&&AccountStanding) -> bool| each.iter().filter(is).count();
    let (devices, programmed) = (each.len(), count(|it| it.programmed));
    let offline = count(|it| !it.connected);
    // What is missing, and then where there is something to see.
    each.sort_by_key(|it| (it.programmed, it.dropped.is_empty() && it.spared.is_empty()));
    each.truncate(MOST);
    let scopes = user.scopes.iter().map(|scope| scope.name.clone());
    let outside = outside(user).into_iter().map(str::to_owned);
    UserStanding {
        devices,
        programmed,
        offline,
        left_out: devices - each.len(),
        each,
        nodes: user.nodes.len(),
        kubernetes: user.kubernetes.iter().cloned().collect(),
        writes_refused,
        scopes: scopes.collect(),
        outside: outside.collect(),
    }
}

#[cfg(test)]
#[path = "users_tests.rs"]
pub mod tests;
