//! What tools that isolate have in common, whatever the target: the operator's opinion, the intent, the
//! Isolation itself, how it stands, and how long each part took.

use jiff::Timestamp;
use kube::Api;
use serde_json::json;

use super::settle::{self, InForce};
use super::stages::Laps;
use crate::api::{Isolation, IsolationSpec};
use crate::local::Kind;
use crate::local::pods::PodsStanding;
use crate::local::types::{Previewed, Standing, Unwritten};
use crate::local::users::UserStanding;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Action, Call, Done};
use crate::mcp::resources;

/// The Isolation that is asked for.
pub struct Wanted {
    pub name: String,
    pub spec: IsolationSpec,
    pub dry_run: bool,
}

/// The Isolation as it is now, or would be.
pub struct Isolated {
    pub isolation: Isolation,
    /// It was there already, written by this agent.
    pub already: bool,
    /// None for a dry run, and when the operator can't say.
    pub standing: Option<Standing>,
    pub previewed: Previewed,
    pub dry_run: bool,
}

impl Isolated {
    pub fn in_force(&self) -> InForce {
        match &self.standing {
            _ if self.dry_run => InForce::NotWritten,
            Some(standing) => in_force(standing),
            None => InForce::Unknown,
        }
    }

    /// What the operator says of it, or would.
    pub fn message(&self) -> String {
        match &self.standing {
            _ if self.dry_run => self.previewed.message.clone(),
            Some(standing) => standing.message.clone(),
            None => String::new(),
        }
    }
}

/// As [`settle::in_force`], told from what nothing can enforce, and with every pod, and all of a user, in mind.
fn in_force(standing: &Standing) -> InForce {
    if standing.accepted && standing.reason == "NotEnforceable" {
        return InForce::NotEnforceable;
    }
    let lacks = |pods: &PodsStanding| pods.covered < pods.chosen;
    match settle::in_force(standing) {
        InForce::Everywhere if standing.pods.as_ref().is_some_and(lacks) => InForce::Partial,
        InForce::Everywhere if standing.pods.as_ref().is_some_and(|it| it.by_policy > 0) => {
            InForce::Unseen
        }
        in_force => match &standing.user {
            Some(user) => of_user(in_force, user),
            None => in_force,
        },
    }
}

/// A Kubernetes user goes on reading, whatever is refused.
fn of_user(in_force: InForce, user: &UserStanding) -> InForce {
    match in_force {
        InForce::Everywhere if !user.kubernetes.is_empty() => InForce::Partial,
        InForce::Everywhere if user.programmed < user.devices => InForce::Partial,
        InForce::Pending if user.refuses_something() => InForce::Partial,
        in_force => in_force,
    }
}

/// What was asked before the action began.
struct Found {
    previewed: Previewed,
    /// What has the name already. That it can't be read is an outcome of the action.
    there: kube::Result<Option<Isolation>>,
}

/// Isolates what this agent was permitted to isolate. The answer gets `stages_ms` and `milliseconds` when
/// the last part has ended.
pub async fn isolate(
    call: &Call,
    mut laps: Laps,
    wanted: Wanted,
    answer: impl FnOnce(&Isolated) -> Reply,
) -> Result<Reply, Failure> {
    let api = resources::api::<Isolation>(call)?;
    let resource = Unwritten::Isolation(wanted.spec.clone());
    let (previewed, there) = tokio::join!(
        settle::previewed(call, &wanted.name, resource),
        api.get_opt(&wanted.name)
    );
    let found = Found {
        previewed: previewed?,
        there,
    };
    laps.decided();
    let action = call.begin(&wanted.spec.reason, wanted.dry_run).await?;
    laps.intent_durable();
    let isolated = write(call, &action, &wanted, found, &mut laps).await;
    let done = isolated.map(|isolated| Done {
        reply: answer(&isolated),
        resources: vec![resources::touched(&isolated.isolation, wanted.dry_run)],
    });
    let mut reply = call.end(action, done).await?;
    laps.recorded();
    reply.set("stages_ms", &laps.stages);
    reply.set("milliseconds", &call.milliseconds());
    Ok(reply)
}

async fn write(
    call: &Call,
    action: &Action,
    wanted: &Wanted,
    found: Found,
    laps: &mut Laps,
) -> Result<Isolated, Failure> {
    let Found { previewed, there } = found;
    let (isolation, already) = ensure(call, action, there?, wanted).await?;
    laps.written();
    let standing = if wanted.dry_run {
        None
    } else {
        settle::written(call, Kind::Isolation, &isolation).await
    };
    let moments = standing.as_ref().and_then(|s| s.moments.as_ref());
    laps.answered(moments);
    Ok(Isolated {
        isolation,
        already,
        standing,
        previewed,
        dry_run: wanted.dry_run,
    })
}

/// Creates it, or finds the agent's own and lets it last longer when that was asked for.
async fn ensure(
    call: &Call,
    action: &Action,
    there: Option<Isolation>,
    wanted: &Wanted,
) -> Result<(Isolation, bool), Failure> {
    let api = &resources::api::<Isolation>(call)?;
    let Some(there) = there else {
        let isolation = stamped(call, action, wanted);
        let created = resources::create(api, &isolation, wanted.dry_run).await?;
        return Ok((created, false));
    };
    if !resources::is_own(&call.principal, &there) {
        return Err(Failure::invalid(format!(
            "an Isolation named {} is there and was written by {}: ask them to remove it",
            wanted.name,
            resources::author(&there)
        )));
    }
    let over = there
        .spec
        .expires_at
        .is_some_and(|end| end <= Timestamp::now());
    let end = wanted.spec.expires_at;
    if over {
        return Ok((replace(call, action, api, &there, wanted).await?, false));
    }
    if !resources::is_longer(end, there.spec.expires_at) {
        return Ok((there, true));
    }
    let spec = json!({"expiresAt": end});
    let changed = resources::change(api, &there, spec, wanted.dry_run).await?;
    Ok((changed, true))
}

fn stamped(call: &Call, action: &Action, wanted: &Wanted) -> Isolation {
    let mut isolation = Isolation::new(&wanted.name, wanted.spec.clone());
    isolation.metadata = resources::stamped(call, action, &wanted.name, &wanted.spec.reason);
    isolation
}

/// Makes a new one in place of one whose time is over and which is in force nowhere: the API server
/// counts the longest isolation from an Isolation's creation.
async fn replace(
    call: &Call,
    action: &Action,
    api: &Api<Isolation>,
    over: &Isolation,
    wanted: &Wanted,
) -> Result<Isolation, Failure> {
    resources::delete(api, over, wanted.dry_run).await?;
    let mut isolation = stamped(call, action, wanted);
    if wanted.dry_run {
        // The name is still taken; all else is asked as it would be.
        isolation.metadata.name = Some(format!("{}-again", wanted.name));
    }
    Ok(resources::create(api, &isolation, wanted.dry_run).await?)
}
