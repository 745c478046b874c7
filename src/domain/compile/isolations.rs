//! Isolation of devices and nodes, from both sides: the target cuts itself off, and every other device of the
//! tenant drops its addresses. An Isolation of the system namespace is kept by the devices of all tenants.
//! Pods are cut off by the agent of their node ([`super::wards`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::management::{intersection, management, path};
use super::selectors::Reach;
use super::users::Suspension;
use super::wards::WardsIsolation;
use super::{Draft, expired_words, refused};
use crate::api::{IsolationSpec, Probes, Target, WorkloadTarget};
use crate::domain::cluster::Pod;
use crate::domain::enforcement::{ManagementRule, SelfIsolation, Source, SourceKind};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, IsolationVerdict, Reason};
use crate::domain::words::a_few_words;
use crate::domain::world::Resource;

/// An Isolation in force on a device.
struct InForce<'w> {
    key: &'w ObjectKey,
    source: Source,
    management: BTreeSet<ManagementRule>,
    /// The devices that drop the target's addresses for it.
    peers: BTreeSet<DeviceId>,
}

impl<'w> Draft<'w> {
    pub(super) fn isolations(&mut self) {
        let world = self.world;
        let question = self.question;
        let listed = question.of(&world.isolations);
        let listed = listed.map(|(key, isolation)| (key, isolation, false));
        let held = world.held.values();
        let held = held
            .filter(|held| question.is_about(&held.key.namespace))
            .map(|held| (&held.key, &held.isolation, true));
        let mut on_devices: BTreeMap<DeviceId, Vec<InForce<'w>>> = BTreeMap::new();
        let mut suspensions = Vec::new();
        for (key, isolation, held) in listed.chain(held) {
            let mut verdict = self.judge_isolation(key, isolation, held);
            if let (Acceptance::Accepted, Some(device)) = (&verdict.acceptance, &verdict.device) {
                let reach = self.reach(&key.namespace, isolation.written_by.as_deref());
                verdict.peers = self.all_devices(reach);
                verdict.peers.remove(device);
                let on_device = on_devices.entry(device.clone()).or_default();
                on_device.push(InForce {
                    key,
                    source: source(key, isolation),
                    management: management(&isolation.spec.management),
                    peers: verdict.peers.clone(),
                });
            }
            if let (Acceptance::Accepted, Some(workloads)) =
                (&verdict.acceptance, &verdict.workloads)
            {
                let in_force = WardsIsolation {
                    key: key.clone(),
                    source: source(key, isolation),
                    management: management(&isolation.spec.management),
                    probes: isolation.spec.probes,
                };
                self.isolate_wards(in_force, workloads);
            }
            if let (Acceptance::Accepted, Some(user)) = (&verdict.acceptance, &verdict.user) {
                self.suspend(&source(key, isolation), user);
                suspensions.push(Suspension::new(key, &isolation.uid, user));
            }
            // A new Isolation that took the name of one that is held speaks for the name.
            let verdicts = &mut self.compiled.verdicts.isolations;
            if !held || !verdicts.contains_key(key) {
                verdicts.insert(key.clone(), Arc::new(verdict));
            }
        }
        for (device, in_force) in &on_devices {
            self.isolate(device, in_force);
        }
        self.note_overlaps();
        self.note_suspensions(&suspensions);
        self.strip();
    }

    fn judge_isolation(
        &mut self,
        key: &ObjectKey,
        isolation: &Resource<IsolationSpec>,
        held: bool,
    ) -> IsolationVerdict {
        let target = &isolation.spec.target;
        let mut verdict = IsolationVerdict {
            uid: isolation.uid.clone(),
            generation: isolation.generation,
            target: summary(target),
            held,
            ..IsolationVerdict::default()
        };
        if self.expired(isolation.spec.expires_at) {
            verdict.acceptance = expired_words();
        } else {
            let reach = self.reach(&key.namespace, isolation.written_by.as_deref());
            let judged = match target {
                Target {
                    device: Some(device),
                    ..
                } => self.judge_device(key, reach, device, &mut verdict),
                Target {
                    workload: Some(workload),
                    ..
                } => self.judge_pods(key, workload, isolation, &mut verdict),
                Target {
                    node: Some(node), ..
                } => self.judge_node(key, reach, node, &mut verdict),
                Target {
                    user: Some(user), ..
                } => {
                    verdict.user = Some(self.judge_user(key, isolation, reach, user));
                    Ok(())
                }
                _ => Err(refused(
                    Reason::Malformed,
                    "target names nothing: give device, workload, user or node",
                )),
            };
            if let Err(acceptance) = judged {
                verdict.acceptance = acceptance;
            }
        }
        verdict
    }

