//! The content of the agent's table in a normal form, whichever way it was written: what `render` wants
//! and what `listing` found are both this, and equal when they mean the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nftables::stmt::Statement;
use serde_json::{Value, json};

use super::networks::Range;

/// Chains and sets by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Elements>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// None for a chain that is only jumped to.
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

/// Where a base chain sits. Its type is always `filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub hook: String,
    pub priority: i64,
    pub policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub comment: Option<String>,
    /// Statements in nft's JSON, in normal form.
    pub statements: Vec<Value>,
}

impl Rule {
    pub fn new(statements: Vec<Statement<'static>>) -> Self {
        Self {
            comment: None,
            statements: statements
                .into_iter()
                .map(|s| normal_statement(serde_json::to_value(s).expect("statements are JSON")))
                .collect(),
        }
    }

    pub fn commented(mut self, comment: &str) -> Self {
        self.comment = Some(comment.to_owned());
        self
    }
}

/// The elements of a set, which also say its type and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Of a plain set: single addresses of one family.
    V4Addresses(BTreeSet<IpAddr>),
    V6Addresses(BTreeSet<IpAddr>),
    /// Of an interval set: sorted, apart from each other.
    V4Ranges(Vec<Range>),
    V6Ranges(Vec<Range>),
    /// Of a verdict map: the chain that a packet of the address jumps to.
    V4Jumps(BTreeMap<IpAddr, String>),
    V6Jumps(BTreeMap<IpAddr, String>),
    /// Not read: the listing left elements out, or the set is of no kind that `render` writes.
    Unread(String),
}

/// A statement as it is compared: counters without their values, lists sorted, sets of numbers as
/// ranges that don't touch.
pub fn normal_statement(statement: Value) -> Value {
    let Value::Object(mut fields) = statement else {
        return statement;
    };
    if fields.contains_key("counter") {
        return json!({"counter": null});
    }
    if let Some(Value::Object(matching)) = fields.get_mut("match") {
        let of_state = matching.get("left") == Some(&json!({"ct": {"key": "state"}}));
        if let Some(right) = matching.get_mut("right") {
            *right = match right.take() {
                right if of_state && right.get("set").is_none() => sorted_list(right),
                right => normal_value(right),
            };
        }
        if of_state && matching["right"].is_array() {
            matching.insert("op".into(), json!("in"));
        }
    }
    Value::Object(fields)
}

/// Bits of a flag word: one or several, in any order.
fn sorted_list(value: Value) -> Value {
    let mut items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    items.sort_by_key(Value::to_string);
    Value::Array(items)
}

fn normal_value(value: Value) -> Value {
    if let Some(items) = value.get("set").and_then(Value::as_array) {
        let items = merged_numbers(items).unwrap_or_else(|| items.clone());
        return match items.as_slice() {
            [one] => one.clone(),
            _ => json!({"set": items}),
        };
    }
    if let Some(prefix) = value.get("prefix") {
        let full = match prefix["addr"].as_str() {
            Some(address) if address.contains(':') => 128,
            _ => 32,
        };
        if prefix["len"] == json!(full) {
            return prefix["addr"].clone();
        }
    }
    value
}

/// nft prints neighbouring numbers of a set apart or as a range, depending on the set's other members.
fn merged_numbers(items: &[Value]) -> Option<Vec<Value>> {
    let mut spans = items
        .iter()
        .map(|item| match item.get("range").and_then(Value::as_array) {
            Some(range) => Some((range.first()?.as_u64()?, range.get(1)?.as_u64()?)),
            None => item.as_u64().map(|n| (n, n)),
        })
        .collect::<Option<Vec<_>>>()?;
    spans.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, last) in spans {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    Some(
        merged
            .into_iter()
            .map(|(first, last)| match first == last {
                true => json!(first),
                false => json!({"range": [first, last]}),
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_equal_whatever_they_counted() {
        let counted = json!({"counter": {"packets": 3, "bytes": 180}});
        assert_eq!(normal_statement(counted), json!({"counter": null}));
    }

    #[test]
    fn a_set_of_ports_means_the_same_however_it_is_cut() {
        let with = |set: Value| {
            normal_statement(json!({"match": {"op": "==",
                "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": set}}}))
        };
        assert_eq!(
            with(json!([25, 22, 23, {"range": [26, 30]}])),
            with(json!([{"range": [22, 23]}, {"range": [25, 30]}]))
        );
        assert_ne!(with(json!([22, 24])), with(json!([22, 23])));
    }

    #[test]
    fn connection_states_are_compared_as_a_set_of_bits() {
        let with = |op: &str, right: Value| {
            normal_statement(
                json!({"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": right}}),
            )
        };
        assert_eq!(with("in", json!([64, 1])), with("in", json!([1, 64])));
        assert_eq!(with("in", json!(4)), with("==", json!(4)));
        assert_ne!(with("in", json!(4)), with("in", json!(2)));
    }

    #[test]
    fn a_network_of_one_address_is_that_address() {
        let with = |right: Value| {
            normal_statement(json!({"match": {"op": "==",
                "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": right}}))
        };
        assert_eq!(
            with(json!({"prefix": {"addr": "10.0.0.1", "len": 32}})),
            with(json!("10.0.0.1"))
        );
        assert_ne!(
            with(json!({"prefix": {"addr": "fd00::", "len": 32}})),
            with(json!("fd00::"))
        );
    }
}
