//! The status of a Policy.

use jiff::Timestamp;

use super::conditions::{Finding, list, of_acceptance, ready, without_unknown};
use super::{Points, count, source};
use crate::api::PolicyStatus;
use crate::api::conditions::{ACCEPTED, ENFORCED, PROGRAMMED, READY, STALLED};
use crate::api::policy::Coverage;
use crate::domain::applied::{Applied, Obstacle};
use crate::domain::enforcement::SourceKind;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, PolicyVerdict};
use crate::domain::words::{a_few, a_few_words};

pub fn policy(
    key: &ObjectKey,
    verdict: &PolicyVerdict,
    applied: &Applied,
    old: Option<&PolicyStatus>,
    now: Timestamp,
) -> PolicyStatus {
    let source = source(SourceKind::Policy, key, &verdict.uid, verdict.generation);
    let stored = |name| applied.network_policies.contains(name);
    let facts = Facts {
        verdict,
        points: Points::of(&verdict.devices, applied, &source),
        stored: verdict.network_policy.as_ref().map(stored),
        obstacle: verdict
            .network_policy
            .as_ref()
            .and_then(|name| applied.network_policy_obstacles.get(name)),
    };
    let (accepted, stalled) = of_acceptance(&verdict.acceptance);
    let accepted = without_unknown(accepted, &verdict.unknown);
    let (programmed, enforced) = if verdict.acceptance == Acceptance::Accepted {
        (facts.programmed(), facts.enforced())
    } else {
        let nothing = Finding::no("NotAccepted", "nothing of it is in force");
        (nothing.clone(), nothing)
    };
    let stalled = match facts.not_enforceable() {
        Some(finding) => Finding::yes("NotEnforceable", finding.message),
        None => stalled,
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
        coverage: Some(facts.coverage()),
    }
}

struct Facts<'a> {
    verdict: &'a PolicyVerdict,
    points: Points<'a>,
    /// Whether its NetworkPolicy is, if it has one.
    stored: Option<bool>,
    /// Why it is not.
    obstacle: Option<&'a Obstacle>,
}

impl Facts<'_> {
    /// The workloads count as one enforcement point: the API server, or, for what it can't carry, nobody.
    fn coverage(&self) -> Coverage {
        let lacking = !self.verdict.not_enforceable.is_empty();
        let workloads = i32::from(self.stored.is_some() || lacking);
        let matched = count(&self.points.all).saturating_add(workloads);
        let stored = i32::from(self.stored == Some(true));
        let programmed = count(&self.points.programmed).saturating_add(stored);
        Coverage {
            matched,
            programmed,
            offline: count(&self.points.offline),
            not_enforceable: i32::from(lacking),
            summary: format!("{programmed}/{matched}"),
        }
    }

    fn not_enforceable(&self) -> Option<Finding> {
        let parts = &self.verdict.not_enforceable;
        (!parts.is_empty()).then(|| Finding::no("NotEnforceable", a_few_words(parts)))
    }

    fn programmed(&self) -> Finding {
        if !self.points.refused.is_empty() {
            return Finding::no("Refused", self.words(&a_few_words(&self.points.refused)));
        }
        if !self.points.waiting.is_empty() {
            let waiting = format!("waiting for {}", a_few(&self.points.waiting));
            return Finding::no("Waiting", self.words(&waiting));
        }
        if self.stored == Some(false) {
            return match self.obstacle {
                Some(obstacle) => Finding::no(obstacle.kind.as_str(), &obstacle.message),
                None => Finding::no("Waiting", NOT_STORED),
            };
        }
        if let Some(finding) = self.not_enforceable() {
            return finding;
        }
        if self.points.all.is_empty() && self.stored.is_none() {
            return Finding::yes("NothingMatched", NOTHING_MATCHED);
        }
        let missing: Vec<_> = self.points.missing().collect();
        let beside = match missing.is_empty() {
            true => String::new(),
            false => format!(
                "not connected, and given it when they are: {}",
                a_few(missing)
            ),
        };
        Finding::yes("ReadBack", self.words(&beside))
    }

    fn enforced(&self) -> Finding {
        if let Some(finding) = self.not_enforceable() {
            return finding;
        }
        if self.verdict.observing {
            return Finding::no("Observing", "mode: Observe reports and enforces nothing");
        }
        let missing: Vec<_> = self.points.missing().collect();
        if !missing.is_empty() || self.stored == Some(false) {
            let off = self.points.waiting.is_empty() && self.stored != Some(false);
            let reason = if off { "Offline" } else { "Waiting" };
            let beside = match missing.is_empty() {
                true => NOT_STORED.to_owned(),
                false => format!("without it: {}", a_few(missing)),
            };
            return Finding::no(reason, self.words(&beside));
        }
        if !self.points.offline.is_empty() {
            let offline = format!("not connected now: {}", a_few(&self.points.offline));
            return Finding::unknown("Offline", self.words(&offline));
        }
        if let Some(name) = &self.verdict.network_policy {
            return Finding::unknown(
                "NoEvidence",
                format!(
                    "NetworkPolicy {name} is stored; no packet was seen that shows it enforced"
                ),
            );
        }
        if self.points.all.is_empty() {
            return Finding::unknown("NothingMatched", NOTHING_MATCHED);
        }
        Finding::yes("ReadBack", self.words(""))
    }

    /// How far it is, and what is beside it.
    fn words(&self, beside: &str) -> String {
        let mut parts = Vec::new();
        let all = self.points.all.len();
        if all > 0 {
            let programmed = self.points.programmed.len();
            parts.push(format!("{programmed} of {all} devices have read it back"));
        }
        if let (Some(true), Some(name)) = (self.stored, &self.verdict.network_policy) {
            parts.push(format!("stored as NetworkPolicy {name}"));
        }
        if !beside.is_empty() {
            parts.push(beside.to_owned());
        }
        parts.join("; ")
    }
}

const NOT_STORED: &str = "the NetworkPolicy is not stored yet";
const NOTHING_MATCHED: &str = "no enrolled device matches the subjects now";
