//! Real nodes: kubelet, containerd, runc, a bridge for pods, kube-proxy with nftables, and kube-router
//! where NetworkPolicies are to be enforced. Each has namespaces of its own on a lab's bridge, so several
//! run side by side and their pods reach each other. It takes root.

mod cgroup;
mod cluster;
mod components;
mod disk;
mod image;
mod images;
mod machine;
mod needs;
mod network;
mod pod;
mod start;

pub use cgroup::Cgroup;
pub use cluster::NodeCluster;
pub use images::{SEAWALL, SHELL, seawall, shell_as};
pub use machine::init;
pub use needs::can_run_a_node;
pub use pod::Pod;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use crate::lab::Host;
use crate::process::{self, Daemon, Outcome};
use crate::run;
use disk::Disk;
use image::Image;
use network::PodNetwork;
use start::Running;

/// Longer than anything that a node does on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What nodes differ in.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// kube-router enforces NetworkPolicies on it.
    pub network_policies: bool,
    /// Packets between pods of the node pass its IP filters, as a real cluster has it.
    pub bridge_netfilter: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            network_policies: true,
            bridge_netfilter: true,
        }
    }
}

/// A node. Dropping it ends all that runs on it.
pub struct Node {
    running: Option<Running>,
    name: String,
    options: NodeOptions,
    /// Its network, which stays while it is off.
    host: Host,
    pods: PodNetwork,
    /// Which stays too.
    disk: Disk,
    dir: PathBuf,
    cgroup: Cgroup,
    /// How long each part of the last start took.
    phases: Vec<(&'static str, Duration)>,
    cluster: Arc<NodeCluster>,
}

impl Node {
    /// Starts one and waits until it is Ready. The name is short, and its own in the cluster.
    pub async fn start(
        cluster: &Arc<NodeCluster>,
        name: &str,
        options: NodeOptions,
    ) -> anyhow::Result<Self> {
        can_run_a_node()?;
        let host = cluster.lab.host(name)?;
        let dir = run::scratch(&format!("node-{name}"))?;
        let run = dir.parent().context("it is in the run's folder")?;
        let leaf = dir.file_name().context("it has a name")?;
        let mut node = Self {
            running: None,
            pods: PodNetwork::next(&host)?,
            disk: Disk::make(dir.join("disk"))?,
            cgroup: Cgroup::of_run(run).child(&leaf.to_string_lossy()),
            name: name.to_owned(),
            phases: Vec::new(),
            cluster: cluster.clone(),
            options,
            host,
            dir,
        };
        node.write_files()?;
        cluster.join(&node.host, &node.pods).await?;
        node.power_on(images::basic().await?).await?;
        Ok(node)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn cluster(&self) -> &Arc<NodeCluster> {
        &self.cluster
    }

    /// Logs and configuration.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// How long the last start took until each of its steps was done, in words.
    pub fn phases(&self) -> String {
        let words = self
            .phases
            .iter()
            .map(|(step, took)| format!("{step} {took:.1?}"));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Puts an image on the node.
    pub async fn load(&self, image: &Image) -> anyhow::Result<()> {
        images::unpack(self.command("ctr")?, image).await
    }

    /// A volume on the node's disk, for the next claim of as much.
    pub async fn volume(&self, name: &str, size: &str) -> anyhow::Result<()> {
        let path = format!("{}/volumes/{name}", machine::DISK);
        self.run("mkdir", &["-p", &path]).await?.success()?;
        let volume = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": size},
                "accessModes": ["ReadWriteOnce"],
                "local": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.name]},
                ]}]}},
            },
        });
        self.cluster.apply(&volume).await.map(drop)
    }

    /// A command that runs on the node, in all of its namespaces.
    pub fn command(&self, program: &str) -> anyhow::Result<Command> {
        Ok(self.running()?.machine.command(program))
    }

    /// Runs a program on the node to its end.
    pub async fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<Outcome> {
        let mut command = self.command(program)?;
        command.args(args);
        process::run(command, "", PATIENCE).await
    }

    /// Ends all that runs on it at once, as a power cut does. It stays a member of the cluster.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let Running {
            kube_router,
            kube_proxy,
            kubelet,
            containerd,
            machine,
        } = running;
        drop((kube_router, kube_proxy, kubelet, containerd));
        machine.end().await?;
        self.cgroup.remove().context("the node's control groups")
    }

    /// Ends all that runs on it, forgets all that the kernel held for it (addresses apart) and what was in
    /// /run, and starts it again with its disk. Waits until it is Ready.
    pub async fn reboot(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.host.renew()?;
        self.cluster.rejoin(&self.host).await?;
        self.power_on(&[]).await
    }

    /// Ends what enforces NetworkPolicies on it, and takes away what that left in the kernel.
    pub async fn remove_kube_router(&mut self) -> anyhow::Result<()> {
        let running = self.running.as_mut().context("the node is off")?;
        drop(running.kube_router.take());
        self.options.network_policies = false;
        let program = self.cluster.plane.tool_path("kube-router")?;
        let mut cleanup = self.running()?.machine.command(program);
        cleanup.arg("--cleanup-config");
        process::run(cleanup, "", PATIENCE)
            .await?
            .success()
            .map(drop)
    }

    /// Starts a pod with these labels on it, in which a shell waits, and waits until it is Ready.
    pub async fn run_pod(
        &self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<Pod> {
        let document = pod::shell(&self.name, namespace, name, labels);
        self.cluster.apply(&document).await?;
        self.pod(namespace, name).await
    }

    /// A pod that runs on it.
    pub async fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        Pod::find(self, namespace, name).await
    }

    /// Fails with what the part's log ends with when one has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let running = self.running.as_mut().context("the node is off")?;
        running.containerd.check()?;
        running.kubelet.check()?;
        running.kube_proxy.check()?;
        running.kube_router.as_mut().map_or(Ok(()), Daemon::check)
    }

    fn running(&self) -> anyhow::Result<&Running> {
        self.running.as_ref().context("the node is off")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running = None;
        self.cluster.leave(&self.host);
        // What can't be removed yet goes when the run ends.
        let _ = self.cgroup.remove();
    }
}
