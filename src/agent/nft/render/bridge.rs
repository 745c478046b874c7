//! The second table, for packets between the ports of a bridge where those go around the first: the same
//! rules for wards, at the one hook that such packets pass. Where the kernel can't track their
//! connections, isolation alone is judged here.

use serde_json::{Value, json};

use super::super::bridges::{BridgeTable, Bridges};
use super::super::expr;
use super::super::networks::Family;
use super::super::ruleset::Ruleset;
use super::containment::ISOLATION;
use super::wards::{self, Place, Table};
use super::{HookPoint, Rendered};
use crate::domain::enforcement::DeviceState;

pub fn add_table(rendered: &mut Rendered, state: &DeviceState, bridges: &Bridges) {
    let tracks = match bridges.table {
        BridgeTable::Unsupported => return,
        BridgeTable::Untracked => false,
        BridgeTable::Tracked => true,
    };
    let mut groups = state.wards.values();
    let concerns = groups.any(|group| state.isolation.is_some() || wards::concerns(group, tracks));
    let families: Vec<Family> = bridges.around.iter().copied().collect();
    if !concerns || families.is_empty() {
        return;
    }
    let mut own = Rendered::default();
    own.add_base_chain(HookPoint::Forward);
    match &state.isolation {
        // An isolated host forwards for nobody, its wards included.
        Some(_) => {
            for family in families {
                let statements = vec![expr::version(family), expr::counter(), expr::drop()];
                own.add_counted(HookPoint::Forward.name(), ISOLATION, false, statements);
            }
        }
        None => {
            let table = Table {
                places: &[Place::From, Place::To],
                families: &families,
                tracks,
            };
            wards::judge(&mut own, &state.wards, &table);
        }
    }
    rendered.counted.extend(own.counted);
    rendered.bridge = Some(in_terms_of_bridges(own.ruleset));
}

/// There a packet's family is no property of it, but a field of its header.
fn in_terms_of_bridges(mut ruleset: Ruleset) -> Ruleset {
    let rules = ruleset.chains.values_mut().flat_map(|c| &mut c.rules);
    for statement in rules.flat_map(|rule| &mut rule.statements) {
        for (number, family) in [(2, Family::V4), (10, Family::V6)] {
            if *statement == asks_family(number) {
                *statement = json!(expr::version(family));
            }
        }
    }
    ruleset
}

fn asks_family(number: u8) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": number}})
}
