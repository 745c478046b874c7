//! The status of an Isolation: the target itself, and the peers that drop it.

use jiff::Timestamp;

use super::conditions::{Finding, list, of_acceptance, ready};
use super::{Points, count, source};
use crate::api::conditions::{ACCEPTED, ENFORCED, PROGRAMMED, READY, STALLED};
use crate::api::isolation::{PeerCoverage, SelfState};
use crate::api::{IsolationStatus, Phase};
use crate::domain::applied::Applied;
use crate::domain::enforcement::{Source, SourceKind};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, IsolationVerdict};
use crate::domain::words::a_few;

pub fn isolation(
    key: &ObjectKey,
    verdict: &IsolationVerdict,
    applied: &Applied,
    old: Option<&IsolationStatus>,
    now: Timestamp,
) -> IsolationStatus {
    let source = source(SourceKind::Isolation, key, &verdict.uid, verdict.generation);
    let own = own_state(verdict, applied, &source);
    let peers = Points::of(&verdict.peers, applied, &source);
    let (accepted, stalled) = of_acceptance(&verdict.acceptance);
    let effective = verdict.acceptance == Acceptance::Accepted && verdict.not_enforceable.is_none();
    let programmed = programmed(verdict, effective, own, &peers);
    let enforced = enforced(verdict, effective, own, &peers);
    let matched = i32::try_from(verdict.peers.len()).unwrap_or(i32::MAX);
    let phase = phase(verdict, effective, own, &peers);
    let read_back = own == Some(SelfState::Programmed);
    let findings = [
        (READY, ready(&accepted, &programmed)),
        (ACCEPTED, accepted),
        (PROGRAMMED, programmed),
        (ENFORCED, enforced),
        (STALLED, stalled_or_not_enforceable(verdict, stalled)),
    ];
    let before = old.map_or(&[][..], |old| &old.conditions);
    IsolationStatus {
        observed_generation: Some(verdict.generation),
        conditions: list(findings, verdict.generation, before, now),
        phase,
        target_summary: verdict.target.clone(),
        self_state: own,
        peers: verdict.device.as_ref().map(|_| PeerCoverage {
            matched,
            programmed: count(&peers.programmed),
            summary: format!("{}/{matched}", peers.programmed.len()),
        }),
        connections_cut: connections_cut(verdict, applied, old),
        isolated_at: old
            .and_then(|old| old.isolated_at)
            .or_else(|| (effective && read_back).then_some(now)),
    }
}

/// None for what is not a device that is enrolled.
fn own_state(verdict: &IsolationVerdict, applied: &Applied, source: &Source) -> Option<SelfState> {
    let device = applied.devices.get(verdict.device.as_ref()?);
    Some(match device {
        Some(device) if device.sources.contains(source) => SelfState::Programmed,
        Some(device) if device.connected => SelfState::Pending,
        _ => SelfState::Offline,
    })
}

/// Every point that is connected has read it back; one that is off must not fail those who wait.
fn programmed(
    verdict: &IsolationVerdict,
    effective: bool,
    own: Option<SelfState>,
    peers: &Points,
) -> Finding {
    if !effective {
        return nothing(verdict);
    }
    if own == Some(SelfState::Pending) {
        return Finding::no("Waiting", "not read back yet from the device itself");
    }
    if !peers.waiting.is_empty() {
        let waiting = a_few(&peers.waiting);
        return Finding::no(
            "Waiting",
            format!("not read back yet from the peers {waiting}"),
        );
    }
    if own == Some(SelfState::Offline) && peers.programmed.is_empty() {
        return Finding::no(
            "Offline",
            "neither the device nor any peer of it is connected",
        );
    }
    Finding::yes("ReadBack", words(verdict, own, peers))
}

fn enforced(
    verdict: &IsolationVerdict,
    effective: bool,
    own: Option<SelfState>,
    peers: &Points,
) -> Finding {
    if !effective {
        return nothing(verdict);
    }
    match own {
        Some(SelfState::Programmed) if peers.programmed.len() == verdict.peers.len() => {
            Finding::yes("ReadBack", words(verdict, own, peers))
        }
        Some(SelfState::Offline) => Finding::no(
            "Offline",
            format!(
                "the device's agent is not connected; {} of {} peers drop it",
                peers.programmed.len(),
                verdict.peers.len()
            ),
        ),
        Some(SelfState::Pending) => {
            Finding::no("Waiting", "not read back yet from the device itself")
        }
        _ => {
            let missing = peers.waiting.iter().chain(&peers.offline);
            Finding::no("Waiting", format!("peers without it: {}", a_few(missing)))
        }
    }
}

fn nothing(verdict: &IsolationVerdict) -> Finding {
    match &verdict.not_enforceable {
        Some(why) => Finding::no("NotEnforceable", why),
        None => Finding::no("NotAccepted", "nothing of it is in force"),
    }
}

/// What people read first, with what is worth knowing beside it.
fn words(verdict: &IsolationVerdict, own: Option<SelfState>, peers: &Points) -> String {
    let own = match own {
        Some(SelfState::Programmed) => "the device",
        _ => "the device is not connected;",
    };
    let mut words = format!(
        "{own} and {} of {} peers have read it back",
        peers.programmed.len(),
        verdict.peers.len()
    );
    if verdict.held {
        words.push_str("; held: it was deleted with many others, and a person has not confirmed");
    }
    if !verdict.also_isolated_by.is_empty() {
        words.push_str(&format!(
            "; also isolated by {}",
            a_few(&verdict.also_isolated_by)
        ));
    }
    for note in &verdict.address_notes {
        words.push_str("; ");
        words.push_str(note);
    }
    words
}

fn stalled_or_not_enforceable(verdict: &IsolationVerdict, stalled: Finding) -> Finding {
    match &verdict.not_enforceable {
        Some(why) if verdict.acceptance == Acceptance::Accepted => {
            Finding::yes("NotEnforceable", why)
        }
        _ => stalled,
    }
}

fn phase(
    verdict: &IsolationVerdict,
    effective: bool,
    own: Option<SelfState>,
    peers: &Points,
) -> Phase {
    if verdict.not_enforceable.is_some() && verdict.acceptance == Acceptance::Accepted {
        return Phase::NotEnforceable;
    }
    if !effective {
        return Phase::Pending;
    }
    let itself = own == Some(SelfState::Programmed);
    match (itself, peers.waiting.is_empty()) {
        (true, true) => Phase::Isolated,
        (false, _) if peers.programmed.is_empty() => Phase::Pending,
        _ => Phase::Partial,
    }
}

/// Never less than what was counted before: a device that comes back has forgotten its count.
fn connections_cut(
    verdict: &IsolationVerdict,
    applied: &Applied,
    old: Option<&IsolationStatus>,
) -> Option<i32> {
    verdict.device.as_ref()?;
    let devices = verdict.device.iter().chain(&verdict.peers);
    let cut: u64 = devices
        .filter_map(|id| applied.devices.get(id)?.connections_cut.get(&verdict.uid))
        .sum();
    let before = old.and_then(|old| old.connections_cut).unwrap_or(0);
    Some(i32::try_from(cut).unwrap_or(i32::MAX).max(before))
}
