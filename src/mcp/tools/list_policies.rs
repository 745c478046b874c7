//! `list_policies`.

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::get_policy::{Shown, State};
use crate::access::Tool;
use crate::api::{Mode, Policy};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page::{self, ResponseFormat};
use crate::mcp::resources;
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// True: only those that this agent wrote.
    #[serde(default)]
    own: bool,
    /// Policies on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before.
    cursor: Option<String>,
    /// concise (default): what each is for and how it stands; detailed: as get_policy shows them.
    #[serde(default)]
    response_format: ResponseFormat,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    policies: Vec<Item>,
    /// Present when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Item {
    Concise(Concise),
    Detailed(Box<Shown>),
}

#[derive(Debug, Serialize, JsonSchema)]
struct Concise {
    name: String,
    description: String,
    mode: Mode,
    priority: i32,
    rules: usize,
    state: State,
    /// The agent that wrote it, or that it was a person or GitOps.
    written_by: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ListPolicies,
        "List policies",
        "Lists the Policies of the tenant, which say who may talk to what: what each is for, \
         whether it is in force, and who wrote it. A lower priority is evaluated first.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let mut policies = resources::all::<Policy>(call).await?;
    policies.retain(|policy| !input.own || resources::is_own(&call.principal, policy));
    let (page, lines) = page::cut(
        policies,
        input.cursor.as_deref(),
        input.limit,
        ResourceExt::name_any,
        |policy| show(call, policy, input.response_format),
    )?;
    let cursor = page.next_cursor.as_deref();
    let text = page::heading(page.items.len(), "policy", cursor) + &lines;
    let output = Output {
        policies: page.items,
        next_cursor: page.next_cursor,
    };
    Ok(Reply::new(&output, text))
}

fn show(call: &Call, policy: Policy, format: ResponseFormat) -> (Item, String) {
    let shown = Shown::new(&call.principal, policy);
    let line = shown.line();
    let item = match format {
        ResponseFormat::Detailed => Item::Detailed(Box::new(shown)),
        ResponseFormat::Concise => Item::Concise(Concise {
            description: clean(&shown.spec.description, 200),
            mode: shown.spec.mode,
            priority: shown.spec.priority,
            rules: shown.spec.rules.len(),
            state: shown.state,
            written_by: shown.written_by,
            name: shown.name,
        }),
    };
    (item, line)
}
