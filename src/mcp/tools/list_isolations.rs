//! `list_isolations`.

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::settle::Points;
use crate::access::Tool;
use crate::api::isolation::SelfState;
use crate::api::{Isolation, Phase};
use crate::domain::names::DeviceId;
use crate::domain::words::confirm_release;
use crate::local::types::{DeviceView, Held};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page::{self, ResponseFormat};
use crate::mcp::resources;
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Only Isolations of this device: its id, such as list_devices gives.
    device_id: Option<String>,
    /// True: only those that this agent wrote.
    #[serde(default)]
    own: bool,
    /// Isolations on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before.
    cursor: Option<String>,
    /// concise (default): target, phase and author; detailed: reason, coverage and times too.
    #[serde(default)]
    response_format: ResponseFormat,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    isolations: Vec<Item>,
    /// Present when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Item {
    name: String,
    /// Such as device/dev_….
    target: String,
    /// Pending until the target and every connected peer have read it back.
    phase: Phase,
    /// The agent that wrote it, or that it was a person or GitOps.
    written_by: String,
    /// This agent wrote it and can release it.
    own: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// It was deleted together with many others and stays in force until a person runs this.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Detail {
    reason: String,
    /// Whether the target's own kernel has it.
    #[serde(rename = "self")]
    self_state: Option<SelfState>,
    peers: Points,
    connections_cut: i32,
    isolated_at: Option<String>,
    created_at: Option<String>,
    incident: Option<String>,
    /// The condition that says most about what is missing.
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ListIsolations,
        "List isolations",
        "Lists the Isolations of the tenant: target, phase, who wrote it and when it ends. The \
         detailed format adds the reason that was given and which kernels have read it back.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let written = resources::all::<Isolation>(call).await?;
    let written = written
        .into_iter()
        .filter(|isolation| !input.own || resources::is_own(&call.principal, isolation))
        .map(|isolation| Found::Written(Box::new(isolation)));
    let mut found: Vec<Found> = written.collect();
    if !input.own {
        found.extend(held(call).await?);
    }
    found.retain(|found| input.device_id.is_none() || input.device_id.as_deref() == found.device());
    found.sort_by_key(Found::name);
    let (page, lines) = page::cut(
        found,
        input.cursor.as_deref(),
        input.limit,
        Found::name,
        |found| show(call, &found, input.response_format),
    )?;
    let cursor = page.next_cursor.as_deref();
    let text = page::heading(page.items.len(), "isolation", cursor) + &lines;
    let output = Output {
        isolations: page.items,
        next_cursor: page.next_cursor,
    };
    Ok(Reply::new(&output, text))
}

/// What isolates.
enum Found {
    Written(Box<Isolation>),
    /// Deleted, and held in force.
    Held {
        device: DeviceId,
        held: Held,
    },
}

impl Found {
    fn name(&self) -> String {
        match self {
            Self::Written(isolation) => isolation.name_any(),
            Self::Held { held, .. } => held.isolation.clone(),
        }
    }

    fn device(&self) -> Option<&str> {
        match self {
            Self::Written(isolation) => isolation.spec.target.device.as_deref(),
            Self::Held { device, .. } => Some(device.as_str()),
        }
    }
}

/// Those that the API server has no more.
async fn held(call: &Call) -> Result<Vec<Found>, Failure> {
    let devices = call.shared.operator.devices(&call.principal.tenant).await?;
    let held = devices.into_iter().flat_map(|view| {
        let DeviceView { id, held, .. } = view;
        held.into_iter().map(move |held| Found::Held {
            device: id.clone(),
            held,
        })
    });
    Ok(held.collect())
}

fn show(call: &Call, found: &Found, format: ResponseFormat) -> (Item, String) {
    match found {
        Found::Written(isolation) => show_written(call, isolation, format),
        Found::Held { device, held } => show_held(device, held),
    }
}

fn show_held(device: &DeviceId, held: &Held) -> (Item, String) {
    let item = Item {
        name: clean(&held.isolation, 253),
        target: format!("device/{device}"),
        phase: Phase::Isolated,
        written_by: "deleted".to_owned(),
        own: false,
        expires_at: None,
        held_until: Some(confirm_release(&held.hold)),
        detail: None,
    };
    let line = format!(
        "{} {} deleted together with many others, in force until a person confirms: {}",
        item.name,
        item.target,
        confirm_release(&held.hold)
    );
    (item, line)
}

fn show_written(call: &Call, isolation: &Isolation, format: ResponseFormat) -> (Item, String) {
    let status = isolation.status.clone().unwrap_or_default();
    let item = Item {
        name: isolation.name_any(),
        target: target(isolation),
        phase: status.phase,
        written_by: resources::author(isolation),
        own: resources::is_own(&call.principal, isolation),
        expires_at: isolation.spec.expires_at.map(|end| end.to_string()),
        held_until: None,
        detail: (format == ResponseFormat::Detailed).then(|| detail(isolation)),
    };
    let line = format!(
        "{} {} {:?}, by {}{}",
        item.name,
        item.target,
        item.phase,
        item.written_by,
        item.expires_at
            .as_ref()
            .map(|end| format!(", until {end}"))
            .unwrap_or_default()
    );
    (item, line)
}

fn target(isolation: &Isolation) -> String {
    let target = &isolation.spec.target;
    let named = |kind: &str, name: &Option<String>| {
        name.as_ref()
            .map(|name| format!("{kind}/{}", clean(name, 253)))
    };
    named("device", &target.device)
        .or_else(|| named("user", &target.user))
        .or_else(|| named("node", &target.node))
        .unwrap_or_else(|| {
            let workload = target.workload.clone().unwrap_or_default();
            named("workload", &workload.pod).unwrap_or_else(|| "workload/by labels".into())
        })
}

fn detail(isolation: &Isolation) -> Detail {
    let status = isolation.status.clone().unwrap_or_default();
    let peers = status.peers.unwrap_or_default();
    let count = |count: i32| usize::try_from(count).unwrap_or_default();
    let lacking = status
        .conditions
        .iter()
        .find(|condition| condition.status != "True");
    Detail {
        reason: clean(&isolation.spec.reason, 1024),
        self_state: status.self_state,
        peers: Points {
            matched: count(peers.matched),
            programmed: count(peers.programmed),
            offline: 0,
        },
        connections_cut: status.connections_cut.unwrap_or_default(),
        isolated_at: status.isolated_at.map(|at| at.to_string()),
        created_at: isolation.creation_timestamp().map(|at| at.0.to_string()),
        incident: isolation.spec.incident.clone(),
        message: lacking
            .map(|condition| clean(&condition.message, 512))
            .unwrap_or_default(),
    }
}
