//! `isolate_device`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::Api;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::describe;
use super::settle::{self, InForce, Points};
use super::stages::{Laps, Stages};
use crate::access::decide::Lasts;
use crate::access::{Intent, Target as Means, Tool};
use crate::api::{Isolation, IsolationSpec, ManagementPath, Probes, Target};
use crate::domain::names::DeviceId;
use crate::local::Kind;
use crate::local::types::{Standing, Unwritten};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Action, Call, Done};
use crate::mcp::{arguments, resources};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The device to isolate: its id, such as list_devices gives.
    device_id: String,
    /// Why, for the people who read this later: what was seen, and how certain it is.
    reason: String,
    /// How long, such as 30m or 24h; until it is released when left out.
    ttl: Option<String>,
    /// Networks that may still connect to the device, such as a forensics host: cidr, and ports to
    /// narrow it.
    #[serde(default)]
    management: Vec<ManagementPath>,
    /// The incident this belongs to: inc_ and its id.
    incident: Option<String>,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    device_id: String,
    /// The Isolation's name; release_device needs the device's id alone.
    isolation: String,
    dry_run: bool,
    /// It was there already, written by this agent.
    already_isolated: bool,
    in_force: InForce,
    /// The device's own kernel has read it back.
    self_programmed: bool,
    /// The other devices, which drop the isolated one's addresses.
    peers: Points,
    connections_cut: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// From the call to the answer.
    milliseconds: u64,
    /// Milliseconds of each part of the way, by name and in their order; their sum is `milliseconds`.
    #[schemars(with = "BTreeMap<String, f64>")]
    stages_ms: Stages,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::IsolateDevice,
        "Isolate a device",
        "Puts a device in quarantine: all its connections, open ones too, are cut in both \
         directions by its own kernel and by every other device of the tenant. Only the operator, \
         DHCP, neighbour discovery and the given management networks stay. Lasts until release_device \
         or the end of ttl. The answer tells which kernels have read it back.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let mut laps = Laps::authenticated(call.arrived);
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let end = settle::end_of(input.ttl.as_deref())?;
    let device = call.device(&input.device_id).await?.id;
    call.about(device.as_str());
    let intent = Intent {
        target: Means::Devices([device.clone()].into()),
        lasts: end.map_or(Lasts::UntilDeleted, |(length, _)| Lasts::For(length)),
        dry_run: input.dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await?;
    let wanted = Wanted {
        name: resources::isolation_name(&call.principal.user, &device),
        spec: IsolationSpec {
            target: Target {
                device: Some(device.to_string()),
                ..Target::default()
            },
            user_names: None,
            reason: reason.clone(),
            management: input.management,
            incident: input.incident,
            probes: Probes::default(),
            expires_at: end.map(|(_, end)| end),
        },
        device,
        dry_run: input.dry_run,
    };
    let api = resources::api::<Isolation>(call)?;
    let resource = Unwritten::Isolation(wanted.spec.clone());
    let (points, there) = tokio::join!(
        settle::preview(call, &wanted.name, resource),
        api.get_opt(&wanted.name)
    );
    let found = Found {
        points: points?,
        there,
    };
    laps.decided();
    let action = call.begin(&reason, input.dry_run).await?;
    laps.intent_durable();
    let done = isolate(call, &action, &wanted, found, &mut laps).await;
    let mut reply = call.end(action, done).await?;
    laps.recorded();
    reply.set("stages_ms", &laps.stages);
    reply.set("milliseconds", &call.milliseconds());
    Ok(reply)
}

struct Wanted {
    name: String,
    spec: IsolationSpec,
    device: DeviceId,
    dry_run: bool,
}

/// What was asked before the action began.
struct Found {
    /// Devices that would have rules of it.
    points: usize,
    /// What has the name already. That it can't be read is an outcome of the action.
    there: kube::Result<Option<Isolation>>,
}

async fn isolate(
    call: &Call,
    action: &Action,
    wanted: &Wanted,
    found: Found,
    laps: &mut Laps,
) -> Result<Done, Failure> {
    let Found { points, there } = found;
    let (isolation, already) = ensure(call, action, there?, wanted).await?;
    laps.written();
    let standing = if wanted.dry_run {
        None
    } else {
        settle::written(call, Kind::Isolation, &isolation).await
    };
    let moments = standing.as_ref().and_then(|s| s.moments.as_ref());
    laps.answered(moments);
    let output = output(call, wanted, &isolation, already, standing.as_ref(), points);
    Ok(Done {
        reply: Reply::new(&output, output.text()),
        resources: vec![resources::touched(&isolation, wanted.dry_run)],
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

fn output(
    call: &Call,
    wanted: &Wanted,
    isolation: &Isolation,
    already: bool,
    standing: Option<&Standing>,
    points: usize,
) -> Output {
    let in_force = match standing {
        _ if wanted.dry_run => InForce::NotWritten,
        Some(standing) => settle::in_force(standing),
        None => InForce::Unknown,
    };
    let would_match = Points {
        matched: points.saturating_sub(1),
        ..Points::default()
    };
    Output {
        device_id: wanted.device.to_string(),
        isolation: wanted.name.clone(),
        dry_run: wanted.dry_run,
        already_isolated: already,
        in_force,
        self_programmed: standing.is_some_and(|s| s.self_programmed == Some(true)),
        peers: standing.map_or(would_match, Points::from),
        connections_cut: standing.map_or(0, |standing| standing.connections_cut),
        expires_at: isolation.spec.expires_at.map(|end| end.to_string()),
        milliseconds: call.milliseconds(),
        // Set when the last of them has ended.
        stages_ms: Stages::default(),
        message: standing.map_or_else(String::new, |standing| standing.message.clone()),
    }
}

impl Output {
    fn text(&self) -> String {
        let end = match &self.expires_at {
            Some(end) => format!("until {end}"),
            None => "until it is released".into(),
        };
        let (device, name) = (&self.device_id, &self.isolation);
        let peers = settle::points_in_words(&self.peers, "peers");
        match self.in_force {
            InForce::NotWritten => format!(
                "Dry run: {device} would be isolated {end}, by itself and {} peers. Nothing was changed.",
                self.peers.matched
            ),
            InForce::NotAccepted => {
                format!("{name} is written but not in force: {}", self.message)
            }
            InForce::Unknown => format!(
                "{name} is written; whether {device} is cut could not be read back yet: \
                 list_isolations shows it."
            ),
            InForce::Everywhere => format!(
                "{device} is isolated {end}: its own kernel and {peers} have read it back; {} open \
                 connections were cut; {} ms.",
                self.connections_cut, self.milliseconds
            ),
            InForce::Pending | InForce::Partial => format!(
                "{name} is written, and not in force everywhere yet: the device itself {}, {peers}. \
                 list_isolations shows how it goes on. {}",
                if self.self_programmed {
                    "has it"
                } else {
                    "does not have it"
                },
                self.message
            ),
        }
    }
}
