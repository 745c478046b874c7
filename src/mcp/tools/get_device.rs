//! `get_device`, and how a device is shown.

use std::collections::BTreeMap;

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use crate::access::Tool;
use crate::api::TrustLevel;
use crate::domain::words::confirm_release;
use crate::local::types::{DeviceView, Held};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::text::clean;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The device's id, such as list_devices gives: dev_ and 26 lower-case letters or digits.
    device_id: String,
}

/// A device. Host name, operating system, kernel and agent version are what it says of itself.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Device {
    pub id: String,
    pub host_name: String,
    /// The node of the cluster that it is, as the API server said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Given at enrolment or by people, not by the device.
    pub tags: BTreeMap<String, String>,
    pub trust: TrustLevel,
    /// Its agent is connected now.
    pub connected: bool,
    /// The kernel has read back everything that should be in force.
    pub up_to_date: bool,
    pub addresses: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub more_addresses: i64,
    pub os: String,
    pub kernel: String,
    pub agent_version: String,
    pub enrolled_at: String,
    pub last_seen: Option<String>,
    /// Names of the Isolations that target it.
    pub isolated_by: Vec<String>,
    /// Those of them that were deleted, many at once, and stay in force until a person confirms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldIsolation>,
    /// Names of the Policies that have rules on it.
    pub policies: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct HeldIsolation {
    isolation: String,
    /// What a person runs to let it go.
    confirm: String,
}

impl HeldIsolation {
    pub fn of(view: &DeviceView) -> Vec<Self> {
        Self::all(&view.held)
    }

    pub fn all(held: &[Held]) -> Vec<Self> {
        let held = held.iter();
        held.map(|held| Self {
            isolation: clean(&held.isolation, MOST_TEXT),
            confirm: confirm_release(&held.hold),
        })
        .collect()
    }

    /// For the text of an answer.
    pub fn sentence(&self) -> String {
        format!(
            " {} was deleted together with many others and stays in force until a person confirms: {}.",
            self.isolation, self.confirm
        )
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

const MOST_TEXT: usize = 256;
const MOST_LISTED: usize = 100;

impl From<DeviceView> for Device {
    fn from(view: DeviceView) -> Self {
        let text = |text: &str| clean(text, MOST_TEXT);
        let held = HeldIsolation::of(&view);
        let not_listed = view.addresses.len().saturating_sub(MOST_LISTED);
        let not_listed = u32::try_from(not_listed).unwrap_or(u32::MAX);
        let list = |list: &[String]| list.iter().take(MOST_LISTED).map(|t| text(t)).collect();
        Self {
            id: view.id.into(),
            host_name: text(&view.host_name),
            node: view.node.as_deref().map(text),
            tags: view
                .tags
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            trust: view.trust,
            connected: view.connected,
            up_to_date: view.up_to_date,
            addresses: list(&view.addresses),
            more_addresses: view.addresses_left_out.saturating_add(not_listed).into(),
            os: text(&view.os),
            kernel: text(&view.kernel),
            agent_version: text(&view.agent_version),
            enrolled_at: view.enrolled_at.to_string(),
            last_seen: view.last_seen.map(|at| at.to_string()),
            isolated_by: list(&view.isolated_by),
            held,
            policies: list(&view.policies),
        }
    }
}

impl Device {
    /// The device in one line of text.
    pub fn line(&self) -> String {
        let connected = if self.connected {
            "connected"
        } else {
            "offline"
        };
        let isolated = if self.isolated_by.is_empty() {
            String::new()
        } else {
            format!(", isolated by {}", self.isolated_by.join(", "))
        };
        let tags: String = self
            .tags
            .iter()
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        format!(
            "{} {:?}{tags} {connected}{isolated}",
            self.id, self.host_name
        )
    }
}

pub fn define() -> Definition {
    describe::<Input, Device>(
        Tool::GetDevice,
        "Get a device",
        "Shows one enrolled device: tags, trust, addresses, whether its agent is connected and up \
         to date, and which Isolations and Policies are in force on it. Host name, operating system \
         and kernel are what the device says of itself.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let device = Device::from(call.device(&input.device_id).await?);
    let state = if device.up_to_date {
        "up to date"
    } else {
        "not up to date"
    };
    let mut text = format!(
        "{}, {state}; addresses {}; policies {}.",
        device.line(),
        device.addresses.join(", "),
        device.policies.len()
    );
    text.extend(device.held.iter().map(HeldIsolation::sentence));
    Ok(Reply::new(&device, text))
}
