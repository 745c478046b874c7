//! What somebody wrote for an end of the connection and nobody is known to enforce there, as `compile` says
//! it of each resource.

use super::Facts;
use super::place::Found;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::Acceptance;

/// Why an Isolation of this end is not in force, if there is one: "it reaches" would be said too lightly.
pub fn isolation_of(facts: &Facts<'_>, end: &Found<'_>) -> Option<String> {
    let node = end.node().map(|node| format!("node/{node}"));
    let verdicts = facts.compiled.verdicts.isolations.iter();
    let accepted = verdicts.filter(|(_, verdict)| verdict.acceptance == Acceptance::Accepted);
    let mut unenforced = accepted.filter_map(|(key, verdict)| {
        let of_node = verdict.not_enforceable.as_deref();
        let of_node = of_node.filter(|_| node.as_ref() == Some(&verdict.target));
        let of_pod = || verdict.workloads.as_ref()?.without_agent.get(pod_of(end)?);
        let why = of_node.or_else(|| of_pod().map(String::as_str))?;
        Some(format!(
            "Isolation {key} is for {} and nothing enforces it: {why}",
            end.shown()
        ))
    });
    unenforced.next()
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
