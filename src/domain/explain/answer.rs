//! What comes of a question.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api::Protocol;
use crate::domain::enforcement::SourceKind;
use crate::domain::names::DeviceId;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who was found for what was asked.
    pub from: String,
    pub to: String,
    pub protocol: Protocol,
    /// The number; of a named port the one that the pod gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub verdict: Verdict,
    /// The verdict in a sentence, with what decides.
    pub because: String,
    /// One for each way in which pairs of addresses fare; one alone in most cases.
    pub paths: Vec<Path>,
    /// What the answer hangs on and can't be known here.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Nothing that is known cuts it.
    Reaches,
    Blocked,
    /// `because` says what is missing.
    Unknown,
}

/// Pairs of addresses that fare alike, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    pub pairs: Vec<Pair>,
    pub verdict: Verdict,
    pub because: String,
    /// In the order in which a packet comes by.
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub from: IpAddr,
    pub to: IpAddr,
}

/// An enforcement point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    pub side: Side,
    pub layer: Layer,
    /// Whose it is: `device/dev_…`, `node/worker-1`, `pod/shop/web-0`.
    pub at: String,
    pub passes: bool,
    /// In the order of evaluation.
    pub steps: Vec<Step>,
    /// How many rules that don't match are not among the steps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmatched_left_out: usize,
    /// The device whose agent it is.
    #[serde(skip)]
    pub device: Option<DeviceId>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    Source,
    Destination,
}

/// Who enforces at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// An agent, for its own host.
    Host,
    /// An agent, for a pod of its node.
    Pod,
    /// The cluster's network plugin, if it does.
    NetworkPolicies,
}

/// What was looked at, and what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// None for what belongs to no resource, or to one that the asker doesn't see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceName>,
    /// The rule's name; `default`, `management`, `quarantine` and the like for what has none; `ingress[0]`
    /// for those of a NetworkPolicy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    pub did: Did,
    /// It decides the verdict.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decisive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Did {
    Allowed,
    Denied,
    /// Its policy observes.
    WouldAllow,
    WouldDeny,
    /// It reports, and the evaluation goes on.
    Audited,
    NoMatch,
}

impl Did {
    /// Whether the evaluation at its point ends with it.
    pub fn ends(self) -> bool {
        matches!(self, Self::Allowed | Self::Denied)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceName {
    pub kind: ResourceKind,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ResourceKind {
    Isolation,
    Policy,
    NetworkPolicy,
}

impl From<SourceKind> for ResourceKind {
    fn from(kind: SourceKind) -> Self {
        match kind {
            SourceKind::Isolation => Self::Isolation,
            SourceKind::Policy => Self::Policy,
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        write!(f, "{kind:?} {namespace}/{name}")
    }
}

impl Path {
    /// Whether the other pairs fare as these do.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.verdict == other.verdict
            && self.because == other.because
            && self.points == other.points
    }
}

impl Point {
    /// What ended the evaluation here.
    pub(super) fn ending(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.did.ends())
    }
}
