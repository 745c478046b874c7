//! What the interfaces that lead to wards carried: found by the route to each ward, and, where that is a
//! bridge, by the port at which the bridge last heard the ward's link-layer address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::conntrack::{NetlinkError, Requests};

/// Of linux/rtnetlink.h and linux/if_link.h, linux/neighbour.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const IFLA_MASTER: u16 = 10;
const IFLA_STATS64: u16 = 23;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

/// `struct ifinfomsg`, `struct rtmsg` and `struct ndmsg`.
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const NEIGHBOUR_HEADER: usize = 12;
const ATTRIBUTE_HEADER: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    GetLinks,
    GetNeighbours(u8),
    GetRoute(IpAddr),
    Link(Link),
    Neighbour(Neighbour),
    /// The interface that it leaves by; 0 if by none.
    Route(u32),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    index: u32,
    /// The bridge that it is a port of, or another master; else 0.
    master: u32,
    /// Packets that came in by it.
    received: u64,
}

/// Of the tables of neighbours, with their addresses, and of bridges, without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Neighbour {
    interface: u32,
    address: Option<IpAddr>,
    link_layer: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::GetLinks | Self::Link(_) => RTM_GETLINK,
            Self::GetNeighbours(_) | Self::Neighbour(_) => RTM_GETNEIGH,
            Self::GetRoute(_) | Self::Route(_) => RTM_GETROUTE,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::GetLinks | Self::Link(_) => LINK_HEADER,
            Self::GetNeighbours(_) | Self::Neighbour(_) => NEIGHBOUR_HEADER,
            Self::GetRoute(to) => ROUTE_HEADER + ATTRIBUTE_HEADER + octets(*to).len(),
            Self::Route(_) => ROUTE_HEADER,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        match self {
            Self::GetNeighbours(family) => buffer[0] = *family,
            Self::GetRoute(to) => {
                let octets = octets(*to);
                let length = octets.len();
                buffer[0] = if to.is_ipv4() { AF_INET } else { AF_INET6 };
                buffer[1] = if to.is_ipv4() { 32 } else { 128 };
                let attribute = &mut buffer[ROUTE_HEADER..];
                let whole = if to.is_ipv4() { 8u16 } else { 20u16 };
                attribute[..2].copy_from_slice(&whole.to_ne_bytes());
                attribute[2..4].copy_from_slice(&RTA_DST.to_ne_bytes());
                attribute[ATTRIBUTE_HEADER..ATTRIBUTE_HEADER + length].copy_from_slice(&octets);
            }
            _ => {}
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    v4().or_else(|| Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)))
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

impl NetlinkDeserializable for Message {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let message = match header.message_type {
            RTM_NEWLINK => link(payload).map(Self::Link),
            RTM_NEWNEIGH => neighbour(payload).map(Self::Neighbour),
            RTM_NEWROUTE => Some(Self::Route(route(payload))),
            _ => None,
        };
        message.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: number(payload.get(4..)?)?,
        ..Link::default()
    };
    for (kind, value) in attributes(payload, LINK_HEADER) {
        match kind {
            IFLA_MASTER => link.master = number(value)?,
            IFLA_STATS64 => {
                link.received = u64::from_ne_bytes(value.get(..8)?.try_into().ok()?);
            }
            _ => {}
        }
    }
    Some(link)
}

fn neighbour(payload: &[u8]) -> Option<Neighbour> {
    let mut neighbour = Neighbour {
        interface: number(payload.get(4..)?)?,
        ..Neighbour::default()
    };
    for (kind, value) in attributes(payload, NEIGHBOUR_HEADER) {
        match kind {
            NDA_DST => neighbour.address = address(value),
            NDA_LLADDR => neighbour.link_layer = value.to_vec(),
            _ => {}
        }
    }
    Some(neighbour)
}

fn route(payload: &[u8]) -> u32 {
    let interface = attributes(payload, ROUTE_HEADER).find(|(kind, _)| *kind == RTA_OIF);
    interface
        .and_then(|(_, value)| number(value))
        .unwrap_or_default()
}

