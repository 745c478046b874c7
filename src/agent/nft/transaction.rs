//! The way from what the table holds to what it has to hold, as one nft transaction: the kernel changes
//! from one to the other between two packets. What is equal stays untouched, so counters go on and sets
//! of a hundred thousand networks are not sent again.
//!
//! Base chains are kept and refilled rather than replaced: deleting and adding one puts the new hook in
//! front of the old, and a packet that passes the new one just before the switch and the old one just
//! after would meet no rule in either.

use std::borrow::Cow;
use std::collections::HashSet;

use nftables::expr::Expression;
use nftables::schema::{
    Chain as NftChain, Element, FlushObject, NfCmd, NfListObject, NfObject, Nftables,
    Rule as NftRule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::{Value, json};

use super::networks;
use super::{Chain, Elements, Listing, Ruleset, TABLE};

type Commands = Vec<NfObject<'static>>;

/// The transaction in nft's JSON; none when nothing has to change. `found` is what the table holds,
/// none when there is no table.
pub fn transaction(found: Option<&Listing>, wanted: &Ruleset) -> Option<Value> {
    let (mut commands, base) = match found {
        Some(listing) if can_be_changed(listing, wanted) => (Vec::new(), &listing.ruleset),
        Some(_) => (replace_table(), &EMPTY),
        None => (vec![add(NfListObject::Table(table()))], &EMPTY),
    };
    let mut rules: Vec<Value> = Vec::new();
    add_new(base, wanted, &mut commands);
    change_sets(base, wanted, &mut commands);
    fill_chains(base, wanted, &mut commands, &mut rules);
    let mut stale = Vec::new();
    remove_stale(base, wanted, &mut stale);
    if commands.is_empty() && rules.is_empty() && stale.is_empty() {
        return None;
    }
    let mut all = as_values(commands);
    all.extend(rules);
    all.extend(as_values(stale));
    Some(json!({"nftables": all}))
}

static EMPTY: Ruleset = Ruleset {
    chains: std::collections::BTreeMap::new(),
    sets: std::collections::BTreeMap::new(),
};

fn as_values(commands: Commands) -> Vec<Value> {
    match serde_json::to_value(Nftables {
        objects: Cow::Owned(commands),
    }) {
        Ok(Value::Object(mut document)) => match document.remove("nftables") {
            Some(Value::Array(commands)) => commands,
            _ => unreachable!("nftables documents hold a list"),
        },
        _ => unreachable!("nftables documents are JSON objects"),
    }
}

/// Whether the table's frame is ours: hooks, policies and kinds of set can't be changed in place, and
/// what we don't know (flags of the table, maps, objects) goes with the table.
fn can_be_changed(found: &Listing, wanted: &Ruleset) -> bool {
    found.foreign.is_empty()
        && wanted.chains.iter().all(|(name, chain)| {
            found
                .ruleset
                .chains
                .get(name)
                .is_none_or(|there| there.hook == chain.hook)
        })
        && found
            .ruleset
            .chains
            .iter()
            .all(|(name, there)| there.hook.is_none() || wanted.chains.contains_key(name))
        && found.ruleset.sets.iter().all(|(name, there)| {
            !matches!(there, Elements::Unread(_))
                && wanted
                    .sets
                    .get(name)
                    .is_none_or(|set| std::mem::discriminant(set) == std::mem::discriminant(there))
        })
}

fn table() -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: TABLE.into(),
        handle: None,
    }
}

fn add(object: NfListObject<'static>) -> NfObject<'static> {
    NfObject::CmdObject(NfCmd::Add(object))
}

/// The first `add` lets the `delete` succeed when somebody removed the table meanwhile.
fn replace_table() -> Commands {
    vec![
        add(NfListObject::Table(table())),
        NfObject::CmdObject(NfCmd::Delete(NfListObject::Table(table()))),
        add(NfListObject::Table(table())),
    ]
}

fn named_chain(name: &str) -> NftChain<'static> {
    NftChain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.to_owned().into(),
        ..NftChain::default()
    }
}

fn chain_with_hook(name: &str, chain: &Chain) -> NftChain<'static> {
    let Some(hook) = &chain.hook else {
        return named_chain(name);
    };
    NftChain {
        _type: Some(NfChainType::Filter),
        hook: Some(match hook.hook.as_str() {
            "input" => NfHook::Input,
            "output" => NfHook::Output,
            _ => NfHook::Forward,
        }),
        prio: i32::try_from(hook.priority).ok(),
        policy: Some(NfChainPolicy::Accept),
        ..named_chain(name)
    }
}

