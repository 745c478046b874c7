//! Scopes: whom the agent acts as, what it may act on now, and which fixed role it is bound to.

use std::collections::BTreeSet;

use super::{Draft, expired_words};
use crate::api::{Access, ApiKeyScopeSpec, stamps};
use crate::domain::enforcement::AccessGrant;
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, Reason, ScopeVerdict};
use crate::domain::world::Resource;

impl Draft<'_> {
    pub(super) fn access(&mut self) {
        for (key, scope) in &self.world.scopes {
            let verdict = self.judge_scope(key, scope);
            let active = verdict.acceptance == Acceptance::Accepted;
            let grant = AccessGrant {
                service_account: stamps::agent_service_account(&key.namespace, &key.name),
                role: active.then(|| role(&scope.spec)),
            };
            self.compiled.enforcement.access.insert(key.clone(), grant);
            self.compiled.verdicts.scopes.insert(key.clone(), verdict);
        }
    }

    fn judge_scope(&mut self, key: &ObjectKey, scope: &Resource<ApiKeyScopeSpec>) -> ScopeVerdict {
        let spec = &scope.spec;
        let acceptance = if spec.disabled {
            Acceptance::Waiting {
                reason: Reason::Disabled,
                message: "disabled: true; every key of it is refused".into(),
            }
        } else if self.expired(spec.expires_at) {
            expired_words()
        } else {
            Acceptance::Accepted
        };
        let targets = spec
            .targets
            .as_ref()
            .and_then(|targets| targets.devices.as_ref());
        let all_devices = targets.is_some_and(|targets| targets.all);
        ScopeVerdict {
            uid: scope.uid.clone(),
            generation: scope.generation,
            acceptance,
            agent: stamps::agent_user(&key.namespace, &key.name),
            devices: self.targets(key, spec),
            all_devices,
        }
    }

    /// Devices of the scope's own namespace, also for a scope of the system namespace: the role is bound
    /// there and nowhere else.
    fn targets(&self, key: &ObjectKey, spec: &ApiKeyScopeSpec) -> BTreeSet<DeviceId> {
        let Some(targets) = spec
            .targets
            .as_ref()
            .and_then(|targets| targets.devices.as_ref())
        else {
            return BTreeSet::new();
        };
        let devices = self.world.devices.iter();
        let chosen = devices.filter(|(id, device)| {
            let named = targets.ids.iter().any(|named| named == id.as_str());
            let tagged = !targets.tags.is_empty()
                && targets
                    .tags
                    .iter()
                    .all(|(tag, value)| device.tags.get(tag) == Some(value));
            device.tenant == key.namespace && (targets.all || named || tagged)
        });
        chosen.map(|(id, _)| id.clone()).collect()
    }
}

/// Tools that act, by the role they need; every other tool reads.
const ACTIONS: [&str; 6] = [
    "isolate_device",
    "release_device",
    "block_destination",
    "unblock_destination",
    "create_policy",
    "disable_policy",
];

/// `Custom` gets the least role that its tools can work with.
fn role(spec: &ApiKeyScopeSpec) -> Access {
    match spec.access {
        Access::Custom
            if spec
                .tools
                .iter()
                .any(|tool| ACTIONS.contains(&tool.as_str())) =>
        {
            Access::Contain
        }
        Access::Custom => Access::Investigate,
        access => access,
    }
}
