//! The status of an Isolation of pods.

use super::conditions::Finding;
use super::count;
use super::wards::WardPoints;
use crate::api::Phase;
use crate::api::isolation::{SelfState, WorkloadCoverage};
use crate::domain::verdict::{IsolationVerdict, Workloads};
use crate::domain::words::{a_few, a_few_words};

/// Of pods without an agent.
const NOBODY_SEES: &str = "no agent runs on their nodes, so nobody sees whether the network plugin enforces NetworkPolicies; connections that were open, and ICMP, may pass all the same where it lets them, and a pod and its own node always reach each other";

pub struct WorkloadFacts<'a> {
    pub verdict: &'a IsolationVerdict,
    pub workloads: &'a Workloads,
    pub points: WardPoints<'a>,
    /// What was seen before: a gap is not forgotten with the pod that had it.
    pub gap_before: Option<i32>,
}

impl WorkloadFacts<'_> {
    pub fn coverage(&self) -> WorkloadCoverage {
        let matched = self.points.matched;
        let programmed = count(&self.points.programmed) + count(&self.points.stripped);
        WorkloadCoverage {
            matched: i32::try_from(matched).unwrap_or(i32::MAX),
            programmed,
            not_enforceable: i32::try_from(self.points.without_agent).unwrap_or(i32::MAX),
            summary: format!("{programmed}/{matched}"),
            longest_gap_seconds: self.points.gap.max(self.gap_before),
        }
    }

    /// The agents of the pods' nodes, taken together.
    pub fn state(&self) -> SelfState {
        let points = &self.points;
        let some = points.programmed.len() + points.offline.len() + points.stripped.len();
        if !points.waiting.is_empty() || !points.stripping.is_empty() || some == 0 {
            SelfState::Pending
        } else if points.offline.is_empty() && points.unwatched.is_empty() {
            SelfState::Programmed
        } else {
            SelfState::Offline
        }
    }

    pub fn phase(&self) -> Phase {
        let points = &self.points;
        let nothing = points.programmed.is_empty() && points.stripped.is_empty();
        match (nothing, self.missing()) {
            _ if self.verdict.not_enforceable.is_some() => Phase::NotEnforceable,
            (true, _) => Phase::Pending,
            (false, true) => Phase::Partial,
            (false, false) => Phase::Isolated,
        }
    }

    /// Some pod of it is not cut off.
    fn missing(&self) -> bool {
        let points = &self.points;
        // A stored NetworkPolicy is no packet stopped.
        !points.is_complete()
            || points.without_agent > 0
            || !points.bypassed.is_empty()
            || !points.stripped.is_empty()
    }

    pub fn programmed(&self) -> Finding {
        let points = &self.points;
        if let Some(words) = points.refused_words() {
            return Finding::no("Refused", self.words(&words));
        }
        if let Some((reason, _)) = points.obstacles.first() {
            let words = points.obstacles.iter().map(|(_, words)| words);
            return Finding::no(reason, self.words(&a_few_words(words)));
        }
        let waiting: Vec<_> = points.waiting.iter().chain(&points.stripping).collect();
        if !waiting.is_empty() {
            let waiting = format!("waiting for {}", a_few(waiting));
            return Finding::no("Waiting", self.words(&waiting));
        }
        if points.without_agent > 0 {
            return Finding::no("NotEnforceable", self.words(&self.obstacles()));
        }
        if points.programmed.is_empty() && points.stripped.is_empty() {
            return match points.offline.is_empty() {
                true => Finding::no("NothingMatched", self.nobody()),
                false => Finding::no(
                    "Offline",
                    self.words(
                        "the agents of their nodes are not connected; they get it when they are",
                    ),
                ),
            };
        }
        let beside = match points.offline.is_empty() {
            true => String::new(),
            false => format!(
                "without it, its node's agent not connected: {}",
                a_few(&points.offline)
            ),
        };
        Finding::yes("ReadBack", self.words(&beside))
    }

    pub fn enforced(&self) -> Finding {
        let points = &self.points;
        let programmed = self.programmed();
        if !programmed.is_true() {
            return programmed;
        }
        if let Some(words) = points.bypassed_words() {
            return Finding::no("DatapathBypassed", self.words(&words));
        }
        if !points.offline.is_empty() {
            return Finding::no("Offline", programmed.message);
        }
        if !points.unwatched.is_empty() {
            let words = format!(
                "the agents of their nodes are not connected now, so nobody sees whether they still have it: {}",
                a_few(&points.unwatched)
            );
            return Finding::unknown("Offline", self.words(&words));
        }
        if let Some(words) = points.unseen_words() {
            return Finding::unknown("NoEvidence", self.words(&words));
        }
        if !points.stripped.is_empty() {
            return Finding::unknown("NoEvidence", self.words(NOBODY_SEES));
        }
        programmed
    }

    pub fn evidence_at_risk(&self) -> Option<Finding> {
        let at_risk = &self.verdict.evidence_at_risk;
        (!at_risk.is_empty()).then(|| {
            Finding::yes(
                "LivenessProbe",
                format!(
                    "the kubelet's liveness probe does not reach {}: it restarts the container, and what was in its memory is gone; probes: Keep lets the probes of the pod's own node through, and nothing else",
                    a_few(at_risk)
                ),
            )
        })
    }

    fn nobody(&self) -> String {
        match self.workloads.without_address.is_empty() {
            true => "no pod that the target chooses runs now; one that comes is isolated".into(),
            false => format!(
                "no address yet, and nothing to send or receive with: {}",
                a_few(&self.workloads.without_address)
            ),
        }
    }

    fn obstacles(&self) -> String {
        a_few_words(self.workloads.without_agent.values())
    }

    fn words(&self, beside: &str) -> String {
        let mut words = vec![self.points.words()];
        words.extend((!beside.is_empty()).then(|| beside.to_owned()));
        let notes = self.points.strip_notes.iter();
        words.extend(notes.map(|note| (*note).to_owned()));
        if !self.verdict.spared.is_empty() {
            let spared = a_few_words(self.verdict.spared.values());
            words.push(format!("left alone, for the rest depends on it: {spared}"));
        }
        words.join("; ")
    }
}
