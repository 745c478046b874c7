//! A network to cut: hosts in network namespaces of their own on one bridge, with IPv4 and IPv6, and the
//! traffic between them.
//!
//! The bridge is in the sandbox's own namespace, where the operator and the control plane run; hosts reach
//! it by the gateway addresses. Labs share nothing: nothing is forwarded between their bridges.

mod flow;
mod host;
mod link;
mod node;
mod reach;
mod record;

pub use flow::{Flow, Transport};
pub use host::{Family, Host};
pub use node::{Node, Wiring};
pub use reach::{Connection, Reach, Responder, connect, reach};

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use anyhow::Context;

use link::{Link, ip};

/// One bridge and its two networks, `10.<64 + n>.0.0/16` and `fd77:0:0:<n>::/64`.
pub struct Lab {
    number: u8,
    /// Of the host that was made last; the gateway has the first.
    last_address: AtomicU16,
}

impl Lab {
    pub fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(number < 190, "no more networks for labs in this run");
        let lab = Self {
            number,
            last_address: AtomicU16::new(1),
        };
        let (bridge, v4, v6) = (lab.bridge(), lab.gateway4(), lab.gateway6());
        ip(
            &["-batch", "-"],
            // Snooping would drop neighbour discovery for groups that it has not heard of yet.
            &format!(
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 addr add {v4}/16 dev {bridge}\n\
                 addr add {v6}/64 dev {bridge} nodad\n\
                 link set {bridge} up\n"
            ),
        )
        .context("making a bridge")?;
        Ok(lab)
    }

    /// Where hosts find what runs in the sandbox's own namespace.
    pub fn gateway4(&self) -> Ipv4Addr {
        self.address4(1)
    }

    pub fn gateway6(&self) -> Ipv6Addr {
        self.address6(1)
    }

    /// A new host, up and reachable when this returns. Its name is unique in the lab and short.
    pub fn host(&self, name: &str) -> anyhow::Result<Host> {
        let index = self.last_address.fetch_add(1, Ordering::Relaxed) + 1;
        let host = Host::attach(
            name,
            link::Attachment {
                namespace: format!("{}-{name}", self.bridge()),
                home: None,
                link: Link::Bridge(self.bridge(), 16),
                port: format!("v{}h{index}", self.number),
                v4: self.address4(index),
                v6: self.address6(index),
                gateway4: self.gateway4(),
                gateway6: self.gateway6(),
            },
        );
        host.with_context(|| format!("making host {name}"))
    }

    fn bridge(&self) -> String {
        format!("lab{}", self.number)
    }

    fn address4(&self, index: u16) -> Ipv4Addr {
        let [high, low] = index.to_be_bytes();
        Ipv4Addr::new(10, 64 + self.number, high, low)
    }

    fn address6(&self, index: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, self.number.into(), 0, 0, 0, index)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It ends with the sandbox at the latest.
        let _ = ip(&["link", "del", &self.bridge()], "");
    }
}
