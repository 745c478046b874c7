//! What is rendered, and that changing the table is the smallest transaction. That the kernel gives it
//! back as it was written is tested in `e2e`.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::agent::nft::difference::first_difference;
use crate::agent::nft::transaction::transaction;
use crate::agent::nft::{Elements, Found, Listing};

pub fn state(fields: Value) -> DeviceState {
    let mut all = json!({"sources": [], "operator": ["10.0.0.1:8443"]});
    let object = all.as_object_mut().expect("an object");
    object.extend(fields.as_object().expect("an object").clone());
    serde_json::from_value(all).expect("a state")
}

pub fn rendered(fields: Value) -> Rendered {
    render(&state(fields), &Situation::default())
}

/// The table as one line for each rule, which is what the golden files hold.
pub fn text(ruleset: &Ruleset) -> String {
    let mut lines = Vec::new();
    for (name, elements) in &ruleset.sets {
        lines.push(format!("set {name} {elements:?}"));
    }
    for (name, chain) in &ruleset.chains {
        match &chain.hook {
            Some(hook) => lines.push(format!(
                "chain {name} hook {} priority {} policy {}",
                hook.hook, hook.priority, hook.policy
            )),
            None => lines.push(format!("chain {name}")),
        }
        for rule in &chain.rules {
            let statements: Vec<String> = rule.statements.iter().map(statement_text).collect();
            let comment = rule.comment.as_ref().map(|c| format!("  # {c}"));
            lines.push(format!(
                "  {}{}",
                statements.join(" "),
                comment.unwrap_or_default()
            ));
        }
    }
    lines.join("\n")
}

fn statement_text(statement: &Value) -> String {
    let Some(matching) = statement.get("match") else {
        let (kind, fields) = statement
            .as_object()
            .and_then(|o| o.iter().next())
            .expect("a statement");
        return match (fields["target"].as_str(), fields["data"].as_str()) {
            (Some(target), _) => format!("{kind} {target}"),
            (_, Some(map)) => {
                let field = &fields["key"]["payload"];
                format!("{} {} {kind} {map}", field["protocol"], field["field"]).replace('"', "")
            }
            _ => kind.clone(),
        };
    };
    let left = match (&matching["left"]["payload"], &matching["left"]["meta"]) {
        (Value::Null, Value::Null) => format!("ct {}", matching["left"]["ct"]["key"]),
        (Value::Null, meta) => format!("meta {}", meta["key"]),
        (payload, _) => format!("{} {}", payload["protocol"], payload["field"]),
    };
    let right = match matching["right"].get("prefix") {
        Some(prefix) => format!("{}/{}", prefix["addr"], prefix["len"]),
        None => matching["right"].to_string(),
    };
    let not = if matching["op"] == "!=" { "!= " } else { "" };
    format!("{left} {not}{right}").replace('"', "")
}

/// What `nft list` would show after the transaction was applied.
pub fn in_force(rendered: &Rendered) -> Found {
    let listing = |ruleset: &Ruleset| Listing {
        ruleset: ruleset.clone(),
        ..Listing::default()
    };
    Found {
        inet: Some(listing(&rendered.ruleset)),
        bridge: rendered.bridge.as_ref().map(listing),
    }
}

pub fn commands(transaction: &Value) -> Vec<String> {
    transaction["nftables"]
        .as_array()
        .expect("commands")
        .iter()
        .map(|command| {
            let (verb, object) = command
                .as_object()
                .and_then(|o| o.iter().next())
                .expect("a command");
            let (kind, fields) = object
                .as_object()
                .and_then(|o| o.iter().next())
                .expect("an object");
            let name = fields["name"].as_str().or(fields["chain"].as_str());
            format!("{verb} {kind} {}", name.unwrap_or_default())
        })
        .collect()
}

#[test]
fn a_state_without_anything_tracks_connections_and_accepts() {
    insta::assert_snapshot!(text(&rendered(json!({})).ruleset));
}

#[test]
fn an_isolated_host_keeps_management_in_and_drops_the_rest() {
    let state = json!({
        "isolation": {"management": [
            {"network": "10.0.9.0/24", "ports": [
                {"protocol": "TCP", "first": 22, "last": 22},
                {"protocol": "ICMP", "first": 0, "last": 65535}]},
            {"network": "fd09::/64"}]},
        "quarantined": ["10.0.7.7", "fd00::7"],
        "quarantinePaths": [{"from": "10.0.0.0/24", "to": ["10.0.7.7"]}],
        "rules": [{"id": "t/p/r", "direction": "Egress", "action": "Allow", "peers": "any"}]});
    let rendered = rendered(state);
    insta::assert_snapshot!(text(&rendered.ruleset));
    assert!(
        !rendered.counted.contains_key("t/p/r"),
        "no policy opens what isolation cuts"
    );
}

