//! `release_device`.

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::get_device::HeldIsolation;
use super::releasing::{Found, Remaining};
use crate::access::Tool;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::arguments;
use crate::mcp::call::{Call, Done};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The device to release: its id, such as list_devices gives.
    device_id: String,
    /// Why, for the people who read this later.
    reason: String,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    device_id: String,
    dry_run: bool,
    /// Isolations of this agent that were deleted.
    released: Vec<String>,
    /// No connected device enforces them any more, and none of the device's isolations is held.
    lifted_everywhere: bool,
    /// Isolations of others, which keep the device isolated.
    still_isolated_by: Vec<Remaining>,
    /// Isolations of the device that were deleted before, and stay in force until a person confirms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<HeldIsolation>,
    /// From the call to the answer.
    milliseconds: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ReleaseDevice,
        "Release a device",
        "Deletes this agent's own Isolation of a device, so that its other policies hold again. \
         Isolations that people or other agents wrote stay, and are named with who wrote them.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let view = call.device(&input.device_id).await?;
    let device = view.id.to_string();
    call.about(&device);
    let found = Found::of(call, |isolation| {
        isolation.spec.target.device.as_ref() == Some(&device)
    });
    let found = found.await?;
    found.permit(call, input.dry_run).await?;
    let action = call.begin(&reason, input.dry_run).await?;
    let held = HeldIsolation::of(&view);
    let done = release(call, device, found, held, input.dry_run).await;
    call.end(action, done).await
}

async fn release(
    call: &Call,
    device_id: String,
    found: Found,
    held: Vec<HeldIsolation>,
    dry_run: bool,
) -> Result<Done, Failure> {
    let released = found.release(call, dry_run).await?;
    let output = Output {
        device_id,
        dry_run,
        lifted_everywhere: released.lifted && held.is_empty(),
        still_isolated_by: found.others.iter().map(Remaining::from).collect(),
        held,
        milliseconds: call.milliseconds(),
        message: released.message,
        released: released.names,
    };
    Ok(Done {
        reply: Reply::new(&output, output.text()),
        resources: released.resources,
    })
}

impl Output {
    fn text(&self) -> String {
        let device = &self.device_id;
        let mut text = match (&self.released[..], self.dry_run) {
            ([], _) => format!("{device} is not isolated by this agent; nothing was changed."),
            (names, true) => format!(
                "Dry run: {} would be deleted. Nothing was changed.",
                names.join(", ")
            ),
            (names, false) if self.lifted_everywhere => format!(
                "{} is deleted, and no connected device enforces it any more; {} ms.",
                names.join(", "),
                self.milliseconds
            ),
            (names, false) => format!(
                "{} is deleted, and not lifted everywhere yet: get_device shows how it goes on. {}",
                names.join(", "),
                self.message
            ),
        };
        for other in &self.still_isolated_by {
            text.push_str(&format!(
                " {device} stays isolated by {}: ask {} to delete it.",
                other.name, other.written_by
            ));
        }
        text.extend(self.held.iter().map(HeldIsolation::sentence));
        text
    }
}
