//! The few statements that the agent's rules are made of. Only expressions that nft prints back as they
//! were given, in numbers, are used here.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nftables::expr::{
    CT, CTDir, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Range, SetItem,
};
use nftables::stmt::{Counter, JumpTarget, Match, Operator, Statement, VerdictMap};

use super::networks::{self, Family};
use crate::api::Protocol;

type Stmt = Statement<'static>;
type Expr = Expression<'static>;

/// Which of a packet's two addresses, or of its two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Bits of `ct state`.
#[derive(Clone, Copy, Debug)]
pub enum State {
    Invalid = 1,
    Established = 2,
    Related = 4,
    Untracked = 64,
}

/// Of the packet in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionSide {
    Original = 0,
    Reply = 1,
}

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const ICMPV6: u8 = 58;

fn matches(op: Operator, left: NamedExpression<'static>, right: Expr) -> Stmt {
    Statement::Match(Match {
        left: Expression::Named(left),
        right,
        op,
    })
}

fn equals(left: NamedExpression<'static>, right: Expr) -> Stmt {
    matches(Operator::EQ, left, right)
}

fn payload(protocol: &'static str, field: &'static str) -> NamedExpression<'static> {
    NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    }))
}

fn meta(key: MetaKey) -> NamedExpression<'static> {
    NamedExpression::Meta(Meta { key })
}

fn ct(key: &'static str) -> NamedExpression<'static> {
    NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    })
}

fn asked(key: String) -> NamedExpression<'static> {
    NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: Some(CTDir::Original),
    })
}

/// That the connection was opened to this address and TCP port, whatever NAT made of them since.
pub fn asked_for(asked_for: SocketAddr) -> [Stmt; 3] {
    let address = match asked_for.ip() {
        IpAddr::V4(_) => "ip daddr",
        IpAddr::V6(_) => "ip6 daddr",
    };
    let ip = Expression::String(asked_for.ip().to_string().into());
    [
        layer4(&[TCP]),
        equals(asked(address.to_owned()), ip),
        equals(asked("proto-dst".to_owned()), number(asked_for.port())),
    ]
}

fn number(n: impl Into<u32>) -> Expr {
    Expression::Number(n.into())
}

/// One number as itself, several as an anonymous set.
fn numbers(ns: &[u8]) -> Expr {
    match ns {
        [one] => number(*one),
        many => Expression::Named(NamedExpression::Set(
            many.iter().map(|n| SetItem::Element(number(*n))).collect(),
        )),
    }
}

pub fn input_interface_is_loopback() -> Stmt {
    equals(meta(MetaKey::Iif), Expression::String("lo".into()))
}

pub fn output_interface_is_loopback() -> Stmt {
    equals(meta(MetaKey::Oif), Expression::String("lo".into()))
}

pub fn socket_owner(uid: u32) -> Stmt {
    equals(meta(MetaKey::Skuid), number(uid))
}

pub fn layer4(protocols: &[u8]) -> Stmt {
    equals(meta(MetaKey::L4proto), numbers(protocols))
}

fn address_field(family: Family, side: Side) -> NamedExpression<'static> {
    let protocol = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    match side {
        Side::Source => payload(protocol, "saddr"),
        Side::Destination => payload(protocol, "daddr"),
    }
}

/// The whole of a family is asked by family: nft prints no prefix of length 0.
pub fn address_in(network: &IpNet, side: Side) -> Stmt {
    let family = Family::of(network.addr());
    if network.prefix_len() == 0 {
        return match family {
            Family::V4 => equals(meta(MetaKey::Nfproto), number(2u8)),
            Family::V6 => equals(meta(MetaKey::Nfproto), number(10u8)),
        };
    }
    equals(address_field(family, side), networks::prefix(network))
}

pub fn address_in_set(set: &str, family: Family, side: Side) -> Stmt {
    equals(
        address_field(family, side),
        Expression::String(format!("@{set}").into()),
    )
}

/// What the map says of the packet's address; no verdict when it is not in it.
pub fn verdict_by_address(map: &str, family: Family, side: Side) -> Stmt {
    Statement::VerdictMap(VerdictMap {
        key: Expression::Named(address_field(family, side)),
        data: Expression::String(format!("@{map}").into()),
    })
}

/// The packet's family by its header. Tables of family bridge don't know it otherwise.
pub fn version(family: Family) -> Stmt {
    match family {
        Family::V4 => equals(payload("ip", "version"), number(4u8)),
        Family::V6 => equals(payload("ip6", "version"), number(6u8)),
    }
}

/// TCP, and not the packet that opens a connection.
pub fn acknowledges() -> Stmt {
    matches(Operator::IN, payload("tcp", "flags"), number(16u8))
}

pub fn other_than_layer4(protocol: u8) -> Stmt {
    matches(Operator::NEQ, meta(MetaKey::L4proto), number(protocol))
}

/// Ports of TCP, UDP or SCTP, each a first and a last; not empty.
pub fn port_in(protocol: Protocol, spans: &[(u16, u16)], side: Side) -> Stmt {
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
        Protocol::Icmp => unreachable!("ICMP has no ports"),
    };
    let field = match side {
        Side::Source => "sport",
        Side::Destination => "dport",
    };
    let span = |(first, last): (u16, u16)| match first == last {
        true => number(first),
        false => Expression::Range(Box::new(Range {
            range: [number(first), number(last)],
        })),
    };
    let right = match spans {
        [one] => span(*one),
        many => Expression::Named(NamedExpression::Set(
            many.iter().map(|s| SetItem::Element(span(*s))).collect(),
        )),
    };
    equals(payload(name, field), right)
}

pub fn icmp_type(family: Family, types: &[u8]) -> Stmt {
    let protocol = match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    };
    equals(payload(protocol, "type"), numbers(types))
}

pub fn icmp_code(code: u8) -> Stmt {
    equals(payload("icmp", "code"), number(code))
}

pub fn hop_limit(limit: u8) -> Stmt {
    equals(payload("ip6", "hoplimit"), number(limit))
}

pub fn connection_state(states: &[State]) -> Stmt {
    let mut bits: Vec<u32> = states.iter().map(|state| *state as u32).collect();
    bits.sort_unstable();
    let right = match bits[..] {
        [one] => number(one),
        _ => Expression::List(bits.into_iter().map(number).collect()),
    };
    matches(Operator::IN, ct("state"), right)
}

pub fn connection_side(side: ConnectionSide) -> Stmt {
    equals(ct("direction"), number(side as u32))
}

pub fn counter() -> Stmt {
    Statement::Counter(Counter::Anonymous(None))
}

pub fn jump(chain: &str) -> Stmt {
    Statement::Jump(JumpTarget {
        target: chain.to_owned().into(),
    })
}

/// As a jump, but what ends without a verdict ends the chain too that this stands in.
pub fn goto(chain: &str) -> Stmt {
    Statement::Goto(JumpTarget {
        target: chain.to_owned().into(),
    })
}

pub fn accept() -> Stmt {
    Statement::Accept(None)
}

pub fn drop() -> Stmt {
    Statement::Drop(None)
}

pub fn leave_chain() -> Stmt {
    Statement::Return(None)
}