fn named_set(name: &str, elements: &Elements) -> Set<'static> {
    let (set_type, interval) = match elements {
        Elements::V4Addresses(_) | Elements::Unread(_) => (SetType::Ipv4Addr, false),
        Elements::V6Addresses(_) => (SetType::Ipv6Addr, false),
        Elements::V4Ranges(_) => (SetType::Ipv4Addr, true),
        Elements::V6Ranges(_) => (SetType::Ipv6Addr, true),
    };
    Set {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.to_owned().into(),
        set_type: SetTypeValue::Single(set_type),
        flags: interval.then(|| HashSet::from([SetFlag::Interval])),
        ..Set::default()
    }
}

fn expressions(elements: &Elements) -> Vec<Expression<'static>> {
    match elements {
        Elements::V4Addresses(addresses) | Elements::V6Addresses(addresses) => addresses
            .iter()
            .map(|address| Expression::String(address.to_string().into()))
            .collect(),
        Elements::V4Ranges(ranges) | Elements::V6Ranges(ranges) => {
            ranges.iter().map(networks::element).collect()
        }
        Elements::Unread(_) => Vec::new(),
    }
}

fn elements_of(set: &str, elements: Vec<Expression<'static>>) -> NfListObject<'static> {
    NfListObject::Element(Element {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: set.to_owned().into(),
        elem: Cow::Owned(elements),
    })
}

fn add_new(base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
    for (name, elements) in &wanted.sets {
        if !base.sets.contains_key(name) {
            let elem = expressions(elements);
            commands.push(add(NfListObject::Set(Box::new(Set {
                elem: (!elem.is_empty()).then_some(Cow::Owned(elem)),
                ..named_set(name, elements)
            }))));
        }
    }
    for (name, chain) in &wanted.chains {
        if !base.chains.contains_key(name) {
            commands.push(add(NfListObject::Chain(chain_with_hook(name, chain))));
        }
    }
}

/// Sets whose name stays: single addresses come and go one by one; networks are named by what they
/// hold, so that a difference there is somebody else's doing and they are written anew.
fn change_sets(base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
    for (name, elements) in &wanted.sets {
        let Some(there) = base.sets.get(name).filter(|there| *there != elements) else {
            continue;
        };
        let (gone, new) = match (there, elements) {
            (Elements::V4Addresses(old), Elements::V4Addresses(new))
            | (Elements::V6Addresses(old), Elements::V6Addresses(new)) => {
                let text = |a: &std::net::IpAddr| Expression::String(a.to_string().into());
                (
                    old.difference(new).map(text).collect(),
                    new.difference(old).map(text).collect(),
                )
            }
            _ => {
                commands.push(NfObject::CmdObject(NfCmd::Flush(FlushObject::Set(
                    Box::new(named_set(name, elements)),
                ))));
                (Vec::new(), expressions(elements))
            }
        };
        if !new.is_empty() {
            commands.push(add(elements_of(name, new)));
        }
        if !gone.is_empty() {
            commands.push(NfObject::CmdObject(NfCmd::Delete(elements_of(name, gone))));
        }
    }
}

fn fill_chains(base: &Ruleset, wanted: &Ruleset, commands: &mut Commands, rules: &mut Vec<Value>) {
    for (name, chain) in &wanted.chains {
        let there = base.chains.get(name);
        if there.is_some_and(|there| there.rules == chain.rules) {
            continue;
        }
        if there.is_some() {
            commands.push(NfObject::CmdObject(NfCmd::Flush(FlushObject::Chain(
                named_chain(name),
            ))));
        }
        for rule in &chain.rules {
            let mut fields = serde_json::to_value(NftRule {
                family: NfFamily::INet,
                table: TABLE.into(),
                chain: name.clone().into(),
                comment: rule.comment.clone().map(Cow::Owned),
                ..NftRule::default()
            })
            .expect("rules are JSON");
            fields["expr"] = Value::Array(rule.statements.clone());
            rules.push(json!({"add": {"rule": fields}}));
        }
    }
}

/// Last, when no rule refers to them any more.
fn remove_stale(base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
    let stale = |name: &&String| !wanted.chains.contains_key(*name);
    for name in base.chains.keys().filter(stale) {
        commands.push(NfObject::CmdObject(NfCmd::Flush(FlushObject::Chain(
            named_chain(name),
        ))));
    }
    for name in base.chains.keys().filter(stale) {
        commands.push(NfObject::CmdObject(NfCmd::Delete(NfListObject::Chain(
            named_chain(name),
        ))));
    }
    for (name, elements) in &base.sets {
        if !wanted.sets.contains_key(name) {
            commands.push(NfObject::CmdObject(NfCmd::Delete(NfListObject::Set(
                Box::new(named_set(name, elements)),
            ))));
        }
    }
}
