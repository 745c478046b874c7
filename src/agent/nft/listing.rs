//! What `nft -j list table` said of a table of the agent's, in the normal form in which it is compared, with the
//! counters apart. What the agent never writes is kept by name: its presence is a difference.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::networks::{self, Range};
use super::ruleset::{Chain, Elements, Hook, Rule, Ruleset, normal_statement};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub ruleset: Ruleset,
    /// Packets and bytes by chain and comment, over the rules that have it.
    pub counts: BTreeMap<(String, String), Counts>,
    /// Objects and flags that are not ours, in words.
    pub foreign: Vec<String>,
}

/// What the kernel holds of the agent's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub inet: Option<Listing>,
    pub bridge: Option<Listing>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "nft printed what is no listing of a table ({0}): is the nft program newer or older than 1.0?"
)]
pub struct NotAListing(&'static str);

impl Listing {
    /// A table that nft can't print is one that the agent did not write: version 1.0.6 breaks off in the
    /// flags of a table that sleeps.
    pub fn parse_or_foreign(json: &[u8]) -> Self {
        Self::parse(json).unwrap_or_else(|unreadable| Self {
            foreign: vec![unreadable.to_string()],
            ..Self::default()
        })
    }

    pub fn parse(json: &[u8]) -> Result<Self, NotAListing> {
        let document: Value = serde_json::from_slice(json).map_err(|_| NotAListing("not JSON"))?;
        let objects = document["nftables"]
            .as_array()
            .ok_or(NotAListing("no list of objects"))?;
        let mut listing = Self::default();
        for object in objects {
            let Some((kind, fields)) = object.as_object().and_then(|o| o.iter().next()) else {
                return Err(NotAListing("an object without a kind"));
            };
            match kind.as_str() {
                "metainfo" => {}
                "table" => listing.read_table(fields),
                "chain" => listing.read_chain(fields)?,
                "set" => listing.read_set(fields, elements)?,
                "map" => listing.read_set(fields, jumps)?,
                "rule" => listing.read_rule(fields)?,
                other => listing.foreign.push(format!(
                    "{} {:?}",
                    crate::agent::words::printable(other, 32),
                    crate::agent::words::printable(text(fields, "name").unwrap_or(""), 64)
                )),
            }
        }
        Ok(listing)
    }

    /// A table that sleeps has its rules and meets no packet.
    fn read_table(&mut self, fields: &Value) {
        if let Some(flags) = fields.get("flags").filter(|flags| **flags != Value::Null) {
            self.foreign.push(format!("flags of the table {flags}"));
        }
    }

    fn read_chain(&mut self, fields: &Value) -> Result<(), NotAListing> {
        let name = text(fields, "name").ok_or(NotAListing("a chain without a name"))?;
        let hook = text(fields, "hook").map(|hook| Hook {
            hook: hook.to_owned(),
            priority: fields["prio"].as_i64().unwrap_or(i64::MAX),
            policy: text(fields, "policy").unwrap_or("accept").to_owned(),
        });
        if hook.is_some() && text(fields, "type") != Some("filter") {
            self.foreign.push(format!("type of chain {name:?}"));
        }
        self.ruleset.chains.entry(name.to_owned()).or_default().hook = hook;
        Ok(())
    }

    fn read_set(
        &mut self,
        fields: &Value,
        read: fn(&Value) -> Result<Elements, &'static str>,
    ) -> Result<(), NotAListing> {
        let name = text(fields, "name").ok_or(NotAListing("a set without a name"))?;
        let elements = read(fields).unwrap_or_else(|why| Elements::Unread(why.to_owned()));
        self.ruleset.sets.insert(name.to_owned(), elements);
        Ok(())
    }

    fn read_rule(&mut self, fields: &Value) -> Result<(), NotAListing> {
        let chain = text(fields, "chain").ok_or(NotAListing("a rule without a chain"))?;
        let comment = text(fields, "comment").map(str::to_owned);
        let statements = fields["expr"]
            .as_array()
            .ok_or(NotAListing("a rule without statements"))?;
        if let Some(comment) = &comment {
            let key = (chain.to_owned(), comment.clone());
            let counts = self.counts.entry(key).or_default();
            for counter in statements.iter().filter_map(|s| s.get("counter")) {
                counts.packets += counter["packets"].as_u64().unwrap_or(0);
                counts.bytes += counter["bytes"].as_u64().unwrap_or(0);
            }
        }
        let rule = Rule {
            comment,
            statements: statements.iter().cloned().map(normal_statement).collect(),
        };
        let chain: &mut Chain = self.ruleset.chains.entry(chain.to_owned()).or_default();
        chain.rules.push(rule);
        Ok(())
    }
}

fn text<'a>(fields: &'a Value, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str()
}

fn flags(fields: &Value) -> Vec<&str> {
    match fields.get("flags") {
        Some(Value::Array(flags)) => flags.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(flag)) => vec![flag.as_str()],
        _ => Vec::new(),
    }
}

