//! `isolate_device`.

use std::collections::BTreeMap;

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::isolating::{self, Isolated, Wanted};
use super::settle::{self, InForce, Points};
use super::stages::{Laps, Stages};
use crate::access::decide::Lasts;
use crate::access::{Intent, Target as Means, Tool};
use crate::api::{IsolationSpec, ManagementPath, Probes, Target};
use crate::domain::names::DeviceId;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
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
    let laps = Laps::authenticated(call.arrived);
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
            reason,
            management: input.management,
            incident: input.incident,
            probes: Probes::default(),
            expires_at: end.map(|(_, end)| end),
        },
        dry_run: input.dry_run,
    };
    isolating::isolate(call, laps, wanted, |isolated| {
        let output = output(call, &device, isolated);
        Reply::new(&output, output.text())
    })
    .await
}

fn output(call: &Call, device: &DeviceId, isolated: &Isolated) -> Output {
    let Isolated {
        isolation,
        already,
        standing,
        previewed,
        dry_run,
    } = isolated;
    let standing = standing.as_ref();
    let would_match = Points {
        matched: previewed.devices.saturating_sub(1),
        ..Points::default()
    };
    Output {
        device_id: device.to_string(),
        isolation: isolation.name_any(),
        dry_run: *dry_run,
        already_isolated: *already,
        in_force: isolated.in_force(),
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
            InForce::NotEnforceable | InForce::Unseen | InForce::Pending | InForce::Partial => {
                format!(
                    "{name} is written, and not in force everywhere yet: the device itself {}, {peers}. \
                 list_isolations shows how it goes on. {}",
                    if self.self_programmed {
                        "has it"
                    } else {
                        "does not have it"
                    },
                    self.message
                )
            }
        }
    }
}