#[test]
fn a_host_that_holds_a_management_address_keeps_its_path_to_quarantined_peers() {
    insta::assert_snapshot!(text(
        &rendered(json!({
            "quarantined": ["10.0.7.7", "10.0.7.9", "fd00::7"],
            "quarantinePaths": [{"from": "10.0.9.0/24", "to": ["10.0.7.7", "10.0.7.9", "fd00::7"],
                "ports": [{"protocol": "TCP", "first": 22, "last": 22}]}]}))
        .ruleset
    ));
}

#[test]
fn both_directions_of_a_connection_meet_the_same_rule() {
    insta::assert_snapshot!(text(
        &rendered(json!({
            "rules": [
                {"id": "t/p/watch", "direction": "Egress", "action": "Audit", "peers": "any"},
                {"id": "t/p/no-ssh", "direction": "Egress", "action": "Deny",
                 "peers": {"networks": ["10.3.0.0/16", "10.5.0.0/16", "fd33::/16"]},
                 "ports": [{"protocol": "TCP", "first": 22, "last": 23}, {"protocol": "TCP", "first": 80, "last": 80},
                           {"protocol": "UDP", "first": 0, "last": 65535}, {"protocol": "ICMP", "first": 0, "last": 65535}]},
                {"id": "t/p/web", "direction": "Ingress", "action": "Allow", "peers": {"networks": ["0.0.0.0/0"]},
                 "ports": [{"protocol": "SCTP", "first": 5000, "last": 5010}]},
                {"id": "t/p/nobody", "direction": "Ingress", "action": "Deny", "peers": {"networks": []}}],
            "defaults": {"egress": {"id": "t/p", "action": "Allow"}, "ingress": {"id": "t/p", "action": "Deny"}}}))
        .ruleset
    ));
}

#[test]
fn policies_that_observe_count_and_never_decide() {
    let rendered = rendered(json!({
        "rules": [{"id": "t/e/r", "direction": "Egress", "action": "Deny", "peers": {"networks": ["10.3.0.0/16"]}}],
        "observedRules": [
            {"id": "t/o/audit", "direction": "Egress", "action": "Audit", "peers": "any", "observing": true},
            {"id": "t/e/r", "direction": "Egress", "action": "Deny", "peers": {"networks": ["10.3.0.0/16"]}, "observing": false},
            {"id": "t/o/r", "direction": "Egress", "action": "Deny", "peers": "any",
             "ports": [{"protocol": "TCP", "first": 22, "last": 22}], "observing": true}],
        "observedDefaults": {"egress": {"id": "t/o", "action": "Deny", "observing": true}}}));
    insta::assert_snapshot!(text(&rendered.ruleset));
    for (name, chain) in &rendered.ruleset.chains {
        let decides = chain
            .rules
            .iter()
            .flat_map(|rule| &rule.statements)
            .any(|s| s.get("drop").is_some() || s.get("accept").is_some());
        assert!(!(name.starts_with("observe_") && decides), "{name}");
    }
    assert!(rendered.counted["t/o/r"].observing);
    assert!(!rendered.counted["t/e/r"].observing);
}

#[test]
fn a_packet_without_a_connection_meets_both_directions_of_a_default() {
    let rendered = rendered(json!({
        "defaults": {"ingress": {"id": "t/p", "action": "Deny"}}}));
    for (chain, target) in [("input", "ingress_input"), ("output", "ingress_output")] {
        let jumps = rendered.ruleset.chains[chain]
            .rules
            .iter()
            .filter(|rule| {
                rule.statements.first().map(statement_text).as_deref() == Some("ct state [1,64]")
            })
            .map(|rule| statement_text(&rule.statements[1]))
            .collect::<Vec<_>>();
        assert_eq!(jumps, [format!("jump {target}")]);
    }
}

#[test]
fn a_long_id_keeps_its_beginning_in_the_comment_and_is_found_again() {
    let id = format!("tenant/{}/rule", "p".repeat(250));
    let rendered = rendered(json!({
        "rules": [{"id": id, "direction": "Egress", "action": "Deny", "peers": "any"}]}));
    let (comment, counted) = rendered
        .counted
        .iter()
        .find(|(_, counted)| counted.id == id)
        .expect("the rule is counted");
    assert!(
        comment.len() <= 127 && comment.starts_with("tenant/ppp"),
        "{comment}"
    );
    assert!(!counted.observing);
}

#[test]
fn pinned_addresses_stay_open_whatever_the_state_says() {
    let situation = Situation {
        uid: 991,
        pinned: ["[fd00::1]:8443".parse().expect("an address")].into(),
        ..Situation::default()
    };
    let rendered = render(&state(json!({"operator": [], "isolation": {}})), &situation);
    let output = text(&rendered.ruleset);
    assert!(
        output.contains("meta skuid 991 ip6 daddr fd00::1 tcp dport 8443 accept"),
        "{output}"
    );
}

