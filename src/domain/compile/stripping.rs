//! Isolation of pods where no agent runs, as far as packets can be stopped from here: for pods of a Deployment,
//! the labels by which Services, the ReplicaSet and NetworkPolicies select them are taken away, and a
//! NetworkPolicy that selects what is left allows what `management` needs. Their replacements run free: an
//! Isolation by labels takes the labels of pods that are older than itself alone, or there would be no end.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicyIngressRule, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Draft;
use super::netpol::{block, ports};
use super::question::in_namespace;
use super::wards::{WardsIsolation, all_of_them_allow};
use crate::api::isolation::WorkloadTarget;
use crate::api::{IsolationSpec, Probes, Protocol, stamps};
use crate::domain::cluster::{OthersPolicy, Pod};
use crate::domain::enforcement::{Found, ManagementRule, StrippedPod};
use crate::domain::labels::selects;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Strip, Workloads};
use crate::domain::world::{Resource, Stripping};

impl<'w> Draft<'w> {
    /// Of the pods without an agent, finds those that can be cut off all the same; for the others, says what
    /// stands in the way of that, too.
    pub(super) fn stand_in(
        &mut self,
        target: &WorkloadTarget,
        isolation: &Resource<IsolationSpec>,
        workloads: &mut Workloads,
    ) {
        let world = self.world;
        // One that has no address for a moment, as when its node starts anew, is not released.
        let without = std::mem::take(&mut workloads.without_address);
        for key in without {
            let pod = &world.pods[&key];
            if let Some(stripped) = &pod.stripped {
                let deployment = stripped.mark.deployment.clone();
                let strip = self.strip_of(&key, pod, deployment, isolation);
                workloads.stripped.insert(key, strip);
            } else {
                workloads.without_address.insert(key);
            }
        }
        for (key, words) in std::mem::take(&mut workloads.without_agent) {
            let pod = &world.pods[&key];
            if pod.host_network {
                workloads.without_agent.insert(key, words);
                continue;
            }
            let found = match &pod.stripped {
                Some(stripped) => Ok(stripped.mark.deployment.clone()),
                None => self.can_be_stripped(&key, pod, target, isolation),
            };
            match found {
                Ok(deployment) => {
                    let strip = self.strip_of(&key, pod, deployment, isolation);
                    workloads.stripped.insert(key, strip);
                }
                Err(why) => {
                    workloads
                        .without_agent
                        .insert(key, format!("{words}, and {why}"));
                }
            }
        }
    }

    fn strip_of(
        &mut self,
        key: &ObjectKey,
        pod: &Pod,
        deployment: String,
        isolation: &Resource<IsolationSpec>,
    ) -> Strip {
        let done = pod.stripped.is_some() && pod.is_bare();
        let waits = match &self.world.stripping {
            Stripping::From(from) if pod.stripped.is_none() && !self.expired(Some(*from)) => {
                Some(format!(
                    "from {from} its labels are taken away, if no agent has enrolled on its node by then"
                ))
            }
            _ => None,
        };
        let rules = super::management::management(&isolation.spec.management);
        Strip {
            deployment,
            network_policy: policy_key(key, pod),
            done,
            waits,
            let_through: self.let_through(key).map(|policy| selects_all(&policy)),
            not_carried: rules.iter().any(names_icmp).then(|| {
                "management names ICMP, which a NetworkPolicy can't: it is not allowed".to_owned()
            }),
        }
    }

    /// The Deployment that replaces the pod, or why it is left alone.
    fn can_be_stripped(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        target: &WorkloadTarget,
        isolation: &Resource<IsolationSpec>,
    ) -> Result<String, String> {
        let deployment = self.deployment_of(key, pod)?;
        let name = &key.name;
        match &self.world.stripping {
            Stripping::From(_) => {}
            Stripping::Off => {
                return Err(
                    "the operator was not asked to take labels away where no agent runs (the chart's workloads.withoutAgent)"
                        .to_owned(),
                );
            }
            Stripping::Denied(why) => {
                return Err(format!(
                    "the API server does not let the operator take the labels of {name} away: {why}"
                ));
            }
        }
        if target.pod_selector.is_some() && !is_older(pod, isolation) {
            return Err(format!(
                "{name} is not older than this Isolation: without an agent, what a Deployment makes in place of isolated pods runs free, or there would be no end; isolate it by its name"
            ));
        }
        match self.let_through(key) {
            Some(policy) => Err(selects_all(&policy)),
            None => Ok(deployment),
        }
    }

    fn deployment_of(&self, key: &ObjectKey, pod: &Pod) -> Result<String, String> {
        const ALONE: &str = "without one, a pod is cut off only if it is a Deployment's, for its replacement runs when it is deleted";
        let name = &key.name;
        let Some(controller) = &pod.controller else {
            return Err(format!(
                "{ALONE}: nothing made {name} that would replace it"
            ));
        };
        let owner = format!("{} {}", controller.kind, controller.name);
        if controller.kind != "ReplicaSet" {
            return Err(format!("{ALONE}: {name} is a pod of {owner}"));
        }
        let set = ObjectKey::new(&key.namespace, &controller.name);
        let set = self.world.replica_sets.get(&set);
        let Some(set) = set.filter(|set| set.uid == controller.uid) else {
            return Err(match &self.world.stripping {
                Stripping::Denied(why) => {
                    format!("it is not known whether {owner} is a Deployment's: {why}")
                }
                Stripping::Off => {
                    "the operator was not asked to take labels away where no agent runs (the chart's workloads.withoutAgent)"
                        .to_owned()
                }
                Stripping::From(_) => format!("it is not known what made {owner}"),
            });
        };
        let deployment = set.deployment.clone();
        deployment
            .ok_or_else(|| format!("{ALONE}: {name} is a pod of {owner}, which no Deployment made"))
    }

