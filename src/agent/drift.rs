//! Notices from the kernel: that somebody changed the agent's tables, and that the device's addresses
//! changed. Only that something happened is taken from them; what it is, is then read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::facts;
use super::nft::{TABLE, Writers};
use crate::fleet::proto::Facts;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const GROUP_NFTABLES: u32 = 7;
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of linux/rtnetlink.h: addresses come
/// and go, and interfaces that keep theirs go up and down.
const GROUPS_ADDRESSES: [u32; 3] = [1, 5, 9];
/// Of the netlink header, the netfilter header, and the first attribute's header.
const NETLINK_HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// Of the agent's tables: inet and bridge.
const FAMILIES: [u8; 2] = [1, 7];
/// Subsystem nftables, message NEWGEN: the end of a transaction.
const NEW_GENERATION: u16 = (10 << 8) | 15;
/// Addresses change several at a time, and settle.
const SETTLE: Duration = Duration::from_millis(150);
/// The kernel drops notices when the socket is full, and says so; this makes it rare.
const RECEIVE_BUFFER: i32 = 1024 * 1024;

struct Notices(TokioSocket);

enum Notice {
    Message(Vec<u8>),
    /// Some were lost.
    Lost,
}

impl Notices {
    fn of(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        // With a smaller one, more is lost, and more often looked for.
        let _ = socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER);
        Ok(Self(socket))
    }

    async fn next(&self) -> io::Result<Notice> {
        let mut buffer = Vec::with_capacity(64 * 1024);
        match self.0.recv(&mut buffer).await {
            Ok(()) => Ok(Notice::Message(buffer)),
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                Ok(Notice::Lost)
            }
            Err(error) => Err(error),
        }
    }
}

/// The socket, made before the first rules are: nothing is missed in between.
pub struct TableWatch(Notices);

impl TableWatch {
    pub fn begin() -> anyhow::Result<Self> {
        let notices = Notices::of(NETLINK_NETFILTER, &[GROUP_NFTABLES])
            .context("cannot listen for changes of nftables: the agent needs CAP_NET_ADMIN")?;
        Ok(Self(notices))
    }

    /// Tells `changed` of each transaction by somebody else that touched the table.
    pub async fn run(
        self,
        writers: Writers,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let notice = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                notice = self.0.next() => notice.context("listening for changes of nftables")?,
            };
            let touched = match notice {
                Notice::Lost => true,
                Notice::Message(bytes) => {
                    messages(&bytes).any(|m| m.touches_our_table() && !writers.wrote(m.port))
                }
            };
            if touched {
                changed.notify_one();
            }
        }
    }
}

/// Publishes what the device says of itself whenever its addresses have changed.
pub async fn watch_addresses(
    facts: watch::Sender<Facts>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let notices = Notices::of(NETLINK_ROUTE, &GROUPS_ADDRESSES)
        .context("cannot listen for changes of addresses")?;
    // What changed before the socket was there.
    publish(&facts);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            notice = notices.next() => { notice.context("listening for changes of addresses")?; }
        }
        tokio::time::sleep(SETTLE).await;
        publish(&facts);
    }
}

fn publish(facts: &watch::Sender<Facts>) {
    let now = facts::gather();
    facts.send_if_modified(|known| {
        let differs =
            known.addresses != now.addresses || known.addresses_left_out != now.addresses_left_out;
        if differs {
            *known = now;
        }
        differs
    });
}

struct Message<'a> {
    kind: u16,
    /// The netlink port of who made the change: for nft, its process id.
    port: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// In every message of nftables but the end of a transaction the first attribute names the table.
    fn touches_our_table(&self) -> bool {
        if self.kind == NEW_GENERATION {
            return false;
        }
        let Some(attribute) = self.body.get(NETFILTER_HEADER..) else {
            return true;
        };
        let name = attribute
            .first_chunk::<2>()
            .map(|length| usize::from(u16::from_ne_bytes(*length)))
            .and_then(|length| attribute.get(ATTRIBUTE_HEADER..length))
            .map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        FAMILIES.contains(&self.body[0]) && name.is_none_or(|name| name == TABLE.as_bytes())
    }
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let field = |at: usize| {
            rest.get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_ne_bytes)
        };
        let length = field(0)? as usize;
        let message = rest.get(..length)?;
        let port = field(12)?;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind,
            port,
            body: message.get(NETLINK_HEADER..)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, port: u32, family: u8, table: &str) -> Vec<u8> {
        let mut attribute = (u16::try_from(table.len() + 5).expect("short"))
            .to_ne_bytes()
            .to_vec();
        attribute.extend(1u16.to_ne_bytes());
        attribute.extend(table.as_bytes());
        attribute.push(0);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let length = NETLINK_HEADER + NETFILTER_HEADER + attribute.len();
        let mut bytes = u32::try_from(length).expect("short").to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attribute);
        bytes
    }

    const INET: u8 = 1;

    #[test]
    fn only_changes_of_our_tables_count() {
        let touched = |bytes: &[u8]| messages(bytes).any(|m| m.touches_our_table());
        let rule = (10 << 8) | 6;
        assert!(touched(&message(rule, 7, INET, "seawall")));
        assert!(touched(&message(rule, 7, 7, "seawall")));
        assert!(!touched(&message(rule, 7, INET, "seawall2")));
        assert!(!touched(&message(rule, 7, INET, "kube-proxy")));
        assert!(!touched(&message(rule, 7, 2, "seawall")));
        assert!(!touched(&message(NEW_GENERATION, 7, INET, "seawall")));
    }

    #[test]
    fn a_message_behind_others_of_one_datagram_is_seen() {
        let rule = (10 << 8) | 6;
        let mut bytes = message(rule, 7, INET, "other");
        bytes.extend(message(rule, 9, INET, "seawall"));
        let ports: Vec<u32> = messages(&bytes)
            .filter(Message::touches_our_table)
            .map(|m| m.port)
            .collect();
        assert_eq!(ports, [9]);
    }

    #[test]
    fn a_datagram_that_ends_early_ends_the_reading() {
        let bytes = message(10 << 8, 7, INET, "seawall");
        for length in 0..bytes.len() {
            assert_eq!(messages(&bytes[..length]).count(), 0);
        }
    }
}
