//! Local TCP sockets of connections that were cut, or of users that were suspended: found by `inet_diag` and ended with SOCK_DESTROY
//! (`CONFIG_INET_DIAG_DESTROY`), after which reading and writing fail at once instead of after minutes
//! of retransmission.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::judge::Endpoint;
use super::netlink::{NetlinkError, Requests};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// States of `include/net/tcp_states.h` in which a socket has a peer: all but TIME_WAIT (6), CLOSE (7)
/// and LISTEN (10).
const WITH_PEER: u32 = 0x1ffe & !(1 << 6) & !(1 << 7) & !(1 << 10);

/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const SOCKET_ID: usize = 48;
/// `struct inet_diag_req_v2` is 8 bytes and the id.
const REQUEST: usize = 8 + SOCKET_ID;
/// `struct inet_diag_msg` has the id after 4 bytes.
const ANSWER_ID: usize = 4;
/// And then the timer's expiry, the lengths of two queues, and the owner.
const ANSWER_OWNER: usize = ANSWER_ID + SOCKET_ID + 12;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Diag {
    List {
        family: u8,
    },
    Socket {
        family: u8,
        id: [u8; SOCKET_ID],
        owner: u32,
    },
    Destroy {
        family: u8,
        id: [u8; SOCKET_ID],
    },
}

impl NetlinkSerializable for Diag {
    fn message_type(&self) -> u16 {
        match self {
            Self::List { .. } | Self::Socket { .. } => SOCK_DIAG_BY_FAMILY,
            Self::Destroy { .. } => SOCK_DESTROY,
        }
    }

    fn buffer_len(&self) -> usize {
        REQUEST
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        let (family, id) = match self {
            Self::List { family } => (family, None),
            Self::Socket { family, id, .. } | Self::Destroy { family, id } => (family, Some(id)),
        };
        buffer[0] = *family;
        buffer[1] = IPPROTO_TCP;
        buffer[4..8].copy_from_slice(&WITH_PEER.to_ne_bytes());
        if let Some(id) = id {
            buffer[8..REQUEST].copy_from_slice(id);
        }
    }
}

impl NetlinkDeserializable for Diag {
    type Error = std::io::Error;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let id = payload
            .get(ANSWER_ID..ANSWER_ID + SOCKET_ID)
            .and_then(|id| id.try_into().ok())
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let owner = payload
            .get(ANSWER_OWNER..ANSWER_OWNER + 4)
            .and_then(|owner| owner.try_into().ok())
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(Self::Socket {
            family: payload[0],
            id,
            owner: u32::from_ne_bytes(owner),
        })
    }
}

/// Ends the TCP sockets that belong to these users, but those to addresses that `stays` names.
pub fn of_users(uids: &BTreeSet<u32>, stays: impl Fn(IpAddr) -> bool) -> Result<u32, NetlinkError> {
    destroy(|owner, _, remote| uids.contains(&owner) && !stays(remote.ip))
}

/// Ends every TCP socket for which `ends(owner, this end, that end)` says so, and counts them.
pub fn destroy(ends: impl Fn(u32, Endpoint, Endpoint) -> bool) -> Result<u32, NetlinkError> {
    let mut requests = Requests::open(NETLINK_SOCK_DIAG)?;
    let mut doomed = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for socket in requests.dump(&Diag::List { family })? {
            let Diag::Socket { family, id, owner } = socket else {
                continue;
            };
            let (local, remote) = endpoints(family, &id);
            if remote.port != 0 && ends(owner, local, remote) {
                doomed.push(Diag::Destroy { family, id });
            }
        }
    }
    let answers = requests.acknowledged(&doomed)?;
    let ended = answers.iter().filter(|error| error.is_none()).count();
    Ok(u32::try_from(ended).unwrap_or(u32::MAX))
}

/// This end and that end. An IPv4 connection of an IPv6 socket has IPv4 addresses.
fn endpoints(family: u8, id: &[u8; SOCKET_ID]) -> (Endpoint, Endpoint) {
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| -> IpAddr {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&id[at..at + 16]);
        match family {
            AF_INET => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
            _ => Ipv6Addr::from(bytes).to_canonical(),
        }
    };
    (
        Endpoint {
            ip: address(4),
            port: port(0),
        },
        Endpoint {
            ip: address(20),
            port: port(2),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_connection_of_an_ipv6_socket_is_judged_by_its_ipv4_addresses() {
        let mut id = [0; SOCKET_ID];
        id[0..2].copy_from_slice(&80u16.to_be_bytes());
        id[2..4].copy_from_slice(&5000u16.to_be_bytes());
        id[14..20].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 5]);
        id[30..36].copy_from_slice(&[0xff, 0xff, 10, 0, 7, 7]);
        let (local, remote) = endpoints(AF_INET6, &id);
        assert_eq!(
            (local.ip.to_string().as_str(), local.port),
            ("10.0.0.5", 80)
        );
        assert_eq!(
            (remote.ip.to_string().as_str(), remote.port),
            ("10.0.7.7", 5000)
        );
    }

    #[test]
    fn a_request_asks_for_sockets_that_have_a_peer() {
        let mut bytes = [0; REQUEST];
        Diag::List { family: AF_INET }.serialize(&mut bytes);
        assert_eq!(bytes[..2], [AF_INET, IPPROTO_TCP]);
        let states = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        assert_eq!(states & (1 << 10), 0, "listening sockets stay");
        assert_ne!(states & (1 << 1), 0, "established ones are asked for");
    }
}