/// Kind and value of each; what is cut short ends them.
fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let field = |at: usize| Some(u16::from_ne_bytes(rest.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(field(0)?), field(2)?);
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is written.
        Some((kind & 0x3fff, value))
    })
}

/// Packets that came from these wards, by the interface that leads to them and to nobody else. Wards whose
/// interface is not found are left out.
pub fn carried_from(wards: &BTreeSet<IpAddr>) -> Result<BTreeMap<u32, u64>, NetlinkError> {
    let mut requests = Requests::open(NETLINK_ROUTE)?;
    let questions: Vec<Message> = wards.iter().copied().map(Message::GetRoute).collect();
    let answers = requests.answered(&questions)?;
    let links = links(&mut requests)?;
    let bridges: BTreeSet<u32> = links.iter().map(|link| link.master).collect();
    let mut leading = BTreeSet::new();
    let mut on_bridges = BTreeSet::new();
    for (ward, answer) in wards.iter().zip(answers) {
        match answer {
            Some(Message::Route(interface)) if bridges.contains(&interface) => {
                on_bridges.insert((interface, *ward));
            }
            Some(Message::Route(interface)) => {
                leading.insert(interface);
            }
            _ => {}
        }
    }
    if !on_bridges.is_empty() {
        leading.extend(ports_of(&mut requests, &on_bridges)?);
    }
    let carried = links.iter().filter(|link| leading.contains(&link.index));
    Ok(carried.map(|link| (link.index, link.received)).collect())
}

fn links(requests: &mut Requests) -> Result<Vec<Link>, NetlinkError> {
    let answers = requests.dump(&Message::GetLinks)?.into_iter();
    let links = answers.filter_map(|message| match message {
        Message::Link(link) => Some(link),
        _ => None,
    });
    Ok(links.collect())
}

/// The ports behind which these addresses of a bridge are.
fn ports_of(
    requests: &mut Requests,
    wards: &BTreeSet<(u32, IpAddr)>,
) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut neighbours = |family| -> Result<Vec<Neighbour>, NetlinkError> {
        let answers = requests.dump(&Message::GetNeighbours(family))?.into_iter();
        let neighbours = answers.filter_map(|message| match message {
            Message::Neighbour(neighbour) => Some(neighbour),
            _ => None,
        });
        Ok(neighbours.collect())
    };
    let known = neighbours(0)?;
    let wanted: BTreeSet<&[u8]> = known
        .iter()
        .filter(|n| {
            n.address
                .is_some_and(|ip| wards.contains(&(n.interface, ip)))
        })
        .map(|n| n.link_layer.as_slice())
        .collect();
    let heard = neighbours(AF_BRIDGE)?;
    let ports = heard
        .iter()
        .filter(|entry| wanted.contains(entry.link_layer.as_slice()))
        .map(|entry| entry.interface);
    Ok(ports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_port_of_a_bridge_is_read_with_its_master_and_what_it_received() {
        let mut payload = vec![0; LINK_HEADER];
        payload[4] = 9;
        payload.extend(attribute(3, b"pod1\0"));
        payload.extend(attribute(IFLA_MASTER, &4u32.to_ne_bytes()));
        payload.extend(attribute(IFLA_STATS64, &77u64.to_ne_bytes()));
        let expected = Link {
            index: 9,
            master: 4,
            received: 77,
        };
        assert_eq!(link(&payload), Some(expected));
        for length in 0..LINK_HEADER {
            let _ = link(&payload[..length]);
        }
    }

    #[test]
    fn a_question_for_a_route_names_the_address_of_its_family() {
        for (to, length) in [("10.244.0.7", 20), ("fd44::7", 32)] {
            let to: IpAddr = to.parse().expect("an address");
            let message = Message::GetRoute(to);
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            assert_eq!(bytes.len(), length);
            let mut sent = attributes(&bytes, ROUTE_HEADER);
            assert_eq!(sent.next(), Some((RTA_DST, octets(to).as_slice())));
        }
    }
}
