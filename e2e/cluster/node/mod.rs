//! Real nodes: kubelet, containerd, runc, a bridge for pods, kube-proxy with nftables, and kube-router
//! where NetworkPolicies are to be enforced. Each has namespaces of its own on a lab's bridge, so several
//! run side by side and their pods reach each other. It takes root.

mod cgroup;
mod cluster;
mod components;
mod image;
mod images;
mod machine;
mod needs;
mod network;
mod pod;

pub use cgroup::Cgroup;
pub use cluster::NodeCluster;
pub use images::{SEAWALL, SHELL, seawall};
pub use machine::init;
pub use needs::can_run_a_node;
pub use pod::Pod;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node as NodeResource;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::lab::Host;
use crate::process::{self, Daemon, Outcome};
use crate::run;
use image::Image;
use machine::Machine;
use network::PodNetwork;

/// Longer than anything that a node does on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What nodes differ in.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// kube-router enforces NetworkPolicies on it.
    pub network_policies: bool,
    /// Packets between pods of the node pass its IP filters, as a real cluster has it.
    pub bridge_netfilter: bool,
    pub labels: Vec<(String, String)>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            network_policies: true,
            bridge_netfilter: true,
            labels: Vec::new(),
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
    dir: PathBuf,
    cgroup: Cgroup,
    images: Vec<Image>,
    /// How long each part of the last start took.
    phases: Vec<(&'static str, Duration)>,
    cluster: Arc<NodeCluster>,
}

