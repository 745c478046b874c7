//! `create_policy`.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::settle::{self, InForce, Points};
use crate::access::decide::Lasts;
use crate::access::{Intent, Target, Tool};
use crate::api::policy::DefaultAction;
use crate::api::{Action as RuleAction, Mode, Policy, PolicySpec, Subjects};
use crate::domain::names::DeviceId;
use crate::local::Kind;
use crate::local::types::Unwritten;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Action, Call, Done};
use crate::mcp::{arguments, resources};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The policy's name: lower-case letters, digits and dashes, at most 63 characters.
    name: String,
    /// The policy, as in Kubernetes: subjects, rules, default, mode, priority.
    spec: PolicySpec,
    /// Why, for the people who read this later.
    reason: String,
    /// How long, such as 30m or 24h, in place of the spec's expiresAt.
    ttl: Option<String>,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    policy: String,
    dry_run: bool,
    /// It was there already with this very spec, written by this agent.
    already_there: bool,
    in_force: InForce,
    points: Points,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// From the call to the answer.
    milliseconds: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::CreatePolicy,
        "Create a policy",
        "Creates a Policy in the tenant: rules that Allow, Deny or Audit connections of the chosen \
         subjects. With mode Observe it reports what it would do and changes nothing. Scopes below \
         Manage may write rules that Deny or Audit, on devices or pods of their targets.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let end = settle::end_of(input.ttl.as_deref())?;
    call.about(&input.name);
    let mut spec = input.spec;
    if let Some((_, end)) = end {
        spec.expires_at = Some(end);
    }
    if !is_label(&input.name) {
        return Err(Failure::invalid(
            "name is lower-case letters, digits and dashes, at most 63 characters, such as \
             deny-smb-from-cameras",
        ));
    }
    let intent = Intent {
        target: target(&spec.subjects)?,
        lasts: lasts(&spec, Timestamp::now()),
        allows: allows(&spec),
        dry_run: input.dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await?;
    let resource = Unwritten::Policy(spec.clone());
    let points = settle::preview(call, &input.name, resource).await?;
    let action = call.begin(&reason, input.dry_run).await?;
    let done = write(
        call,
        &action,
        &input.name,
        spec,
        &reason,
        input.dry_run,
        points,
    )
    .await;
    call.end(action, done).await
}

fn is_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Named devices, devices by tags, pods by a selector, or what can be any: users and trust levels choose
/// devices that may be others tomorrow.
fn target(subjects: &Subjects) -> Result<Target, Failure> {
    let Subjects {
        devices,
        workloads,
        users: _,
        applications: _,
        all,
    } = subjects;
    if let (Some(workloads), None, false) = (workloads, devices, *all) {
        return Ok(Target::Workloads(workloads.pod_selector.clone()));
    }
    let Some(chosen) = devices.as_ref().filter(|_| !*all && workloads.is_none()) else {
        return Ok(Target::Fleet);
    };
    let ids = chosen.ids.iter().map(|id| DeviceId::try_from(id.clone()));
    let devices: BTreeSet<DeviceId> = ids.collect::<Result<_, _>>().map_err(|error| {
        Failure::invalid(format!(
            "spec.subjects.devices.ids: {error}; list_devices gives them"
        ))
    })?;
    // Trust levels narrow what tags chose, and alone choose from all.
    Ok(
        match (chosen.tags.is_empty(), chosen.trust_levels.is_empty()) {
            (true, true) if devices.is_empty() => Target::Fleet,
            (true, true) => Target::Devices(devices),
            (true, false) => Target::Fleet,
            (false, _) => Target::Tagged {
                tags: chosen.tags.clone(),
                devices,
            },
        },
    )
}

