//! A pod that runs on a node, as a host of the lab: programs and sockets in its network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::Value;

use super::Node;
use crate::lab::Host;

pub struct Pod {
    /// It keeps the namespace when the pod goes, but no longer its network.
    pub host: Host,
    pub namespace: String,
    pub name: String,
}

impl Pod {
    pub(super) async fn find(node: &Node, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let pod = node.cluster().wait_pod(namespace, name).await?;
        let uid = pod.metadata.uid.context("a pod has a uid")?;
        let status = pod.status.context("a pod that is Ready has a status")?;
        let (mut v4, mut v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        for ip in status.pod_ips.into_iter().flatten() {
            match ip.ip.parse()? {
                IpAddr::V4(address) => v4 = address,
                IpAddr::V6(address) => v6 = address,
            }
        }
        let file = network_namespace(node, &uid).await?;
        Ok(Self {
            host: Host::foreign(name, &file, v4, v6)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// The file of the pod's network namespace, by its sandbox in containerd.
async fn network_namespace(node: &Node, uid: &str) -> anyhow::Result<PathBuf> {
    let filter = format!(
        "labels.\"io.kubernetes.pod.uid\"=={uid},labels.\"io.cri-containerd.kind\"==sandbox"
    );
    let list = ["-n", "k8s.io", "containers", "ls", "-q", &filter];
    let ids = node.run("ctr", &list).await?.success()?;
    for id in ids.split_whitespace() {
        let info = ["-n", "k8s.io", "containers", "info", id];
        let info: Value = serde_json::from_str(&node.run("ctr", &info).await?.success()?)?;
        let namespaces = info["Spec"]["linux"]["namespaces"].as_array();
        let network = namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network");
        if let Some(path) = network.and_then(|network| network["path"].as_str()) {
            // /var/run is a link, which would be followed out of the node.
            let path = path.replacen("/var/run/", "/run/", 1);
            let file = node.running()?.machine.path(&path);
            // The one of a sandbox that has ended is gone.
            if file.exists() {
                return Ok(file);
            }
        }
    }
    bail!("no sandbox of pod {uid} runs on {}", node.name())
}