struct Running {
    // Dropped from top to bottom.
    kube_router: Option<Daemon>,
    kube_proxy: Daemon,
    kubelet: Daemon,
    containerd: Daemon,
    machine: Machine,
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
            cgroup: Cgroup::of_run(run).child(&leaf.to_string_lossy()),
            name: name.to_owned(),
            images: images::basic().await?.to_vec(),
            phases: Vec::new(),
            cluster: cluster.clone(),
            options,
            host,
            dir,
        };
        node.write_files()?;
        cluster.join(&node.host, &node.pods).await?;
        node.power_on().await?;
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

    /// The network of its pods, IPv4.
    pub fn pod_cidr(&self) -> String {
        self.pods.v4()
    }

    pub fn phases(&self) -> &[(&'static str, Duration)] {
        &self.phases
    }

    /// Puts an image on the node, now and after each reboot.
    pub async fn load(&mut self, image: &Image) -> anyhow::Result<()> {
        self.import(image).await?;
        self.images.push(image.clone());
        Ok(())
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

    /// Ends all that runs on it, forgets all that the kernel held for it (addresses apart), and starts it
    /// again. Waits until it is Ready.
    pub async fn reboot(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.host.renew()?;
        self.cluster.rejoin(&self.host).await?;
        self.power_on().await
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

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write_files(&self) -> anyhow::Result<()> {
        let plane = &self.cluster.plane;
        let serving = plane
            .ground
            .authority
            .server(&self.name, self.host.v4().into())?;
        let serving = serving.write(&self.dir, "kubelet")?;
        let authority = plane.dir().join("ca.crt");
        let (cni, resolv) = (self.file("cni"), self.file("resolv.conf"));
        let write = |name: &str, value: &Value| -> anyhow::Result<()> {
            Ok(fs::write(
                self.file(name),
                serde_json::to_vec_pretty(value)?,
            )?)
        };
        fs::create_dir(&cni)?;
        fs::write(&resolv, "")?;
        let containerd = components::containerd(&needs::cni_plugins()?, &cni);
        fs::write(self.file("containerd.toml"), containerd)?;
        write("cni/pods.conflist", &self.pods.cni())?;
        let cgroup = self.cgroup.path();
        let kubelet = components::kubelet(&serving, &authority, &cgroup, &resolv);
        write("kubelet.json", &kubelet)?;
        let kubeconfig = self.kubeconfig("kube-proxy", "system:kube-proxy", &[])?;
        write(
            "kube-proxy.json",
            &components::kube_proxy(&self.name, &kubeconfig),
        )
    }

    fn kubeconfig(&self, part: &str, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        let plane = &self.cluster.plane;
        let name = format!("{}.{part}", self.name);
        plane.ground.kubeconfig(&plane.server, &name, user, groups)
    }

    async fn power_on(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        self.phases.clear();
        network::forward(&self.host, self.options.bridge_netfilter).await?;
        self.cgroup.make()?;
        let machine = Machine::start(&self.host, &self.dir).await?;
        self.phases.push(("machine", began.elapsed()));
        let mut command = machine.command("containerd");
        command.arg("--config").arg(self.file("containerd.toml"));
        let mut containerd = Daemon::spawn("containerd", &mut command, &self.dir)?;
        let socket = machine.path("/run/containerd/containerd.sock");
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            containerd.check()?;
            let late = || containerd.log_tail();
            ensure!(Instant::now() < deadline, "no containerd\n{}", late());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.phases.push(("containerd", began.elapsed()));
        self.running = Some(self.start_parts(machine, containerd)?);
        for image in &self.images {
            self.import(image).await?;
        }
        self.phases.push(("images", began.elapsed()));
        self.wait_ready().await?;
        self.phases.push(("Ready", began.elapsed()));
        Ok(())
    }

    fn start_parts(&self, machine: Machine, containerd: Daemon) -> anyhow::Result<Running> {
        let plane = &self.cluster.plane;
        let user = format!("system:node:{}", self.name);
        let kubeconfig = self.kubeconfig("kubelet", &user, &["system:nodes"])?;
        let mut kubelet = components::kubelet_command(
            &machine,
            &plane.tool_path("kubelet")?,
            &self.name,
            &format!("{},{}", self.host.v4(), self.host.v6()),
            &self.file("kubelet.json"),
            &kubeconfig,
        );
        for (label, value) in &self.options.labels {
            kubelet.arg(format!("--node-labels={label}={value}"));
        }
        let kubelet = Daemon::spawn("kubelet", &mut kubelet, &self.dir)?;
        let mut proxy = machine.command(plane.tool_path("kube-proxy")?);
        proxy.arg(format!(
            "--config={}",
            self.file("kube-proxy.json").display()
        ));
        let kube_proxy = Daemon::spawn("kube-proxy", &mut proxy, &self.dir)?;
        Ok(Running {
            kube_router: None,
            kube_proxy,
            kubelet,
            containerd,
            machine,
        })
    }

    async fn import(&self, image: &Image) -> anyhow::Result<()> {
        let mut command = self.command("ctr")?;
        command.args(images::import(&image.archive));
        process::run(command, "", PATIENCE).await?.success()?;
        Ok(())
    }

    /// Until the kubelet has said Ready in this start, with the pods' network known to all.
    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let nodes: Api<NodeResource> = Api::all(self.cluster.plane.admin());
        let name = self.name.clone();
        let since = jiff::Timestamp::now();
        let registered = eventually("the node to register", PATIENCE, || async {
            Ok(nodes.get_opt(&name).await?)
        });
        let registered = registered.await;
        self.check()?;
        let known = registered?.spec.and_then(|spec| spec.pod_cidr).is_some();
        if !known {
            let networks = [self.pods.v4(), self.pods.v6()];
            let patch = json!({"spec": {"podCIDR": networks[0], "podCIDRs": networks}});
            let params = PatchParams::default();
            nodes.patch(&name, &params, &Patch::Merge(patch)).await?;
        }
        if self.options.network_policies {
            self.start_kube_router()?;
        }
        let ready = eventually("the node to be Ready", PATIENCE, || async {
            let node = nodes.get(&name).await?;
            Ok(is_ready(&node, since).then_some(()))
        });
        let ready = ready.await;
        self.check()?;
        ready.map_err(|error| error.context(self.log_tails()))
    }

    fn start_kube_router(&mut self) -> anyhow::Result<()> {
        let kubeconfig = self.kubeconfig("kube-router", "kube-router", &["system:masters"])?;
        let program = self.cluster.plane.tool_path("kube-router")?;
        let running = self.running.as_mut().context("the node is off")?;
        let mut command =
            components::kube_router(&running.machine, &program, &self.name, &kubeconfig);
        running.kube_router = Some(Daemon::spawn("kube-router", &mut command, &self.dir)?);
        Ok(())
    }

    fn log_tails(&self) -> String {
        let Some(running) = &self.running else {
            return "the node is off".to_owned();
        };
        let parts = [&running.containerd, &running.kubelet, &running.kube_proxy];
        parts.map(Daemon::log_tail).join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running = None;
        // What can't be removed yet goes when the run ends.
        let _ = self.cgroup.remove();
    }
}

/// Whether the kubelet has said so since then.
fn is_ready(node: &NodeResource, since: jiff::Timestamp) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        let heard = condition.last_heartbeat_time.as_ref().map(|time| time.0);
        // Times of conditions are whole seconds.
        let recent = heard.is_some_and(|heard| heard.as_second() >= since.as_second());
        condition.type_ == "Ready" && condition.status == "True" && recent
    })
}
