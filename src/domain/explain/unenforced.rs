//! Isolations that somebody wrote and nobody is known to enforce: where one of them is meant for an end of
//! the connection, "it reaches" would be said too lightly.

use super::place::{Found, Who};
use super::{Facts, selectors};
use crate::api::Target;
use crate::domain::cluster::Pod;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::Acceptance;

/// Why an Isolation of this end is not in force, if there is one.
pub fn isolation_of(facts: &Facts<'_>, end: &Found<'_>) -> Option<String> {
    let verdicts = facts.compiled.verdicts.isolations.iter();
    let mut unenforced = verdicts.filter_map(|(key, verdict)| {
        let why = verdict.not_enforceable.as_deref()?;
        let isolation = facts.world.isolations.get(key)?;
        let meant = verdict.acceptance == Acceptance::Accepted
            && is_meant(&isolation.spec.target, key, end);
        meant.then(|| {
            format!(
                "Isolation {key} is for {} and nothing enforces it: {why}",
                end.shown()
            )
        })
    });
    unenforced.next()
}

fn is_meant(target: &Target, key: &ObjectKey, end: &Found<'_>) -> bool {
    let node = target.node.as_deref();
    if node.is_some() && node == end.node() {
        return true;
    }
    match end.who {
        Who::Pod(pod_key, pod) => is_workload(target, key, pod_key, pod),
        Who::Host(host) => host
            .pod
            .is_some_and(|(pod_key, pod)| is_workload(target, key, pod_key, pod)),
        Who::Outside => false,
    }
}

fn is_workload(target: &Target, key: &ObjectKey, pod_key: &ObjectKey, pod: &Pod) -> bool {
    let Some(workload) = &target.workload else {
        return false;
    };
    let by_name = workload.pod.as_ref() == Some(&pod_key.name);
    let selector = workload.pod_selector.as_ref();
    let by_labels = selector.is_some_and(|selector| selectors::matches(selector, &pod.labels));
    key.namespace == pod_key.namespace && (by_name || by_labels)
}
