//! Conditions as Kubernetes wants them: one of each type, with the generation they speak of, and a time that
//! moves only when the status does.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::domain::verdict::{Acceptance, Reason};
use crate::domain::words::a_few;

/// The most that a message may say: a list of thousands of devices helps nobody.
const LONGEST_MESSAGE: usize = 1024;

/// `True`, `False` or `Unknown`, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Finding {
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new("True", reason, message)
    }

    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new("False", reason, message)
    }

    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new("Unknown", reason, message)
    }

    fn new(status: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self {
            status,
            reason,
            message: message.chars().take(LONGEST_MESSAGE).collect(),
        }
    }

    /// Says one thing more.
    pub fn add(&mut self, words: &str) {
        let message = format!("{}; {words}", self.message);
        self.message = message.chars().take(LONGEST_MESSAGE).collect();
    }

    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Accepted, and whether it can ever be.
pub fn of_acceptance(acceptance: &Acceptance) -> (Finding, Finding) {
    match acceptance {
        Acceptance::Accepted => (
            Finding::yes("Accepted", "valid, understood and allowed"),
            Finding::no("Accepted", "it is not stuck"),
        ),
        Acceptance::Waiting { reason, message } => (
            Finding::no(reason.as_str(), message),
            Finding::no(
                reason.as_str(),
                match reason {
                    Reason::Expired => "its time is over",
                    Reason::Disabled => "it is turned off",
                    _ => "it waits, and is not stuck",
                },
            ),
        ),
        Acceptance::Refused { reason, message } => (
            Finding::no(reason.as_str(), message),
            Finding::yes(reason.as_str(), message),
        ),
    }
}

/// A resource that names devices which are not enrolled is not accepted, though what it says of the others
/// is in force.
pub fn without_unknown(accepted: Finding, unknown: &BTreeSet<String>) -> Finding {
    if !accepted.is_true() || unknown.is_empty() {
        return accepted;
    }
    Finding::no(
        Reason::UnknownTarget.as_str(),
        format!(
            "not enrolled: {}; the rest is in force, and they are added when they enrol",
            a_few(unknown)
        ),
    )
}

/// A scope with a key that another one holds too is not accepted, though its other keys work.
pub fn without_shared_keys(accepted: Finding, shared: &[String]) -> Finding {
    let waits = accepted.reason == Reason::UnknownTarget.as_str();
    if shared.is_empty() || !(accepted.is_true() || waits) {
        return accepted;
    }
    let mut found = Finding::no(
        Reason::DuplicateKey.as_str(),
        format!(
            "more than one scope holds the key {}: nobody may act with it; revoke it and make each scope a key of its own (`seawall keys`); other keys work",
            shared.join(", ")
        ),
    );
    if waits {
        found.add(&accepted.message);
    }
    found
}

/// Ready is Accepted and Programmed, which is what kstatus, Flux and Argo wait for.
pub fn ready(accepted: &Finding, programmed: &Finding) -> Finding {
    if !accepted.is_true() {
        return Finding::no(accepted.reason, &accepted.message);
    }
    programmed.clone()
}

/// All conditions of a resource, each with its old time where its status is as it was.
pub fn list(
    findings: impl IntoIterator<Item = (&'static str, Finding)>,
    generation: i64,
    old: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |(type_, finding): (&'static str, Finding)| {
        let before = old
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == finding.status);
        Condition {
            type_: type_.to_owned(),
            status: finding.status.to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message,
            observed_generation: Some(generation),
            last_transition_time: before.map_or_else(
                || seconds(now),
                |before| before.last_transition_time.clone(),
            ),
        }
    };
    findings.into_iter().map(condition).collect()
}

/// Times of conditions are whole seconds, as Kubernetes' own.
fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
