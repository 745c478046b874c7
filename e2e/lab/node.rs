//! A host with pods behind it: namespaces that reach the rest of the lab through it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Context;

use super::Lab;
use super::host::Host;
use super::link::{Attachment, Link, ip};

/// How pods are joined to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Ports of one bridge, whose packets pass the usual hooks.
    Bridge,
    /// Ports of one bridge, whose packets don't: `bridge-nf-call-*` is off.
    BridgeAround,
    /// Each by an interface of its own.
    Routed,
}

/// Its pods have addresses of `172.20.<lab>.0/24` and `fd78:0:0:<lab>::/64`. One for each lab.
pub struct Node {
    host: Host,
    wiring: Wiring,
    number: u8,
    last_address: AtomicU8,
}

const BRIDGE: &str = "pods0";

impl Lab {
    pub async fn node(&self, name: &str, wiring: Wiring) -> anyhow::Result<Node> {
        let host = self.host(name)?;
        let call = if wiring == Wiring::BridgeAround { 0 } else { 1 };
        for setting in [
            "net.ipv4.ip_forward=1".to_owned(),
            "net.ipv6.conf.all.forwarding=1".to_owned(),
            format!("net.bridge.bridge-nf-call-iptables={call}"),
            format!("net.bridge.bridge-nf-call-ip6tables={call}"),
        ] {
            let set = host.run("sysctl", &["-qw", &setting], "").await?;
            set.success()?;
        }
        let node = Node {
            host,
            wiring,
            number: self.number,
            last_address: AtomicU8::new(1),
        };
        if wiring != Wiring::Routed {
            node.make_bridge()?;
        }
        Ok(node)
    }
}

impl Node {
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn gateway4(&self) -> Ipv4Addr {
        self.address4(1)
    }

    fn address4(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 20, self.number, index)
    }

    fn address6(&self, index: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd78, 0, 0, self.number.into(), 0, 0, 0, index.into())
    }

    fn make_bridge(&self) -> anyhow::Result<()> {
        let (v4, v6) = (self.gateway4(), self.address6(1));
        ip(
            &["-n", self.host.namespace(), "-batch", "-"],
            &format!(
                "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 addr add {v4}/24 dev {BRIDGE}\n\
                 addr add {v6}/64 dev {BRIDGE} nodad\n\
                 link set {BRIDGE} up\n"
            ),
        )
        .context("making a bridge for pods")
    }

    /// A new pod of the node, up and reachable when this returns.
    pub fn pod(&self, name: &str) -> anyhow::Result<Host> {
        let index = self.last_address.fetch_add(1, Ordering::Relaxed) + 1;
        let pod = Host::attach(
            name,
            Attachment {
                namespace: format!("lab{}-pod-{name}", self.number),
                home: Some(self.host.namespace().to_owned()),
                link: match self.wiring {
                    Wiring::Routed => Link::Routed,
                    _ => Link::Bridge(BRIDGE.to_owned(), 24),
                },
                port: format!("pod{index}"),
                v4: self.address4(index),
                v6: self.address6(index),
                gateway4: self.gateway4(),
                gateway6: self.address6(1),
            },
        );
        pod.with_context(|| format!("making pod {name}"))
    }

    /// Tells another host of the lab the way to the pods.
    pub fn reached_by(&self, other: &Host) -> anyhow::Result<()> {
        let (net4, net6) = (self.address4(0), self.address6(0));
        let (via4, via6) = (self.host.v4(), self.host.v6());
        ip(
            &["-n", other.namespace(), "-batch", "-"],
            &format!("route add {net4}/24 via {via4}\nroute add {net6}/64 via {via6}\n"),
        )
    }
}
