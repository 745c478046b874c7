//! The tools, one file each: what it takes, what it answers, and what it does. Here are their list and
//! the way to them.

mod block_destination;
mod create_policy;
mod disable_policy;
mod explain_connection;
mod get_device;
mod get_policy;
mod isolate_device;
mod isolate_workload;
mod isolating;
mod list_devices;
mod list_isolations;
mod list_policies;
mod list_workloads;
mod release_device;
mod release_workload;
mod releasing;
mod restore_user;
mod schema;
mod search_audit_log;
mod settle;
mod stages;
mod suspend_user;
mod unblock_destination;
mod user;
mod verify_enforcement;
mod workload;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use rmcp::handler::server::common::{schema_for_input, schema_for_output};
use rmcp::model::{JsonObject, Tool as Definition, ToolAnnotations};
use schemars::JsonSchema;

use super::answer::{Failure, Reply};
use super::call::Call;
use crate::access::{Effect, Tool};

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    match call.tool {
        Tool::ListDevices => list_devices::run(call).await,
        Tool::GetDevice => get_device::run(call).await,
        Tool::ListIsolations => list_isolations::run(call).await,
        Tool::ListPolicies => list_policies::run(call).await,
        Tool::GetPolicy => get_policy::run(call).await,
        Tool::ListWorkloads => list_workloads::run(call).await,
        Tool::ExplainConnection => explain_connection::run(call).await,
        Tool::VerifyEnforcement => verify_enforcement::run(call).await,
        Tool::SearchAuditLog => search_audit_log::run(call).await,
        Tool::IsolateDevice => isolate_device::run(call).await,
        Tool::ReleaseDevice => release_device::run(call).await,
        Tool::IsolateWorkload => isolate_workload::run(call).await,
        Tool::ReleaseWorkload => release_workload::run(call).await,
        Tool::SuspendUser => suspend_user::run(call).await,
        Tool::RestoreUser => restore_user::run(call).await,
        Tool::BlockDestination => block_destination::run(call).await,
        Tool::UnblockDestination => unblock_destination::run(call).await,
        Tool::CreatePolicy => create_policy::run(call).await,
        Tool::DisablePolicy => disable_policy::run(call).await,
    }
}

/// What `tools/list` shows of a tool.
pub fn definition(tool: Tool) -> &'static Definition {
    static DEFINITIONS: OnceLock<BTreeMap<Tool, Definition>> = OnceLock::new();
    let definitions = DEFINITIONS.get_or_init(|| Tool::ALL.map(|tool| (tool, define(tool))).into());
    &definitions[&tool]
}

fn define(tool: Tool) -> Definition {
    match tool {
        Tool::ListDevices => list_devices::define(),
        Tool::GetDevice => get_device::define(),
        Tool::ListIsolations => list_isolations::define(),
        Tool::ListPolicies => list_policies::define(),
        Tool::GetPolicy => get_policy::define(),
        Tool::ListWorkloads => list_workloads::define(),
        Tool::ExplainConnection => explain_connection::define(),
        Tool::VerifyEnforcement => verify_enforcement::define(),
        Tool::SearchAuditLog => search_audit_log::define(),
        Tool::IsolateDevice => isolate_device::define(),
        Tool::ReleaseDevice => release_device::define(),
        Tool::IsolateWorkload => isolate_workload::define(),
        Tool::ReleaseWorkload => release_workload::define(),
        Tool::SuspendUser => suspend_user::define(),
        Tool::RestoreUser => restore_user::define(),
        Tool::BlockDestination => block_destination::define(),
        Tool::UnblockDestination => unblock_destination::define(),
        Tool::CreatePolicy => create_policy::define(),
        Tool::DisablePolicy => disable_policy::define(),
    }
}

/// A definition, with annotations that follow from what the tool does.
fn describe<Input: JsonSchema + 'static, Output: JsonSchema + 'static>(
    tool: Tool,
    title: &str,
    description: &'static str,
) -> Definition {
    let reads = tool.effect() == Effect::Read;
    let annotations = ToolAnnotations::with_title(title)
        .read_only(reads)
        // What tightens cuts connections, and what undoes deletes.
        .destructive(!reads)
        .idempotent(true)
        .open_world(false);
    let input = schema_for_input::<Input>().expect("inputs are objects");
    let output = schema_for_output::<Output>();
    Definition::new(tool.name(), description, plain(&input))
        .with_title(title)
        .with_raw_output_schema(plain(&output))
        .with_annotations(annotations)
}

/// As few words as say it: the list of all tools takes room from what a model thinks about.
fn plain(schema: &Arc<JsonObject>) -> Arc<JsonObject> {
    let mut schema = schema.as_ref().clone();
    schema::shorten(&mut schema);
    Arc::new(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(definition: &Definition) -> usize {
        serde_json::to_vec(definition).expect("JSON").len()
    }

    #[test]
    fn every_tool_has_what_reviewers_and_clients_ask_for() {
        for tool in Tool::ALL {
            let definition = definition(tool);
            let name = tool.name();
            assert_eq!(definition.name, name);
            assert!(
                definition
                    .title
                    .as_ref()
                    .is_some_and(|title| title.len() > 5)
            );
            let hints = definition.annotations.as_ref().expect(name);
            assert_eq!(hints.read_only_hint, Some(!tool.is_action()), "{name}");
            assert_eq!(hints.destructive_hint, Some(tool.is_action()), "{name}");
            assert_eq!(hints.open_world_hint, Some(false), "{name}");
            let input = &definition.input_schema;
            assert_eq!(input["type"], "object", "{name}");
            assert_eq!(input["additionalProperties"], false, "{name}");
            let output = definition.output_schema.as_ref().expect(name);
            assert_eq!(output["type"], "object", "{name}");
        }
    }

    #[test]
    fn every_action_takes_a_reason_and_a_dry_run_and_every_argument_is_explained() {
        for tool in Tool::ALL {
            let input = &definition(tool).input_schema;
            let properties = input["properties"].as_object().expect("properties");
            if tool.is_action() {
                let required = input["required"].as_array().expect("required");
                assert!(required.contains(&"reason".into()), "{}", tool.name());
                assert!(properties.contains_key("dry_run"), "{}", tool.name());
            }
            for (name, property) in properties {
                let explained = property["description"].as_str().is_some();
                let at = (tool.name(), name);
                assert!(explained, "{at:?}: {property}");
            }
        }
    }

    #[test]
    fn descriptions_tell_and_do_not_instruct() {
        for tool in Tool::ALL {
            let text = definition(tool).description.as_ref().expect("one");
            let lower = text.to_lowercase();
            for word in [
                "you must",
                "you should",
                "always ",
                "never ",
                "important",
                "ignore",
            ] {
                assert!(!lower.contains(word), "{}: {word}", tool.name());
            }
        }
    }

    #[test]
    fn the_list_of_all_tools_leaves_a_model_its_room() {
        let sizes = Tool::ALL.map(|tool| (tool.name(), bytes(definition(tool))));
        let all: usize = sizes.iter().map(|(_, size)| size).sum();
        assert!(all < 66_000, "{all} bytes: {sizes:?}");
    }
}