/// A default of Deny and a Deny of other devices cut off, so that the scope's limit for isolations holds
/// for them.
fn lasts(spec: &PolicySpec, now: Timestamp) -> Lasts {
    let mut rules = spec.rules.iter();
    let of_devices =
        rules.any(|rule| rule.action == RuleAction::Deny && rule.peers.devices.is_some());
    let cuts_off = of_devices || has_default(spec, DefaultAction::Deny);
    if spec.mode == Mode::Observe || !cuts_off {
        return Lasts::NotATime;
    }
    let Some(end) = spec.expires_at else {
        return Lasts::UntilDeleted;
    };
    Lasts::For(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

fn has_default(spec: &PolicySpec, action: DefaultAction) -> bool {
    spec.default
        .is_some_and(|default| [default.egress, default.ingress].contains(&Some(action)))
}

fn allows(spec: &PolicySpec) -> bool {
    let by_rule = spec
        .rules
        .iter()
        .any(|rule| rule.action == RuleAction::Allow);
    by_rule || has_default(spec, DefaultAction::Allow)
}

async fn write(
    call: &Call,
    action: &Action,
    name: &str,
    spec: PolicySpec,
    reason: &str,
    dry_run: bool,
    points: usize,
) -> Result<Done, Failure> {
    let api = resources::api::<Policy>(call)?;
    let (policy, already) = ensure(call, action, &api, name, spec, reason, dry_run).await?;
    let standing = if dry_run {
        None
    } else {
        settle::written(call, Kind::Policy, &policy).await
    };
    let would_match = Points {
        matched: points,
        ..Points::default()
    };
    let output = Output {
        policy: name.into(),
        dry_run,
        already_there: already,
        in_force: match &standing {
            _ if dry_run => InForce::NotWritten,
            Some(standing) => settle::in_force(standing),
            None => InForce::Unknown,
        },
        points: standing.as_ref().map_or(would_match, Points::from),
        expires_at: policy.spec.expires_at.map(|end| end.to_string()),
        milliseconds: call.milliseconds(),
        message: standing.map_or_else(String::new, |standing| standing.message),
    };
    Ok(Done {
        reply: Reply::new(&output, output.text()),
        resources: vec![resources::touched(&policy, dry_run)],
    })
}

async fn ensure(
    call: &Call,
    action: &Action,
    api: &Api<Policy>,
    name: &str,
    spec: PolicySpec,
    reason: &str,
    dry_run: bool,
) -> Result<(Policy, bool), Failure> {
    if let Some(there) = api.get_opt(name).await? {
        let own = resources::is_own(&call.principal, &there);
        if own && there.spec == spec {
            return Ok((there, true));
        }
        return Err(Failure::invalid(format!(
            "a policy {name} is there already, written by {}, with another spec: choose another name",
            resources::author(&there)
        )));
    }
    let mut policy = Policy::new(name, spec);
    policy.metadata = resources::stamped(call, action, name, reason);
    Ok((resources::create(api, &policy, dry_run).await?, false))
}

impl Output {
    fn text(&self) -> String {
        let name = &self.policy;
        let points = settle::points_in_words(&self.points, "devices");
        match self.in_force {
            InForce::NotWritten => format!(
                "Dry run: {name} would be created and have rules on {} devices now. Nothing was changed.",
                self.points.matched
            ),
            InForce::NotAccepted => {
                format!("{name} is written but not in force: {}", self.message)
            }
            InForce::Everywhere => format!(
                "{name} is in force: {points} have read it back; {} ms.",
                self.milliseconds
            ),
            InForce::Unknown
            | InForce::Unseen
            | InForce::NotEnforceable
            | InForce::Pending
            | InForce::Partial => {
                format!(
                    "{name} is written, and not known to be in force everywhere yet: {points}. get_policy \
                 shows how it goes on. {}",
                    self.message
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DEVICE: &str = "dev_01arz3ndektsv4rrffq69g5fav";

    fn subjects(value: Value) -> Subjects {
        serde_json::from_value(value).expect("subjects")
    }

    #[test]
    fn devices_by_id_and_by_tags_are_told_from_what_can_be_any() {
        let device: DeviceId = DEVICE.parse().expect("an id");
        let by_id = subjects(json!({"devices": {"ids": [DEVICE]}}));
        assert_eq!(target(&by_id), Ok(Target::Devices([device.clone()].into())));
        let narrowed = subjects(json!({"devices": {"ids": [DEVICE]}, "users": {"ids": ["eve"]}}));
        assert_eq!(target(&narrowed), target(&by_id));
        let both = subjects(json!({"devices": {"ids": [DEVICE], "tags": {"kind": "camera"}}}));
        let tagged = Target::Tagged {
            tags: [("kind".to_owned(), "camera".to_owned())].into(),
            devices: [device].into(),
        };
        assert_eq!(target(&both), Ok(tagged));
        for wide in [
            json!({"all": true}),
            json!({"devices": {"trustLevels": ["Untrusted"]}}),
            json!({"devices": {"ids": [DEVICE], "trustLevels": ["Untrusted"]}}),
            json!({"devices": {"ids": [DEVICE]}, "workloads": {"podSelector": {}}}),
            json!({"users": {"ids": ["eve"]}}),
        ] {
            assert_eq!(target(&subjects(wide.clone())), Ok(Target::Fleet), "{wide}");
        }
        assert!(target(&subjects(json!({"devices": {"ids": ["dev_1"]}}))).is_err());
        let pods = json!({"workloads": {"podSelector": {"matchLabels": {"app": "web"}}}});
        let chosen = target(&subjects(pods));
        assert!(matches!(chosen, Ok(Target::Workloads(_))), "{chosen:?}");
    }

    #[test]
    fn an_allow_in_a_rule_or_as_a_default_allows() {
        let spec = |rules: Value, default: Value| -> PolicySpec {
            let value = json!({"subjects": {"all": true}, "rules": rules, "default": default});
            serde_json::from_value(value).expect("a spec")
        };
        let rule = |action: &str| json!([{"name": "r", "direction": "Egress", "action": action, "peers": {"any": true}}]);
        assert!(allows(&spec(rule("Allow"), Value::Null)));
        assert!(allows(&spec(rule("Deny"), json!({"ingress": "Allow"}))));
        assert!(!allows(&spec(rule("Deny"), json!({"egress": "Deny"}))));
        assert!(!allows(&spec(rule("Audit"), Value::Null)));
    }
}
