//! Policies: the rules of all of them, in one order for each device. The system namespace's come before the
//! tenant's; within a tier the lower priority, then Deny before Allow, then namespace and name, then the
//! order in which they are written.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Draft, expired_words, refused, rules};
use crate::api::policy::{DefaultAction, Defaults as SpecDefaults};
use crate::api::{Action, Mode, PolicySpec};
use crate::domain::enforcement::{
    DefaultRule, Defaults, DeviceState, ObservedRule, Rule, Source, SourceKind,
};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, PolicyVerdict, Reason};
use crate::domain::world::Resource;

/// Of an agent's Deny: a network of fewer bits than these is refused.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

/// What decides which rule comes first.
type Order<'w> = (u8, i32, u8, &'w ObjectKey, usize);

/// What one device gets from all policies.
#[derive(Default)]
struct OnDevice<'w> {
    rules: BTreeMap<Order<'w>, (Rule, bool)>,
    defaults: Vec<(&'w ObjectKey, &'w SpecDefaults, bool)>,
    sources: BTreeSet<Source>,
    observing: bool,
}

impl<'w> Draft<'w> {
    pub(super) fn policies(&mut self) {
        let world = self.world;
        let mut on_devices: BTreeMap<DeviceId, OnDevice<'w>> = BTreeMap::new();
        for (key, policy) in &world.policies {
            let mut verdict = self.judge_policy(key, policy);
            if verdict.acceptance == Acceptance::Accepted {
                verdict.devices = self.subjects(key, &policy.spec);
                for device in &verdict.devices {
                    self.add(key, policy, on_devices.entry(device.clone()).or_default());
                }
                if let Some(selector) = &policy.spec.subjects.workloads {
                    self.portable(key, &policy.spec, selector, &mut verdict);
                }
            }
            self.compiled.verdicts.policies.insert(key.clone(), verdict);
        }
        for (device, on_device) in on_devices {
            on_device.write(self.state(&device));
        }
    }

    pub(super) fn state(&mut self, device: &DeviceId) -> &mut DeviceState {
        let devices = &mut self.compiled.enforcement.devices;
        devices.entry(device.clone()).or_default()
    }

    fn judge_policy(&mut self, key: &ObjectKey, policy: &Resource<PolicySpec>) -> PolicyVerdict {
        let spec = &policy.spec;
        let acceptance = if spec.disabled {
            Acceptance::Waiting {
                reason: Reason::Disabled,
                message: "disabled: true; it has no effect".into(),
            }
        } else if self.expired(spec.expires_at) {
            expired_words()
        } else if let Some(words) = not_supported(spec) {
            refused(Reason::NotSupported, words)
        } else if policy.written_by.is_some() {
            self.judge_agents_policy(spec)
        } else {
            Acceptance::Accepted
        };
        tracing::trace!(policy = %key, ?acceptance);
        PolicyVerdict {
            uid: policy.uid.clone(),
            generation: policy.generation,
            acceptance,
            observing: spec.mode == Mode::Observe,
            ..PolicyVerdict::default()
        }
    }

    /// What an agent may not block: too much at once, and what keeps the rest safe.
    fn judge_agents_policy(&self, spec: &PolicySpec) -> Acceptance {
        let denying = spec.rules.iter().filter(|rule| rule.action == Action::Deny);
        for network in denying.flat_map(|rule| rules::networks(&rule.peers)) {
            let widest = match network {
                IpNet::V4(_) => WIDEST_V4,
                IpNet::V6(_) => WIDEST_V6,
            };
            if network.prefix_len() < widest {
                return refused(
                    Reason::TooWide,
                    format!(
                        "an agent may block networks of /{widest} or narrower, not {network}: a person can write this Policy"
                    ),
                );
            }
            let settings = &self.world.settings;
            let operator = settings
                .operator
                .iter()
                .find(|at| network.contains(&at.ip()));
            let protected = settings
                .protected
                .iter()
                .find(|p| network.contains(&p.network) || p.network.contains(&network));
            let what = operator
                .map(|at| format!("the operator at {at}"))
                .or_else(|| protected.map(|p| format!("{} at {}", p.what, p.network)));
            if let Some(what) = what {
                return refused(
                    Reason::WouldCutOperator,
                    format!("blocking {network} would cut {what}"),
                );
            }
        }
        Acceptance::Accepted
    }

    fn subjects(&self, key: &ObjectKey, spec: &PolicySpec) -> BTreeSet<DeviceId> {
        if spec.subjects.all {
            return self.all_devices(&key.namespace);
        }
        let selector = spec.subjects.devices.as_ref();
        selector.map_or_else(BTreeSet::new, |selector| {
            self.select(&key.namespace, selector)
        })
    }

    fn add(&self, key: &'w ObjectKey, policy: &'w Resource<PolicySpec>, to: &mut OnDevice<'w>) {
        let tier = u8::from(!self.is_system(&key.namespace));
        let observing = policy.spec.mode == Mode::Observe;
        for (position, rule) in policy.spec.rules.iter().enumerate() {
            let rank = rules::rank(rule.action);
            let order = (tier, policy.spec.priority, rank, key, position);
            to.rules.insert(order, (self.rule(key, rule), observing));
        }
        if let Some(default) = &policy.spec.default {
            to.defaults.push((key, default, observing));
        }
        to.observing |= observing;
        to.sources.insert(Source {
            kind: SourceKind::Policy,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: policy.uid.clone(),
            generation: policy.generation,
        });
    }
}

impl OnDevice<'_> {
    fn write(self, state: &mut DeviceState) {
        let enforced = self.defaults.iter().filter(|(_, _, observing)| !observing);
        state.defaults = defaults(enforced);
        if self.observing {
            state.observed_defaults = defaults(self.defaults.iter());
            state.observed_rules = self
                .rules
                .values()
                .cloned()
                .map(|(rule, observing)| ObservedRule { rule, observing })
                .collect();
        }
        let rules = self.rules.into_values();
        state.rules = rules
            .filter(|(_, observing)| !observing)
            .map(|(rule, _)| rule)
            .collect();
        state.sources.extend(self.sources);
    }
}

/// Per direction the one that counts: Deny wins, then one that enforces, then namespace and name.
fn defaults<'a, 'w: 'a>(
    given: impl Iterator<Item = &'a (&'w ObjectKey, &'w SpecDefaults, bool)> + Clone,
) -> Defaults {
    let of = |direction: fn(&SpecDefaults) -> Option<DefaultAction>| {
        let given = given.clone();
        let candidates = given.filter_map(|(key, default, observing)| {
            let action = direction(default)?;
            Some((action != DefaultAction::Deny, *observing, *key, action))
        });
        let first = candidates.min_by_key(|(allow, observing, key, _)| (*allow, *observing, *key));
        first.map(|(_, observing, key, action)| DefaultRule {
            id: key.to_string(),
            action,
            observing,
        })
    };
    Defaults {
        egress: of(|default| default.egress),
        ingress: of(|default| default.ingress),
    }
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
    for rule in &spec.rules {
        let fields = [
            ("domains", !rule.peers.domains.is_empty()),
            ("countries", !rule.peers.countries.is_empty()),
            ("feeds", !rule.peers.feeds.is_empty()),
            ("workloads", rule.peers.workloads.is_some()),
        ];
        if let Some((field, _)) = fields.into_iter().find(|(_, given)| *given) {
            return words(&format!("peers.{field} of rule {}", rule.name));
        }
    }
    None
}
