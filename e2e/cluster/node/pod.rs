//! A pod that runs on a node, as a host of the lab: programs and sockets in its network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::{Node, PATIENCE, SHELL};
use crate::harness::eventually;
use crate::lab::Host;

pub struct Pod {
    /// It keeps the namespace when the pod goes, but no longer its network.
    pub host: Host,
    pub name: String,
}

impl Pod {
    /// Waits until it is Ready and has the addresses that its status says: after a reboot of the node the
    /// status is that of its last life for a while.
    pub(super) async fn find(node: &Node, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let what = format!("pod {namespace}/{name} to run on {}", node.name());
        eventually(&what, PATIENCE, || async {
            let pod = Self::as_told(node, namespace, name).await?;
            let addresses = pod.host.run("ip", &["-o", "-4", "addr"], "").await?;
            let wanted = format!("inet {}/", pod.host.v4());
            Ok(addresses.success()?.contains(&wanted).then_some(pod))
        })
        .await
    }

    async fn as_told(node: &Node, namespace: &str, name: &str) -> anyhow::Result<Self> {
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
            name: name.to_owned(),
        })
    }
}

/// A pod on the node with these labels, in which a shell waits.
pub(super) fn shell(node: &str, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Value {
    let labels: Map<String, Value> = labels
        .iter()
        .map(|&(label, value)| (label.to_owned(), value.into()))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "shell", "image": SHELL, "imagePullPolicy": "Never"}],
        },
    })
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
