//! Pods as the MCP server shows them: those of a tenant, and those of one Isolation.

use std::collections::BTreeMap;

use crate::domain::applied::{Applied, DeviceApplied};
use crate::domain::cluster::Pod;
use crate::domain::compile::{Compiled, NodeAgents};
use crate::domain::enforcement::{Source, SourceKind};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, IsolationVerdict, Strip, Verdicts, Workloads};
use crate::domain::world::World;
use crate::local::pods::{PodStanding, PodsStanding, WorkloadView};
use crate::local::types::Held;
use crate::status::wards::{self, Stripped, WardPoints};

/// Pods that an answer names.
const MOST: usize = 50;

pub const NO_ADDRESS: &str =
    "it has no address yet, and nothing to send or receive with; it is isolated when it has one";
const UNSEEN: &str = "by a NetworkPolicy, for no agent runs on its node: its labels are taken away, the Deployment replaces it, and release deletes it; whether the network plugin enforces NetworkPolicies nobody sees, and it may let open connections and ICMP pass";
const TO_BE_STRIPPED: &str = "its labels are not taken away yet";
const OFFLINE: &str = "the agent of its node is not connected; it gets it when it is";
const UNWATCHED: &str =
    "the agent of its node is not connected now, so nobody sees whether it still has it";
const WAITING: &str = "the agent of its node has not read it back";
const BYPASSED: &str = "its node's datapath goes around netfilter, where the rules are";

/// How the pods of an Isolation stand; none for one of something else.
pub fn standing(
    key: &ObjectKey,
    verdict: &IsolationVerdict,
    applied: &Applied,
) -> Option<PodsStanding> {
    let workloads = verdict.workloads.as_ref()?;
    let source = Source {
        kind: SourceKind::Isolation,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: verdict.uid.clone(),
        generation: verdict.generation,
    };
    let points = WardPoints::of(workloads, applied, &source);
    let mut pods = without(verdict, workloads);
    let programmed = points.programmed.iter().map(|pod| {
        if points.bypassed.contains(pod) {
            return stands(pod, false, BYPASSED);
        }
        let why = match points.unwatched.contains(pod) {
            true => UNWATCHED,
            false => "",
        };
        stands(pod, true, why)
    });
    pods.extend(programmed);
    let stripped = workloads.stripped.iter();
    pods.extend(stripped.map(|(pod, strip)| cut_by_policy(pod, strip, applied)));
    pods.extend(points.waiting.iter().map(|pod| stands(pod, false, WAITING)));
    pods.extend(points.offline.iter().map(|pod| stands(pod, false, OFFLINE)));
    Some(bounded(pods, verdict))
}

/// How the pods of an Isolation that is not written would stand.
pub fn would_stand(verdict: &IsolationVerdict, applied: &Applied) -> Option<PodsStanding> {
    let workloads = verdict.workloads.as_ref()?;
    let mut pods = without(verdict, workloads);
    let wards = workloads.wards.iter().map(|(pod, ward)| {
        let device = applied.devices.get(&ward.device);
        match device.is_some_and(|device| device.connected) {
            true => stands(pod, true, ""),
            false => stands(pod, false, OFFLINE),
        }
    });
    pods.extend(wards);
    let stripped = workloads.stripped.iter();
    pods.extend(stripped.map(|(pod, strip)| would_be_cut(pod, strip)));
    Some(bounded(pods, verdict))
}

/// Those that no agent cuts off.
fn without(verdict: &IsolationVerdict, workloads: &Workloads) -> Vec<PodStanding> {
    let without_agent = workloads.without_agent.iter();
    let without_agent = without_agent.map(|(pod, why)| stands(pod, false, why));
    let without_address = workloads.without_address.iter();
    let without_address = without_address.map(|pod| stands(pod, false, NO_ADDRESS));
    let spared = verdict.spared.iter().map(|(pod, why)| {
        let why = format!("left alone, for the rest depends on it: {why}");
        stands(pod, false, &why)
    });
    without_agent.chain(without_address).chain(spared).collect()
}

fn stands(pod: &ObjectKey, covered: bool, why: &str) -> PodStanding {
    PodStanding {
        pod: pod.name.clone(),
        covered,
        why: why.to_owned(),
        replaced_by: None,
    }
}

/// Without an agent.
fn cut_by_policy(pod: &ObjectKey, strip: &Strip, applied: &Applied) -> PodStanding {
    let (covered, why) = match wards::stands(pod, strip, applied) {
        Stripped::Stored => (true, UNSEEN.to_owned()),
        Stripped::Waiting(why) => (false, why.unwrap_or(TO_BE_STRIPPED).to_owned()),
        Stripped::Not(_, why) => (false, why),
    };
    PodStanding {
        replaced_by: Some(strip.deployment.clone()),
        ..stands(pod, covered, &with_note(why, strip))
    }
}

