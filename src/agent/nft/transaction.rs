//! The way from what the table holds to what it has to hold, as one nft transaction: the kernel changes
//! from one to the other between two packets. What is equal stays untouched, so counters go on and sets
//! of a hundred thousand networks are not sent again.
//!
//! Base chains are kept and refilled rather than replaced: deleting and adding one puts the new hook in
//! front of the old, and a packet that passes the new one just before the switch and the old one just
//! after would meet no rule in either.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nftables::types::NfFamily;
use serde_json::{Value, json};

use super::networks;
use super::{Chain, Elements, Found, Listing, Rendered, Ruleset, TABLE};

type Commands = Vec<Value>;

/// The transaction in nft's JSON, for both tables; none when nothing has to change.
pub fn transaction(found: &Found, wanted: &Rendered) -> Option<Value> {
    let mut commands = Table(NfFamily::INet).change(found.inet.as_ref(), &wanted.ruleset);
    let bridge = Table(NfFamily::Bridge);
    commands.extend(match (&wanted.bridge, &found.bridge) {
        (Some(wanted), found) => bridge.change(found.as_ref(), wanted),
        (None, Some(_)) => bridge.remove(),
        (None, None) => Vec::new(),
    });
    (!commands.is_empty()).then(|| json!({"nftables": commands}))
}

static EMPTY: Ruleset = Ruleset {
    chains: BTreeMap::new(),
    sets: BTreeMap::new(),
};

/// Whether the table's frame is ours: hooks, policies and kinds of set can't be changed in place, and
/// what we don't know (flags of the table, objects) goes with the table.
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

/// The agent's table of this family.
#[derive(Clone, Copy)]
struct Table(NfFamily);

impl Table {
    /// None found: there is no table.
    fn change(self, found: Option<&Listing>, wanted: &Ruleset) -> Commands {
        let (mut commands, base) = match found {
            Some(listing) if can_be_changed(listing, wanted) => (Vec::new(), &listing.ruleset),
            Some(_) => (self.replace(), &EMPTY),
            None => (vec![self.add_table()], &EMPTY),
        };
        self.add_new(base, wanted, &mut commands);
        self.change_sets(base, wanted, &mut commands);
        self.fill_chains(base, wanted, &mut commands);
        self.remove_stale(base, wanted, &mut commands);
        commands
    }

    fn add_table(self) -> Value {
        json!({"add": {"table": {"family": self.0, "name": TABLE}}})
    }

    /// The first `add` lets the `delete` succeed when somebody removed the table meanwhile.
    fn remove(self) -> Commands {
        let table = json!({"family": self.0, "name": TABLE});
        vec![self.add_table(), json!({"delete": {"table": table}})]
    }

    fn replace(self) -> Commands {
        let mut commands = self.remove();
        commands.push(self.add_table());
        commands
    }

    /// What names something in the table.
    fn named(self, name: &str) -> Value {
        json!({"family": self.0, "table": TABLE, "name": name})
    }

    fn chain(self, name: &str, chain: &Chain) -> Value {
        let mut fields = self.named(name);
        if let Some(hook) = &chain.hook {
            fields["type"] = json!("filter");
            fields["hook"] = json!(hook.hook);
            fields["prio"] = json!(hook.priority);
            fields["policy"] = json!(hook.policy);
        }
        fields
    }

    fn set(self, name: &str, elements: &Elements) -> Value {
        let mut fields = self.named(name);
        fields["type"] = match elements {
            Elements::V4Addresses(_)
            | Elements::V4Ranges(_)
            | Elements::V4Jumps(_)
            | Elements::Unread(_) => json!("ipv4_addr"),
            Elements::V6Addresses(_) | Elements::V6Ranges(_) | Elements::V6Jumps(_) => {
                json!("ipv6_addr")
            }
        };
        match elements {
            Elements::V4Ranges(_) | Elements::V6Ranges(_) => fields["flags"] = json!(["interval"]),
            Elements::V4Jumps(_) | Elements::V6Jumps(_) => fields["map"] = json!("verdict"),
            Elements::V4Addresses(_) | Elements::V6Addresses(_) | Elements::Unread(_) => {}
        }
        json!({kind(elements): fields})
    }

    fn elements(self, set: &str, elements: Vec<Value>) -> Value {
        let mut fields = self.named(set);
        fields["elem"] = json!(elements);
        json!({"element": fields})
    }

