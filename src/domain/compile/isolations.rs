//! Isolation, from both sides: the target cuts itself off, and every other device of the tenant drops its
//! addresses. An Isolation of the system namespace is kept by the devices of all tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Draft, expired_words, refused};
use crate::api::{IsolationSpec, ManagementPath};
use crate::domain::compile::rules::ports;
use crate::domain::enforcement::{
    ManagementRule, Ports, QuarantinePath, SelfIsolation, Source, SourceKind,
};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, IsolationVerdict, Reason};
use crate::domain::world::Resource;

/// The Isolations in force on one device.
#[derive(Default)]
struct OnDevice {
    sources: BTreeSet<Source>,
    /// What all of them allow; none before the first.
    management: Option<BTreeSet<ManagementRule>>,
    /// Kept by the devices of every tenant.
    everywhere: bool,
    keys: BTreeSet<ObjectKey>,
}

impl Draft<'_> {
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
        let mut on_devices: BTreeMap<DeviceId, OnDevice> = BTreeMap::new();
        for (key, isolation, held) in listed.chain(held) {
            let verdict = self.judge_isolation(key, isolation, held);
            if let (Acceptance::Accepted, Some(device)) = (&verdict.acceptance, &verdict.device) {
                let on_device = on_devices.entry(device.clone()).or_default();
                on_device.add(key, isolation, self.is_system(&key.namespace));
            }
            // A new Isolation that took the name of one that is held speaks for the name.
            let verdicts = &mut self.compiled.verdicts.isolations;
            if !held || !verdicts.contains_key(key) {
                verdicts.insert(key.clone(), verdict);
            }
        }
        for (device, on_device) in &on_devices {
            self.isolate(device, on_device);
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
            return verdict;
        }
        let Some(device) = &target.device else {
            verdict.not_enforceable = Some(not_enforceable(target).into());
            return verdict;
        };
        let id = match device.parse::<DeviceId>() {
            Ok(id) => id,
            Err(error) => {
                verdict.acceptance = refused(Reason::Malformed, error.to_string());
                return verdict;
            }
        };
        let Some(enrolled) = self.world.devices.get(&id) else {
            verdict.acceptance = Acceptance::Waiting {
                reason: Reason::UnknownTarget,
                message: format!("no device {id} is enrolled; it is isolated when it enrols"),
            };
            return verdict;
        };
        if !self.is_system(&key.namespace) && enrolled.tenant != key.namespace {
            verdict.acceptance = refused(
                Reason::OtherTenant,
                format!(
                    "{id} is not a device of namespace {}: create the Isolation in the device's own namespace",
                    key.namespace
                ),
            );
            return verdict;
        }
        let addresses = self.addresses.of_device(&id);
        if let Some(what) = self.protected(&addresses) {
            verdict.acceptance = refused(
                Reason::WouldCutOperator,
                format!("isolating {id} would cut what keeps the rest safe: {what}"),
            );
            return verdict;
        }
        verdict.address_notes = self.addresses.notes(&id);
        verdict.device = Some(id);
        verdict
    }

    fn isolate(&mut self, target: &DeviceId, on_device: &OnDevice) {
        let addresses = self.addresses.of_device(target);
        let management = on_device.management.clone().unwrap_or_default();
        let peers = self.peers(target, on_device.everywhere);
        for peer in &peers {
            let own = self.addresses.of_device(peer);
            let state = self.state(peer);
            state.quarantined.extend(&addresses);
            state.sources.extend(on_device.sources.iter().cloned());
            let paths = management
                .iter()
                .filter_map(|rule| path(rule, &own, &addresses));
            state.quarantine_paths.extend(paths);
        }
        let state = self.state(target);
        state.isolation = Some(SelfIsolation { management });
        state.sources.extend(on_device.sources.iter().cloned());
        for key in &on_device.keys {
            if let Some(verdict) = self.compiled.verdicts.isolations.get_mut(key) {
                verdict.peers = peers.clone();
                let others = on_device.keys.iter().filter(|other| *other != key);
                verdict.also_isolated_by = others.cloned().collect();
            }
        }
    }

    fn peers(&self, target: &DeviceId, everywhere: bool) -> BTreeSet<DeviceId> {
        let tenant = &self.world.devices[target].tenant;
        let devices = self.world.devices.iter();
        let peers = devices
            .filter(|(id, device)| *id != target && (everywhere || device.tenant == *tenant));
        peers.map(|(id, _)| id.clone()).collect()
    }
}