fn would_be_cut(pod: &ObjectKey, strip: &Strip) -> PodStanding {
    let why = match &strip.let_through {
        Some(why) => why.clone(),
        None => strip.waits.clone().unwrap_or_else(|| UNSEEN.to_owned()),
    };
    PodStanding {
        replaced_by: Some(strip.deployment.clone()),
        ..stands(pod, strip.let_through.is_none(), &with_note(why, strip))
    }
}

fn with_note(why: String, strip: &Strip) -> String {
    match &strip.not_carried {
        Some(note) => format!("{why}; {note}"),
        None => why,
    }
}

fn bounded(mut pods: Vec<PodStanding>, verdict: &IsolationVerdict) -> PodsStanding {
    pods.sort_by(|a, b| (a.covered, &a.pod).cmp(&(b.covered, &b.pod)));
    let (chosen, covered) = (pods.len(), pods.iter().filter(|pod| pod.covered).count());
    let by_policy = pods.iter().filter(|pod| pod.covered);
    let by_policy = by_policy.filter(|pod| pod.replaced_by.is_some()).count();
    pods.truncate(MOST);
    let at_risk = verdict.evidence_at_risk.iter().take(MOST);
    PodsStanding {
        chosen,
        covered,
        by_policy,
        left_out: chosen - pods.len(),
        pods,
        evidence_at_risk: at_risk.map(|pod| pod.name.clone()).collect(),
    }
}

/// Ordered by name.
pub fn of_tenant(
    compiled: &Compiled,
    holds: &BTreeMap<String, String>,
    world: &World,
    applied: &Applied,
    tenant: &str,
) -> Vec<WorkloadView> {
    let first = ObjectKey::new(tenant, "");
    let pods = world.pods.range(first..);
    let pods: BTreeMap<&ObjectKey, &Pod> = pods
        .take_while(|(key, _)| key.namespace == tenant)
        .collect();
    let standing = NodeAgents::of(world).standing(pods.iter().map(|(key, pod)| (*key, *pod)), None);
    let mut views: BTreeMap<&ObjectKey, WorkloadView> = pods
        .into_iter()
        .map(|(key, pod)| (key, view(key, pod, &standing, applied)))
        .collect();
    name_resources(&mut views, &compiled.verdicts, holds);
    views.into_values().collect()
}

fn view(key: &ObjectKey, pod: &Pod, standing: &Workloads, applied: &Applied) -> WorkloadView {
    let ward = standing.wards.get(key);
    let connected = |device: &DeviceApplied| device.connected;
    let obstacle = match ward {
        Some(ward) if applied.devices.get(&ward.device).is_some_and(connected) => "",
        Some(_) => "the agent of its node is not connected: what it last knew stays in force",
        None if pod.stripped.is_some() => UNSEEN,
        None => standing
            .without_agent
            .get(key)
            .map_or("it has no address yet", String::as_str),
    };
    let controller = pod.controller.as_ref();
    WorkloadView {
        name: key.name.clone(),
        labels: pod.given_labels().clone(),
        node: pod.node.clone(),
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        controller: controller.map(|it| format!("{}/{}", it.kind, it.name)),
        covered: ward.is_some(),
        obstacle: obstacle.to_owned(),
        isolated_by: Vec::new(),
        held: Vec::new(),
        policies: Vec::new(),
        replaced_by: (pod.stripped.as_ref()).map(|it| it.mark.deployment.clone()),
    }
}

/// Tells each pod which resources choose it.
fn name_resources(
    views: &mut BTreeMap<&ObjectKey, WorkloadView>,
    verdicts: &Verdicts,
    holds: &BTreeMap<String, String>,
) {
    let accepted = |acceptance: &Acceptance| *acceptance == Acceptance::Accepted;
    for (key, verdict) in &verdicts.isolations {
        let chosen = verdict.workloads.iter().flat_map(chosen);
        for pod in chosen.filter(|_| accepted(&verdict.acceptance)) {
            let Some(view) = views.get_mut(pod) else {
                continue;
            };
            view.isolated_by.push(key.name.clone());
            let hold = holds.get(&verdict.uid);
            view.held.extend(hold.map(|hold| Held {
                isolation: key.name.clone(),
                hold: hold.clone(),
            }));
        }
    }
    for (key, verdict) in &verdicts.policies {
        for pod in chosen(&verdict.workloads).filter(|_| accepted(&verdict.acceptance)) {
            if let Some(view) = views.get_mut(pod) {
                view.policies.push(key.name.clone());
            }
        }
    }
}

fn chosen(workloads: &Workloads) -> impl Iterator<Item = &ObjectKey> {
    let without = workloads.without_agent.keys();
    let without = without.chain(&workloads.without_address);
    let without = without.chain(workloads.stripped.keys());
    workloads.wards.keys().chain(without)
}

#[cfg(test)]
#[path = "pods_tests.rs"]
pub mod tests;
