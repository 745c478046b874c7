//! Conditions as Kubernetes wants them: one of each type, with the generation they speak of, and a time that
//! moves only when the status does.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::domain::verdict::Acceptance;

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

    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Accepted, and whether it can ever be.
pub fn of_acceptance(acceptance: &Acceptance) -> (Finding, Finding) {
    match acceptance {
        Acceptance::Accepted => (
            Finding::yes("Accepted", "valid, understood and allowed"),
            Finding::no("Accepted", ""),
        ),
        Acceptance::Waiting { reason, message } => (
            Finding::no(reason.as_str(), message),
            Finding::no(
                reason.as_str(),
                "may be accepted later without being edited",
            ),
        ),
        Acceptance::Refused { reason, message } => (
            Finding::no(reason.as_str(), message),
            Finding::yes(reason.as_str(), message),
        ),
    }
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
            last_transition_time: before
                .map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    };
    findings.into_iter().map(condition).collect()
}
