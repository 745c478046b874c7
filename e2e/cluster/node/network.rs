//! The networks of a cluster's pods: one for each node, routed between nodes and to whoever has to reach
//! pods. Nothing is translated on the way but Services.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use crate::lab::Host;
use crate::process;

/// All pods of all clusters.
pub const PODS: &str = "10.41.0.0/16,fd41::/32";
pub const SERVICES: &str = "10.40.0.0/16,fd40::/112";

/// Where the node's pods are: `10.41.<n>.0/24` and `fd41:0:0:<n>::/64`, of the node with this address.
#[derive(Clone)]
pub struct PodNetwork {
    number: u8,
    pub node4: Ipv4Addr,
    pub node6: Ipv6Addr,
}

impl PodNetwork {
    /// One that no other node of this run has.
    pub fn next(node: &Host) -> anyhow::Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(number < 250, "no more networks for nodes in this run");
        Ok(Self {
            number,
            node4: node.v4(),
            node6: node.v6(),
        })
    }

    pub fn v4(&self) -> String {
        format!("10.41.{}.0/24", self.number)
    }

    pub fn v6(&self) -> String {
        format!("fd41:0:0:{}::/64", self.number)
    }

    /// Lets a host find these pods.
    pub async fn route_from(&self, host: &Host) -> anyhow::Result<()> {
        let ip = host.run("ip", &["-batch", "-"], &self.routes()).await?;
        ip.success().map(drop)
    }

    /// The same for the sandbox's own namespace, where the API server is.
    pub async fn route_from_here(&self) -> anyhow::Result<()> {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-batch", "-"]);
        let limit = std::time::Duration::from_secs(10);
        process::run(ip, &self.routes(), limit)
            .await?
            .success()
            .map(drop)
    }

    fn routes(&self) -> String {
        format!(
            "route replace {} via {}\nroute replace {} via {}\n",
            self.v4(),
            self.node4,
            self.v6(),
            self.node6
        )
    }

    /// For containerd: a bridge on the node, and an address of each version for a pod.
    pub fn cni(&self) -> Value {
        json!({
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/run/node/ipam",
                        "ranges": [[{"subnet": self.v4()}], [{"subnet": self.v6()}]],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }
}

/// Makes a host forward between pods and the rest. `bridged`: packets between pods of one bridge pass the
/// filters of IP too.
pub async fn forward(host: &Host, bridged: bool) -> anyhow::Result<()> {
    let bridged = if bridged { "1" } else { "0" };
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
        ("bridge/bridge-nf-call-iptables", bridged),
        ("bridge/bridge-nf-call-ip6tables", bridged),
    ];
    host.inside(move || {
        for (name, value) in settings {
            let path = format!("/proc/sys/net/{name}");
            std::fs::write(&path, value).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        }
        Ok(())
    })
    .await?
}