impl OnDevice {
    fn add(&mut self, key: &ObjectKey, isolation: &Resource<IsolationSpec>, system: bool) {
        let management: BTreeSet<ManagementRule> =
            isolation.spec.management.iter().filter_map(rule).collect();
        self.management = Some(match self.management.take() {
            None => management,
            Some(so_far) => intersection(&so_far, &management),
        });
        self.everywhere |= system;
        self.keys.insert(key.clone());
        self.sources.insert(Source {
            kind: SourceKind::Isolation,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: isolation.uid.clone(),
            generation: isolation.generation,
        });
    }
}

/// The schema refuses anything that is no network; what slipped past it allows nothing.
fn rule(path: &ManagementPath) -> Option<ManagementRule> {
    Some(ManagementRule {
        network: path.cidr.parse::<IpNet>().ok()?.trunc(),
        ports: ports(&path.ports),
    })
}

/// The peer's side of a management path, for a peer that holds an address of its network.
fn path(
    rule: &ManagementRule,
    own: &BTreeSet<IpAddr>,
    target: &BTreeSet<IpAddr>,
) -> Option<QuarantinePath> {
    let of_family = |address: &&IpAddr| address.is_ipv4() == rule.network.addr().is_ipv4();
    let to: BTreeSet<IpAddr> = target.iter().filter(of_family).copied().collect();
    let holds = own.iter().any(|address| rule.network.contains(address));
    (holds && !to.is_empty()).then(|| QuarantinePath {
        from: rule.network,
        to,
        ports: rule.ports.clone(),
    })
}

/// What both allow.
fn intersection(
    a: &BTreeSet<ManagementRule>,
    b: &BTreeSet<ManagementRule>,
) -> BTreeSet<ManagementRule> {
    let mut both = BTreeSet::new();
    for one in a {
        for other in b {
            let network = if one.network.contains(&other.network) {
                other.network
            } else if other.network.contains(&one.network) {
                one.network
            } else {
                continue;
            };
            let Some(ports) = common_ports(&one.ports, &other.ports) else {
                continue;
            };
            both.insert(ManagementRule { network, ports });
        }
    }
    both
}

/// None when they have no port in common; an empty set is every port.
fn common_ports(a: &BTreeSet<Ports>, b: &BTreeSet<Ports>) -> Option<BTreeSet<Ports>> {
    if a.is_empty() || b.is_empty() {
        return Some(a.union(b).copied().collect());
    }
    let pairs = a
        .iter()
        .flat_map(|one| b.iter().map(move |other| (one, other)));
    let common: BTreeSet<Ports> = pairs
        .filter(|(one, other)| one.protocol == other.protocol)
        .map(|(one, other)| Ports {
            protocol: one.protocol,
            first: one.first.max(other.first),
            last: one.last.min(other.last),
        })
        .filter(|ports| ports.first <= ports.last)
        .collect();
    (!common.is_empty()).then_some(common)
}

fn summary(target: &crate::api::Target) -> String {
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

fn not_enforceable(target: &crate::api::Target) -> &'static str {
    if target.user.is_some() {
        "no agent of this version drops the traffic of a user's accounts, and nothing refuses the user's keys: disable the account where it signs in"
    } else if target.node.is_some() {
        "no agent runs on the cluster's nodes: cordon and drain the node, and cut it off at its network"
    } else {
        "no agent runs on the pods' nodes: a NetworkPolicy can only allow, so it can't cut a pod off that another one allows for"
    }
}
