//! Networks as nftables holds them: ranges of addresses of one family, merged where they touch, and
//! the name of the set that has them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nftables::expr::{Expression, NamedExpression, Prefix};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// First and last address of one family, both in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub first: IpAddr,
    pub last: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn to_number(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        }
    }

    fn address(self, number: u128) -> Option<IpAddr> {
        match self {
            Self::V4 => u32::try_from(number).ok().map(|n| Ipv4Addr::from(n).into()),
            Self::V6 => Some(Ipv6Addr::from(number).into()),
        }
    }
}

/// The networks of one family, as few prefixes as say the same.
pub fn aggregated(networks: &BTreeSet<IpNet>, family: Family) -> Vec<IpNet> {
    let of_family: Vec<IpNet> = networks
        .iter()
        .filter(|network| Family::of(network.addr()) == family)
        .map(IpNet::trunc)
        .collect();
    let mut merged = IpNet::aggregate(&of_family);
    merged.sort();
    merged
}

pub fn ranges(networks: &[IpNet]) -> Vec<Range> {
    merge(
        networks
            .iter()
            .map(|network| Range {
                first: network.network(),
                last: network.broadcast(),
            })
            .collect(),
    )
}

/// Sorted, and ranges that overlap or touch made one. All of one family.
pub fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(before)
                if Family::to_number(range.first)
                    <= Family::to_number(before.last).saturating_add(1) =>
            {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// A set that rules share is named by what it holds: the same networks are the same set, and other
/// networks never take the name of a set that a rule in force still reads.
pub fn set_name(networks: &[IpNet], family: Family) -> String {
    let mut hash = Sha256::new();
    for network in networks {
        hash.update(network.to_string());
        hash.update(b"\n");
    }
    let digits = hex::encode(&hash.finalize()[..8]);
    match family {
        Family::V4 => format!("net4_{digits}"),
        Family::V6 => format!("net6_{digits}"),
    }
}

/// A range as an element of an interval set.
pub fn element(range: &Range) -> Expression<'static> {
    if range.first == range.last {
        return Expression::String(range.first.to_string().into());
    }
    match as_prefix(range) {
        Some(network) => prefix(&network),
        None => Expression::Range(Box::new(nftables::expr::Range {
            range: [
                Expression::String(range.first.to_string().into()),
                Expression::String(range.last.to_string().into()),
            ],
        })),
    }
}

/// A network as an operand; one address as itself.
pub fn prefix(network: &IpNet) -> Expression<'static> {
    let address = Expression::String(network.network().to_string().into());
    if network.prefix_len() == network.max_prefix_len() {
        return address;
    }
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(address),
        len: network.prefix_len().into(),
    }))
}

fn as_prefix(range: &Range) -> Option<IpNet> {
    let bits = match Family::of(range.first) {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let span = Family::to_number(range.last) - Family::to_number(range.first);
    let host_bits = u8::try_from(128 - span.leading_zeros()).ok()?;
    let network = IpNet::new(range.first, bits - host_bits).ok()?;
    (network.network() == range.first && network.broadcast() == range.last).then_some(network)
}

/// What nft prints for an element of a set of addresses.
pub fn parse_element(value: &Value) -> Option<Range> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    if let Some(single) = address(value) {
        return Some(Range {
            first: single,
            last: single,
        });
    }
    if let Some(prefix) = value.get("prefix") {
        let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        let network = IpNet::new(address(prefix.get("addr")?)?, length).ok()?;
        return Some(Range {
            first: network.network(),
            last: network.broadcast(),
        });
    }
    let range = value.get("range")?.as_array()?;
    Some(Range {
        first: address(range.first()?)?,
        last: address(range.get(1)?)?,
    })
}

/// Every address of a range, when they are not too many to be single ones.
pub fn addresses(range: &Range) -> Option<Vec<IpAddr>> {
    let family = Family::of(range.first);
    let (first, last) = (
        Family::to_number(range.first),
        Family::to_number(range.last),
    );
    if last < first || last - first > 65_536 {
        return None;
    }
    (first..=last).map(|n| family.address(n)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn networks(texts: &[&str]) -> BTreeSet<IpNet> {
        texts
            .iter()
            .map(|t| t.parse().expect("a network"))
            .collect()
    }

    #[test]
    fn networks_that_touch_or_contain_each_other_become_one() {
        let found = aggregated(
            &networks(&["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "fd00::/8"]),
            Family::V4,
        );
        assert_eq!(found, ["10.0.0.0/8".parse::<IpNet>().expect("a network")]);
    }

    #[test]
    fn ranges_read_back_the_same_whichever_way_they_are_printed() {
        let ours = ranges(&aggregated(
            &networks(&["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"]),
            Family::V4,
        ));
        let printed = [
            json!({"prefix": {"addr": "10.0.0.0", "len": 7}}),
            json!({"range": ["12.0.0.0", "12.255.255.255"]}),
        ];
        let theirs = merge(printed.iter().filter_map(parse_element).collect());
        assert_eq!(ours, theirs);
    }

    #[test]
    fn an_element_that_is_no_plain_address_is_not_read() {
        assert_eq!(
            parse_element(&json!({"elem": {"val": "10.0.0.1", "timeout": 9}})),
            None
        );
    }

    #[test]
    fn the_whole_of_a_family_is_one_prefix() {
        let all: Range = ranges(&["::/0".parse().expect("a network")])[0];
        assert_eq!(as_prefix(&all).map(|n| n.prefix_len()), Some(0));
    }

    #[test]
    fn sets_of_other_networks_have_other_names() {
        let one = ["10.0.0.0/8".parse().expect("a network")];
        let two = ["10.0.0.0/9".parse().expect("a network")];
        assert_eq!(set_name(&one, Family::V4), set_name(&one, Family::V4));
        assert_ne!(set_name(&one, Family::V4), set_name(&two, Family::V4));
    }
}
