//! `list_isolations`.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::settle::Points;
use super::user::Names;
use super::workload::Chosen;
use crate::access::Tool;
use crate::api::isolation::{SelfState, WorkloadTarget};
use crate::api::{Isolation, Phase};
use crate::domain::words::confirm_release;
use crate::local::types::HeldIsolation;
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
    /// Only Isolations that name this pod, such as list_workloads gives.
    pod: Option<String>,
    /// Only Isolations that name this user by its id.
    user: Option<String>,
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
    /// Such as device/dev_…, workload/web-0, workload/app=web or user/mallory.
    target: String,
    /// Pending until the target and every connected peer have read it back.
    phase: Phase,
    /// The agent that wrote it, or that it was a person or GitOps.
    written_by: String,
    /// This agent wrote it and can release it.
    own: bool,
    /// Of pods: how many the target chooses, and how many of them are cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<Pods>,
    /// Of a user: the devices of the tenant, and how many of them drop what the accounts send.
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<Accounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// It was deleted together with many others and stays in force until a person runs this.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Pods {
    chosen: i32,
    covered: i32,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Accounts {
    devices: i32,
    programmed: i32,
    /// Of these, those on which one of the accounts exists.
    with_account: i32,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Detail {
    reason: String,
    /// Of a user: the names that it is suspended by, in os, kubernetes and seawall.
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<BTreeMap<String, Vec<String>>>,
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
        "Lists the Isolations of the tenant, suspended users included: target, phase, pods covered, who wrote it and when it ends. The \
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
        let held = call.shared.operator.held(&call.principal.tenant).await?;
        found.extend(held.into_iter().map(Found::Held));
    }
    for target in input.targets() {
        found.retain(|found| found.target() == target);
    }
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

impl Input {
    fn targets(&self) -> impl Iterator<Item = String> {
        let device = self.device_id.iter().map(|id| format!("device/{id}"));
        let pod = self.pod.iter().map(|pod| format!("workload/{pod}"));
        device
            .chain(pod)
            .chain(self.user.iter().map(|user| of_user(user)))
    }
}

/// What isolates.
enum Found {
    Written(Box<Isolation>),
    /// Deleted, and held in force: the API server has it no more.
    Held(HeldIsolation),
}

impl Found {
    fn name(&self) -> String {
        match self {
            Self::Written(isolation) => isolation.name_any(),
            Self::Held(held) => held.held.isolation.clone(),
        }
    }

    fn target(&self) -> String {
        match self {
            Self::Written(isolation) => target(isolation),
            Self::Held(held) => clean(&held.target, 300),
        }
    }
}

fn show(call: &Call, found: &Found, format: ResponseFormat) -> (Item, String) {
    match found {
        Found::Written(isolation) => show_written(call, isolation, format),
        Found::Held(held) => show_held(held),
    }
}

fn show_held(isolation: &HeldIsolation) -> (Item, String) {
    let held = &isolation.held;
    let phase = match isolation.target.starts_with("user/") {
        true => Phase::Suspended,
        false => Phase::Isolated,
    };
    let item = Item {
        name: clean(&held.isolation, 253),
        target: clean(&isolation.target, 300),
        phase,
        written_by: "deleted".to_owned(),
        own: false,
        pods: None,
        accounts: None,
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
        pods: status.workloads.as_ref().map(|pods| Pods {
            chosen: pods.matched,
            covered: pods.programmed,
        }),
        accounts: status.accounts.as_ref().map(|accounts| Accounts {
            devices: accounts.matched,
            programmed: accounts.programmed,
            with_account: accounts.with_account,
        }),
        expires_at: isolation.spec.expires_at.map(|end| end.to_string()),
        held_until: None,
        detail: (format == ResponseFormat::Detailed).then(|| detail(isolation)),
    };
    let line = format!(
        "{} {} {:?}{}{}, by {}{}",
        item.name,
        item.target,
        item.phase,
        item.pods
            .as_ref()
            .map(|pods| format!(", {} of {} pods covered", pods.covered, pods.chosen))
            .unwrap_or_default(),
        item.accounts
            .as_ref()
            .map(|it| format!(", on {} of {} devices", it.programmed, it.devices))
            .unwrap_or_default(),
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
        .or_else(|| target.user.as_deref().map(of_user))
        .or_else(|| named("node", &target.node))
        .or_else(|| target.workload.as_ref().map(of_pods))
        .unwrap_or_default()
}

fn by_place(names: Names) -> BTreeMap<String, Vec<String>> {
    let Names {
        os,
        kubernetes,
        seawall,
    } = names;
    let places = [("os", os), ("kubernetes", kubernetes), ("seawall", seawall)];
    let shown = |names: BTreeSet<String>| names.iter().map(|name| clean(name, 253)).collect();
    let places = places.into_iter();
    places
        .map(|(place, names)| (place.to_owned(), shown(names)))
        .collect()
}

/// The target of an Isolation of this user, as answers show it.
pub fn of_user(user: &str) -> String {
    format!("user/{}", clean(user, 253))
}

/// As the tools that isolate and release pods call it, where they can.
fn of_pods(target: &WorkloadTarget) -> String {
    if let Some(pod) = &target.pod {
        return format!("workload/{}", clean(pod, 253));
    }
    let selector = target.pod_selector.clone().unwrap_or_default();
    let expressions = selector.match_expressions.unwrap_or_default();
    let labels = selector.match_labels.unwrap_or_default();
    match expressions.is_empty() {
        true => Chosen::Labels(labels).summary(),
        false => "workload/(selected)".to_owned(),
    }
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
        names: Names::in_spec(&isolation.spec).map(by_place),
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
