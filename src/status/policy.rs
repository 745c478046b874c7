//! The status of a Policy.

use jiff::Timestamp;

use super::conditions::{Finding, list, of_acceptance, ready, without_unknown};
use super::wards::WardPoints;
use super::{Points, source};
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
        pods: WardPoints::of(&verdict.workloads, applied, &source),
        gap_before: old
            .filter(|old| old.observed_generation == Some(verdict.generation))
            .and_then(|old| old.coverage.as_ref()?.longest_gap_seconds),
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
    pods: WardPoints<'a>,
    /// What was seen before of this generation.
    gap_before: Option<i32>,
    /// Whether its NetworkPolicy is, if it has one.
    stored: Option<bool>,
    /// Why it is not.
    obstacle: Option<&'a Obstacle>,
}

impl Facts<'_> {
    /// A pod without an agent counts as one that has it where the NetworkPolicy carries all of it. Where no
    /// pod is known, the NetworkPolicy itself counts as one point.
    fn coverage(&self) -> Coverage {
        let lacking = !self.verdict.not_enforceable.is_empty();
        let stored = self.stored == Some(true);
        let (pods, by_policy) = match self.pods.matched {
            0 => (
                usize::from(self.stored.is_some() || lacking),
                usize::from(stored),
            ),
            pods if lacking => (pods, 0),
            pods if stored => (pods, self.pods.without_agent),
            pods => (pods, 0),
        };
        let number = |number| i32::try_from(number).unwrap_or(i32::MAX);
        let matched = number(self.points.all.len().saturating_add(pods));
        let programmed = self.points.programmed.len() + self.pods.programmed.len() + by_policy;
        let programmed = number(programmed);
        let lacks = match self.pods.matched {
            0 => usize::from(lacking),
            _ if lacking => self.pods.without_agent,
            _ => 0,
        };
        Coverage {
            matched,
            programmed,
            offline: number(
                self.points.offline.len() + self.pods.offline.len() + self.pods.unwatched.len(),
            ),
            not_enforceable: number(lacks),
            summary: format!("{programmed}/{matched}"),
            longest_gap_seconds: self.pods.gap.max(self.gap_before),
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
        if let Some(words) = self.pods.refused_words() {
            return Finding::no("Refused", self.words(&words));
        }
        if !self.pods.waiting.is_empty() {
            let waiting = format!("waiting for pods {}", a_few(&self.pods.waiting));
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
        if self.points.all.is_empty() && self.pods.matched == 0 && self.stored.is_none() {
            return Finding::yes("NothingMatched", NOTHING_MATCHED);
        }
        let missing = self.missing();
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
        let missing = self.missing();
        if !missing.is_empty() || self.stored == Some(false) {
            let waiting = !self.points.waiting.is_empty() || !self.pods.waiting.is_empty();
            let off = !waiting && self.stored != Some(false);
            let reason = if off { "Offline" } else { "Waiting" };
            let beside = match missing.is_empty() {
                true => NOT_STORED.to_owned(),
                false => format!("without it: {}", a_few(missing)),
            };
            return Finding::no(reason, self.words(&beside));
        }
        self.doubted()
            .unwrap_or_else(|| Finding::yes("ReadBack", self.words("")))
    }

    /// Everybody has it; whether packets are treated so is another matter.
    fn doubted(&self) -> Option<Finding> {
        if let Some(words) = self.pods.bypassed_words() {
            return Some(Finding::no("DatapathBypassed", self.words(&words)));
        }
        let offline = self.points.offline.iter().map(ToString::to_string);
        let unwatched = self.pods.unwatched.iter().map(ToString::to_string);
        let offline: Vec<String> = offline.chain(unwatched).collect();
        if !offline.is_empty() {
            let offline = format!("not connected now: {}", a_few(&offline));
            return Some(Finding::unknown("Offline", self.words(&offline)));
        }
        if let Some(words) = self.pods.unseen_words() {
            return Some(Finding::unknown("NoEvidence", self.words(&words)));
        }
        let by_policy_alone = self.pods.matched == 0 || self.pods.without_agent > 0;
        if let Some(name) = self
            .verdict
            .network_policy
            .as_ref()
            .filter(|_| by_policy_alone)
        {
            return Some(Finding::unknown(
                "NoEvidence",
                format!(
                    "NetworkPolicy {name} is stored; no packet was seen that shows it enforced"
                ),
            ));
        }
        (self.points.all.is_empty() && self.pods.matched == 0)
            .then(|| Finding::unknown("NothingMatched", NOTHING_MATCHED))
    }

    /// Devices and pods without it, whether their agents are connected or not.
    fn missing(&self) -> Vec<String> {
        let devices = self.points.missing().map(ToString::to_string);
        let pods = self.pods.waiting.iter().chain(&self.pods.offline);
        devices.chain(pods.map(ToString::to_string)).collect()
    }

    /// How far it is, and what is beside it.
    fn words(&self, beside: &str) -> String {
        let mut parts = Vec::new();
        let all = self.points.all.len();
        if all > 0 {
            let programmed = self.points.programmed.len();
            parts.push(format!("{programmed} of {all} devices have read it back"));
        }
        if self.pods.matched > self.pods.without_agent {
            parts.push(self.pods.words());
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
const NOTHING_MATCHED: &str = "no enrolled device and no pod matches the subjects now";
