//! `get_policy`, and how a policy is shown.

use jiff::Timestamp;
use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::describe;
use super::settle::{self, InForce, Points};
use crate::access::{Principal, Tool};
use crate::api::{Mode, Policy, PolicySpec};
use crate::local::Kind;
use crate::local::types::Standing;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::resources;
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The policy's name, such as list_policies gives.
    name: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    pub name: String,
    pub state: State,
    /// The agent that wrote it, or that it was a person or GitOps.
    pub written_by: String,
    /// This agent wrote it and can disable it.
    pub own: bool,
    /// Why it was written, if an agent wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub created_at: Option<String>,
    /// Enforcement points that the subjects choose.
    pub points: Points,
    /// The condition that says most about what is missing; empty when nothing is.
    pub message: String,
    /// As in Kubernetes; its parts are those that create_policy takes.
    #[schemars(schema_with = "any_object")]
    pub spec: PolicySpec,
}

/// The whole schema of a policy is in the list of tools once, where it is taken.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum State {
    /// Every connected enforcement point has read it back.
    InForce,
    /// It reports what it would have done, and changes nothing.
    Observing,
    /// Not everywhere, or not yet.
    Pending,
    NotAccepted,
    Disabled,
    Expired,
}

impl Shown {
    pub fn new(principal: &Principal, policy: Policy) -> Self {
        let status = policy.status.clone().unwrap_or_default();
        let coverage = status.coverage.unwrap_or_default();
        let count = |count: i32| usize::try_from(count).unwrap_or_default();
        let lacking = status
            .conditions
            .iter()
            .find(|condition| condition.status == "False");
        Self {
            name: policy.name_any(),
            state: state(&policy),
            written_by: resources::author(&policy),
            own: resources::is_own(principal, &policy),
            reason: resources::reason(&policy).map(|reason| clean(reason, 1024)),
            created_at: policy.creation_timestamp().map(|at| at.0.to_string()),
            points: Points {
                matched: count(coverage.matched),
                programmed: count(coverage.programmed),
                offline: count(coverage.offline),
            },
            message: lacking
                .map(|condition| clean(&condition.message, 512))
                .unwrap_or_default(),
            spec: PolicySpec {
                description: clean(&policy.spec.description, 1024),
                ..policy.spec
            },
        }
    }

    /// As the operator knows it now, which the stored status follows.
    fn stands(&mut self, standing: &Standing) {
        self.points = Points::from(standing);
        self.message = clean(&standing.message, 512);
        self.state = match (self.state, settle::in_force(standing)) {
            (State::Disabled | State::Expired, _) => self.state,
            (_, InForce::NotAccepted) => State::NotAccepted,
            _ if self.spec.mode == Mode::Observe => State::Observing,
            (_, InForce::Everywhere) => State::InForce,
            _ => State::Pending,
        };
    }

    /// The policy in one line of text.
    pub fn line(&self) -> String {
        format!(
            "{} {:?} (priority {}, {} rules, {} of {} points), by {}: {}",
            self.name,
            self.state,
            self.spec.priority,
            self.spec.rules.len(),
            self.points.programmed,
            self.points.matched,
            self.written_by,
            clean(&self.spec.description, 120)
        )
    }
}

fn state(policy: &Policy) -> State {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    let is = |kind: &str, status: &str| {
        conditions
            .clone()
            .any(|condition| condition.type_ == kind && condition.status == status)
    };
    let expired = |end: Timestamp| end <= Timestamp::now();
    if policy.spec.disabled {
        State::Disabled
    } else if policy.spec.expires_at.is_some_and(expired) {
        State::Expired
    } else if is("Accepted", "False") {
        State::NotAccepted
    } else if policy.spec.mode == Mode::Observe {
        State::Observing
    } else if is("Programmed", "True") {
        State::InForce
    } else {
        State::Pending
    }
}

pub fn define() -> Definition {
    describe::<Input, Shown>(
        Tool::GetPolicy,
        "Get a policy",
        "Shows one Policy of the tenant: its rules as they are in Kubernetes, who wrote it, and how \
         many enforcement points have read it back.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let policy = find(call, &input.name).await?;
    let standing = settle::now(call, Kind::Policy, &policy).await;
    let mut shown = Shown::new(&call.principal, policy);
    if let Some(standing) = standing {
        shown.stands(&standing);
    }
    let text = shown.line();
    Ok(Reply::new(&shown, text))
}

/// A policy of the tenant by its name.
pub async fn find(call: &Call, name: &str) -> Result<Policy, Failure> {
    let unknown = || {
        Failure::not_found(format!(
            "{} has no policy {:?}: list_policies gives the names there are",
            call.principal.tenant,
            clean(name, 253)
        ))
    };
    let possible = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if !possible {
        return Err(unknown());
    }
    let found = resources::api::<Policy>(call)?.get_opt(name).await?;
    found.ok_or_else(unknown)
}
