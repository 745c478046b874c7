//! The schemas of inputs and outputs without what a client and a model don't need.

use rmcp::model::JsonObject;
use serde_json::{Value, json};

pub fn shorten(schema: &mut JsonObject) {
    // The dialect is MCP's, and the title a word of this program.
    schema.remove("$schema");
    schema.remove("title");
    shorten_all(schema);
}

fn shorten_all(fields: &mut JsonObject) {
    // Kubernetes' own words, which clients don't know.
    fields.retain(|name, _| !name.starts_with("x-kubernetes-"));
    let width = |format: &Value| format.as_str().is_some_and(|it| WIDTHS.contains(&it));
    if fields.get("format").is_some_and(width) {
        fields.remove("format");
        if fields.get("minimum") == Some(&json!(0)) {
            fields.remove("minimum");
        }
    }
    join_words(fields);
    fields.values_mut().for_each(shorten_value);
}

/// How many bits a number has here.
const WIDTHS: [&str; 7] = [
    "uint", "uint16", "uint32", "uint64", "int32", "int64", "double",
];

fn shorten_value(value: &mut Value) {
    match value {
        Value::Object(fields) => shorten_all(fields),
        Value::Array(items) => items.iter_mut().for_each(shorten_value),
        _ => {}
    }
}

/// Words to choose from, each a schema of its own with a description, as one list that is described once.
fn join_words(fields: &mut JsonObject) {
    let Some(choices) = fields.get("oneOf").and_then(Value::as_array) else {
        return;
    };
    let Some(words) = choices.iter().map(words_of).collect::<Option<Vec<_>>>() else {
        return;
    };
    let described = choices.iter().zip(&words).filter_map(|(choice, words)| {
        let description = choice.get("description")?.as_str()?;
        Some(format!("{}: {description}", words.first()?.as_str()?))
    });
    let before = fields.get("description").and_then(Value::as_str);
    let description: Vec<String> = before
        .map(str::to_owned)
        .into_iter()
        .chain(described)
        .collect();
    let words: Vec<Value> = words.into_iter().flatten().collect();
    fields.remove("oneOf");
    fields.insert("type".into(), "string".into());
    fields.insert("enum".into(), words.into());
    if !description.is_empty() {
        fields.insert("description".into(), description.join(" ").into());
    }
}

/// The words that a choice allows, if it allows words alone.
fn words_of(choice: &Value) -> Option<Vec<Value>> {
    let only_words = |words: &[Value]| words.iter().all(Value::is_string);
    if let Some(word) = choice.get("const") {
        return word.is_string().then(|| vec![word.clone()]);
    }
    let words = choice.get("enum")?.as_array()?;
    only_words(words).then(|| words.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortened(schema: Value) -> Value {
        let mut schema = schema.as_object().cloned().expect("an object");
        shorten(&mut schema);
        Value::Object(schema)
    }

    #[test]
    fn words_are_one_list_that_keeps_what_each_means() {
        let short = shortened(json!({"description": "How far.", "oneOf": [
            {"type": "string", "enum": ["A", "B"]},
            {"type": "string", "const": "C", "description": "All of it."},
        ]}));
        let expected = json!({
            "type": "string", "enum": ["A", "B", "C"], "description": "How far. C: All of it.",
        });
        assert_eq!(short, expected);
    }

    #[test]
    fn a_choice_of_other_things_stays() {
        let choice = json!({"oneOf": [{"type": "string", "const": "A"}, {"type": "object"}]});
        assert_eq!(shortened(choice.clone()), choice);
    }

    #[test]
    fn what_says_nothing_goes_and_properties_of_these_names_stay() {
        let short = shortened(json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Input",
            "x-kubernetes-validations": [],
            "properties": {
                "limit": {"type": "integer", "format": "uint32", "minimum": 0},
                "port": {"type": "integer", "format": "uint16", "minimum": 1, "maximum": 65535},
                "at": {"type": "string", "format": "date-time"},
                "format": {"type": "string"},
                "title": {"type": "string"},
            },
        }));
        let expected = json!({"properties": {
            "limit": {"type": "integer"},
            "port": {"type": "integer", "minimum": 1, "maximum": 65535},
            "at": {"type": "string", "format": "date-time"},
            "format": {"type": "string"},
            "title": {"type": "string"},
        }});
        assert_eq!(short, expected);
    }
}
