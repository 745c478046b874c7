//! Scopes: whom the agent acts as, what it may act on now, and which fixed role it is bound to.

use std::collections::{BTreeMap, BTreeSet};

use super::selectors::{Chosen, Reach};
use super::{Draft, expired_words, refused};
use crate::api::{Access, ApiKeyScopeSpec, WorkloadSelector, stamps};
use crate::domain::enforcement::AccessGrant;
use crate::domain::names::ObjectKey;
use crate::domain::tools;
use crate::domain::verdict::{Acceptance, Reason, ScopeVerdict};
use crate::domain::words::a_few;
use crate::domain::world::Resource;

impl Draft<'_> {
    pub(super) fn access(&mut self) {
        let holders = holders(&self.world.scopes);
        for (key, scope) in self.question.of(&self.world.scopes) {
            let mut verdict = self.judge_scope(key, scope);
            verdict.shared_keys = shared_keys(key, &scope.spec, &holders);
            let grant = AccessGrant {
                service_account: stamps::agent_service_account(&key.namespace, &key.name),
                role: verdict.role,
            };
            self.compiled.enforcement.access.insert(key.clone(), grant);
            self.compiled.verdicts.scopes.insert(key.clone(), verdict);
        }
    }

    fn judge_scope(&mut self, key: &ObjectKey, scope: &Resource<ApiKeyScopeSpec>) -> ScopeVerdict {
        let spec = &scope.spec;
        let chosen = self.targets(key, spec);
        let targets = spec.targets.as_ref();
        let all_devices = targets.and_then(|targets| Some(targets.devices.as_ref()?.all));
        let workloads = targets.and_then(|targets| targets.workloads.as_ref());
        let mut verdict = ScopeVerdict {
            uid: scope.uid.clone(),
            generation: scope.generation,
            agent: stamps::agent_user(&key.namespace, &key.name),
            acceptance: self.accept_scope(key, spec, &chosen),
            ..ScopeVerdict::default()
        };
        if verdict.acceptance == Acceptance::Accepted {
            verdict.devices = chosen.devices;
            verdict.unknown = chosen.unknown;
            verdict.all_devices = all_devices.unwrap_or_default();
            verdict.pods = self.target_names(key, workloads);
            verdict.role = Some(role(spec));
            let tools = tools::offered(spec.access, &spec.tools);
            verdict.tools = tools.into_iter().map(str::to_owned).collect();
        }
        verdict
    }

    fn accept_scope(
        &mut self,
        key: &ObjectKey,
        spec: &ApiKeyScopeSpec,
        chosen: &Chosen,
    ) -> Acceptance {
        if spec.disabled {
            return Acceptance::Waiting {
                reason: Reason::Disabled,
                message: "disabled: true; every key of it is refused".into(),
            };
        }
        if self.expired(spec.expires_at) {
            return expired_words();
        }
        if let Some(suspenders) = self.suspended_scopes.get(key) {
            return suspended(key, suspenders);
        }
        if let Some(id) = chosen.foreign.first() {
            return refused(
                Reason::OtherTenant,
                format!(
                    "{id} is not a device of namespace {}: an agent acts in its scope's own namespace alone",
                    key.namespace
                ),
            );
        }
        // A word for a tool that is none would let an agent do what a person was to approve.
        let approval = spec.approval.iter().flat_map(|approval| &approval.tools);
        let mut named = spec.tools.iter().chain(approval);
        if let Some(unknown) = named.find(|name| tools::needed(name).is_none()) {
            return refused(
                Reason::NotSupported,
                format!(
                    "{unknown} is no tool of this version: the tools are {}",
                    tools::names().join(", ")
                ),
            );
        }
        Acceptance::Accepted
    }

    /// Devices of the scope's own namespace, also for a scope of the system namespace: the role is bound
    /// there and nowhere else.
    fn targets(&self, key: &ObjectKey, spec: &ApiKeyScopeSpec) -> Chosen {
        let targets = spec.targets.as_ref();
        let Some(targets) = targets.and_then(|targets| targets.devices.as_ref()) else {
            return Chosen::default();
        };
        let reach = Reach::tenant(&key.namespace);
        let mut chosen = self.named(reach, &targets.ids);
        let tagged = self.tagged(reach, &targets.tags, &[]);
        chosen.devices.extend(tagged);
        if targets.all {
            chosen.devices.extend(self.all_but_nodes(reach));
        }
        chosen
    }

    /// Pods of the scope's own namespace.
    fn target_names(
        &self,
        key: &ObjectKey,
        workloads: Option<&WorkloadSelector>,
    ) -> BTreeSet<String> {
        let selectors = workloads.map(|workloads| &workloads.pod_selector);
        let chosen = selectors.map(|selector| self.pods_given(&key.namespace, selector));
        let names = chosen.into_iter().flatten();
        names.map(|(pod, _)| pod.name.clone()).collect()
    }
}

