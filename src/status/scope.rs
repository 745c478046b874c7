//! The status of an ApiKeyScope, which the API server reads too: the admission policy checks an agent's
//! writes against `targets`.

use jiff::Timestamp;

use super::conditions::{
    Finding, list, of_acceptance, ready, without_shared_keys, without_unknown,
};
use crate::api::ApiKeyScopeStatus;
use crate::api::api_key_scope::ResolvedTargets;
use crate::api::conditions::{ACCEPTED, PROGRAMMED, READY, STALLED};
use crate::domain::applied::Applied;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, ScopeVerdict};

/// As many devices as the schema has room for.
const MOST_DEVICES: usize = 20_000;
/// As many pods.
const MOST_PODS: usize = 5_000;
/// What the names of pods may take, in bytes: the API server stores no object that is larger than 1.5 MiB.
const MOST_BYTES: usize = 500_000;

/// `tools` are the names that the agent sees; `last_used_on` the day of its last call, if that is known.
pub fn scope(
    key: &ObjectKey,
    verdict: &ScopeVerdict,
    applied: &Applied,
    tools: Vec<String>,
    last_used_on: Option<String>,
    old: Option<&ApiKeyScopeStatus>,
    now: Timestamp,
) -> ApiKeyScopeStatus {
    let (accepted, stalled) = of_acceptance(&verdict.acceptance);
    let accepted = without_unknown(accepted, &verdict.unknown);
    let accepted = without_shared_keys(accepted, &verdict.shared_keys);
    let bound = applied.access.contains(key);
    let active = verdict.acceptance == Acceptance::Accepted;
    let targets = targets(verdict);
    let programmed = match (active, bound) {
        (true, true) => Finding::yes("Bound", bound_words(verdict, &targets)),
        (true, false) => match applied.access_obstacles.get(key) {
            Some(obstacle) => Finding::no(obstacle.kind.as_str(), &obstacle.message),
            None => Finding::no("Waiting", "the agent's role binding is not stored yet"),
        },
        (false, _) => Finding::no("NotAccepted", "no right is bound to the agent"),
    };
    let findings = [
        (READY, ready(&accepted, &programmed)),
        (ACCEPTED, accepted),
        (PROGRAMMED, programmed),
        (STALLED, stalled),
    ];
    let before = old.map_or(&[][..], |old| &old.conditions);
    ApiKeyScopeStatus {
        observed_generation: Some(verdict.generation),
        conditions: list(findings, verdict.generation, before, now),
        tools: if active { tools } else { Vec::new() },
        targets: Some(targets),
        agent: verdict.agent.clone(),
        last_used_on: last_used_on.or_else(|| old.and_then(|old| old.last_used_on.clone())),
    }
}

/// What the API server compares writes with, in order.
fn targets(verdict: &ScopeVerdict) -> ResolvedTargets {
    let devices = verdict.devices.iter().take(MOST_DEVICES);
    let mut bytes = 0;
    let pods = verdict.pods.iter().take(MOST_PODS).take_while(|name| {
        bytes += name.len() + "\"\",".len();
        bytes <= MOST_BYTES
    });
    ResolvedTargets {
        devices: devices.map(ToString::to_string).collect(),
        pods: pods.cloned().collect(),
    }
}

fn bound_words(verdict: &ScopeVerdict, listed: &ResolvedTargets) -> String {
    let left_out = [
        ("devices", verdict.devices.len(), listed.devices.len()),
        ("pods", verdict.pods.len(), listed.pods.len()),
    ];
    let left_out = left_out.into_iter().filter(|(_, all, listed)| listed < all);
    let words: Vec<String> = left_out
        .map(|(what, all, listed)| {
            format!("of its {all} {what} the first {listed} are listed in targets, and the API server refuses the others")
        })
        .collect();
    match words.is_empty() {
        true => "the agent's ServiceAccount and role binding are stored".to_owned(),
        false => format!("bound; {}", words.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_pods(names: impl Iterator<Item = String>) -> (ResolvedTargets, String) {
        let verdict = ScopeVerdict {
            pods: names.collect(),
            ..ScopeVerdict::default()
        };
        let targets = targets(&verdict);
        let words = bound_words(&verdict, &targets);
        (targets, words)
    }

    #[test]
    fn the_pods_of_a_scope_are_listed_as_far_as_an_object_has_room() {
        let (all, words) = of_pods((0..5_000).map(|n| format!("web-{n:04}")));
        assert_eq!(all.pods.len(), 5_000);
        assert!(all.pods.is_sorted());
        assert!(words.starts_with("the agent's"), "{words}");
        let (some, words) = of_pods((0..5_001).map(|n| format!("web-{n:04}")));
        assert_eq!(some.pods, all.pods);
        assert!(words.contains("of its 5001 pods the first 5000"), "{words}");
        let (long, words) = of_pods((0..5_000).map(|n| format!("{n:0253}")));
        assert_eq!(long.pods.len(), MOST_BYTES / 256);
        assert!(words.contains("of its 5000 pods the first 1953"), "{words}");
    }
}