#[test]
fn what_is_in_force_already_needs_no_transaction() {
    let rendered = rendered(json!({"quarantined": ["10.0.7.7"]}));
    assert_eq!(transaction(&in_force(&rendered), &rendered), None);
}

#[test]
fn another_quarantined_peer_changes_one_element_and_no_rule() {
    let before = rendered(json!({"quarantined": ["10.0.7.7"]}));
    let after = rendered(json!({"quarantined": ["10.0.7.8"]}));
    let change = transaction(&in_force(&before), &after).expect("a change");
    assert_eq!(
        commands(&change),
        ["delete element quarantine4", "add element quarantine4"]
    );
}

#[test]
fn base_chains_are_refilled_and_never_replaced() {
    let before = rendered(json!({}));
    let after = rendered(json!({"isolation": {}}));
    let change = transaction(&in_force(&before), &after).expect("a change");
    let commands = commands(&change);
    assert!(
        commands.contains(&"flush chain input".to_owned()),
        "{commands:?}"
    );
    assert!(
        !commands
            .iter()
            .any(|c| c.starts_with("delete") || c.starts_with("add chain")),
        "{commands:?}"
    );
}

#[test]
fn chains_and_sets_that_nothing_needs_any_more_go_last() {
    let before = rendered(
        json!({"rules": [{"id": "t/p/r", "direction": "Egress", "action": "Deny",
        "peers": {"networks": ["10.3.0.0/16", "10.5.0.0/16"]}}]}),
    );
    let after = rendered(json!({}));
    let change = transaction(&in_force(&before), &after).expect("a change");
    let commands = commands(&change);
    let tail = &commands[commands.len() - 3..];
    assert!(tail[0].starts_with("delete set net4_"), "{tail:?}");
    assert_eq!(
        tail[1..],
        ["delete chain egress_input", "delete chain egress_output"]
    );
}

#[test]
fn a_table_with_something_foreign_in_its_frame_is_replaced_in_the_same_transaction() {
    let wanted = rendered(json!({}));
    let mut asleep = in_force(&wanted);
    let inet = asleep.inet.as_mut().expect("a table");
    inet.foreign.push("flags of the table [\"dormant\"]".into());
    let mut other_hook = in_force(&wanted);
    let inet = other_hook.inet.as_mut().expect("a table");
    inet.ruleset.chains.entry("early".into()).or_default().hook =
        wanted.ruleset.chains["input"].hook.clone();
    for found in [asleep, other_hook] {
        let change = transaction(&found, &wanted).expect("a change");
        assert_eq!(
            commands(&change)[..3],
            [
                "add table seawall",
                "delete table seawall",
                "add table seawall"
            ]
        );
    }
}

#[test]
fn each_way_of_tampering_is_said_in_words() {
    let wanted = rendered(json!({"isolation": {}, "quarantined": ["10.0.7.7"]}));
    type Tampering = fn(&mut Listing);
    let cases: [(Tampering, &str); 7] = [
        (|l| l.ruleset.chains.clear(), "chain forward is gone"),
        (
            |l| {
                l.ruleset
                    .chains
                    .get_mut("input")
                    .expect("input")
                    .rules
                    .pop();
            },
            "chain input lacks rule",
        ),
        (
            |l| {
                let input = l.ruleset.chains.get_mut("input").expect("input");
                input.rules.insert(0, Rule::new(vec![expr::accept()]));
            },
            "chain input, rule 1 is [{\"accept\":null}] (no comment) instead of",
        ),
        (
            |l| {
                let hook = &mut l.ruleset.chains.get_mut("output").expect("output").hook;
                hook.as_mut().expect("a hook").priority = 300;
            },
            "chain output has another hook",
        ),
        (
            |l| {
                l.ruleset.chains.insert("evil".into(), Chain::default());
            },
            "chain \"evil\" was added",
        ),
        (
            |l| {
                let set = l.ruleset.sets.get_mut("quarantine4").expect("the set");
                *set =
                    Elements::V4Addresses(["10.0.7.8".parse::<IpAddr>().expect("address")].into());
            },
            "set quarantine4 has 1 elements that were not put there and lacks 1",
        ),
        (
            |l| l.foreign.push("flags of the table [\"dormant\"]".into()),
            "the table has flags",
        ),
    ];
    for (tamper, words) in cases {
        let mut found = in_force(&wanted);
        assert_eq!(first_difference(&wanted, &found), None);
        tamper(found.inet.as_mut().expect("a table"));
        let difference = first_difference(&wanted, &found).expect(words);
        assert!(difference.starts_with(words), "{difference}");
        assert!(transaction(&found, &wanted).is_some(), "{words}");
    }
    assert_eq!(
        first_difference(&wanted, &Found::default()).as_deref(),
        Some("the table is gone")
    );
}
