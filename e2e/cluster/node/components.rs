//! What a node's programs are told: configuration files and command lines.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::machine::Machine;
use super::network::{PODS, SERVICES};
use crate::cluster::pki::IdentityFiles;

pub const PAUSE: &str = "localhost/pause:test";

/// Settings of containerd 1.6 and 1.7, which 2 still reads.
pub fn containerd(plugins: &Path, cni: &Path) -> String {
    format!(
        r#"version = 2
root = "/run/node/containerd"
state = "/run/containerd"
oom_score = 0
# They would make folders or look for devices on the real machine.
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Root in a container often may not lower the score, and every pod would fail.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "{}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        plugins.display(),
        cni.display()
    )
}

pub fn kubelet(serving: &IdentityFiles, authority: &Path, cgroup: &str, resolv: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.certificate,
        "tlsPrivateKeyFile": serving.key,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "resolvConf": resolv,
        "volumePluginDir": "/run/node/volume-plugins",
        // A full disk of a developer is no reason to evict.
        "evictionHard": {
            "memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%",
            "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
    })
}

pub fn kubelet_command(
    machine: &Machine,
    program: &Path,
    node: &str,
    addresses: &str,
    config: &Path,
    kubeconfig: &Path,
) -> Command {
    let mut command = machine.command(program);
    command
        .arg(format!("--config={}", config.display()))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--hostname-override={node}"))
        .arg(format!("--node-ip={addresses}"))
        .arg("--root-dir=/run/node/kubelet")
        .arg("--cert-dir=/run/node/pki");
    command
}

pub fn kube_proxy(node: &str, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": node,
        "clusterCIDR": PODS,
        "detectLocalMode": "ClusterCIDR",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        // The size of the table is the whole machine's.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}

pub fn kube_router(machine: &Machine, program: &Path, node: &str, kubeconfig: &Path) -> Command {
    let mut command = machine.command(program);
    command
        .arg("--run-firewall=true")
        .arg("--run-router=false")
        .arg("--run-service-proxy=false")
        .arg("--enable-cni=false")
        .arg("--enable-ipv6=true")
        .arg("--health-port=0")
        .arg(format!("--service-cluster-ip-range={SERVICES}"))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--hostname-override={node}"));
    command
}
