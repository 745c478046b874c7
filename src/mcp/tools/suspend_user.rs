//! `suspend_user`.

use std::collections::BTreeMap;

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::isolating::{self, Isolated, Wanted};
use super::settle::{self, InForce};
use super::stages::{Laps, Stages};
use super::user::{self, Named};
use crate::access::decide::Lasts;
use crate::access::{Intent, Tool};
use crate::api::{IsolationSpec, Probes, Target};
use crate::local::users::{AccountStanding, UserStanding};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::arguments;
use crate::mcp::call::Call;
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The user's id: what people call it. It stands for each list of names that is left out.
    user: String,
    /// Accounts on devices. An empty list: none there.
    os: Option<Vec<String>>,
    /// Users as the Kubernetes API server knows them. An empty list: none there.
    kubernetes: Option<Vec<String>>,
    /// Other agents of Seawall, by the names of their scopes. An empty list: none.
    seawall: Option<Vec<String>>,
    /// Why, for the people who read this later: what was seen, and how certain it is.
    reason: String,
    /// How long, such as 30m or 24h; until it is restored when left out.
    ttl: Option<String>,
    /// The incident this belongs to: inc_ and its id.
    incident: Option<String>,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    user: String,
    /// The Isolation's name; restore_user needs the user's id alone.
    isolation: String,
    dry_run: bool,
    /// It was there already with these names, written by this agent.
    already_suspended: bool,
    /// As isolate_device has it; at most Partial where the user has a Kubernetes name, since reads go on.
    #[schemars(with = "String")]
    in_force: InForce,
    devices: Devices,
    /// Users whose writes in the tenant's namespace are to be refused.
    kubernetes: Vec<String>,
    /// The API server refuses them. In a dry run, it would.
    writes_refused: bool,
    /// Scopes whose keys are refused.
    scopes_refused: Vec<String>,
    /// What the user can do still.
    not_refused: Vec<String>,
    connections_cut: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    milliseconds: u64,
    /// As isolate_device has it.
    #[schemars(with = "BTreeMap<String, f64>")]
    stages_ms: Stages,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// The devices of the tenant, which drop what the accounts send.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Devices {
    matched: usize,
    /// Of these, those whose kernel has read it back. In a dry run, those that are connected.
    programmed: usize,
    offline: usize,
    /// Those that have not read it back first.
    each: Vec<Device>,
    left_out: usize,
    /// Nodes of the cluster: nothing is dropped there.
    nodes: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Device {
    id: String,
    programmed: bool,
    connected: bool,
    /// Accounts that exist there and are dropped.
    dropped: Vec<String>,
    /// Accounts left alone, being root or the agent's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_alone: Vec<String>,
}

impl From<&AccountStanding> for Device {
    fn from(standing: &AccountStanding) -> Self {
        let named = |names: &[String]| names.iter().map(|name| clean(name, 253)).collect();
        Self {
            id: standing.device.to_string(),
            programmed: standing.programmed,
            connected: standing.connected,
            dropped: named(&standing.dropped),
            left_alone: named(&standing.spared),
        }
    }
}

