//! How a node is started: its files, its programs, and until when it counts as Ready.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node as NodeResource;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::image::Image;
use super::machine::Machine;
use super::{Node, PATIENCE, components, images, needs, network};
use crate::harness::eventually;
use crate::process::Daemon;

/// What runs on a node that is on.
pub(super) struct Running {
    // Dropped from top to bottom.
    pub kube_router: Option<Daemon>,
    pub kube_proxy: Daemon,
    pub kubelet: Daemon,
    pub containerd: Daemon,
    pub machine: Machine,
}

impl Node {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn write_files(&self) -> anyhow::Result<()> {
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

    pub(super) async fn power_on(&mut self, needed: &[Image]) -> anyhow::Result<()> {
        let began = Instant::now();
        self.phases.clear();
        network::forward(&self.host, self.options.bridge_netfilter).await?;
        self.cgroup.make()?;
        let machine = Machine::start(&self.host, &self.disk, &self.dir).await?;
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
        // Before the kubelet: one that looks at the mounts while an image is unpacked gives up.
        for image in needed {
            images::unpack(machine.command("ctr"), image).await?;
        }
        self.phases.push(("images", began.elapsed()));
        self.running = Some(self.start_parts(machine, containerd)?);
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