    fn judge_device(
        &self,
        key: &ObjectKey,
        reach: Reach<'_>,
        device: &str,
        verdict: &mut IsolationVerdict,
    ) -> Result<(), Acceptance> {
        let id = self.target(key, reach, device)?;
        verdict.address_notes = self.addresses.notes(&id, reach.is_every_tenant());
        verdict.device = Some(id);
        Ok(())
    }

    /// A node is the device that its agent enrolled, and its pods with it.
    fn judge_node(
        &self,
        key: &ObjectKey,
        reach: Reach<'_>,
        node: &str,
        verdict: &mut IsolationVerdict,
    ) -> Result<(), Acceptance> {
        if !self.is_system(&key.namespace) {
            return Err(refused(
                Reason::OtherTenant,
                format!(
                    "a node belongs to every tenant: create the Isolation in namespace {}",
                    self.world.settings.system_namespace
                ),
            ));
        }
        if let Some(device) = self.node_agents.on(node) {
            return self.judge_device(key, reach, device.as_str(), verdict);
        }
        if !self.world.nodes.contains_key(node) {
            return Err(Acceptance::Waiting {
                reason: Reason::UnknownTarget,
                message: format!(
                    "the cluster has no node {node}; it is isolated when it joins and its agent enrols"
                ),
            });
        }
        verdict.not_enforceable = Some(format!(
            "no agent runs on node {node}: turn on the chart's agent.enabled; until then cordon and drain the node, and cut it off at its network"
        ));
        Ok(())
    }

    fn judge_pods(
        &mut self,
        key: &ObjectKey,
        target: &WorkloadTarget,
        isolation: &Resource<IsolationSpec>,
        verdict: &mut IsolationVerdict,
    ) -> Result<(), Acceptance> {
        let mut pods = self.target_pods(key, target)?;
        if target.pod_selector.is_some() {
            // Refusing the whole would set the others free when such a pod comes.
            pods.retain(|(pod, facts)| match self.protected_pod(pod, facts) {
                Some(words) => {
                    verdict.spared.insert((*pod).clone(), words);
                    false
                }
                None => true,
            });
        } else if let Some(words) = pods
            .iter()
            .find_map(|(pod, it)| self.protected_pod(pod, it))
        {
            return Err(refused(
                Reason::WouldCutOperator,
                format!("isolating it would cut what the rest depends on: {words}"),
            ));
        }
        if isolation.spec.probes == Probes::Cut {
            let at_risk = pods.iter().filter(|(_, pod)| pod.restarts_when_unreachable);
            verdict.evidence_at_risk = at_risk.map(|(pod, _)| (*pod).clone()).collect();
        }
        let mut workloads = self.standing(pods, isolation.created);
        self.stand_in(target, isolation, &mut workloads);
        let enforced = !workloads.wards.is_empty() || !workloads.stripped.is_empty();
        if !enforced && workloads.without_address.is_empty() {
            let words = workloads.without_agent.values();
            let words = (words.len() > 0).then(|| a_few_words(words));
            verdict.not_enforceable = words;
        }
        verdict.workloads = Some(workloads);
        Ok(())
    }

    fn target_pods(
        &self,
        key: &ObjectKey,
        target: &WorkloadTarget,
    ) -> Result<Vec<(&'w ObjectKey, &'w Pod)>, Acceptance> {
        if let Some(selector) = &target.pod_selector {
            return Ok(self.pods_given(&key.namespace, selector));
        }
        let name = target.pod.as_deref().unwrap_or_default();
        let pod = ObjectKey::new(&key.namespace, name);
        let pod = self.world.pods.get_key_value(&pod);
        let unknown = || Acceptance::Waiting {
            reason: Reason::UnknownTarget,
            message: format!(
                "no pod {name} runs in namespace {}; it is isolated when one does",
                key.namespace
            ),
        };
        Ok(vec![pod.ok_or_else(unknown)?])
    }

    /// The device that is isolated, or why none is.
    fn target(
        &self,
        key: &ObjectKey,
        reach: Reach<'_>,
        device: &str,
    ) -> Result<DeviceId, Acceptance> {
        let id = device
            .parse::<DeviceId>()
            .map_err(|error| refused(Reason::Malformed, error.to_string()))?;
        let Some(enrolled) = self.world.devices.get(&id) else {
            return Err(Acceptance::Waiting {
                reason: Reason::UnknownTarget,
                message: format!("no device {id} is enrolled; it is isolated when it enrols"),
            });
        };
        if !reach.covers(enrolled) {
            return Err(refused(
                Reason::OtherTenant,
                format!(
                    "{id} is not a device of namespace {}: create the Isolation in the device's own namespace",
                    key.namespace
                ),
            ));
        }
        let on_it = || self.protected_on_node(enrolled.node.as_deref()?);
        match self.addresses.protected(&id).or_else(on_it) {
            Some(what) => Err(refused(
                Reason::WouldCutOperator,
                format!(
                    "isolating {id} would cut what the rest depends on: {what}; cut the device off at its network instead"
                ),
            )),
            None => Ok(id),
        }
    }

