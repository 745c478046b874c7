//! Which pods a resource means, and who enforces for each: the agent of the pod's node, if one is enrolled.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Draft;
use super::protected::protected_address;
use super::question::in_namespace;
use crate::domain::cluster::Pod;
use crate::domain::labels::selects;
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Ward, Workloads};
use crate::domain::world::World;

/// The node agents that are enrolled.
pub struct NodeAgents<'w> {
    by_node: BTreeMap<&'w str, &'w DeviceId>,
}

impl<'w> NodeAgents<'w> {
    pub fn of(world: &'w World) -> Self {
        let devices = world.devices.iter();
        let nodes = devices.filter_map(|(id, device)| Some((device.node.as_deref()?, id)));
        Self {
            by_node: nodes.collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    pub fn on(&self, node: &str) -> Option<&'w DeviceId> {
        self.by_node.get(node).copied()
    }

    /// Who enforces a resource that was made at `since` for these pods. One that has no address yet sends
    /// and receives nothing, and is nobody's.
    pub fn standing<'p>(
        &self,
        pods: impl IntoIterator<Item = (&'p ObjectKey, &'p Pod)>,
        since: Option<Timestamp>,
    ) -> Workloads {
        let mut workloads = Workloads::default();
        for (key, pod) in pods {
            let Some(node) = &pod.node else {
                workloads.without_address.insert(key.clone());
                continue;
            };
            if pod.host_network {
                let words = format!(
                    "{} uses its node's network, where nothing tells its packets from the node's: isolate node {node}, or give it a network of its own",
                    key.name
                );
                workloads.without_agent.insert(key.clone(), words);
            } else if pod.addresses.is_empty() {
                workloads.without_address.insert(key.clone());
            } else if let Some(device) = self.on(node) {
                let ward = Ward {
                    device: device.clone(),
                    addresses: pod.addresses.clone(),
                    started: pod.started.filter(|started| Some(*started) > since),
                };
                workloads.wards.insert(key.clone(), ward);
            } else {
                let words = format!("no agent runs on node {node} of pod {}", key.name);
                workloads.without_agent.insert(key.clone(), words);
            }
        }
        workloads
    }
}

impl<'w> Draft<'w> {
    /// The pods of the namespace that the selector chooses. Those whose labels were taken away are nobody's:
    /// what isolates them, nothing else opens.
    pub(super) fn pods(
        &self,
        namespace: &str,
        selector: &LabelSelector,
    ) -> Vec<(&'w ObjectKey, &'w Pod)> {
        self.pods_where(namespace, |pod| {
            pod.stripped.is_none() && selects(selector, &pod.labels)
        })
    }

    /// The same by the labels that people gave them: a pod stays isolated when they were taken away.
    pub(super) fn pods_given(
        &self,
        namespace: &str,
        selector: &LabelSelector,
    ) -> Vec<(&'w ObjectKey, &'w Pod)> {
        self.pods_where(namespace, |pod| selects(selector, pod.given_labels()))
    }

    fn pods_where(
        &self,
        namespace: &str,
        matches: impl Fn(&Pod) -> bool,
    ) -> Vec<(&'w ObjectKey, &'w Pod)> {
        in_namespace(&self.world.pods, namespace)
            .filter(|(_, pod)| matches(pod))
            .collect()
    }

    /// As [`NodeAgents::standing`].
    pub(super) fn standing<'p>(
        &self,
        pods: impl IntoIterator<Item = (&'p ObjectKey, &'p Pod)>,
        since: Option<Timestamp>,
    ) -> Workloads {
        self.node_agents.standing(pods, since)
    }

    /// What an isolation of the node would cut for everybody, in words.
    pub(super) fn protected_on_node(&self, node: &str) -> Option<String> {
        let pods = self.world.pods.iter();
        let mut pods = pods.filter(|(_, pod)| pod.node.as_deref() == Some(node));
        pods.find_map(|(key, pod)| self.protected_pod(key, pod))
    }

    /// What an isolation of the pod would cut for everybody, in words.
    pub(super) fn protected_pod(&self, key: &ObjectKey, pod: &Pod) -> Option<String> {
        // Nothing depends on it any more: others don't select it.
        if pod.stripped.is_some() {
            return None;
        }
        let settings = &self.world.settings;
        let ours = key.namespace == settings.system_namespace
            && pod.given_labels().get(NAME_LABEL).map(String::as_str) == Some("seawall");
        if ours {
            return Some(format!("pod {key} is a part of Seawall itself"));
        }
        pod.addresses.iter().find_map(|address| {
            let what = protected_address(settings, *address)?;
            Some(format!("{address} of pod {key} belongs to {what}"))
        })
    }
}

/// What the chart calls its pods by.
const NAME_LABEL: &str = "app.kubernetes.io/name";

/// The addresses of all of them.
pub fn addresses<'p>(
    pods: impl IntoIterator<Item = (&'p ObjectKey, &'p Pod)>,
) -> BTreeSet<std::net::IpAddr> {
    let pods = pods.into_iter().filter(|(_, pod)| !pod.host_network);
    pods.flat_map(|(_, pod)| pod.addresses.iter().copied())
        .collect()
}
