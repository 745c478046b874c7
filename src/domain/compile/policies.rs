//! Policies: which of them are in force and on which devices, and from there the state of each device. The
//! system namespace's come before the tenant's; `order` has the rest of the order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::order::{in_order, settle};
use super::rules::Resolved;
use super::selectors::{Chosen, Reach};
use super::workloads::addresses;
use super::{Draft, expired_words, refused};
use crate::api::policy::Defaults as WrittenDefaults;
use crate::api::{Mode, PolicySpec};
use crate::domain::enforcement::{ObservedRule, PeerSet, Rule, Source, SourceKind};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, PolicyVerdict, Reason, Ward};
use crate::domain::words::a_few;
use crate::domain::world::Resource;

/// An accepted Policy, resolved.
pub struct InForce<'w> {
    pub key: &'w ObjectKey,
    /// 0 for the system namespace, 1 for a tenant.
    pub tier: u8,
    pub priority: i32,
    pub observing: bool,
    pub rules: Vec<Arc<Rule>>,
    /// The same, with the addresses of the pods that are peers.
    pub rules_for_wards: Vec<Arc<Rule>>,
    pub default: Option<WrittenDefaults>,
    devices: BTreeSet<DeviceId>,
    pub wards: BTreeMap<ObjectKey, Ward>,
    pub source: Source,
}

impl<'w> Draft<'w> {
    pub(super) fn policies(&mut self) {
        let world = self.world;
        let mut in_force = Vec::new();
        for (key, policy) in self.question.of(&world.policies) {
            let mut verdict = PolicyVerdict {
                uid: policy.uid.clone(),
                generation: policy.generation,
                observing: policy.spec.mode == Mode::Observe,
                ..PolicyVerdict::default()
            };
            match self.judge_policy(key, policy, &mut verdict) {
                Ok(rules) => {
                    self.judge_workloads(key, policy, &rules, &mut verdict);
                    in_force.push(self.in_force(key, policy, rules, &verdict));
                }
                Err(acceptance) => verdict.acceptance = acceptance,
            }
            let verdicts = &mut self.compiled.verdicts.policies;
            verdicts.insert(key.clone(), Arc::new(verdict));
        }
        self.place_on_devices(in_force);
    }

    /// The rules of a Policy that is accepted, its devices and unknown ids in the verdict; or why it has no
    /// effect.
    fn judge_policy(
        &mut self,
        key: &ObjectKey,
        policy: &Resource<PolicySpec>,
        verdict: &mut PolicyVerdict,
    ) -> Result<Vec<Arc<Rule>>, Acceptance> {
        let spec = &policy.spec;
        if spec.disabled {
            return Err(Acceptance::Waiting {
                reason: Reason::Disabled,
                message: "disabled: true; it has no effect".into(),
            });
        }
        if self.expired(spec.expires_at) {
            return Err(expired_words());
        }
        if let Some(words) = not_supported(spec) {
            return Err(refused(Reason::NotSupported, words));
        }
        let malformed = |words| refused(Reason::Malformed, words);
        let reach = self.reach(&key.namespace, policy.written_by.as_deref());
        let Resolved {
            rules,
            mut unknown,
            foreign,
        } = self.rules(key, reach, &spec.rules).map_err(malformed)?;
        let subjects = self.subjects(reach, spec);
        if let Some(id) = foreign.union(&subjects.foreign).next() {
            return Err(refused(
                Reason::OtherTenant,
                format!(
                    "{id} is not a device of namespace {}: name devices of this namespace, or let a person write the Policy in namespace {}",
                    key.namespace, self.world.settings.system_namespace
                ),
            ));
        }
        if policy.written_by.is_some() {
            self.judge_agents_policy(reach, spec, &subjects.devices)?;
        }
        if speaks_of_nobody(spec, &subjects) {
            return Err(Acceptance::Waiting {
                reason: Reason::UnknownTarget,
                message: format!(
                    "no device {} is enrolled; the policy takes effect when one is",
                    a_few(&subjects.unknown)
                ),
            });
        }
        unknown.extend(subjects.unknown);
        verdict.unknown = unknown;
        verdict.devices = subjects.devices;
        Ok(rules)
    }

    fn subjects(&self, reach: Reach<'_>, spec: &PolicySpec) -> Chosen {
        let selector = spec.subjects.devices.as_ref();
        let mut chosen = selector
            .map(|selector| self.select(reach, selector))
            .unwrap_or_default();
        if spec.subjects.all {
            chosen.devices.extend(self.all_but_nodes(reach));
        }
        chosen
    }

