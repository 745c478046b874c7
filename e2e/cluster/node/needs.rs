//! What a node needs of this machine, beyond what the other tests need.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::Cgroup;
use crate::cluster::toolset::Toolset;
use crate::sandbox;

/// Programs of packages, and which.
const PROGRAMS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("ipset", "ipset"),
    ("busybox", "busybox-static"),
    ("setpriv", "util-linux"),
    ("strip", "binutils"),
];

/// Certificates, which the product's image has as the released one does.
pub const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Why no node can run here, if so.
pub fn can_run_a_node() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root() && sandbox::is_initial_user_namespace(),
        "needs root"
    );
    for (program, package) in PROGRAMS {
        find(program).with_context(|| format!("needs {program} (package {package})"))?;
    }
    cni_plugins()?;
    // Outside the sandbox, where tests are only listed, nobody has looked for it yet.
    if let Ok(tools) = Toolset::from_env() {
        tools.command("kube-router").context("needs kube-router")?;
    }
    ensure!(
        Path::new(AUTHORITIES).exists(),
        "needs {AUTHORITIES} (package ca-certificates)"
    );
    Cgroup::probe()?;
    ensure!(
        Path::new("/dev/kmsg").exists(),
        "needs /dev/kmsg, which a kubelet reads"
    );
    ensure!(
        Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
        "needs the kernel's module br_netfilter"
    );
    Ok(())
}

/// The folder of the CNI plugins.
pub fn cni_plugins() -> anyhow::Result<PathBuf> {
    let dirs = PLUGINS.map(PathBuf::from);
    let found = dirs.into_iter().find(|dir| dir.join("bridge").is_file());
    found.context("needs the CNI plugins (package containernetworking-plugins)")
}

/// The program on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}
