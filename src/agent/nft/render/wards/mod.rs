//! Wards: the pods of this node. A packet is looked up by its source and by its destination in maps that
//! send it to the chain of the ward's group, so that a pod that comes or goes is an element and no rule,
//! and a packet costs the same however many groups there are. Nothing here accepts: what a group lets pass
//! returns to the base chain, where the other end may be a ward as well.
//!
//! Each group has a chain for each place at which its packets are met. Connections that this host itself
//! opens to a ward, as the kubelet's probes, are judged by the ward's isolation and by no policy.

mod isolation;

use std::collections::BTreeMap;
use std::sync::Arc;

use nftables::stmt::Statement;
use sha2::{Digest, Sha256};

use super::super::expr::{self, ConnectionSide, State};
use super::super::networks::Family;
use super::super::ruleset::{Elements, Rule};
use super::policy::{self, DIRECTIONS, Policies, Way, direction_name};
use super::{HookPoint, Rendered, Statements};
use crate::api::Direction;
use crate::domain::enforcement::{WARDS, WardGroup};
use isolation::{drop_link_local, isolate};

/// The comment of rules that count what wards answer to this host, which no policy judges.
pub const ANSWERS_TO_HOST: &str = "wards-answers-to-host";

/// Where a packet of a ward is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Forwarded, from a ward.
    From,
    /// Forwarded, to a ward.
    To,
    /// From a ward to this host.
    In,
    /// From this host to a ward.
    Out,
}

impl Place {
    /// Of a group's chain, the place that it is for.
    pub fn of_chain(chain: &str) -> Option<Self> {
        let (group, place) = chain.rsplit_once('_')?;
        let mut all = Table::INET.places.iter().copied();
        let is_group = group.starts_with("ward_");
        all.find(|known| is_group && known.name() == place)
    }

    fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::In => "in",
            Self::Out => "out",
        }
    }

    fn hook(self) -> HookPoint {
        match self {
            Self::From | Self::To => HookPoint::Forward,
            Self::In => HookPoint::Input,
            Self::Out => HookPoint::Output,
        }
    }

    fn way(self) -> Way {
        match self {
            Self::From | Self::In => Way::Leaving,
            Self::To | Self::Out => Way::Arriving,
        }
    }

    fn is_of_host(self) -> bool {
        matches!(self, Self::In | Self::Out)
    }

    /// Directions of the connections that policies judge here.
    fn directions(self) -> &'static [Direction] {
        match self.is_of_host() {
            true => &[Direction::Egress],
            false => &DIRECTIONS,
        }
    }
}

/// What the table that the rules are for can see.
pub struct Table<'a> {
    pub places: &'a [Place],
    pub families: &'a [Family],
    /// Its packets have connections. Without, only isolation can be judged.
    pub tracks: bool,
}

impl Table<'static> {
    pub const INET: Self = Self {
        places: &[Place::From, Place::To, Place::In, Place::Out],
        families: &Family::BOTH,
        tracks: true,
    };
}

/// Whether such a table has anything to do for a group.
pub fn concerns(group: &WardGroup, tracks: bool) -> bool {
    tracks || group.isolation.is_some()
}

pub fn judge(rendered: &mut Rendered, wards: &BTreeMap<String, Arc<WardGroup>>, table: &Table) {
    let groups: Vec<(String, &String, &WardGroup)> = wards
        .iter()
        .filter(|(_, group)| concerns(group, table.tracks))
        .map(|(name, group)| (chain_of(name), name, &**group))
        .collect();
    if groups.is_empty() {
        return;
    }
    let isolates = groups.iter().any(|(_, _, group)| group.isolation.is_some());
    if isolates && table.families.contains(&Family::V6) {
        drop_link_local(rendered);
    }
    for place in table.places {
        for (chain, name, group) in &groups {
            let chain = format!("{chain}_{}", place.name());
            rendered.add_chain(&chain);
            match &group.isolation {
                Some(isolation) => {
                    count(rendered, &chain, name);
                    isolate(rendered, &chain, *place, (name, group), isolation, table);
                }
                None => judge_connections(rendered, &chain, *place, name, group),
            }
        }
        for family in table.families {
            look_up(rendered, *place, *family, &groups);
        }
    }
    for (chain, _, group) in groups.iter().filter(|(_, _, g)| g.isolation.is_none()) {
        for way in [Way::Leaving, Way::Arriving] {
            fill(rendered, chain, way, &Policies::of_wards(group));
        }
    }
}

/// A beginning for the names of a group's chains: what nft takes for a name, and never too long.
fn chain_of(group: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric();
    if !group.is_empty() && group.len() <= 32 && group.chars().all(plain) {
        return format!("ward_{group}");
    }
    format!("ward_h{}", hex::encode(&Sha256::digest(group)[..8]))
}

/// The map of every ward's address to the chain of its group, and the rule that asks it.
fn look_up(
    rendered: &mut Rendered,
    place: Place,
    family: Family,
    groups: &[(String, &String, &WardGroup)],
) {
    let mut jumps = BTreeMap::new();
    for (chain, _, group) in groups {
        let addresses = group.members.values().flatten();
        for address in addresses.filter(|address| Family::of(**address) == family) {
            // An address that two groups claim is judged by the one that is isolated, else by the first.
            let chain = format!("{chain}_{}", place.name());
            if group.isolation.is_some() || !jumps.contains_key(address) {
                jumps.insert(*address, chain);
            }
        }
    }
    let (map, elements) = match family {
        Family::V4 => (format!("wards_{}4", place.name()), Elements::V4Jumps(jumps)),
        Family::V6 => (format!("wards_{}6", place.name()), Elements::V6Jumps(jumps)),
    };
    let statement = expr::verdict_by_address(&map, family, place.way().own());
    rendered.ruleset.sets.insert(map, elements);
    rendered.add(place.hook(), vec![statement]);
}