    fn in_force(
        &self,
        key: &'w ObjectKey,
        policy: &'w Resource<PolicySpec>,
        rules: Vec<Arc<Rule>>,
        verdict: &PolicyVerdict,
    ) -> InForce<'w> {
        InForce {
            key,
            tier: u8::from(!self.is_system(&key.namespace)),
            priority: policy.spec.priority,
            observing: policy.spec.mode == Mode::Observe,
            rules_for_wards: self.with_pods(key, &policy.spec, &rules),
            rules,
            default: policy.spec.default,
            devices: verdict.devices.clone(),
            wards: verdict.workloads.wards.clone(),
            source: Source {
                kind: SourceKind::Policy,
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: policy.uid.clone(),
                generation: policy.generation,
            },
        }
    }

    fn place_on_devices(&mut self, mut policies: Vec<InForce<'w>>) {
        policies.sort_by_key(|policy| (policy.tier, policy.priority, policy.key));
        let observers = policies.iter().filter(|policy| policy.observing);
        let observed: BTreeSet<DeviceId> = observers
            .flat_map(|policy| policy.devices.iter().cloned())
            .collect();
        let all: Vec<_> = policies.iter().collect();
        for (policy, position) in in_order(&all) {
            let rule = &policy.rules[position];
            for device in &policy.devices {
                let state = self.compiled.state(device);
                if !policy.observing {
                    state.rules.push(Arc::clone(rule));
                }
                if observed.contains(device) {
                    state.observed_rules.push(ObservedRule {
                        rule: Arc::clone(rule),
                        observing: policy.observing,
                    });
                }
            }
        }
        for policy in &policies {
            for device in &policy.devices {
                let state = self.compiled.state(device);
                state.sources.insert(policy.source.clone());
                if !policy.observing {
                    settle(&mut state.defaults, policy);
                }
                if observed.contains(device) {
                    settle(&mut state.observed_defaults, policy);
                }
            }
        }
        self.group_wards(&policies);
    }

    /// The pods that the Policy chooses, who enforces it for each, and its portable part.
    fn judge_workloads(
        &mut self,
        key: &ObjectKey,
        policy: &Resource<PolicySpec>,
        rules: &[Arc<Rule>],
        verdict: &mut PolicyVerdict,
    ) {
        let spec = &policy.spec;
        let Some(workloads) = &spec.subjects.workloads else {
            return;
        };
        let pods = self.pods(&key.namespace, &workloads.pod_selector);
        verdict.workloads = self.standing(pods.iter().copied(), policy.created);
        let (network_policy, not_carried) = self.portable(key, spec, rules);
        verdict.network_policy = network_policy;
        // Agents carry all of it; what a NetworkPolicy can't carry matters for pods that have none.
        let mut own_network = Vec::new();
        let mut alone = self.node_agents.is_empty();
        for (pod, words) in &verdict.workloads.without_agent {
            match self.world.pods[pod].host_network {
                true => own_network.push(words.clone()),
                false => alone = true,
            }
        }
        if alone {
            verdict.not_enforceable.extend(not_carried);
        }
        verdict.not_enforceable.extend(own_network);
    }

    /// The rules with the addresses of the pods that are their peers.
    fn with_pods(&self, key: &ObjectKey, spec: &PolicySpec, rules: &[Arc<Rule>]) -> Vec<Arc<Rule>> {
        let rules = spec.rules.iter().zip(rules);
        let with_pods = rules.map(|(written, rule)| {
            let (Some(workloads), PeerSet::Networks(networks)) =
                (&written.peers.workloads, &rule.peers)
            else {
                return Arc::clone(rule);
            };
            let pods = self.pods(&key.namespace, &workloads.pod_selector);
            let pods = addresses(pods).into_iter().map(IpNet::from);
            let all: Vec<IpNet> = networks.iter().copied().chain(pods).collect();
            Arc::new(Rule {
                peers: PeerSet::Networks(IpNet::aggregate(&all).into_iter().collect()),
                ..Rule::clone(rule)
            })
        });
        with_pods.collect()
    }
}

/// Every subject is a device by id, and none of them is enrolled.
fn speaks_of_nobody(spec: &PolicySpec, chosen: &Chosen) -> bool {
    let by_id_alone = spec
        .subjects
        .devices
        .as_ref()
        .is_some_and(|selector| selector.tags.is_empty() && selector.trust_levels.is_empty());
    by_id_alone
        && !spec.subjects.all
        && spec.subjects.workloads.is_none()
        && chosen.devices.is_empty()
}

/// The first field that this version doesn't enforce. Leaving a part out would widen the rest.
fn not_supported(spec: &PolicySpec) -> Option<String> {
    let words = |field: &str| {
        Some(format!(
            "{field} is not enforced by this version, so nothing of the policy is applied: take it out, or write the rule with cidrs, devices or ports"
        ))
    };
    if spec.subjects.users.is_some() {
        return words("subjects.users");
    }
    if !spec.subjects.applications.is_empty() {
        return words("subjects.applications");
    }
    let for_workloads_alone =
        spec.subjects.workloads.is_some() && spec.subjects.devices.is_none() && !spec.subjects.all;
    for rule in &spec.rules {
        if rule.peers.workloads.is_some() && !for_workloads_alone {
            return Some(format!(
                "peers.workloads of rule {} is enforced for workloads alone, and the subjects of this policy are devices too, so nothing of the policy is applied: take it out, or give such rules a policy of their own",
                rule.name
            ));
        }
        let fields = [
            ("domains", !rule.peers.domains.is_empty()),
            ("countries", !rule.peers.countries.is_empty()),
            ("feeds", !rule.peers.feeds.is_empty()),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, given)| *given) {
            return words(&format!("peers.{field} of rule {}", rule.name));
        }
    }
    None
}