/// A verdict map whose verdicts are jumps, as the agent writes them.
fn jumps(fields: &Value) -> Result<Elements, &'static str> {
    if text(fields, "map") != Some("verdict") || !flags(fields).is_empty() {
        return Err("it is a map of another kind");
    }
    let jump = |element: &Value| {
        let address: IpAddr = element.get(0)?.as_str()?.parse().ok()?;
        let target = element.get(1)?.get("jump")?.get("target")?.as_str()?;
        Some((address, target.to_owned()))
    };
    let found = match fields.get("elem") {
        Some(Value::Array(elements)) => elements
            .iter()
            .map(jump)
            .collect::<Option<BTreeMap<IpAddr, String>>>()
            .ok_or("an element is no jump of an address")?,
        _ => BTreeMap::new(),
    };
    match text(fields, "type") {
        Some("ipv4_addr") => Ok(Elements::V4Jumps(found)),
        Some("ipv6_addr") => Ok(Elements::V6Jumps(found)),
        _ => Err("it holds no addresses"),
    }
}

fn elements(fields: &Value) -> Result<Elements, &'static str> {
    let interval = match flags(fields)[..] {
        [] => false,
        ["interval"] => true,
        _ => return Err("it has other flags"),
    };
    let found = match fields.get("elem") {
        Some(Value::Array(elements)) => elements
            .iter()
            .map(networks::parse_element)
            .collect::<Option<Vec<Range>>>()
            .ok_or("an element is no plain address")?,
        _ => Vec::new(),
    };
    let addresses = || {
        found
            .iter()
            .map(networks::addresses)
            .collect::<Option<Vec<_>>>()
            .map(|all| all.into_iter().flatten().collect())
            .ok_or("an element is a network")
    };
    match (text(fields, "type"), interval) {
        (Some("ipv4_addr"), false) => Ok(Elements::V4Addresses(addresses()?)),
        (Some("ipv6_addr"), false) => Ok(Elements::V6Addresses(addresses()?)),
        (Some("ipv4_addr"), true) => Ok(Elements::V4Ranges(networks::merge(found))),
        (Some("ipv6_addr"), true) => Ok(Elements::V6Ranges(networks::merge(found))),
        _ => Err("it holds no addresses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_table_and_objects_of_other_kinds_are_foreign() {
        let listing = Listing::parse(
            br#"{"nftables": [{"metainfo": {}},
                {"table": {"family": "inet", "name": "seawall", "flags": ["dormant"]}},
                {"flowtable": {"family": "inet", "name": "ft", "table": "seawall"}}]}"#,
        )
        .expect("a listing");
        assert_eq!(listing.foreign.len(), 2, "{:?}", listing.foreign);
        assert!(listing.foreign[0].contains("dormant"));
        assert!(listing.foreign[1].contains("ft"));
    }

    #[test]
    fn counters_of_rules_with_one_comment_add_up_in_a_chain() {
        let listing = Listing::parse(
            br#"{"nftables": [
                {"chain": {"name": "a"}},
                {"rule": {"chain": "a", "comment": "t/p/r", "expr": [{"counter": {"packets": 2, "bytes": 100}}]}},
                {"rule": {"chain": "a", "comment": "t/p/r", "expr": [{"counter": {"packets": 1, "bytes": 40}}]}}]}"#,
        )
        .expect("a listing");
        let counts = Counts {
            packets: 3,
            bytes: 140,
        };
        assert_eq!(
            listing.counts.get(&("a".into(), "t/p/r".into())),
            Some(&counts)
        );
    }

    #[test]
    fn an_element_with_a_timeout_is_not_taken_for_a_plain_one() {
        let listing = Listing::parse(
            br#"{"nftables": [{"set": {"name": "quarantine4", "type": "ipv4_addr",
                "elem": [{"elem": {"val": "10.0.0.1", "timeout": 5}}]}}]}"#,
        )
        .expect("a listing");
        assert!(matches!(
            listing.ruleset.sets["quarantine4"],
            Elements::Unread(_)
        ));
    }

    #[test]
    fn a_map_that_does_more_than_jump_is_not_read() {
        let read = |map: &str, verdict: &str| {
            let listing = Listing::parse(
                format!(
                    r#"{{"nftables": [{{"map": {{"name": "m", "type": "ipv4_addr", "map": "{map}",
                    "elem": [["10.0.0.1", {verdict}]]}}}}]}}"#
                )
                .as_bytes(),
            );
            listing.expect("a listing").ruleset.sets["m"].clone()
        };
        assert_eq!(
            read("verdict", r#"{"jump": {"target": "a"}}"#),
            Elements::V4Jumps([("10.0.0.1".parse().expect("an address"), "a".into())].into())
        );
        for (map, verdict) in [
            ("verdict", r#"{"accept": null}"#),
            ("verdict", r#"{"goto": {"target": "a"}}"#),
            ("mark", "7"),
        ] {
            assert!(
                matches!(read(map, verdict), Elements::Unread(_)),
                "{verdict}"
            );
        }
    }

    #[test]
    fn what_is_no_listing_is_said_to_be_none() {
        for text in ["", "[]", r#"{"nftables": [{"rule": {}}]}"#] {
            assert!(Listing::parse(text.as_bytes()).is_err(), "{text}");
            assert!(
                !Listing::parse_or_foreign(text.as_bytes())
                    .foreign
                    .is_empty()
            );
        }
    }
}