    fn add_new(self, base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
        // Chains first: maps name them.
        for (name, chain) in &wanted.chains {
            if !base.chains.contains_key(name) {
                commands.push(json!({"add": {"chain": self.chain(name, chain)}}));
            }
        }
        for (name, elements) in &wanted.sets {
            if !base.sets.contains_key(name) {
                let mut set = self.set(name, elements);
                let content = values(elements);
                if !content.is_empty() {
                    set[kind(elements)]["elem"] = json!(content);
                }
                commands.push(json!({"add": set}));
            }
        }
    }

    /// Sets whose name stays: single addresses come and go one by one; networks are named by what they
    /// hold, so that a difference there is somebody else's doing and they are written anew.
    fn change_sets(self, base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
        for (name, elements) in &wanted.sets {
            let Some(there) = base.sets.get(name).filter(|there| *there != elements) else {
                continue;
            };
            let (gone, new) = match (there, elements) {
                (Elements::V4Addresses(old), Elements::V4Addresses(new))
                | (Elements::V6Addresses(old), Elements::V6Addresses(new)) => {
                    (addresses_without(old, new), addresses_without(new, old))
                }
                (Elements::V4Jumps(old), Elements::V4Jumps(new))
                | (Elements::V6Jumps(old), Elements::V6Jumps(new)) => {
                    (jumps_without(old, new), jumps_without(new, old))
                }
                _ => {
                    commands.push(json!({"flush": self.set(name, elements)}));
                    (Vec::new(), values(elements))
                }
            };
            // Out before in: an address that jumps elsewhere now is in a map once.
            if !gone.is_empty() {
                commands.push(json!({"delete": self.elements(name, gone)}));
            }
            if !new.is_empty() {
                commands.push(json!({"add": self.elements(name, new)}));
            }
        }
    }

    fn fill_chains(self, base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
        let mut rules = Vec::new();
        for (name, chain) in &wanted.chains {
            let there = base.chains.get(name);
            if there.is_some_and(|there| there.rules == chain.rules) {
                continue;
            }
            if there.is_some() {
                commands.push(json!({"flush": {"chain": self.named(name)}}));
            }
            for rule in &chain.rules {
                let mut fields = json!({
                    "family": self.0, "table": TABLE, "chain": name, "expr": rule.statements});
                if let Some(comment) = &rule.comment {
                    fields["comment"] = json!(comment);
                }
                rules.push(json!({"add": {"rule": fields}}));
            }
        }
        commands.extend(rules);
    }

    /// Last, when no rule refers to them any more; maps before the chains that they name.
    fn remove_stale(self, base: &Ruleset, wanted: &Ruleset, commands: &mut Commands) {
        let stale: BTreeSet<&String> = base
            .chains
            .keys()
            .filter(|name| !wanted.chains.contains_key(*name))
            .collect();
        for name in &stale {
            commands.push(json!({"flush": {"chain": self.named(name)}}));
        }
        for (name, elements) in &base.sets {
            if !wanted.sets.contains_key(name) {
                commands.push(json!({"delete": self.set(name, elements)}));
            }
        }
        for name in &stale {
            commands.push(json!({"delete": {"chain": self.named(name)}}));
        }
    }
}

fn kind(elements: &Elements) -> &'static str {
    match elements {
        Elements::V4Jumps(_) | Elements::V6Jumps(_) => "map",
        _ => "set",
    }
}

fn values(elements: &Elements) -> Vec<Value> {
    match elements {
        Elements::V4Addresses(addresses) | Elements::V6Addresses(addresses) => {
            addresses.iter().map(|address| json!(address)).collect()
        }
        Elements::V4Ranges(ranges) | Elements::V6Ranges(ranges) => ranges
            .iter()
            .map(|range| json!(networks::element(range)))
            .collect(),
        Elements::V4Jumps(jumps) | Elements::V6Jumps(jumps) => jumps.iter().map(jump).collect(),
        Elements::Unread(_) => Vec::new(),
    }
}

fn jump((address, chain): (&IpAddr, &String)) -> Value {
    json!([address, {"jump": {"target": chain}}])
}

fn addresses_without(all: &BTreeSet<IpAddr>, others: &BTreeSet<IpAddr>) -> Vec<Value> {
    let left = all.difference(others);
    left.map(|address| json!(address)).collect()
}

fn jumps_without(all: &BTreeMap<IpAddr, String>, others: &BTreeMap<IpAddr, String>) -> Vec<Value> {
    let left = all
        .iter()
        .filter(|(address, chain)| others.get(*address) != Some(*chain));
    left.map(jump).collect()
}
