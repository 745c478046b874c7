//! What goes over the Unix socket about pods, beside [`super::types`]. Names are of pods of the tenant that
//! asks; nothing tells of the pods of others, also where they share a node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::Held;

/// A pod as people and agents see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Where it was scheduled.
    pub node: Option<String>,
    pub addresses: Vec<String>,
    /// What made it and would replace it, such as `ReplicaSet/web-5d9`.
    pub controller: Option<String>,
    /// An agent enforces for it.
    pub covered: bool,
    /// Why none does, or does not now; empty when one that is connected does.
    pub obstacle: String,
    /// Names of the Isolations that target it.
    pub isolated_by: Vec<String>,
    /// Those of them that were deleted and are held in force.
    #[serde(default)]
    pub held: Vec<Held>,
    /// Names of the Policies that choose it.
    pub policies: Vec<String>,
    /// Of a pod that is isolated without an agent: the Deployment that replaced it. Release deletes the pod.
    #[serde(default)]
    pub replaced_by: Option<String>,
}

/// How the pods of an Isolation stand, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsStanding {
    /// Those that its target chooses.
    pub chosen: usize,
    /// Of these, those that are cut off.
    pub covered: usize,
    /// Of these, those that a NetworkPolicy cuts off, and no agent.
    #[serde(default)]
    pub by_policy: usize,
    /// Those that are not first; a bounded part of all.
    pub pods: Vec<PodStanding>,
    /// How many are not in `pods`.
    pub left_out: usize,
    /// Those whose container the kubelet starts anew when its probe is cut; a bounded part of all.
    #[serde(default)]
    pub evidence_at_risk: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStanding {
    pub pod: String,
    pub covered: bool,
    /// What is missing, or to be known beside it.
    #[serde(default)]
    pub why: String,
    /// Of a pod that is cut off without an agent: the Deployment that replaces it. Release deletes the pod.
    #[serde(default)]
    pub replaced_by: Option<String>,
}

/// Whether the kernel of a pod's node was found to hold what should be in force for the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReadBack {
    pub pod: String,
    pub matches: bool,
    pub detail: String,
}
