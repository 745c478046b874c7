//! `unblock_destination`.

use ipnet::IpNet;
use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::block_destination::destination;
use super::{describe, settle};
use crate::access::{Intent, Target, Tool};
use crate::api::{Action, Policy};
use crate::local::Kind;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Call, Done};
use crate::mcp::{arguments, resources};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The address or network as it was given to block_destination.
    destination: String,
    /// Why, for the people who read this later.
    reason: String,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    destination: String,
    dry_run: bool,
    /// Policies of this agent that were deleted.
    unblocked: Vec<String>,
    /// No connected device enforces them any more.
    lifted_everywhere: bool,
    /// Policies of others that deny exactly this destination.
    still_blocked_by: Vec<Remaining>,
    /// From the call to the answer.
    milliseconds: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Remaining {
    name: String,
    /// Who can change it.
    written_by: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::UnblockDestination,
        "Unblock a destination",
        "Deletes the Policies by which this agent's block_destination blocked an address or network, \
         on whichever devices. Policies that people or other agents wrote stay, and are named with \
         who wrote them.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let network = destination(&input.destination)?;
    call.about(&network.to_string());
    let (own, others): (Vec<Policy>, Vec<Policy>) = resources::all::<Policy>(call)
        .await?
        .into_iter()
        .filter(|policy| blocks(policy, &network))
        .partition(|policy| resources::is_own(&call.principal, policy));
    let own: Vec<Policy> = own
        .into_iter()
        .filter(|policy| policy.name_any().starts_with(resources::BLOCK_PREFIX))
        .collect();
    let judged = if own.is_empty() { &others[..] } else { &own };
    for policy in judged {
        let intent = Intent {
            target: Target::Written {
                name: format!("Policy {}", policy.name_any()),
                by: resources::written_by(policy).map(str::to_owned),
            },
            dry_run: input.dry_run,
            ..Intent::of(call.tool)
        };
        call.permit(&intent).await?;
    }
    let action = call.begin(&reason, input.dry_run).await?;
    let done = unblock(call, &network, &own, &others, input.dry_run).await;
    call.end(action, done).await
}

/// It denies this network, and nothing is left of it that would not.
fn blocks(policy: &Policy, network: &IpNet) -> bool {
    let network = network.to_string();
    !policy.spec.rules.is_empty()
        && policy.spec.rules.iter().all(|rule| {
            rule.action == Action::Deny && rule.peers.cidrs == std::slice::from_ref(&network)
        })
}

async fn unblock(
    call: &Call,
    network: &IpNet,
    own: &[Policy],
    others: &[Policy],
    dry_run: bool,
) -> Result<Done, Failure> {
    let api = resources::api::<Policy>(call)?;
    for policy in own {
        resources::delete(&api, policy, dry_run).await?;
    }
    let (mut lifted, mut message) = (!dry_run, String::new());
    if !dry_run {
        for policy in own {
            let standing = settle::lifted(call, Kind::Policy, policy).await;
            lifted &= standing
                .as_ref()
                .is_some_and(|standing| standing.programmed);
            if let Some(standing) = standing {
                message = standing.message;
            }
        }
    }
    let output = Output {
        destination: network.to_string(),
        dry_run,
        unblocked: own.iter().map(ResourceExt::name_any).collect(),
        lifted_everywhere: lifted,
        still_blocked_by: others
            .iter()
            .map(|policy| Remaining {
                name: policy.name_any(),
                written_by: resources::author(policy),
            })
            .collect(),
        milliseconds: call.milliseconds(),
        message,
    };
    Ok(Done {
        reply: Reply::new(&output, output.text()),
        resources: own
            .iter()
            .map(|object| resources::touched(object, dry_run))
            .collect(),
    })
}

impl Output {
    fn text(&self) -> String {
        let destination = &self.destination;
        let names = self.unblocked.join(", ");
        let mut text = if self.unblocked.is_empty() {
            format!("{destination} is not blocked by this agent; nothing was changed.")
        } else if self.dry_run {
            format!("Dry run: {names} would be deleted. Nothing was changed.")
        } else if self.lifted_everywhere {
            let milliseconds = self.milliseconds;
            format!(
                "{names} is deleted, and no connected device enforces it any more; {milliseconds} ms."
            )
        } else {
            let message = &self.message;
            format!("{names} is deleted, and perhaps not lifted everywhere yet. {message}")
        };
        for other in &self.still_blocked_by {
            text.push_str(&format!(
                " {destination} stays blocked by {}: ask {} to change it.",
                other.name, other.written_by
            ));
        }
        text
    }
}