/// A tenant is told that another namespace suspends its agent, and no more.
fn suspended(key: &ObjectKey, suspenders: &BTreeSet<ObjectKey>) -> Acceptance {
    let (here, elsewhere): (Vec<_>, Vec<_>) = suspenders
        .iter()
        .partition(|suspender| suspender.namespace == key.namespace);
    let mut named: Vec<String> = here.iter().map(|it| it.name.clone()).collect();
    if !elsewhere.is_empty() {
        named.push("an Isolation of another namespace".to_owned());
    }
    Acceptance::Waiting {
        reason: Reason::Suspended,
        message: format!(
            "the agent is suspended by {}: every key of it is refused",
            a_few(named)
        ),
    }
}

/// Who holds each key's hash, whatever state the scope is in: one that is disabled may be enabled again.
fn holders(
    scopes: &BTreeMap<ObjectKey, Resource<ApiKeyScopeSpec>>,
) -> BTreeMap<&str, BTreeSet<&ObjectKey>> {
    let mut holders: BTreeMap<&str, BTreeSet<&ObjectKey>> = BTreeMap::new();
    for (key, scope) in scopes {
        for hash in &scope.spec.credentials.key_hashes {
            holders.entry(hash).or_default().insert(key);
        }
    }
    holders
}

/// Keys that are nobody's, because more than one scope holds them. A scope of another namespace is not
/// named: a tenant learns nothing of what others have.
fn shared_keys(
    key: &ObjectKey,
    spec: &ApiKeyScopeSpec,
    holders: &BTreeMap<&str, BTreeSet<&ObjectKey>>,
) -> Vec<String> {
    let hashes = spec.credentials.key_hashes.iter();
    let words = hashes.filter_map(|hash| {
        let others = holders.get(hash.as_str())?.iter();
        let others = others.filter(|other| **other != key);
        let (here, elsewhere): (Vec<&ObjectKey>, Vec<&ObjectKey>) =
            others.partition(|other| other.namespace == key.namespace);
        let mut named: BTreeSet<String> = here.iter().map(|other| other.name.clone()).collect();
        if !elsewhere.is_empty() {
            named.insert("a scope of another namespace".to_owned());
        }
        (!named.is_empty()).then(|| format!("{} ({})", beginning(hash), a_few(&named)))
    });
    words.collect()
}

/// As `seawall keys list` shows it.
fn beginning(hash: &str) -> &str {
    let digits = hash.strip_prefix("sha256:").unwrap_or(hash);
    digits.get(..12).unwrap_or(digits)
}

/// `Custom` gets the least role that its tools can work with.
fn role(spec: &ApiKeyScopeSpec) -> Access {
    match spec.access {
        Access::Custom => {
            let needed = spec.tools.iter().filter_map(|tool| tools::needed(tool));
            needed.max().unwrap_or(Access::Investigate)
        }
        access => access,
    }
}