fn count(rendered: &mut Rendered, chain: &str, group: &str) {
    let id = format!("{WARDS}{group}");
    rendered.add_counted(chain, &id, false, vec![expr::counter()]);
}

fn pass(rendered: &mut Rendered, chain: &str, mut conditions: Statements) {
    conditions.push(expr::leave_chain());
    rendered.add_rule(chain, Rule::new(conditions));
}

/// Sends each packet to the rules that judge its connection. One verdict ends the group's evaluation: what
/// is entered by `goto` returns to the base chain.
fn judge_connections(
    rendered: &mut Rendered,
    chain: &str,
    place: Place,
    name: &str,
    group: &WardGroup,
) {
    let policies = Policies::of_wards(group);
    let way = place.way();
    if place.is_of_host() {
        pass_what_host_opened(rendered, chain, way);
    }
    count(rendered, chain, name);
    let enters = |rendered: &mut Rendered, direction, verdict: Statement<'static>| {
        let side = expr::connection_side(way.side_of(direction));
        rendered.add_rule(chain, Rule::new(vec![side, verdict]));
    };
    for direction in place.directions() {
        if policies.observes(*direction) {
            let rules = rules_of(chain, place, *direction, "observe_");
            enters(rendered, *direction, expr::jump(&rules));
        }
    }
    if !place.directions().iter().any(|d| policies.enforces(*d)) {
        return;
    }
    if !place.is_of_host() {
        pass_neighbour_discovery(rendered, chain);
    }
    policy::pass_icmp_errors(rendered, chain, &policies);
    for direction in place.directions() {
        if policies.enforces(*direction) {
            let rules = rules_of(chain, place, *direction, "");
            enters(rendered, *direction, expr::goto(&rules));
        }
    }
    if let Some(rules) = untracked_rules(chain, place, &policies) {
        let untracked = expr::connection_state(&[State::Invalid, State::Untracked]);
        rendered.add_rule(chain, Rule::new(vec![untracked, expr::goto(&rules)]));
    }
}

/// Not counted as seen by the rules, for none judges it.
fn pass_what_host_opened(rendered: &mut Rendered, chain: &str, way: Way) {
    let side = way.side_of(Direction::Ingress);
    let mut statements = vec![expr::connection_side(side)];
    if side == ConnectionSide::Reply {
        statements.extend([expr::counter(), expr::leave_chain()]);
        rendered.add_rule(chain, Rule::new(statements).commented(ANSWERS_TO_HOST));
    } else {
        pass(rendered, chain, statements);
    }
}

/// Between the ports of a bridge. Without it nobody finds whom a rule allows.
fn pass_neighbour_discovery(rendered: &mut Rendered, chain: &str) {
    for (types, limit) in [
        (&[133, 134, 135, 136][..], 255),
        (&[130, 131, 132, 143][..], 1),
    ] {
        let conditions = vec![expr::icmp_type(Family::V6, types), expr::hop_limit(limit)];
        pass(rendered, chain, conditions);
    }
}

fn suffix(way: Way) -> &'static str {
    match way {
        Way::Leaving => "leaving",
        Way::Arriving => "arriving",
    }
}

/// The chain of a group's rules, which places of one way share.
fn rules_of(chain: &str, place: Place, direction: Direction, before: &str) -> String {
    let group = chain.strip_suffix(place.name()).unwrap_or(chain);
    format!(
        "{group}{before}{}_{}",
        direction_name(direction),
        suffix(place.way())
    )
}

/// The rules for packets without a connection: as if they opened one, and where that doesn't decide, as if
/// they answered one.
fn untracked_rules(chain: &str, place: Place, policies: &Policies) -> Option<String> {
    let (first, second) = as_if_opened(place.way());
    let judged = |d: Direction| place.directions().contains(&d) && policies.enforces(d);
    match (judged(first), judged(second)) {
        (true, true) if !policies.decides_all(first) => {
            let group = chain.strip_suffix(place.name()).unwrap_or(chain);
            Some(format!("{group}any_{}", suffix(place.way())))
        }
        (true, _) => Some(rules_of(chain, place, first, "")),
        (false, true) => Some(rules_of(chain, place, second, "")),
        (false, false) => None,
    }
}

/// The direction of a connection that such a packet would open, and of one that it would answer.
fn as_if_opened(way: Way) -> (Direction, Direction) {
    match way.side_of(Direction::Egress) {
        ConnectionSide::Original => (Direction::Egress, Direction::Ingress),
        ConnectionSide::Reply => (Direction::Ingress, Direction::Egress),
    }
}

/// The chains of a group's rules.
fn fill(rendered: &mut Rendered, group: &str, way: Way, policies: &Policies) {
    let suffix = suffix(way);
    let named = |direction| format!("{group}_{}_{suffix}", direction_name(direction));
    for direction in DIRECTIONS {
        if policies.observes(direction) {
            let chain = format!("{group}_observe_{}_{suffix}", direction_name(direction));
            policy::observe(rendered, policies, direction, way, &chain);
        }
        if policies.enforces(direction) {
            policy::enforce(rendered, policies, direction, way, &named(direction));
        }
    }
    let (first, second) = as_if_opened(way);
    let both = policies.enforces(first) && policies.enforces(second);
    if both && !policies.decides_all(first) {
        let chain = format!("{group}_any_{suffix}");
        policy::enforce_rules(rendered, policies, first, way, &chain);
        rendered.add_rule(&chain, Rule::new(vec![expr::goto(&named(second))]));
    }
}
