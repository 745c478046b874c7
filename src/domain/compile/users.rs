//! Suspension of users: their accounts on the devices of the tenant, their writes to the API server, and the
//! scopes that have their names. An Isolation of the system namespace suspends a user everywhere, another one
//! in its own namespace.

use std::collections::BTreeSet;

use super::Draft;
use super::selectors::Reach;
use crate::api::IsolationSpec;
use crate::domain::enforcement::Source;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::SuspendedUser;
use crate::domain::world::Resource;

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
}
