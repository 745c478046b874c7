//! Suspension of users: their accounts on the devices of the tenant, their writes to the API server, and the
//! scopes that have their names. An Isolation of the system namespace suspends a user everywhere, another one
//! in its own namespace.

use std::collections::{BTreeMap, BTreeSet};

use super::Draft;
use super::selectors::Reach;
use crate::api::IsolationSpec;
use crate::domain::enforcement::Source;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::SuspendedUser;
use crate::domain::world::Resource;

/// An Isolation of a user that is in force.
pub(super) struct Suspension {
    key: ObjectKey,
    uid: String,
    user: SuspendedUser,
}

impl Suspension {
    pub(super) fn new(key: &ObjectKey, uid: &str, user: &SuspendedUser) -> Self {
        Self {
            key: key.clone(),
            uid: uid.to_owned(),
            user: user.clone(),
        }
    }

    /// Each name, told from the same name elsewhere.
    fn names(&self) -> impl Iterator<Item = (u8, &str)> {
        let SuspendedUser {
            os,
            kubernetes,
            seawall,
            ..
        } = &self.user;
        [os, kubernetes, seawall]
            .into_iter()
            .zip(0..)
            .flat_map(|(names, place)| names.iter().map(move |name| (place, name.as_str())))
    }

    /// Whether something is refused that the other one would go on refusing alone.
    fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (&self.user, &other.user);
        let both_in_one = match (&a.namespace, &b.namespace) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        (!a.os.is_disjoint(&b.os) && !a.devices.is_disjoint(&b.devices))
            || (both_in_one && !a.kubernetes.is_disjoint(&b.kubernetes))
            || !a.scopes.is_disjoint(&b.scopes)
    }
}

impl Draft<'_> {
    pub(super) fn judge_user(
        &self,
        key: &ObjectKey,
        isolation: &Resource<IsolationSpec>,
        reach: Reach<'_>,
        user: &str,
    ) -> SuspendedUser {
        let names = isolation.spec.user_names.clone().unwrap_or_default();
        let called = |names: Option<Vec<String>>| -> BTreeSet<String> {
            let names = names.unwrap_or_else(|| vec![user.to_owned()]);
            names.into_iter().collect()
        };
        let (os, seawall) = (called(names.os), called(names.seawall));
        let devices = match os.is_empty() {
            true => BTreeSet::new(),
            false => self.all_devices(reach),
        };
        let (nodes, devices) = devices
            .into_iter()
            .partition(|id| self.world.devices[id].node.is_some());
        let scopes = self.world.scopes.keys().filter(|scope| {
            seawall.contains(&scope.name)
                && (reach.is_every_tenant() || scope.namespace == key.namespace)
        });
        SuspendedUser {
            scopes: scopes.cloned().collect(),
            devices,
            nodes,
            os,
            kubernetes: called(names.kubernetes),
            namespace: (!reach.is_every_tenant()).then(|| key.namespace.clone()),
            seawall,
        }
    }

    /// Puts it in force.
    pub(super) fn suspend(&mut self, source: &Source, user: &SuspendedUser) {
        for device in &user.devices {
            let state = self.compiled.state(device);
            state.suspended_users.extend(user.os.iter().cloned());
            state.sources.insert(source.clone());
        }
        let namespace = user.namespace.as_deref();
        let users = &mut self.compiled.enforcement.suspended_users;
        users.add(namespace, user.kubernetes.iter().cloned());
        let suspender = ObjectKey::new(&source.namespace, &source.name);
        for scope in &user.scopes {
            let suspenders = self.suspended_scopes.entry(scope.clone()).or_default();
            suspenders.insert(suspender.clone());
        }
    }

    /// Says of each which others suspend the same user, so that nobody thinks that one restores it.
    pub(super) fn note_suspensions(&mut self, suspensions: &[Suspension]) {
        let mut by_name: BTreeMap<(u8, &str), Vec<&Suspension>> = BTreeMap::new();
        for suspension in suspensions {
            for name in suspension.names() {
                by_name.entry(name).or_default().push(suspension);
            }
        }
        for suspension in suspensions {
            let alike = suspension.names().filter_map(|name| by_name.get(&name));
            let others = alike
                .flatten()
                .filter(|other| other.key != suspension.key && other.overlaps(suspension));
            let others: BTreeSet<ObjectKey> = others.map(|other| other.key.clone()).collect();
            let verdicts = &mut self.compiled.verdicts;
            if let Some(verdict) = verdicts.isolation(&suspension.key, &suspension.uid) {
                verdict.also_isolated_by = others;
            }
        }
    }
}
