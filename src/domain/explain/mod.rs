//! Does A reach B, and which rule of which resource decides: the way of one connection past every
//! enforcement point, read from what `compile` made and from the NetworkPolicies that others wrote. It
//! judges no Policy and no Isolation by itself, so it can't say something else than what is in force.
//!
//! `question` is what is asked and `answer` what comes of it; `place` finds out who is meant; `way` goes
//! along the points, of which `host`, `ward` and `network_policy` each know one kind; `decide` makes the
//! verdict of what they say.

mod answer;
mod decide;
mod host;
mod network_policy;
mod place;
#[cfg(test)]
mod properties;
mod question;
mod rules;
mod steps;
mod unenforced;
mod ward;
mod way;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use answer::{
    Did, Explanation, Layer, Pair, Path, Point, ResourceKind, ResourceName, Side, Step, Verdict,
};
pub use question::{NotAQuestion, Place, Port, Question};

use super::applied::DeviceApplied;
use super::compile::{Addresses, Compiled};
use super::names::DeviceId;
use super::world::World;
use crate::api::Protocol;
use place::{Found, Places};
use way::Way;

/// Why a question has no answer: it names what there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswerable(pub String);

/// What an answer is read from.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub world: &'a World,
    /// What follows from that World.
    pub compiled: &'a Compiled,
    /// What agents have acknowledged; without it they are taken to have read everything back.
    pub applied: Option<&'a BTreeMap<DeviceId, DeviceApplied>>,
}

/// The same, with whose address is whose.
struct Facts<'a> {
    world: &'a World,
    compiled: &'a Compiled,
    applied: Option<&'a BTreeMap<DeviceId, DeviceApplied>>,
    addresses: &'a Addresses<'a>,
}

/// One connection, from the address that opens it to the one that listens.
#[derive(Clone, Copy, Debug)]
struct Connection {
    from: IpAddr,
    to: IpAddr,
    protocol: Protocol,
    /// None for ICMP alone.
    port: Option<u16>,
}

/// Addresses of one side that are looked at. Who holds more is asked about by one of them.
const MOST_ADDRESSES: usize = 64;

pub fn explain(known: &Known<'_>, question: &Question) -> Result<Explanation, Unanswerable> {
    let places = Places::of(known.world, question.tenant.as_deref());
    let (from, to) = (places.find(&question.from)?, places.find(&question.to)?);
    places.somebody_is_judged(&from, &to)?;
    let port = port(question, &to)?;
    let facts = Facts {
        world: known.world,
        compiled: known.compiled,
        applied: known.applied,
        addresses: places.addresses(),
    };
    let mut way = Way::new(&facts, &places, &from, &to, question.protocol);
    let mut paths: Vec<Path> = Vec::new();
    let (pairs, left_out) = pairs(&from, &to);
    for pair in pairs {
        let path = way.of(&Connection {
            from: pair.from,
            to: pair.to,
            protocol: question.protocol,
            port,
        });
        match paths.iter_mut().find(|known| known.is_like(&path)) {
            Some(known) => known.pairs.push(pair),
            None => paths.push(path),
        }
    }
    let (verdict, because) = words::summary(&from, &to, &paths, left_out);
    Ok(Explanation {
        from: from.shown(),
        to: to.shown(),
        protocol: question.protocol,
        port,
        verdict,
        because,
        paths,
        notes: way.notes,
    })
}

/// The number of the port that is asked about.
fn port(question: &Question, to: &Found<'_>) -> Result<Option<u16>, Unanswerable> {
    let Question { protocol, port, .. } = question;
    match port {
        None if *protocol == Protocol::Icmp => Ok(None),
        None => Err(Unanswerable(format!(
            "{} needs a port: ask for one, such as 443",
            words::protocol(*protocol)
        ))),
        Some(_) if *protocol == Protocol::Icmp => Err(Unanswerable(
            "ICMP has no ports: leave the port out".to_owned(),
        )),
        Some(Port::Number(0)) => Err(Unanswerable("0 is no port: ask for 1 to 65535".to_owned())),
        Some(Port::Number(number)) => Ok(Some(*number)),
        Some(Port::Name(name)) => to.named_port(name, *protocol).map(Some),
    }
}

/// Every address of the one with every address of the other that it can speak to, and whether there are
/// more than were looked at.
fn pairs(from: &Found<'_>, to: &Found<'_>) -> (Vec<Pair>, bool) {
    let left_out = from.addresses.len() > MOST_ADDRESSES || to.addresses.len() > MOST_ADDRESSES;
    let mut pairs = Vec::new();
    for one in from.addresses.iter().take(MOST_ADDRESSES) {
        for other in to.addresses.iter().take(MOST_ADDRESSES) {
            if one.is_ipv4() == other.is_ipv4() && is_link_local(one) == is_link_local(other) {
                pairs.push(Pair {
                    from: *one,
                    to: *other,
                });
            }
        }
    }
    (pairs, left_out)
}

/// An IPv6 address that is good on one link alone.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
