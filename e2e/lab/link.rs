//! What `ip` is told: a namespace with one interface `eth0`, which is the other end of a port of a bridge.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

pub struct Attachment {
    pub namespace: String,
    /// Where the other end of its interface is; the sandbox's own namespace if none is named.
    pub home: Option<String>,
    pub link: Link,
    /// The other end of its interface.
    pub port: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub gateway4: Ipv4Addr,
    pub gateway6: Ipv6Addr,
}

/// What the other end is.
pub enum Link {
    /// A port of a bridge, which has the gateway's addresses. With the length of the IPv4 network.
    Bridge(String, u8),
    /// The gateway itself, which routes to this one address.
    Routed,
}

impl Attachment {
    pub fn make(&self) -> anyhow::Result<()> {
        let Self {
            namespace,
            port,
            v4,
            v6,
            gateway4,
            gateway6,
            ..
        } = self;
        ip(&["netns", "add", namespace], "")?;
        // The same in every life of a host, since its neighbours remember it.
        let [a, b, c, d] = v4.octets();
        let address = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let pair = format!(
            "link add {port} type veth peer name eth0 address {address} netns {namespace}\n"
        );
        let rest = match &self.link {
            Link::Bridge(bridge, _) => format!("link set {port} master {bridge} up\n"),
            Link::Routed => format!(
                "link set {port} up\n\
                 addr add {gateway4}/32 dev {port}\n\
                 addr add {gateway6}/128 dev {port} nodad\n\
                 route add {v4}/32 dev {port}\n\
                 route add {v6}/128 dev {port}\n"
            ),
        };
        self.at_home(&["-batch", "-"], &format!("{pair}{rest}"))
    }

    /// Addresses and routes of the interface inside. Duplicate address detection must be off by then.
    pub fn configure(&self) -> anyhow::Result<()> {
        let Self {
            v4,
            v6,
            gateway4,
            gateway6,
            ..
        } = self;
        let (length4, length6) = match &self.link {
            Link::Bridge(_, length) => (*length, 64),
            Link::Routed => (32, 128),
        };
        ip(
            &["-n", &self.namespace, "-batch", "-"],
            &format!(
                "link set lo up\n\
                 addr add {v4}/{length4} dev eth0\n\
                 addr add {v6}/{length6} dev eth0 nodad\n\
                 link set eth0 up\n\
                 route add default via {gateway4} dev eth0 onlink\n\
                 route add default via {gateway6} dev eth0 onlink\n"
            ),
        )
    }

    /// Removes the namespace, and with it the interface and its other end.
    pub fn remove(&self) -> anyhow::Result<()> {
        // A process that still runs inside would keep the namespace; the port goes at once.
        self.at_home(&["link", "del", &self.port], "")?;
        ip(&["netns", "del", &self.namespace], "")
    }

    fn at_home(&self, args: &[&str], input: &str) -> anyhow::Result<()> {
        match &self.home {
            Some(namespace) => ip(&[&["-n", namespace], args].concat(), input),
            None => ip(args, input),
        }
    }
}

/// Runs `ip`, feeding it `input`; fails with what it said.
pub fn ip(args: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip (package iproute2)")?;
    let mut stdin = child.stdin.take().context("stdin was piped")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}\n{input}", args.join(" "), said.trim());
    }
    Ok(())
}
