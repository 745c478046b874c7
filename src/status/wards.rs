//! How the pods of a resource stand: what the agents of their nodes have read back.

use std::collections::BTreeSet;

use crate::domain::applied::{Applied, Datapath, DeviceApplied};
use crate::domain::enforcement::Source;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Strip, Workloads};
use crate::domain::words::{a_few, a_few_words};

/// Each list in the order of names.
#[derive(Debug, Default)]
pub struct WardPoints<'a> {
    /// Pods with an address.
    pub matched: usize,
    /// Their agents have read it back, for the addresses that they have now.
    pub programmed: Vec<&'a ObjectKey>,
    /// Their agents are connected and have not.
    pub waiting: Vec<&'a ObjectKey>,
    /// Their agents have not, and are not connected.
    pub offline: Vec<&'a ObjectKey>,
    /// Their agents have, and are not connected now.
    pub unwatched: Vec<&'a ObjectKey>,
    /// Programmed, and on a node whose datapath goes around the rules.
    pub bypassed: Vec<&'a ObjectKey>,
    /// Programmed, and no packet shows yet that the rules are met.
    pub unseen: Vec<&'a ObjectKey>,
    /// Cut off without an agent, as far as the API server can tell: no labels, and the NetworkPolicy is stored.
    pub stripped: Vec<&'a ObjectKey>,
    /// About to be so.
    pub stripping: Vec<&'a ObjectKey>,
    /// Why they are not, in words.
    pub obstacles: Vec<(&'static str, String)>,
    /// What is to be known beside it, in words.
    pub strip_notes: BTreeSet<&'a str>,
    /// Nothing can enforce for them.
    pub without_agent: usize,
    /// The longest that one of them ran before it was covered, in seconds, where that was seen.
    pub gap: Option<i32>,
    /// Agents refused what they were sent, with their words.
    pub refused: Vec<String>,
}

impl<'a> WardPoints<'a> {
    pub fn of(workloads: &'a Workloads, applied: &Applied, source: &Source) -> Self {
        let unknown = DeviceApplied::default();
        let mut points = Self {
            matched: workloads.wards.len()
                + workloads.without_agent.len()
                + workloads.stripped.len(),
            without_agent: workloads.without_agent.len(),
            ..Self::default()
        };
        for (pod, strip) in &workloads.stripped {
            points.strip(pod, strip, applied);
        }
        for (pod, ward) in &workloads.wards {
            let device = applied.devices.get(&ward.device).unwrap_or(&unknown);
            if device.covers(pod, ward, &source.uid, source.generation) {
                points.programmed(pod, device);
                // Started is told in whole seconds.
                let gap = device.gap(pod, ward).map(|gap| gap.as_secs());
                points.gap = points
                    .gap
                    .max(gap.map(|gap| i32::try_from(gap).unwrap_or(i32::MAX)));
            } else if device.connected {
                points.waiting.push(pod);
                let refused = device.refused.as_ref();
                let words =
                    refused.map(|why| format!("the agent of {pod}'s node refused it: {why}"));
                points.refused.extend(words);
            } else {
                points.offline.push(pod);
            }
        }
        points
    }

    fn strip(&mut self, pod: &'a ObjectKey, strip: &'a Strip, applied: &Applied) {
        self.strip_notes.extend(strip.not_carried.as_deref());
        match stands(pod, strip, applied) {
            Stripped::Stored => self.stripped.push(pod),
            Stripped::Waiting(why) => {
                self.stripping.push(pod);
                self.strip_notes.extend(why);
            }
            Stripped::Not(reason, why) => {
                self.stripping.push(pod);
                self.obstacles.push((reason, why));
            }
        }
    }

    fn programmed(&mut self, pod: &'a ObjectKey, device: &DeviceApplied) {
        self.programmed.push(pod);
        if !device.connected {
            self.unwatched.push(pod);
        }
        match device.datapath {
            Datapath::Bypasses => self.bypassed.push(pod),
            Datapath::Unknown if !device.has_seen(pod) => self.unseen.push(pod),
            Datapath::Unknown | Datapath::Passes => {}
        }
    }

    /// Every pod that an agent enforces for has it.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty() && self.offline.is_empty() && self.stripping.is_empty()
    }

    pub fn refused_words(&self) -> Option<String> {
        (!self.refused.is_empty()).then(|| a_few_words(&self.refused))
    }

    pub fn bypassed_words(&self) -> Option<String> {
        (!self.bypassed.is_empty()).then(|| {
            format!(
                "the datapath of the node goes around netfilter, where the rules are, for {}: an eBPF datapath does that; use the network plugin's own policies there",
                a_few(&self.bypassed)
            )
        })
    }

    pub fn unseen_words(&self) -> Option<String> {
        (!self.unseen.is_empty()).then(|| {
            format!(
                "the rules are in the kernel, and no packet of {} was seen to meet them yet",
                a_few(&self.unseen)
            )
        })
    }

    /// How far it is.
    pub fn words(&self) -> String {
        let (programmed, stripped) = (self.programmed.len(), self.stripped.len());
        let by_agents = format!(
            "{programmed} of {} pods are covered, read back by the agents of their nodes",
            self.matched
        );
        let by_policy = |of: &str| {
            format!(
                "{stripped}{of} have no agent, and no labels but Seawall's and a NetworkPolicy of their own instead: {}; Deployments have replaced them, and release deletes them",
                a_few(&self.stripped)
            )
        };
        match (programmed, stripped) {
            (_, 0) => by_agents,
            (0, _) => by_policy(&format!(" of {} pods", self.matched)),
            _ => format!("{by_agents}; {}", by_policy("")),
        }
    }
}

/// How far a pod without an agent is cut off.
pub enum Stripped<'a> {
    /// Read back from the API server.
    Stored,
    /// With what is waited for, if not for the API server alone.
    Waiting(Option<&'a str>),
    /// A reason of a condition, and why not.
    Not(&'static str, String),
}

pub fn stands<'a>(pod: &ObjectKey, strip: &'a Strip, applied: &Applied) -> Stripped<'a> {
    let stored = applied.network_policies.contains(&strip.network_policy);
    if let Some(why) = &strip.let_through {
        return Stripped::Not("NotEnforceable", why.clone());
    }
    if strip.done && stored {
        return Stripped::Stored;
    }
    let obstacle = applied.stripped_obstacles.get(pod);
    let of_policy = applied.network_policy_obstacles.get(&strip.network_policy);
    match obstacle.or(of_policy.filter(|_| !stored)) {
        Some(obstacle) => Stripped::Not(obstacle.kind.as_str(), obstacle.message.clone()),
        None => Stripped::Waiting(strip.waits.as_deref()),
    }
}
