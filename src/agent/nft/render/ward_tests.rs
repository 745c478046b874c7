//! The rules for wards, in both tables.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::tests::{commands, in_force, rendered, state, text};
use super::*;
use crate::agent::nft::bridges::BridgeTable;
use crate::agent::nft::transaction::transaction;

/// Two groups: one under a policy, one isolated.
fn wards() -> Value {
    json!({
        "shop": {"sources": [], "members": {"shop/web-1": ["10.244.0.7", "fd44::7"]},
            "rules": [
                {"id": "shop/p/db", "direction": "Egress", "action": "Allow", "peers": {"networks": ["10.244.0.9/32"]},
                 "ports": [{"protocol": "TCP", "first": 5432, "last": 5432}]},
                {"id": "shop/p/web", "direction": "Ingress", "action": "Audit", "peers": "any"}],
            "defaults": {"egress": {"id": "shop/p", "action": "Deny"}},
            "observedRules": [
                {"id": "shop/o/r", "direction": "Ingress", "action": "Deny", "peers": "any", "observing": true}]},
        "cut": {"sources": [], "members": {"shop/bad-1": ["10.244.0.8", "fd44::8"]},
            "isolation": {
                "management": [{"network": "10.0.9.0/24", "ports": [
                    {"protocol": "TCP", "first": 22, "last": 22}, {"protocol": "ICMP", "first": 0, "last": 65535}]}],
                "probes": {"shop/bad-1": [{"protocol": "TCP", "first": 8080, "last": 8080}]}}}})
}

fn with_bridges(fields: Value, around: &[Family], table: BridgeTable) -> Rendered {
    let situation = Situation {
        bridges: Bridges {
            around: around.iter().copied().collect(),
            table,
        },
        ..Situation::default()
    };
    render(&state(fields), &situation)
}

#[test]
fn wards_are_judged_by_group_and_an_allow_leaves_the_other_end_to_be_asked() {
    let rendered = rendered(
        json!({"wards": wards(), "defaults": {"ingress": {"id": "t/p", "action": "Deny"}}}),
    );
    insta::assert_snapshot!(text(&rendered.ruleset));
    for (name, chain) in &rendered.ruleset.chains {
        let accepts = chain
            .rules
            .iter()
            .flat_map(|rule| &rule.statements)
            .any(|statement| statement.get("accept").is_some());
        assert!(!(name.starts_with("ward_") && accepts), "{name}");
    }
    assert_eq!(rendered.counted["wards/shop"].id, "wards/shop");
}

#[test]
fn a_bridge_without_tracking_judges_isolation_alone_and_takes_no_opening_for_an_answer() {
    let rendered = with_bridges(
        json!({"wards": wards()}),
        &[Family::V4],
        BridgeTable::Untracked,
    );
    let bridge = rendered.bridge.expect("a table for bridges");
    insta::assert_snapshot!(text(&bridge));
    assert!(!text(&bridge).contains("ct "), "{}", text(&bridge));
}

#[test]
fn a_bridge_that_tracks_has_the_rules_that_forwarded_packets_meet() {
    let both = Family::BOTH;
    let mut fields = wards();
    fields["shop"]["rules"][0]["peers"] = json!({"networks": ["0.0.0.0/0", "::/0"]});
    let rendered = with_bridges(json!({"wards": fields}), &both, BridgeTable::Tracked);
    let bridge = rendered.bridge.expect("a table for bridges");
    for (name, chain) in &bridge.chains {
        let here = &rendered.ruleset.chains[name];
        if chain.hook.is_none() && !text(&bridge).contains("version") {
            assert_eq!(chain, here, "{name}");
        }
    }
    assert!(!text(&bridge).contains("nfproto"), "{}", text(&bridge));
    assert!(text(&rendered.ruleset).contains("nfproto"));
}

#[test]
fn there_is_no_table_for_bridges_where_it_would_do_nothing() {
    let v4 = [Family::V4];
    let none = |fields: Value, around: &[Family], table| {
        assert_eq!(with_bridges(fields, around, table).bridge, None);
    };
    none(json!({"wards": wards()}), &[], BridgeTable::Tracked);
    none(json!({"wards": wards()}), &v4, BridgeTable::Unsupported);
    none(json!({"isolation": {}}), &v4, BridgeTable::Tracked);
    let mut shop = wards();
    shop.as_object_mut().expect("an object").remove("cut");
    none(json!({"wards": shop}), &v4, BridgeTable::Untracked);
}

