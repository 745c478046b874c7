//! `disable_policy`.

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{describe, get_policy, settle};
use crate::access::{Intent, Target, Tool};
use crate::api::Policy;
use crate::local::Kind;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Call, Done};
use crate::mcp::{arguments, resources};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The policy's name, such as list_policies gives; one that this agent wrote.
    name: String,
    /// Why, for the people who read this later.
    reason: String,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    policy: String,
    dry_run: bool,
    already_disabled: bool,
    /// No connected device enforces it any more.
    lifted_everywhere: bool,
    /// From the call to the answer.
    milliseconds: u64,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::DisablePolicy,
        "Disable a policy",
        "Sets a Policy that this agent wrote to disabled: it is kept and does nothing any more. \
         Policies that people or other agents wrote can't be disabled.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let policy = get_policy::find(call, &input.name).await?;
    call.about(&input.name);
    let intent = Intent {
        target: Target::Written {
            name: format!("Policy {}", policy.name_any()),
            by: resources::written_by(&policy).map(str::to_owned),
        },
        dry_run: input.dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await?;
    let action = call.begin(&reason, input.dry_run).await?;
    let done = disable(call, &policy, input.dry_run).await;
    call.end(action, done).await
}

async fn disable(call: &Call, policy: &Policy, dry_run: bool) -> Result<Done, Failure> {
    let (name, already) = (policy.name_any(), policy.spec.disabled);
    let mut lifted = already;
    if !already {
        let api = resources::api::<Policy>(call)?;
        let spec = json!({"disabled": true});
        let changed = resources::change(&api, policy, spec, dry_run).await?;
        if !dry_run {
            let standing = settle::lifted(call, Kind::Policy, &changed).await;
            lifted = standing.is_some_and(|standing| standing.programmed);
        }
    }
    let output = Output {
        policy: name.clone(),
        dry_run,
        already_disabled: already,
        lifted_everywhere: lifted,
        milliseconds: call.milliseconds(),
    };
    Ok(Done {
        reply: Reply::new(&output, output.text()),
        resources: vec![resources::touched(policy, dry_run)],
    })
}

impl Output {
    fn text(&self) -> String {
        let name = &self.policy;
        match (self.already_disabled, self.dry_run, self.lifted_everywhere) {
            (true, ..) => format!("{name} was disabled already; nothing was changed."),
            (_, true, _) => format!("Dry run: {name} would be disabled. Nothing was changed."),
            (.., true) => format!(
                "{name} is disabled, and no connected device enforces it any more; {} ms.",
                self.milliseconds
            ),
            (.., false) => format!(
                "{name} is disabled, and perhaps not lifted everywhere yet: get_policy shows it."
            ),
        }
    }
}