impl From<&UserStanding> for Devices {
    fn from(standing: &UserStanding) -> Self {
        Self {
            matched: standing.devices,
            programmed: standing.programmed,
            offline: standing.offline,
            each: standing.each.iter().map(Device::from).collect(),
            left_out: standing.left_out,
            nodes: standing.nodes,
        }
    }
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::SuspendUser,
        "Suspend a user",
        "Suspends a user in the tenant: devices drop the traffic of the user's accounts and cut their open \
         connections, the Kubernetes API server refuses the user's writes, and Seawall refuses the keys of \
         agents of that name. Reads from the API server and sessions at an identity provider go on. Lasts \
         until restore_user or the end of ttl. The answer tells for each device whether it has read it back.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let laps = Laps::authenticated(call.arrived);
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let end = settle::end_of(input.ttl.as_deref())?;
    let id = user::id(&input.user)?;
    call.about(&format!("user/{id}"));
    let named = Named::new(id, input.os, input.kubernetes, input.seawall);
    let intent = Intent {
        target: named.target(),
        lasts: end.map_or(Lasts::UntilDeleted, |(length, _)| Lasts::For(length)),
        dry_run: input.dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await?;
    let wanted = Wanted {
        name: named.isolation_name(&call.principal.user),
        spec: IsolationSpec {
            target: Target {
                user: Some(named.id.clone()),
                ..Target::default()
            },
            user_names: named.names.clone(),
            reason,
            management: Vec::new(),
            incident: input.incident,
            probes: Probes::default(),
            expires_at: end.map(|(_, end)| end),
        },
        dry_run: input.dry_run,
    };
    isolating::isolate(call, laps, wanted, |isolated| {
        let output = output(call, &named, isolated);
        Reply::new(&output, output.text())
    })
    .await
}

fn output(call: &Call, named: &Named, isolated: &Isolated) -> Output {
    let Isolated {
        isolation,
        already,
        standing,
        previewed,
        dry_run,
    } = isolated;
    let standing = standing.as_ref();
    let user = match dry_run {
        true => previewed.user.as_ref(),
        false => standing.and_then(|standing| standing.user.as_ref()),
    };
    let user = user.cloned().unwrap_or_default();
    Output {
        user: named.id.clone(),
        isolation: isolation.name_any(),
        dry_run: *dry_run,
        already_suspended: *already,
        in_force: isolated.in_force(),
        devices: Devices::from(&user),
        kubernetes: user.kubernetes,
        writes_refused: user.writes_refused,
        scopes_refused: user.scopes,
        not_refused: user.outside,
        connections_cut: standing.map_or(0, |standing| standing.connections_cut),
        expires_at: isolation.spec.expires_at.map(|end| end.to_string()),
        milliseconds: call.milliseconds(),
        // Set when the last of them has ended.
        stages_ms: Stages::default(),
        message: isolated.message(),
    }
}

impl Output {
    fn text(&self) -> String {
        let end = match &self.expires_at {
            Some(end) => format!("until {end}"),
            None => "until restored".into(),
        };
        let (user, name) = (clean(&self.user, 253), &self.isolation);
        match self.in_force {
            InForce::NotWritten => format!(
                "Dry run: {user} would be suspended {end}{}. Nothing was changed.{}",
                self.parts(),
                self.outside()
            ),
            InForce::NotAccepted => {
                format!("{name} is written but not in force: {}.", self.message)
            }
            InForce::NotEnforceable => {
                format!(
                    "{name} is written, and nothing is refused: {}.",
                    self.message
                )
            }
            InForce::Unknown => format!(
                "{name} is written; whether {user} is suspended could not be read back yet: \
                 list_isolations shows it."
            ),
            InForce::Pending => format!(
                "{name} is written, and not in force yet{}. list_isolations shows how it goes on. {}",
                self.parts(),
                self.message
            ),
            InForce::Everywhere | InForce::Partial | InForce::Unseen => format!(
                "{user} is suspended {end}{}; {} open connections were cut; {} ms.{}",
                self.parts(),
                self.connections_cut,
                self.milliseconds,
                self.outside()
            ),
        }
    }

    /// How far each part is.
    fn parts(&self) -> String {
        let Devices {
            matched,
            programmed,
            offline,
            nodes,
            ..
        } = self.devices;
        let mut parts = String::new();
        if matched > 0 {
            let what = match self.dry_run {
                true => "are connected and would drop what the accounts send",
                false => "have read back that they drop what the accounts send",
            };
            parts.push_str(&format!(
                "; {programmed} of {matched} devices ({offline} offline) {what}"
            ));
        }
        if !self.kubernetes.is_empty() {
            let users = clean(&self.kubernetes.join(", "), 300);
            parts.push_str(&match (self.writes_refused, self.dry_run) {
                (true, false) => format!("; the API server refuses writes of {users}"),
                (_, true) => format!("; the API server would refuse writes of {users}"),
                (false, false) => format!("; the API server does not refuse writes of {users} yet"),
            });
        }
        if !self.scopes_refused.is_empty() {
            parts.push_str(&format!("; keys of {}", self.scopes_refused.join(", ")));
            parts.push_str(match self.dry_run {
                true => " would be refused",
                false => " are refused",
            });
        }
        if nodes > 0 {
            parts.push_str(&format!("; not on {nodes} nodes of the cluster"));
        }
        parts
    }

    fn outside(&self) -> String {
        let alone = self
            .devices
            .each
            .iter()
            .filter(|it| !it.left_alone.is_empty());
        let alone = alone.map(|it| format!("{} on {}", it.left_alone.join(", "), it.id));
        let alone: Vec<String> = alone.take(MOST_IN_TEXT).collect();
        let mut words = match &alone[..] {
            [] => String::new(),
            _ => format!(
                " Left alone, being root or the agent's own account: {}.",
                alone.join("; ")
            ),
        };
        if !self.not_refused.is_empty() {
            words.push_str(&format!(" Not refused: {}.", self.not_refused.join("; ")));
        }
        words
    }
}

/// Devices that the text of an answer names.
const MOST_IN_TEXT: usize = 5;
