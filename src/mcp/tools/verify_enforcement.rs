//! `verify_enforcement`.

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use crate::access::Tool;
use crate::domain::names::DeviceId;
use crate::local::types::DeviceReadBack;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page;
use crate::mcp::text::clean;

/// Devices that are asked in one call.
const MOST_DEVICES: usize = 1000;
/// Rules whose counts are shown for one device.
const MOST_RULES: usize = 50;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The devices to ask: ids such as list_devices gives. Every connected device of the tenant when
    /// left out.
    #[serde(default)]
    device_ids: Vec<String>,
    /// Devices on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before. The devices are asked again.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    devices: Vec<Item>,
    /// Of all that were asked, on this page or not.
    asked: usize,
    matching: usize,
    /// Present when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Item {
    device_id: String,
    connected: bool,
    /// Its kernel holds exactly what should be in force.
    matches: bool,
    /// What differs, or why it could not be asked.
    detail: String,
    /// What rules have met since they were loaded.
    counts: Vec<Count>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Count {
    /// namespace/policy/rule
    rule: String,
    packets: u64,
    bytes: u64,
    /// Its policy observes: it would have decided, and did not.
    observing: bool,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::VerifyEnforcement,
        "Verify enforcement",
        "Has devices read their kernel's rules back now, and says for each whether they are exactly \
         what should be in force, with counts of packets that met each rule.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    if input.device_ids.len() > MOST_DEVICES {
        return Err(Failure::invalid(format!(
            "device_ids names more than {MOST_DEVICES}: ask in parts, or leave it out for all"
        )));
    }
    let mut devices: Vec<DeviceId> = Vec::new();
    for id in &input.device_ids {
        devices.push(call.device(id).await?.id);
    }
    let operator = &call.shared.operator;
    let report = operator.verify(&call.principal.tenant, devices).await?;
    let mut answers = report.devices;
    answers.sort_by(|a, b| a.device.cmp(&b.device));
    let (asked, matching) = (
        answers.len(),
        answers.iter().filter(|answer| answer.matches).count(),
    );
    let (page, lines) = page::cut(
        answers,
        input.cursor.as_deref(),
        input.limit,
        |answer| answer.device.to_string(),
        show,
    )?;
    let cursor = page.next_cursor.as_deref();
    let text = format!("{matching} of {asked} devices hold exactly what should be in force\n")
        + &page::heading(page.items.len(), "device", cursor)
        + &lines;
    let output = Output {
        devices: page.items,
        asked,
        matching,
        next_cursor: page.next_cursor,
    };
    Ok(Reply::new(&output, text))
}

fn show(answer: DeviceReadBack) -> (Item, String) {
    let item = Item {
        device_id: answer.device.to_string(),
        connected: answer.connected,
        matches: answer.matches,
        detail: clean(&answer.detail, 512),
        counts: answer
            .counts
            .into_iter()
            .take(MOST_RULES)
            .map(|count| Count {
                rule: clean(&count.rule, 256),
                packets: count.packets,
                bytes: count.bytes,
                observing: count.observing,
            })
            .collect(),
    };
    let state = match (item.matches, item.connected) {
        (true, _) => "matches".to_owned(),
        (false, true) => format!("differs: {}", item.detail),
        (false, false) => format!("offline: {}", item.detail),
    };
    let line = format!("{} {state}", item.device_id);
    (item, line)
}
