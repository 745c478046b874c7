//! The status of an Isolation: the target itself, and the peers that drop it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::conditions::{Finding, list, of_acceptance, ready};
use super::user::UserFacts;
use super::wards::WardPoints;
use super::workload::WorkloadFacts;
use super::{Points, count, source};
use crate::api::conditions::{ACCEPTED, ENFORCED, EVIDENCE_AT_RISK, PROGRAMMED, READY, STALLED};
use crate::api::isolation::{AccountCoverage, PeerCoverage, SelfState};
use crate::api::{IsolationStatus, Phase};
use crate::domain::applied::{Applied, DeviceApplied};
use crate::domain::enforcement::SourceKind;
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::{Acceptance, IsolationVerdict, Reason};
use crate::domain::words::{a_few, a_few_words};

pub fn isolation(
    key: &ObjectKey,
    verdict: &IsolationVerdict,
    applied: &Applied,
    old: Option<&IsolationStatus>,
    now: Timestamp,
) -> IsolationStatus {
    let source = source(SourceKind::Isolation, key, &verdict.uid, verdict.generation);
    let facts = Facts {
        verdict,
        own: verdict.device.as_ref().map(|id| Own {
            read_back: Points::of([id], applied, &source).programmed.len() == 1,
            device: applied.devices.get(id),
        }),
        pods: verdict.workloads.as_ref().map(|workloads| WorkloadFacts {
            verdict,
            workloads,
            points: WardPoints::of(workloads, applied, &source),
            gap_before: old
                .and_then(|old| old.workloads.as_ref())
                .and_then(|coverage| coverage.longest_gap_seconds),
        }),
        user: verdict
            .user
            .as_ref()
            .map(|user| UserFacts::of(user, applied, &source)),
        peers: Points::of(&verdict.peers, applied, &source),
    };
    let (accepted, stalled) = of_acceptance(&verdict.acceptance);
    let accepted = facts.accepted(accepted);
    let programmed = facts.programmed();
    let findings = [
        (READY, ready(&accepted, &programmed)),
        (ACCEPTED, accepted),
        (PROGRAMMED, programmed),
        (ENFORCED, facts.enforced()),
        (STALLED, facts.stalled(stalled)),
    ];
    let at_risk = facts
        .pods
        .as_ref()
        .and_then(WorkloadFacts::evidence_at_risk);
    let at_risk = at_risk.map(|finding| (EVIDENCE_AT_RISK, finding));
    let findings = findings.into_iter().chain(at_risk);
    let before = old.map_or(&[][..], |old| &old.conditions);
    IsolationStatus {
        observed_generation: Some(verdict.generation),
        conditions: list(findings, verdict.generation, before, now),
        phase: facts.phase(),
        target_summary: verdict.target.clone(),
        self_state: facts.state(),
        workloads: facts.pods.as_ref().map(WorkloadFacts::coverage),
        accounts: facts.accounts(),
        peers: facts.own.as_ref().map(|_| facts.coverage()),
        connections_cut: connections_cut(verdict, applied, old),
        isolated_at: old
            .and_then(|old| old.isolated_at)
            .or_else(|| facts.since(now)),
    }
}

/// The target's own enforcement point.
struct Own<'a> {
    /// At this generation, now or before it went off.
    read_back: bool,
    device: Option<&'a DeviceApplied>,
}

impl Own<'_> {
    fn connected(&self) -> bool {
        self.device.is_some_and(|device| device.connected)
    }

    fn state(&self) -> SelfState {
        match (self.connected(), self.read_back) {
            (false, _) => SelfState::Offline,
            (true, true) => SelfState::Programmed,
            (true, false) => SelfState::Pending,
        }
    }

    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.device.and_then(|device| device.at);
        self.read_back.then(|| at.unwrap_or(now))
    }
}

struct Facts<'a> {
    verdict: &'a IsolationVerdict,
    /// None for what is not a device that is enrolled.
    own: Option<Own<'a>>,
    /// None for what is no workload.
    pods: Option<WorkloadFacts<'a>>,
    /// None for what is no user.
    user: Option<UserFacts<'a>>,
    peers: Points<'a>,
}

