//! How nodes start, end and start again, and what they leave behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::Trial;

use super::two;
use crate::cluster::node::{Node, NodeOptions};
use crate::harness::case;
use crate::lab::{Connection, Family, Responder, connect};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a node that is rebooted forgets what its kernel held and runs its pods again",
            reboot,
        ),
        case("a node that ends leaves nothing behind", leaves_nothing),
        case(
            "packets between pods of one bridge pass the node's filters, or not, as it is told",
            bridge_netfilter,
        ),
    ]
}

const LIMIT: Duration = Duration::from_millis(500);

/// Nothing is forwarded on a node where this is loaded.
const DROP: &str = "add table inet cut\n\
    add chain inet cut forward { type filter hook forward priority -10; }\n\
    add rule inet cut forward drop\n";

async fn reboot() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("reboot").await?;
    let mut node = Node::start(cluster, "rebooted", NodeOptions::default()).await?;
    let before = node.run_pod("reboot", "stays", &[]).await?;
    node.host().nft(DROP).await?;
    let tables = node.host().run("nft", &["list", "tables"], "").await?;
    assert!(tables.success()?.contains("table inet cut"));
    drop(before);
    let folder = "/var/lib/kept";
    node.run("mkdir", &[folder]).await?.success()?;

    node.reboot().await?;
    eprintln!("after a reboot: {}", node.phases());
    let after = node.pod("reboot", "stays").await?;
    let tables = node.host().run("nft", &["list", "tables"], "").await?;
    assert!(!tables.success()?.contains("table inet cut"));
    node.run("ls", &[folder]).await?.success()?;
    assert!(!Path::new(folder).exists(), "it is on the node's disk");
    let said = cluster.exec("reboot", "stays", &["echo", "back"]).await?;
    assert_eq!(said.trim(), "back");
    let beside = cluster.host("after").await?;
    let responder = Responder::start(&after.host, 7000).await?;
    let address = responder.address(Family::V4);
    let found = connect(&beside, address, Duration::from_secs(5)).await?;
    assert_eq!(found, Connection::Answered);
    Ok(())
}

/// How many processes are in the mount namespace.
fn processes_in(namespace: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        // One that ends meanwhile has none.
        let found = fs::read_link(entry?.path().join("ns/mnt"));
        count += usize::from(found.is_ok_and(|found| found == namespace));
    }
    Ok(count)
}

/// Every process whose command line has the word: a node's programs and the shims of its containers.
fn processes_about(word: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(word) {
            found.insert(path);
        }
    }
    Ok(found)
}

/// The sandbox's mounts, but for those that other tests make and end meanwhile: namespaces of hosts, and
/// disks of nodes that are not in the folder.
fn mounts(folder: &str) -> anyhow::Result<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let others = |line: &&str| {
        line.contains("/run/netns/") || line.contains("/node-") && !line.contains(folder)
    };
    let lines = mounts.lines().filter(|line| !others(line));
    Ok(lines.map(str::to_owned).collect())
}

async fn leaves_nothing() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("leaves").await?;
    let mut node = Node::start(cluster, "leaves", NodeOptions::default()).await?;
    let folder = node.dir().display().to_string();
    let disks = mounts(&folder)?.len() - mounts("of no node")?.len();
    assert_eq!(disks, 1);
    drop(node.run_pod("leaves", "pod", &[]).await?);

    let said = node
        .run("readlink", &["/proc/self/ns/mnt"])
        .await?
        .success()?;
    let namespace = PathBuf::from(said.trim());
    let said = node.run("cat", &["/proc/mounts"]).await?.success()?;
    assert!(
        said.contains("/run/node/containerd") || said.contains("/run/containerd"),
        "{said}"
    );
    // The first process, containerd, its shim, kubelet, kube-proxy, kube-router.
    assert!(processes_in(&namespace)? >= 6);
    assert!(processes_about(&folder)?.len() >= 4);
    assert!(node.cgroup().exists());
    let named = format!(
        "/run/netns/{}",
        node.host().namespace_name().context("its own")?
    );
    assert!(Path::new(&named).exists());

    node.stop().await?;
    assert_eq!(processes_in(&namespace)?, 0);
    assert_eq!(processes_about(&folder)?, BTreeSet::new());
    assert!(!node.cgroup().exists());
    drop(node);
    assert_eq!(mounts(&folder)?, mounts("of no node")?);
    assert!(!Path::new(&named).exists());
    Ok(())
}

async fn bridge_netfilter() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("bridged").await?;
    for bridge_netfilter in [true, false] {
        let name = if bridge_netfilter {
            "filters"
        } else {
            "bridges"
        };
        let options = NodeOptions {
            network_policies: false,
            bridge_netfilter,
        };
        let node = Node::start(cluster, name, options).await?;
        let [one, other] = [format!("{name}-one"), format!("{name}-other")];
        let (one, other) = tokio::try_join!(
            node.run_pod("bridged", &one, &[]),
            node.run_pod("bridged", &other, &[]),
        )?;
        let responder = Responder::start(&one.host, 7000).await?;
        let address = responder.address(Family::V4);
        assert_eq!(
            connect(&other.host, address, LIMIT).await?,
            Connection::Answered
        );
        node.host().nft(DROP).await?;
        let wanted = match bridge_netfilter {
            true => Connection::Silent,
            false => Connection::Answered,
        };
        assert_eq!(
            connect(&other.host, address, LIMIT).await?,
            wanted,
            "{name}"
        );
    }
    Ok(())
}
