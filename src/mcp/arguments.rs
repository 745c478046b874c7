//! A call's arguments, read against the tool's schema. What is wrong is named, with what to give.

use std::sync::Arc;

use rmcp::model::JsonObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::Failure;
use super::text::clean;
use crate::access::Tool;

pub fn read<T: DeserializeOwned>(
    tool: Tool,
    schema: &Arc<JsonObject>,
    arguments: &JsonObject,
) -> Result<T, Failure> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let known = |name: &String| properties.is_some_and(|properties| properties.contains_key(name));
    if let Some(unknown) = arguments.keys().find(|name| !known(name)) {
        let names: Vec<&str> = properties
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        return Err(Failure::invalid(format!(
            "{} takes no argument {:?}: it takes {}",
            tool.name(),
            clean(unknown, 64),
            listed(&names)
        )));
    }
    let required = schema.get("required").and_then(Value::as_array);
    let missing = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .find(|name| arguments.get(*name).is_none_or(Value::is_null));
    if let Some(name) = missing {
        let what = properties
            .and_then(|properties| properties[name].get("description"))
            .and_then(Value::as_str)
            .unwrap_or("its schema says what it is");
        return Err(Failure::invalid(format!(
            "{} needs {name}: {what}",
            tool.name()
        )));
    }
    let value = Value::Object(arguments.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let description = properties
            .and_then(|properties| properties.get(&path)?.get("description")?.as_str())
            .map(|text| format!("; {path}: {text}"))
            .unwrap_or_default();
        Failure::invalid(format!(
            "{} can't read {}: {}{description}",
            tool.name(),
            clean(&path, 128),
            clean(&in_plain_words(&error.inner().to_string()), 512)
        ))
    })
}

/// What was expected, as JSON names it and not as this program does.
fn in_plain_words(error: &str) -> String {
    let Some((found, expected)) = error.rsplit_once(", expected ") else {
        return error.to_owned();
    };
    let plain = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i32" | "i64" => "a whole number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    let found = found
        .replace("type: map", "type: object")
        .replace("type: sequence", "type: list");
    format!("{found}, expected {plain}")
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        names => names.join(", "),
    }
}

/// An argument that says why, and must say something.
pub fn reason(text: &str) -> Result<String, Failure> {
    let reason = text.trim();
    if reason.is_empty() {
        return Err(Failure::invalid(
            "reason is blank: say why, for the people who read this later",
        ));
    }
    if reason.chars().count() > MOST_REASON {
        return Err(Failure::invalid(format!(
            "reason is longer than {MOST_REASON} characters: say it shorter"
        )));
    }
    let hidden = |c: char| c.is_ascii_control() && c != '\n' && c != '\t';
    if reason.contains(hidden) {
        return Err(Failure::invalid(
            "reason must be plain text: no control characters but tab and newline",
        ));
    }
    Ok(reason.to_owned())
}

/// As long as an Isolation's reason may be.
const MOST_REASON: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use rmcp::handler::server::common::schema_for_input;
    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Input {
        /// The device's id, such as list_devices gives.
        #[allow(dead_code)]
        device_id: String,
        #[allow(dead_code)]
        limit: Option<u32>,
    }

    fn error(arguments: Value) -> String {
        let schema = schema_for_input::<Input>().expect("an object");
        let arguments = arguments.as_object().expect("an object").clone();
        let read = read::<Input>(Tool::GetDevice, &schema, &arguments);
        read.expect_err("it is wrong").message
    }

    #[test]
    fn a_missing_argument_is_named_with_what_to_give() {
        let words = "get_device needs device_id: The device's id, such as list_devices gives.";
        assert_eq!(error(json!({})), words);
        assert_eq!(error(json!({"device_id": null})), words);
    }

    #[test]
    fn an_argument_that_there_is_not_is_named_with_those_there_are() {
        let words = "get_device takes no argument \"id\": it takes device_id, limit";
        assert_eq!(error(json!({"id": "x"})), words);
    }

    #[test]
    fn an_argument_of_the_wrong_kind_is_named_with_what_is_expected() {
        let words = error(json!({"device_id": "x", "limit": "many"}));
        let expected = "get_device can't read limit: invalid type: string \"many\", expected a whole number from 0";
        assert_eq!(words, expected);
        let words = error(json!({"device_id": ["x"]}));
        let expected = "get_device can't read device_id: invalid type: list, expected a string; device_id: The device's id, such as list_devices gives.";
        assert_eq!(words, expected);
    }

    #[test]
    fn a_reason_says_something() {
        assert_eq!(reason("  exfiltration "), Ok("exfiltration".into()));
        assert!(reason(" \n\t").is_err());
        assert!(reason("beaconing\u{1b}[2J").is_err());
        assert!(reason("beaconing\nto 203.0.113.7").is_ok());
        assert!(reason(&"x".repeat(1025)).is_err());
    }
}
