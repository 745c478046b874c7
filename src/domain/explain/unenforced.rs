//! What somebody wrote for an end of the connection and nobody is known to enforce there, as `compile` says
//! it of each resource.

use super::Facts;
use super::place::Found;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, Strip};

/// Why an Isolation of this end is not in force, if there is one: "it reaches" would be said too lightly.
pub fn isolation_of(facts: &Facts<'_>, end: &Found<'_>) -> Option<String> {
    let node = end.node().map(|node| format!("node/{node}"));
    let verdicts = facts.compiled.verdicts.isolations.iter();
    let accepted = verdicts.filter(|(_, verdict)| verdict.acceptance == Acceptance::Accepted);
    let mut unenforced = accepted.filter_map(|(key, verdict)| {
        let of_node = verdict.not_enforceable.as_deref();
        let of_node = of_node.filter(|_| node.as_ref() == Some(&verdict.target));
        let of_pod = || {
            let (pods, pod) = (verdict.workloads.as_ref()?, pod_of(end)?);
            let without = pods.without_agent.get(pod).map(String::as_str);
            without.or_else(|| unfinished(pods.stripped.get(pod)?))
        };
        let why = of_node.or_else(of_pod)?;
        Some(format!(
            "Isolation {key} is for {} and nothing enforces it: {why}",
            end.shown()
        ))
    });
    unenforced.next()
}

/// Why the pod is not cut off without an agent, if it is to be; else a NetworkPolicy decides.
fn unfinished(strip: &Strip) -> Option<&str> {
    let through = strip.let_through.as_deref();
    through.or((!strip.done).then_some("its labels are not taken away yet"))
}

/// Policies that choose the pod, of which only what a NetworkPolicy carries is in force.
pub fn policies_of<'a>(facts: &Facts<'a>, end: &Found<'_>) -> Vec<&'a ObjectKey> {
    let Some(pod) = pod_of(end) else {
        return Vec::new();
    };
    let verdicts = facts.compiled.verdicts.policies.iter();
    verdicts
        .filter(|(_, verdict)| verdict.workloads.without_agent.contains_key(pod))
        .map(|(key, _)| key)
        .collect()
}

fn pod_of<'w>(end: &Found<'w>) -> Option<&'w ObjectKey> {
    let of_host = end.host().and_then(|host| host.pod);
    end.pod().or(of_host).map(|(key, _)| key)
}