impl Facts<'_> {
    fn state(&self) -> Option<SelfState> {
        let of_pods = || self.pods.as_ref().map(WorkloadFacts::state);
        self.own.as_ref().map(Own::state).or_else(of_pods)
    }

    /// When the target itself was cut off, if all of it is.
    fn since(&self, now: Timestamp) -> Option<Timestamp> {
        if let Some(own) = &self.own {
            return own.since(now);
        }
        let whole = match (&self.pods, self.accepted_user()) {
            (Some(pods), _) => pods.phase() == Phase::Isolated,
            (None, Some(user)) => user.phase() == Phase::Suspended,
            (None, None) => false,
        };
        whole.then_some(now)
    }

    fn accounts(&self) -> Option<AccountCoverage> {
        let user = self.accepted_user()?;
        Some(user.coverage())
    }

    fn coverage(&self) -> PeerCoverage {
        let matched = self.verdict.peers.len();
        let programmed = count(&self.peers.programmed);
        PeerCoverage {
            matched: i32::try_from(matched).unwrap_or(i32::MAX),
            programmed,
            summary: format!("{programmed}/{matched}"),
        }
    }

    /// With what a person should know beside it.
    fn accepted(&self, mut accepted: Finding) -> Finding {
        if !accepted.is_true() {
            return accepted;
        }
        if self.verdict.held {
            accepted = Finding::yes(
                "Held",
                "it was deleted together with many others and is kept in force until a person confirms: `seawall release` lists what is held",
            );
        }
        if !self.verdict.also_isolated_by.is_empty() {
            let others = a_few(&self.verdict.also_isolated_by);
            accepted.add(&match &self.user {
                Some(_) => format!("also suspended by {others}"),
                None => format!(
                    "also isolated by {others}, and what may reach it is what all of them allow"
                ),
            });
        }
        if !self.verdict.address_notes.is_empty() {
            accepted.add(&a_few_words(&self.verdict.address_notes));
        }
        accepted
    }

    /// Every point that is connected has read it back; one that is off must not fail those who wait. But
    /// where no point at all has it, nothing is programmed.
    fn programmed(&self) -> Finding {
        if let Some(pods) = self.accepted_pods() {
            return pods.programmed();
        }
        if let Some(user) = self.accepted_user() {
            return user.programmed();
        }
        let Some(own) = &self.own else {
            return self.nothing();
        };
        let refused = a_few_words(&self.peers.refused);
        if own.state() == SelfState::Pending {
            return match own.device.and_then(|device| device.refused.as_ref()) {
                Some(why) => Finding::no("Refused", format!("the device refused it: {why}")),
                None => Finding::no("Waiting", self.words("waiting for the device itself")),
            };
        }
        if !refused.is_empty() {
            return Finding::no("Refused", self.words(&refused));
        }
        if !self.peers.waiting.is_empty() {
            let waiting = format!("waiting for {}", a_few(&self.peers.waiting));
            return Finding::no("Waiting", self.words(&waiting));
        }
        if !own.read_back && self.peers.programmed.is_empty() {
            return Finding::no(
                "Offline",
                "neither the device nor any peer of it is connected; they get it when they are",
            );
        }
        Finding::yes("ReadBack", self.words(""))
    }

    fn enforced(&self) -> Finding {
        if let Some(pods) = self.accepted_pods() {
            return pods.enforced();
        }
        if let Some(user) = self.accepted_user() {
            return user.enforced();
        }
        let Some(own) = &self.own else {
            return self.nothing();
        };
        let missing: Vec<_> = self.peers.missing().collect();
        if !own.read_back || !missing.is_empty() {
            let (reason, own) = match (own.read_back, own.connected()) {
                (true, _) => ("Waiting", None),
                (false, true) => ("Waiting", Some("the device itself")),
                (false, false) => ("Offline", Some("the device itself, which is not connected")),
            };
            let own = own.map(str::to_owned);
            let missing = own
                .into_iter()
                .chain(missing.iter().map(ToString::to_string));
            return Finding::no(
                reason,
                self.words(&format!("without it: {}", a_few(missing))),
            );
        }
        if !own.connected() {
            return Finding::unknown(
                "Offline",
                self.words(
                    "the device is not connected now, so nobody sees whether it still has it",
                ),
            );
        }
        if !self.peers.offline.is_empty() {
            let offline = a_few(&self.peers.offline);
            return Finding::unknown("Offline", self.words(&format!("not connected: {offline}")));
        }
        Finding::yes("ReadBack", self.words(""))
    }

    /// Pods that the target chooses, some of which can be cut off.
    fn accepted_pods(&self) -> Option<&WorkloadFacts<'_>> {
        let accepted = self.verdict.acceptance == Acceptance::Accepted
            && self.verdict.not_enforceable.is_none();
        self.pods.as_ref().filter(|_| accepted)
    }

    fn accepted_user(&self) -> Option<&UserFacts<'_>> {
        let accepted = self.verdict.acceptance == Acceptance::Accepted;
        self.user.as_ref().filter(|_| accepted)
    }

    fn nothing(&self) -> Finding {
        match &self.verdict.not_enforceable {
            Some(why) => Finding::no("NotEnforceable", why),
            None => Finding::no("NotAccepted", "nothing of it is in force"),
        }
    }

    /// How far it is, and what is beside it.
    fn words(&self, beside: &str) -> String {
        let own = match self.own.as_ref().is_some_and(|own| own.read_back) {
            true => "the device and",
            false => "not the device, but",
        };
        let peers = self.verdict.peers.len();
        let programmed = self.peers.programmed.len();
        let words = format!("{own} {programmed} of {peers} peers have read it back");
        if beside.is_empty() {
            words
        } else {
            format!("{words}; {beside}")
        }
    }

    fn stalled(&self, stalled: Finding) -> Finding {
        match &self.verdict.not_enforceable {
            Some(why) if self.verdict.acceptance == Acceptance::Accepted => {
                Finding::yes("NotEnforceable", why)
            }
            _ => stalled,
        }
    }

    fn phase(&self) -> Phase {
        if let Some(pods) = self.accepted_pods() {
            return pods.phase();
        }
        if let Some(user) = self.accepted_user() {
            return user.phase();
        }
        let Some(own) = &self.own else {
            return match &self.verdict.acceptance {
                Acceptance::Refused { .. } => Phase::Refused,
                Acceptance::Waiting {
                    reason: Reason::Expired,
                    ..
                } => Phase::Expired,
                _ if self.verdict.not_enforceable.is_some() => Phase::NotEnforceable,
                _ => Phase::Pending,
            };
        };
        match (own.read_back, self.peers.waiting.is_empty()) {
            (true, true) => Phase::Isolated,
            (false, _) if self.peers.programmed.is_empty() => Phase::Pending,
            _ => Phase::Partial,
        }
    }
}

/// Never less than what was counted before: a device that comes back has forgotten its count.
fn connections_cut(
    verdict: &IsolationVerdict,
    applied: &Applied,
    old: Option<&IsolationStatus>,
) -> Option<i32> {
    let pods = verdict.workloads.as_ref();
    let user = verdict.user.as_ref();
    if verdict.device.is_none() && pods.is_none() && user.is_none() {
        return None;
    }
    let of_user = user.into_iter().flat_map(|user| &user.devices);
    let nodes = pods.into_iter().flat_map(|pods| pods.wards.values());
    let nodes: BTreeSet<&DeviceId> = nodes.map(|ward| &ward.device).collect();
    let devices = verdict.device.iter().chain(&verdict.peers).chain(nodes);
    let devices = devices.chain(of_user);
    let cut: u64 = devices
        .filter_map(|id| applied.devices.get(id)?.connections_cut.get(&verdict.uid))
        .sum();
    let before = old.and_then(|old| old.connections_cut).unwrap_or(0);
    Some(i32::try_from(cut).unwrap_or(i32::MAX).max(before))
}
