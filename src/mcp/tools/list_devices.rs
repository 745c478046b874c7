//! `list_devices`.

use std::collections::BTreeMap;

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::get_device::Device;
use crate::access::Tool;
use crate::local::types::DeviceView;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page::{self, ResponseFormat};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Only devices that carry every one of these tags with these values.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// Only devices whose agent is connected now (true) or is not (false).
    connected: Option<bool>,
    /// Only devices that are isolated (true) or are not (false).
    isolated: Option<bool>,
    /// Devices on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before.
    cursor: Option<String>,
    /// concise (default): what tells devices apart; detailed: as get_device shows them.
    #[serde(default)]
    response_format: ResponseFormat,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    devices: Vec<Item>,
    /// Present when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Item {
    Concise(Concise),
    Detailed(Box<Device>),
}

#[derive(Debug, Serialize, JsonSchema)]
struct Concise {
    id: String,
    host_name: String,
    /// The node of the cluster that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    tags: BTreeMap<String, String>,
    connected: bool,
    /// Names of the Isolations that target it; empty when it is not isolated.
    isolated_by: Vec<String>,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ListDevices,
        "List devices",
        "Lists the enrolled devices of the tenant: id, host name, tags, whether the agent is \
         connected, and which Isolations target it. Host names are what devices say of themselves.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let mut devices = call.shared.operator.devices(&call.principal.tenant).await?;
    devices.retain(|device| input.matches(device));
    devices.sort_by(|a, b| a.id.cmp(&b.id));
    let (page, lines) = page::cut(
        devices,
        input.cursor.as_deref(),
        input.limit,
        |device| device.id.to_string(),
        |device| show(device, input.response_format),
    )?;
    let cursor = page.next_cursor.as_deref();
    let text = page::heading(page.items.len(), "device", cursor) + &lines;
    let output = Output {
        devices: page.items,
        next_cursor: page.next_cursor,
    };
    Ok(Reply::new(&output, text))
}

impl Input {
    fn matches(&self, device: &DeviceView) -> bool {
        let tagged = self
            .tags
            .iter()
            .all(|(name, value)| device.tags.get(name) == Some(value));
        let connected = self
            .connected
            .is_none_or(|wanted| wanted == device.connected);
        let isolated = self
            .isolated
            .is_none_or(|wanted| wanted != device.isolated_by.is_empty());
        tagged && connected && isolated
    }
}

fn show(view: DeviceView, format: ResponseFormat) -> (Item, String) {
    let device = Device::from(view);
    let line = device.line();
    let item = match format {
        ResponseFormat::Detailed => Item::Detailed(Box::new(device)),
        ResponseFormat::Concise => Item::Concise(Concise {
            id: device.id,
            host_name: device.host_name,
            node: device.node,
            tags: device.tags,
            connected: device.connected,
            isolated_by: device.isolated_by,
        }),
    };
    (item, line)
}