    /// A NetworkPolicy of somebody that selects a pod without labels and allows something.
    fn let_through(&self, pod: &ObjectKey) -> Option<ObjectKey> {
        let mut policies = in_namespace(&self.world.others_policies, &pod.namespace);
        let found = policies.find(|(_, policy)| opens_isolated(policy));
        found.map(|(key, _)| key.clone())
    }

    /// Says what has to be done to each pod whose labels are, or are to be, taken away.
    pub(super) fn strip(&mut self) {
        let world = self.world;
        let stripped = std::mem::take(&mut self.wards.stripped);
        for (key, pod) in self.question.of(&world.pods) {
            let places = stripped.get(key).map_or(&[][..], |places| places);
            if places.is_empty() && pod.stripped.is_none() {
                continue;
            }
            // What may come back soon is not undone by a delete.
            if let (Stripping::From(from), None) = (&world.stripping, &pod.stripped)
                && *from > self.now
            {
                continue;
            }
            let isolations: Vec<_> = places.iter().map(|i| &self.wards.isolations[*i]).collect();
            let under = isolations.iter().map(|it| &it.source);
            let under = under.map(|source| (source.uid.clone(), source.name.clone()));
            let wanted = StrippedPod {
                uid: pod.uid.clone(),
                deployment: self.deployment(key, pod),
                isolations: under.collect(),
                network_policy: policy_key(key, pod),
                found: found(pod),
            };
            let policy = self.policy(pod, &isolations);
            let enforcement = &mut self.compiled.enforcement;
            let policies = &mut enforcement.network_policies;
            policies.insert(wanted.network_policy.clone(), policy);
            enforcement.stripped.insert(key.clone(), wanted);
        }
    }

    fn deployment(&self, key: &ObjectKey, pod: &Pod) -> String {
        let marked = pod.stripped.as_ref();
        let marked = marked.map(|stripped| stripped.mark.deployment.clone());
        marked.unwrap_or_else(|| self.deployment_of(key, pod).unwrap_or_default())
    }

    /// Both ways nothing, but what all of the Isolations let in: answers to that need no rule.
    fn policy(&self, pod: &Pod, isolations: &[&WardsIsolation]) -> NetworkPolicySpec {
        let management = all_of_them_allow(isolations);
        let mut allowed: Vec<NetworkPolicyIngressRule> =
            management.iter().filter_map(ingress).collect();
        let keeps_probes =
            !isolations.is_empty() && isolations.iter().all(|it| it.probes == Probes::Keep);
        let node = pod
            .node
            .as_ref()
            .and_then(|node| self.world.nodes.get(node));
        if let (true, false, Some(node)) = (keeps_probes, pod.probes.is_empty(), node) {
            let rules = node.addresses.iter().map(|address| ManagementRule {
                network: IpNet::from(*address),
                ports: pod.probes.clone(),
            });
            allowed.extend(rules.filter_map(|rule| ingress(&rule)));
        }
        NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some([(stamps::ISOLATED.to_owned(), pod.uid.clone())].into()),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Egress".to_owned(), "Ingress".to_owned()]),
            egress: Some(Vec::new()),
            ingress: Some(allowed),
        }
    }
}

fn found(pod: &Pod) -> Found {
    match &pod.stripped {
        None => Found::Whole,
        Some(stripped) => Found::Stripped {
            bare: pod.is_bare(),
            noted: stripped.mark.isolations.clone(),
            terminating: stripped.terminating,
        },
    }
}

/// None for what a NetworkPolicy can't say.
fn ingress(rule: &ManagementRule) -> Option<NetworkPolicyIngressRule> {
    Some(NetworkPolicyIngressRule {
        from: Some(vec![block(&rule.network, &[])]),
        ports: ports(&rule.ports)?,
    })
}

fn names_icmp(rule: &ManagementRule) -> bool {
    let mut ports = rule.ports.iter();
    ports.any(|ports| ports.protocol == Protocol::Icmp)
}

/// No Policy's NetworkPolicy can have this name: those begin with `seawall-`.
fn policy_key(key: &ObjectKey, pod: &Pod) -> ObjectKey {
    ObjectKey::new(&key.namespace, format!("seawall.isolated.{}", pod.uid))
}

/// One that is not written yet is younger than every pod. Times are whole seconds: of one second, a pod may
/// be the replacement of another.
fn is_older(pod: &Pod, isolation: &Resource<IsolationSpec>) -> bool {
    match (pod.created, isolation.created) {
        (Some(pod), Some(isolation)) => pod < isolation,
        _ => true,
    }
}

/// Whether the selector chooses pods that have no label but ours.
pub fn chooses_isolated(selector: &LabelSelector) -> bool {
    let labels: BTreeMap<_, _> = [(stamps::ISOLATED.to_owned(), String::new())].into();
    selects(selector, &labels)
}

fn opens_isolated(policy: &OthersPolicy) -> bool {
    let spec = &policy.spec;
    if !spec.pod_selector.as_ref().is_none_or(chooses_isolated) {
        return false;
    }
    let types: BTreeSet<&str> = spec
        .policy_types
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let is_of = |direction| types.is_empty() || types.contains(direction);
    let ingress = spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty());
    let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    (ingress && is_of("Ingress")) || (egress && is_of("Egress"))
}

fn selects_all(policy: &ObjectKey) -> String {
    format!(
        "NetworkPolicy {policy} selects pods whatever their labels, and would still allow what it names: give its podSelector the labels of those that it is for"
    )
}
