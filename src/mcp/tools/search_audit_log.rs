//! `search_audit_log`.

use jiff::Timestamp;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::describe;
use crate::access::Tool;
use crate::audit::entry::Kind;
use crate::audit::print;
use crate::local::types::{AuditEntry, AuditQuery};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page::{self, ResponseFormat};
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Only entries of this kind. change_request: asked for, and perhaps refused; resource_change: seen to
    /// happen.
    kind: Option<Kind>,
    /// Only what this agent or Kubernetes user did.
    actor: Option<String>,
    /// Only entries that contain this text, such as a device's id or an intent's.
    text: Option<String>,
    /// Only entries from this time on, such as 2026-11-21T08:00:00Z.
    since: Option<String>,
    /// Only entries before this time, such as 2026-11-21T08:00:00Z.
    until: Option<String>,
    /// Entries on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before.
    cursor: Option<String>,
    /// concise (default): index, time, kind, actor and a line; detailed: the whole entries.
    #[serde(default)]
    response_format: ResponseFormat,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    /// Newest first.
    entries: Vec<Item>,
    /// Present when there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Item {
    /// The entry's place in the log.
    index: u64,
    /// Such as intent or refusal.
    kind: String,
    time: String,
    /// Such as agent plant-a/soc-bot, or person alice.
    actor: String,
    /// What it says, in short.
    summary: String,
    /// The whole entry, in the detailed format.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Value>,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::SearchAuditLog,
        "Search the audit log",
        "Searches the tamper-evident audit log of the tenant, newest entries first: what agents \
         meant to do and what became of it, what was refused, and what people and GitOps changed.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let before = input.cursor.as_deref().map(index_of).transpose()?;
    let query = AuditQuery {
        kind: input.kind.map(|kind| kind.as_str().to_owned()),
        actor: input.actor.clone(),
        text: input.text.clone(),
        since: time("since", input.since.as_deref())?,
        until: time("until", input.until.as_deref())?,
        before,
        limit: input.limit.unwrap_or(50).clamp(1, 500) as usize,
    };
    let operator = &call.shared.operator;
    let found = operator.search(&call.principal.tenant, &query).await?;
    let more = found.before;
    // The newest comes first, so the order of the pages is that of falling indexes.
    let (page, lines) = page::cut(
        found.entries,
        None,
        Some(500),
        |entry| entry.index.to_string(),
        |entry| show(entry, input.response_format),
    )?;
    let next_cursor = match page.next_cursor {
        Some(last) => Some(last),
        None => more.map(|before| page::write_cursor(&before.to_string())),
    };
    let text = page::heading(page.items.len(), "entry", next_cursor.as_deref()) + &lines;
    let output = Output {
        entries: page.items,
        next_cursor,
    };
    Ok(Reply::new(&output, text))
}

fn index_of(cursor: &str) -> Result<u64, Failure> {
    let index = page::read_cursor(cursor)?;
    index
        .parse()
        .map_err(|_| Failure::invalid("cursor is none that this tool gave"))
}

fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Failure> {
    text.map(|text| {
        text.parse().map_err(|_| {
            Failure::invalid(format!(
                "{name} is no time: write one such as 2026-11-21T08:00:00Z"
            ))
        })
    })
    .transpose()
}

fn show(found: AuditEntry, format: ResponseFormat) -> (Item, String) {
    let entry = cleaned(found.entry);
    let text = |name: &str| match &entry[name] {
        Value::String(text) => clean(text, 256),
        Value::Null => String::new(),
        other => clean(&other.to_string(), 256),
    };
    let summary = print::sentence(&entry).unwrap_or_else(|| entry["data"].to_string());
    let item = Item {
        index: found.index,
        kind: text("kind"),
        time: text("time"),
        actor: actor(&entry["actor"]),
        summary: clean(&summary, 400),
        entry: (format == ResponseFormat::Detailed).then(|| entry.clone()),
    };
    let line = format!(
        "{} {} {} {} {}",
        item.index, item.time, item.kind, item.actor, item.summary
    );
    (item, line)
}

/// Such as `agent plant-a/soc-bot`.
fn actor(actor: &Value) -> String {
    let part = |name: &str| clean(actor[name].as_str().unwrap_or_default(), 256);
    format!("{} {}", part("kind"), part("name"))
        .trim()
        .to_owned()
}

/// Entries hold what agents and devices wrote.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(&text, 4096)),
        Value::Array(items) => items.into_iter().map(cleaned).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (clean(&name, 128), cleaned(value)))
            .collect(),
        other => other,
    }
}
