//! Sets of ports. An empty set is every protocol and port, so "none" has to be said in another way.

use std::collections::BTreeSet;

use crate::api::{PortRange, Protocol};
use crate::domain::enforcement::Ports;

/// Absent ports of a protocol are all of them. What is no port is named in the error.
pub fn ports(ranges: &[PortRange]) -> Result<BTreeSet<Ports>, String> {
    let ranges: Result<BTreeSet<Ports>, String> = ranges.iter().map(one).collect();
    ranges.map(merged)
}

fn one(range: &PortRange) -> Result<Ports, String> {
    let protocol = range.protocol;
    let port = |number: i32| {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("{number} is no port: write 1 to 65535"))
    };
    let (first, last) = match (protocol, range.port) {
        (Protocol::Icmp, _) | (_, None) => (0, u16::MAX),
        (_, Some(first)) => (port(first)?, port(range.end_port.unwrap_or(first))?),
    };
    if first > last {
        return Err(format!("endPort {last} is lower than port {first}"));
    }
    Ok(Ports {
        protocol,
        first,
        last,
    })
}

/// The same ports in as few ranges as possible, so that the same set is always written the same way.
pub fn merged(ranges: BTreeSet<Ports>) -> BTreeSet<Ports> {
    let mut merged: Vec<Ports> = Vec::with_capacity(ranges.len());
    // Ordered by protocol, then by the first port.
    for range in ranges {
        match merged.last_mut() {
            Some(before)
                if before.protocol == range.protocol
                    && range.first <= before.last.saturating_add(1) =>
            {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged.into_iter().collect()
}

/// `None` when they have no port in common.
pub fn common(a: &BTreeSet<Ports>, b: &BTreeSet<Ports>) -> Option<BTreeSet<Ports>> {
    if a.is_empty() || b.is_empty() {
        return Some(a.union(b).copied().collect());
    }
    let pairs = a
        .iter()
        .flat_map(|one| b.iter().map(move |other| (one, other)));
    let common: BTreeSet<Ports> = pairs
        .filter(|(one, other)| one.protocol == other.protocol)
        .map(|(one, other)| Ports {
            protocol: one.protocol,
            first: one.first.max(other.first),
            last: one.last.min(other.last),
        })
        .filter(|ports| ports.first <= ports.last)
        .collect();
    (!common.is_empty()).then(|| merged(common))
}

/// Whether every port of `inner` is in `outer`. Both are merged.
pub fn covers(outer: &BTreeSet<Ports>, inner: &BTreeSet<Ports>) -> bool {
    if outer.is_empty() || inner.is_empty() {
        return outer.is_empty();
    }
    inner.iter().all(|inner| {
        outer.iter().any(|outer| {
            outer.protocol == inner.protocol
                && outer.first <= inner.first
                && inner.last <= outer.last
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(protocol: Protocol, port: Option<i32>, end_port: Option<i32>) -> PortRange {
        PortRange {
            protocol,
            port,
            end_port,
        }
    }

    fn tcp(first: u16, last: u16) -> Ports {
        Ports {
            protocol: Protocol::Tcp,
            first,
            last,
        }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let ranges = [
            range(Protocol::Tcp, Some(80), Some(90)),
            range(Protocol::Tcp, Some(91), None),
            range(Protocol::Udp, Some(92), None),
        ];
        let udp = Ports {
            protocol: Protocol::Udp,
            ..tcp(92, 92)
        };
        assert_eq!(ports(&ranges), Ok([tcp(80, 91), udp].into()));
        let every = [range(Protocol::Tcp, None, None)];
        assert_eq!(ports(&every), Ok([tcp(0, u16::MAX)].into()));
    }

    #[test]
    fn what_is_no_port_is_refused_with_words() {
        for (port, end_port) in [(0, None), (65_536, None), (-1, None), (80, Some(70))] {
            let ranges = [range(Protocol::Tcp, Some(port), end_port)];
            assert!(ports(&ranges).is_err(), "{port} {end_port:?}");
        }
    }

    #[test]
    fn the_common_ports_of_every_port_and_some_are_these_and_of_none_there_are_none() {
        let (every, web) = (BTreeSet::new(), BTreeSet::from([tcp(80, 443)]));
        assert_eq!(common(&every, &web), Some(web.clone()));
        assert_eq!(common(&every, &every), Some(every.clone()));
        assert_eq!(
            common(&web, &[tcp(443, 500)].into()),
            Some([tcp(443, 443)].into())
        );
        assert_eq!(common(&web, &[tcp(1, 79)].into()), None);
    }

    #[test]
    fn every_port_covers_any_and_is_covered_only_by_itself() {
        let (every, web) = (BTreeSet::new(), BTreeSet::from([tcp(80, 443)]));
        assert!(covers(&every, &web) && covers(&every, &every));
        assert!(!covers(&web, &every));
        assert!(covers(&web, &[tcp(81, 82), tcp(443, 443)].into()));
        assert!(!covers(&web, &[tcp(443, 444)].into()));
    }
}