#[test]
fn link_local_addresses_are_cut_only_while_a_ward_is_isolated() {
    let all = text(&rendered(json!({"wards": wards()})).ruleset);
    assert!(
        all.contains("ip6 saddr fe80::/10 jump ward_link_local"),
        "{all}"
    );
    let mut shop = wards();
    shop.as_object_mut().expect("an object").remove("cut");
    let none = text(&rendered(json!({"wards": shop})).ruleset);
    assert!(!none.contains("fe80::"), "{none}");
}

#[test]
fn an_isolated_host_cuts_its_wards_in_both_tables() {
    let fields = json!({"wards": wards(), "isolation": {}});
    let rendered = with_bridges(fields, &Family::BOTH, BridgeTable::Untracked);
    assert!(!text(&rendered.ruleset).contains("wards_"));
    let bridge = text(&rendered.bridge.expect("a table for bridges"));
    for version in ["ip version 4 counter drop", "ip6 version 6 counter drop"] {
        assert!(bridge.contains(version), "{bridge}");
    }
}

#[test]
fn a_ward_that_comes_or_goes_is_an_element_and_no_rule() {
    let before = rendered(json!({"wards": wards()}));
    let mut more = wards();
    more["shop"]["members"]["shop/web-2"] = json!(["10.244.0.17"]);
    let after = rendered(json!({"wards": more}));
    for (from, to, verb) in [(&before, &after, "add"), (&after, &before, "delete")] {
        let change = transaction(&in_force(from), to).expect("a change");
        let places = ["from4", "in4", "out4", "to4"];
        let expected = places.map(|place| format!("{verb} element wards_{place}"));
        assert_eq!(commands(&change), expected);
    }
}

#[test]
fn a_ward_that_is_isolated_moves_to_the_other_chains_in_the_same_maps() {
    let before = rendered(json!({"wards": wards()}));
    let mut moved = wards();
    let ward = moved["shop"]["members"]["shop/web-1"].take();
    moved["cut"]["members"]["shop/web-1"] = ward;
    moved["shop"]["members"] = json!({});
    let after = rendered(json!({"wards": moved}));
    let change = transaction(&in_force(&before), &after).expect("a change");
    let verbs: BTreeSet<String> = commands(&change)
        .iter()
        .filter_map(|c| Some(c.rsplit_once(' ')?.0.to_owned()))
        .collect();
    let expected = ["add element", "delete element"].map(str::to_owned);
    assert_eq!(verbs, expected.into());
}

#[test]
fn a_table_for_bridges_that_is_not_needed_any_more_is_removed() {
    let fields = json!({"wards": wards()});
    let before = with_bridges(fields.clone(), &Family::BOTH, BridgeTable::Untracked);
    let after = with_bridges(fields, &[], BridgeTable::Untracked);
    let change = transaction(&in_force(&before), &after).expect("a change");
    assert_eq!(
        commands(&change),
        ["add table seawall", "delete table seawall"]
    );
    assert!(
        change["nftables"][1]["delete"]["table"]["family"] == "bridge",
        "{change}"
    );
}

#[test]
fn packets_without_a_connection_meet_both_directions_unless_the_first_decides_all() {
    let target = |defaults: Value| {
        let mut fields = wards();
        fields["shop"]["defaults"] = defaults;
        let rendered = rendered(json!({"wards": fields}));
        let chain = &rendered.ruleset.chains["ward_shop_from"];
        let last = chain.rules.last().expect("rules").statements.clone();
        last[1]["goto"]["target"]
            .as_str()
            .expect("a chain")
            .to_owned()
    };
    let deny = json!({"id": "shop/p", "action": "Deny"});
    assert_eq!(target(json!({"egress": deny})), "ward_shop_egress_leaving");
    assert_eq!(target(json!({"ingress": deny})), "ward_shop_any_leaving");
}

#[test]
fn names_of_groups_that_nft_would_not_take_are_replaced() {
    let long = "g".repeat(300);
    for name in ["a/b c", "ä", long.as_str()] {
        let rendered = rendered(json!({"wards": {
            name: {"sources": [], "members": {"t/a": ["10.244.0.7"]}, "isolation": {}}}}));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for chain in rendered.ruleset.chains.keys() {
            assert!(chain.len() < 64 && chain.chars().all(plain), "{chain}");
        }
        let id = format!("wards/{name}");
        assert!(rendered.counted.values().any(|counted| counted.id == id));
    }
}
