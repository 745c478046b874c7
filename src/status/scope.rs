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

/// As many as the schema has room for.
const MOST_TARGETS: usize = 20_000;

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
    let programmed = match (active, bound) {
        (true, true) if verdict.devices.len() > MOST_TARGETS => Finding::yes(
            "Bound",
            format!(
                "bound; of its {} devices the first {MOST_TARGETS} are listed in targets, and the API server refuses the others",
                verdict.devices.len()
            ),
        ),
        (true, true) => Finding::yes(
            "Bound",
            "the agent's ServiceAccount and role binding are stored",
        ),
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
    let devices = verdict.devices.iter().take(MOST_TARGETS);
    let devices = devices.map(ToString::to_string).collect();
    ApiKeyScopeStatus {
        observed_generation: Some(verdict.generation),
        conditions: list(findings, verdict.generation, before, now),
        tools: if active { tools } else { Vec::new() },
        targets: Some(ResolvedTargets { devices }),
        agent: verdict.agent.clone(),
        last_used_on: last_used_on.or_else(|| old.and_then(|old| old.last_used_on.clone())),
    }
}
