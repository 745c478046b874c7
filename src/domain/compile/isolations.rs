//! Isolation, from both sides: the target cuts itself off, and every other device of the tenant drops its
//! addresses. An Isolation of the system namespace is kept by the devices of all tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::management::{intersection, management, path};
use super::selectors::Reach;
use super::{Draft, expired_words, refused};
use crate::api::{IsolationSpec, Target};
use crate::domain::enforcement::{ManagementRule, SelfIsolation, Source, SourceKind};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, IsolationVerdict, Reason};
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
        let listed = world
            .isolations
            .iter()
            .map(|(key, isolation)| (key, isolation, false));
        let held = world
            .held
            .values()
            .map(|held| (&held.key, &held.isolation, true));
        let mut on_devices: BTreeMap<DeviceId, Vec<InForce<'w>>> = BTreeMap::new();
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
            // A new Isolation that took the name of one that is held speaks for the name.
            let verdicts = &mut self.compiled.verdicts.isolations;
            if !held || !verdicts.contains_key(key) {
                verdicts.insert(key.clone(), verdict);
            }
        }
        for (device, in_force) in &on_devices {
            self.isolate(device, in_force);
        }
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
        } else if let Some(device) = &target.device {
            let reach = self.reach(&key.namespace, isolation.written_by.as_deref());
            match self.target(key, reach, device) {
                Ok(id) => {
                    let everywhere = reach.is_every_tenant();
                    verdict.address_notes = self.addresses.notes(&id, everywhere);
                    verdict.device = Some(id);
                }
                Err(acceptance) => verdict.acceptance = acceptance,
            }
        } else if target.node.is_some() && !self.is_system(&key.namespace) {
            verdict.acceptance = refused(
                Reason::OtherTenant,
                format!(
                    "a node belongs to every tenant: create the Isolation in namespace {}",
                    self.world.settings.system_namespace
                ),
            );
        } else if let Some(why) = not_enforceable(target) {
            verdict.not_enforceable = Some(why.into());
        } else {
            verdict.acceptance = refused(
                Reason::Malformed,
                "target names nothing: give device, workload, user or node",
            );
        }
        verdict
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
        match self.addresses.protected(&id) {
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
            if let Some(verdict) = self.compiled.verdicts.isolations.get_mut(isolation.key)
                && verdict.uid == isolation.source.uid
            {
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

fn source(key: &ObjectKey, isolation: &Resource<IsolationSpec>) -> Source {
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

/// Why nothing enforces what is no device; none for what is nothing at all.
fn not_enforceable(target: &Target) -> Option<&'static str> {
    if target.user.is_some() {
        Some(
            "no agent of this version drops the traffic of a user's accounts, and nothing refuses the user's keys: disable the account where it signs in",
        )
    } else if target.node.is_some() {
        Some(
            "no agent runs on the cluster's nodes: cordon and drain the node, and cut it off at its network",
        )
    } else if target.workload.is_some() {
        Some(
            "no agent runs on the pods' nodes: a NetworkPolicy can only allow, so it can't cut a pod off that another one allows for",
        )
    } else {
        None
    }
}
