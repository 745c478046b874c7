//! The pods that agents enforce for, in groups: pods of one node that are under the same Isolations and
//! Policies are one group, so that a pod that comes or goes changes an address and no rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Draft;
use super::management::intersection;
use super::order::{in_order, settle};
use super::policies::InForce;
use crate::api::Probes;
use crate::domain::enforcement::{
    ManagementRule, ObservedRule, Ports, Source, WardGroup, WardIsolation,
};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::Workloads;

/// What is known of the wards before the Policies are placed.
#[derive(Default)]
pub struct Wards<'w> {
    pub(super) isolations: Vec<WardsIsolation>,
    under: BTreeMap<&'w ObjectKey, Under>,
    /// Pods whose labels are taken away, each with its places in the list of Isolations. Of these, those
    /// whose node has an agent by now are wards as well.
    pub(super) stripped: BTreeMap<&'w ObjectKey, Vec<usize>>,
}

/// An Isolation of pods that is in force.
pub struct WardsIsolation {
    pub key: ObjectKey,
    pub source: Source,
    pub management: BTreeSet<ManagementRule>,
    pub probes: Probes,
}

/// What one pod is under, as places in the lists of Isolations and Policies.
struct Under {
    device: DeviceId,
    isolations: Vec<usize>,
    policies: Vec<usize>,
}

/// A pod and its node's device.
type Placed<'a> = (&'a ObjectKey, &'a DeviceId);

impl Under {
    fn nothing(device: &DeviceId) -> Self {
        Self {
            device: device.clone(),
            isolations: Vec::new(),
            policies: Vec::new(),
        }
    }
}

impl<'w> Draft<'w> {
    /// Puts these pods under an Isolation.
    pub(super) fn isolate_wards(&mut self, isolation: WardsIsolation, workloads: &Workloads) {
        let place = self.wards.isolations.len();
        self.wards.isolations.push(isolation);
        for (pod, ward) in &workloads.wards {
            let Some((pod, facts)) = self.world.pods.get_key_value(pod) else {
                continue;
            };
            let under = self.wards.under.entry(pod);
            let under = under.or_insert_with(|| Under::nothing(&ward.device));
            under.isolations.push(place);
            if facts.stripped.is_some() {
                self.wards.stripped.entry(pod).or_default().push(place);
            }
        }
        for pod in workloads.stripped.keys() {
            if let Some((pod, _)) = self.world.pods.get_key_value(pod) {
                self.wards.stripped.entry(pod).or_default().push(place);
            }
        }
    }

    /// Tells each Isolation of pods which others are in force on the same ones.
    pub(super) fn note_overlaps(&mut self) {
        let isolations = &self.wards.isolations;
        let mut others: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let wards = self.wards.under.values().map(|under| &under.isolations);
        for together in wards.chain(self.wards.stripped.values()) {
            for one in together {
                others.entry(*one).or_default().extend(together);
            }
        }
        for (one, all) in others {
            let of = &isolations[one];
            let verdicts = &mut self.compiled.verdicts;
            if let Some(verdict) = verdicts.isolation(&of.key, &of.source.uid) {
                let all = all.into_iter().filter(|other| *other != one);
                verdict.also_isolated_by = all.map(|other| isolations[other].key.clone()).collect();
            }
        }
    }

    /// Writes the groups into the states of the nodes' devices. `policies` are in the order of evaluation.
    pub(super) fn group_wards(&mut self, policies: &[InForce<'w>]) {
        let mut wards = std::mem::take(&mut self.wards);
        for (place, policy) in policies.iter().enumerate() {
            for (pod, ward) in &policy.wards {
                let Some((pod, _)) = self.world.pods.get_key_value(pod) else {
                    continue;
                };
                let under = wards.under.entry(pod);
                let under = under.or_insert_with(|| Under::nothing(&ward.device));
                under.policies.push(place);
            }
        }
        let mut groups: BTreeMap<(&[usize], &[usize]), Vec<Placed<'_>>> = BTreeMap::new();
        for (pod, under) in &wards.under {
            let group = groups.entry((&under.isolations, &under.policies));
            group.or_default().push((*pod, &under.device));
        }
        for ((isolations, under), pods) in groups {
            let isolations: Vec<_> = isolations.iter().map(|i| &wards.isolations[*i]).collect();
            let under: Vec<_> = under.iter().map(|i| &policies[*i]).collect();
            let shared = match isolations.is_empty() {
                true => judged_by(&under),
                false => cut_by(&isolations, &under),
            };
            let keeps_probes =
                !isolations.is_empty() && isolations.iter().all(|it| it.probes == Probes::Keep);
            let name = name_of(&shared.sources);
            for (pod, device) in pods {
                self.add_ward(device, &name, &shared, pod, keeps_probes);
            }
        }
    }

    fn add_ward(
        &mut self,
        device: &DeviceId,
        name: &str,
        shared: &WardGroup,
        key: &ObjectKey,
        keeps_probes: bool,
    ) {
        let pod = &self.world.pods[key];
        let groups = &mut self.compiled.state(device).wards;
        let group = groups.entry(name.to_owned());
        let group = Arc::make_mut(group.or_insert_with(|| Arc::new(shared.clone())));
        group.members.insert(key.to_string(), pod.addresses.clone());
        if let Some(isolation) = &mut group.isolation
            && keeps_probes
            && !pod.probes.is_empty()
        {
            let probes: BTreeSet<Ports> = pod.probes.clone();
            isolation.probes.insert(key.to_string(), probes);
        }
    }
}

/// What the pods under these Isolations have in common. The Policies are named as well: an isolated pod
/// passes nothing that they would stop.
fn cut_by(isolations: &[&WardsIsolation], policies: &[&InForce<'_>]) -> WardGroup {
    let sources = isolations.iter().map(|isolation| &isolation.source);
    let sources = sources.chain(policies.iter().map(|policy| &policy.source));
    WardGroup {
        sources: sources.cloned().collect(),
        isolation: Some(WardIsolation {
            management: all_of_them_allow(isolations),
            probes: BTreeMap::new(),
        }),
        ..WardGroup::default()
    }
}

/// The management paths that all of them have.
pub(super) fn all_of_them_allow(isolations: &[&WardsIsolation]) -> BTreeSet<ManagementRule> {
    let mut all = isolations.iter().map(|isolation| &isolation.management);
    let first = all.next().cloned().unwrap_or_default();
    all.fold(first, |so_far, next| intersection(&so_far, next))
}

/// What the pods under these Policies, which are in order, have in common.
fn judged_by(policies: &[&InForce<'_>]) -> WardGroup {
    let mut group = WardGroup::default();
    let observed = policies.iter().any(|policy| policy.observing);
    for (policy, position) in in_order(policies) {
        let rule = &policy.rules_for_wards[position];
        if !policy.observing {
            group.rules.push(Arc::clone(rule));
        }
        if observed {
            group.observed_rules.push(ObservedRule {
                rule: Arc::clone(rule),
                observing: policy.observing,
            });
        }
    }
    for policy in policies {
        group.sources.insert(policy.source.clone());
        if !policy.observing {
            settle(&mut group.defaults, policy);
        }
        if observed {
            settle(&mut group.observed_defaults, policy);
        }
    }
    group
}

/// The same resources give the same name through all their edits.
fn name_of(sources: &BTreeSet<Source>) -> String {
    let mut hash = Sha256::new();
    for source in sources {
        hash.update(source.uid.as_bytes());
        hash.update([0]);
    }
    format!("w{}", hex::encode(&hash.finalize()[..6]))
}