    fn isolate(&mut self, target: &DeviceId, in_force: &[InForce<'_>]) {
        let peers = in_force.iter().flat_map(|isolation| &isolation.peers);
        let peers: BTreeSet<&DeviceId> = peers.collect();
        // A peer of another tenant keeps the system's isolations alone, whatever the target's tenant adds.
        let mut spared_for: BTreeMap<&ObjectKey, BTreeMap<IpAddr, IpNet>> = BTreeMap::new();
        for peer in peers {
            let kept = || in_force.iter().filter(|it| it.peers.contains(peer));
            let management = all_of_them_allow(kept());
            let mut dropped = self.addresses.dropped_by(peer, target);
            let spared = spared(&dropped, &management, |address| {
                self.addresses.is_shown(target, address)
            });
            dropped.retain(|address| !spared.contains_key(address));
            for isolation in kept() {
                let spared_for = spared_for.entry(isolation.key).or_default();
                spared_for.extend(spared.clone());
            }
            let own = self.addresses.of_device(peer);
            let paths = management
                .iter()
                .filter_map(|rule| path(rule, &own, &dropped));
            let state = self.compiled.state(peer);
            state.quarantine_paths.extend(paths);
            state.quarantined.extend(dropped);
            state
                .sources
                .extend(kept().map(|isolation| isolation.source.clone()));
        }
        let state = self.compiled.state(target);
        state.isolation = Some(SelfIsolation {
            management: all_of_them_allow(in_force.iter()),
        });
        let sources = in_force.iter().map(|isolation| isolation.source.clone());
        state.sources.extend(sources);
        for isolation in in_force {
            let verdicts = &mut self.compiled.verdicts;
            if let Some(verdict) = verdicts.isolation(isolation.key, &isolation.source.uid) {
                let others = in_force.iter().map(|other| other.key);
                let others = others.filter(|other| *other != isolation.key);
                verdict.also_isolated_by = others.cloned().collect();
                let spared = spared_for.remove(isolation.key).unwrap_or_default();
                let notes = spared
                    .iter()
                    .map(|(address, network)| spared_words(address, network));
                verdict.address_notes.extend(notes);
            }
        }
    }
}

/// Of the target's addresses those that may be the management host's, with the network that they are in.
/// A device that could have them dropped would choose whose management ends; the one that its connection
/// to the operator comes from is its own.
fn spared(
    claimed: &BTreeSet<IpAddr>,
    management: &BTreeSet<ManagementRule>,
    is_shown: impl Fn(IpAddr) -> bool,
) -> BTreeMap<IpAddr, IpNet> {
    let claimed = claimed.iter().filter(|address| !is_shown(**address));
    claimed
        .filter_map(|address| {
            let mut networks = management.iter().map(|rule| rule.network);
            let network = networks.find(|network| network.contains(address))?;
            Some((*address, network))
        })
        .collect()
}

fn spared_words(address: &IpAddr, network: &IpNet) -> String {
    format!(
        "{address} is not dropped by the peers: it is in the management network {network}, and the device's connection to the operator does not come from it"
    )
}

/// The management paths that all of these isolations of one target have.
fn all_of_them_allow<'a>(
    isolations: impl Iterator<Item = &'a InForce<'a>>,
) -> BTreeSet<ManagementRule> {
    let mut all = isolations.map(|isolation| &isolation.management);
    let first = all.next().cloned().unwrap_or_default();
    all.fold(first, |so_far, next| intersection(&so_far, next))
}

pub(super) fn source(key: &ObjectKey, isolation: &Resource<IsolationSpec>) -> Source {
    Source {
        kind: SourceKind::Isolation,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: isolation.uid.clone(),
        generation: isolation.generation,
    }
}

fn summary(target: &Target) -> String {
    if let Some(device) = &target.device {
        return format!("device/{device}");
    }
    if let Some(user) = &target.user {
        return format!("user/{user}");
    }
    if let Some(node) = &target.node {
        return format!("node/{node}");
    }
    let pod = target.workload.as_ref().and_then(|w| w.pod.as_deref());
    format!("workload/{}", pod.unwrap_or("(selected)"))
}
