//! `restore_user`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::get_device::HeldIsolation;
use super::releasing::{Found, Remaining};
use super::settle;
use super::user::{self, Names};
use crate::access::Tool;
use crate::api::Isolation;
use crate::local::Kind;
use crate::local::types::Held;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Call, Done};
use crate::mcp::text::clean;
use crate::mcp::{arguments, resources};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The user to restore: the id that suspend_user was given.
    user: String,
    /// Why, for the people who read this later.
    reason: String,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    user: String,
    dry_run: bool,
    /// Isolations of this agent that were deleted.
    restored: Vec<String>,
    /// No connected device and no admission of the API server enforces them any more, and none of the
    /// user's isolations is held.
    lifted_everywhere: bool,
    /// Other Isolations, which keep the user suspended by some of the names.
    still_isolated_by: Vec<Remaining>,
    /// Isolations of the user that were deleted before, and stay in force until a person confirms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<HeldIsolation>,
    /// From the call to the answer.
    milliseconds: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::RestoreUser,
        "Restore a user",
        "Deletes this agent's own Isolations of a user, so that the user's traffic, writes and keys pass \
         again. Isolations that people or other agents wrote stay, and are named with who wrote them.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let user = user::id(&input.user)?;
    call.about(&format!("user/{user}"));
    let all = Found::of(call, |isolation| isolation.spec.target.user.is_some()).await?;
    let is_of = |isolation: &Isolation| isolation.spec.target.user.as_ref() == Some(&user);
    let (own, beside): (Vec<_>, Vec<_>) = all.own.into_iter().partition(is_of);
    let (others, of_others): (Vec<_>, Vec<_>) = all.others.into_iter().partition(is_of);
    let found = Found { own, others };
    found.permit(call, input.dry_run).await?;
    let beside = [beside, of_others].concat();
    let remains = Remains {
        still: still(call, &user, &found, beside).await,
        held: held(call, &user).await?,
    };
    let action = call.begin(&reason, input.dry_run).await?;
    let done = restore(call, user, found, remains, input.dry_run).await;
    call.end(action, done).await
}

struct Remains {
    still: Vec<Remaining>,
    held: Vec<HeldIsolation>,
}

/// What keeps the user suspended: others that name it, others that share a name with what is deleted, and
/// those of other namespaces, of which the operator knows and this agent reads none.
async fn still(call: &Call, user: &str, found: &Found, beside: Vec<Isolation>) -> Vec<Remaining> {
    let now = Timestamp::now();
    let lasts = |isolation: &&Isolation| isolation.spec.expires_at.is_none_or(|end| end > now);
    let mut names: Vec<Names> = found.own.iter().filter_map(names_of).collect();
    if names.is_empty() {
        names.push(Names::of(user, None));
    }
    let shares = |isolation: &&Isolation| {
        let theirs = names_of(isolation);
        theirs.is_some_and(|theirs| names.iter().any(|names| names.overlap(&theirs)))
    };
    let sharing = beside.iter().filter(shares);
    let here = found.others.iter().chain(sharing).filter(lasts);
    let mut still: Vec<Remaining> = here.map(Remaining::from).collect();
    let tenant = format!("{}/", call.principal.tenant);
    let mut elsewhere = BTreeSet::new();
    for isolation in &found.own {
        let standing = settle::now(call, Kind::Isolation, isolation).await;
        let others = standing.map(|standing| standing.still_isolated_by);
        elsewhere.extend(others.into_iter().flatten());
    }
    if elsewhere.iter().any(|key| !key.starts_with(&tenant)) {
        still.push(Remaining {
            name: "an Isolation of another namespace".to_owned(),
            written_by: "a person or GitOps".to_owned(),
        });
    }
    still
}

fn names_of(isolation: &Isolation) -> Option<Names> {
    Names::in_spec(&isolation.spec)
}

async fn held(call: &Call, user: &str) -> Result<Vec<HeldIsolation>, Failure> {
    let held = call.shared.operator.held(&call.principal.tenant).await?;
    let target = format!("user/{user}");
    let held = held.into_iter().filter(|held| held.target == target);
    let held: Vec<Held> = held.map(|held| held.held).collect();
    Ok(HeldIsolation::all(&held))
}

async fn restore(
    call: &Call,
    user: String,
    found: Found,
    remains: Remains,
    dry_run: bool,
) -> Result<Done, Failure> {
    let released = found.release(call, dry_run).await?;
    let Remains { still, held } = remains;
    let output = Output {
        user,
        dry_run,
        lifted_everywhere: released.lifted && held.is_empty(),
        still_isolated_by: still,
        held,
        milliseconds: call.milliseconds(),
        message: released.message,
        restored: released.names,
    };
    let own = resources::agent_name(&call.principal);
    Ok(Done {
        reply: Reply::new(&output, output.text(&own)),
        resources: released.resources,
    })
}

impl Output {
    fn text(&self, own: &str) -> String {
        let user = clean(&self.user, 253);
        let names = self.restored.join(", ");
        let mut text = match (self.restored.is_empty(), self.dry_run) {
            (true, _) => format!("{user} is not suspended by this agent; nothing was changed."),
            (false, true) => format!("Dry run: {names} would be deleted. Nothing was changed."),
            (false, false) if self.lifted_everywhere => format!(
                "{names} is deleted, and nothing enforces it any more; {} ms.",
                self.milliseconds
            ),
            (false, false) => format!(
                "{names} is deleted, and not lifted everywhere yet: list_isolations shows what is in force. {}",
                self.message
            ),
        };
        for other in &self.still_isolated_by {
            let how = match other.written_by == own {
                true => "list_isolations shows the user to restore it by".to_owned(),
                false => format!("ask {} to delete it", other.written_by),
            };
            let name = &other.name;
            text.push_str(&format!(" {user} stays suspended by {name}: {how}."));
        }
        text.extend(self.held.iter().map(HeldIsolation::sentence));
        text
    }
}
