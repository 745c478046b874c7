//! The status of a Policy.

use jiff::Timestamp;

use super::conditions::{Finding, list, of_acceptance, ready};
use super::{Points, count, source};
use crate::api::PolicyStatus;
use crate::api::conditions::{ACCEPTED, ENFORCED, PROGRAMMED, READY, STALLED};
use crate::api::policy::Coverage;
use crate::domain::applied::{Applied, Obstacle};
use crate::domain::enforcement::SourceKind;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, PolicyVerdict};
use crate::domain::words::a_few;

pub fn policy(
    key: &ObjectKey,
    verdict: &PolicyVerdict,
    applied: &Applied,
    old: Option<&PolicyStatus>,
    now: Timestamp,
) -> PolicyStatus {
    let source = source(SourceKind::Policy, key, &verdict.uid, verdict.generation);
    let points = Points::of(&verdict.devices, applied, &source);
    let (accepted, stalled) = of_acceptance(&verdict.acceptance);
    let stored = verdict
        .network_policy
        .as_ref()
        .is_none_or(|name| applied.network_policies.contains(name));
    let effective = verdict.acceptance == Acceptance::Accepted;
    let obstacle = verdict
        .network_policy
        .as_ref()
        .and_then(|name| applied.network_policy_obstacles.get(name));
    let (programmed, enforced) = if effective {
        (
            programmed(verdict, &points, stored, obstacle),
            enforced(verdict, &points, stored),
        )
    } else {
        let nothing = Finding::no("NotAccepted", "nothing of it is in force");
        (nothing.clone(), nothing)
    };
    let matched = i32::try_from(verdict.devices.len()).unwrap_or(i32::MAX);
    let coverage = Coverage {
        matched,
        programmed: count(&points.programmed),
        offline: count(&points.offline),
        not_enforceable: count(&verdict.not_enforceable),
        summary: format!("{}/{matched}", points.programmed.len()),
    };
    let findings = [
        (READY, ready(&accepted, &programmed)),
        (ACCEPTED, accepted),
        (PROGRAMMED, programmed),
        (ENFORCED, enforced),
        (STALLED, stalled),
    ];
    let before = old.map_or(&[][..], |old| &old.conditions);
    PolicyStatus {
        observed_generation: Some(verdict.generation),
        conditions: list(findings, verdict.generation, before, now),
        coverage: Some(coverage),
    }
}

fn programmed(
    verdict: &PolicyVerdict,
    points: &Points,
    stored: bool,
    obstacle: Option<&Obstacle>,
) -> Finding {
    if !points.refused.is_empty() {
        return Finding::no("Refused", a_few(&points.refused));
    }
    if !points.waiting.is_empty() {
        let waiting = a_few(&points.waiting);
        return Finding::no("Waiting", format!("not read back yet from {waiting}"));
    }
    if !stored {
        return match obstacle {
            Some(obstacle) => Finding::no(obstacle.kind.as_str(), &obstacle.message),
            None => Finding::no("Waiting", "the NetworkPolicy is not stored yet"),
        };
    }
    if verdict.devices.is_empty() && verdict.network_policy.is_none() {
        return match verdict.not_enforceable.is_empty() {
            true => Finding::yes(
                "NothingMatched",
                "no enrolled device matches the subjects now",
            ),
            false => Finding::no("NotEnforceable", a_few(&verdict.not_enforceable)),
        };
    }
    let doing = if verdict.observing {
        "observing"
    } else {
        "in force"
    };
    let devices = points.programmed.len();
    Finding::yes(
        "ReadBack",
        match (devices, &verdict.network_policy) {
            (0, None) => "no device that matches is connected; it applies when one is".to_owned(),
            (_, None) => format!(
                "{doing}, read back from {devices} of {}",
                verdict.devices.len()
            ),
            (0, Some(name)) => format!("stored as NetworkPolicy {name}"),
            (_, Some(name)) => {
                format!("{doing}, read back from {devices} devices; stored as NetworkPolicy {name}")
            }
        },
    )
}

fn enforced(verdict: &PolicyVerdict, points: &Points, stored: bool) -> Finding {
    if verdict.observing {
        return Finding::no("Observing", "mode: Observe reports and enforces nothing");
    }
    if !verdict.not_enforceable.is_empty() {
        return Finding::no("NotEnforceable", a_few(&verdict.not_enforceable));
    }
    if !points.waiting.is_empty() || !stored {
        return Finding::no("Waiting", "not read back from every enforcement point yet");
    }
    let missing = verdict.devices.len() - points.programmed.len();
    if missing > 0 {
        let offline = a_few(&points.offline);
        return Finding::no(
            "Offline",
            format!("{missing} not connected and without it: {offline}"),
        );
    }
    if let Some(name) = &verdict.network_policy {
        return Finding::unknown(
            "NoEvidence",
            format!("NetworkPolicy {name} is stored; no packet was seen that shows it enforced"),
        );
    }
    if verdict.devices.is_empty() {
        return Finding::unknown(
            "NothingMatched",
            "no enrolled device matches the subjects now",
        );
    }
    Finding::yes("ReadBack", "every matched device has read it back")
}
