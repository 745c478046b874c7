//! Pods that are replaced, evicted, moved to another node, and rebooted while they are in quarantine.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::json;

use super::{ENFORCING, PLAIN, installed};
use crate::cluster::node::NodeOptions;
use crate::harness::{case, eventually};
use crate::installed::chatter::{self, Listener};
use crate::installed::{Installed, PATIENCE};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "the replacement of an isolated pod is isolated, and the status says for how long it was not",
            replaced,
        ),
        case(
            "a pod on a node that is rebooted is isolated again, and the status says for how long it was not",
            rebooted,
        ),
    ]
}

const NAMESPACE: &str = "replaced";

const ISOLATION: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Isolation
metadata: {name: api}
spec:
  target: {workload: {podSelector: {matchLabels: {app: api}}}}
  reason: Miner
";

async fn replaced() -> anyhow::Result<()> {
    let seawall = installed().await?;
    seawall.cluster.namespace(NAMESPACE).await?;
    let (listener, first) = heard_from(&seawall, PLAIN, "replaced").await?;
    isolate(&seawall).await?;
    covered(&seawall, PLAIN, &first).await?;
    listener.is_silent(address(&seawall, &first).await?).await?;

    let began = Instant::now();
    evict(&seawall, &first).await?;
    let second = the_pod(&seawall, &first).await?;
    covered(&seawall, PLAIN, &second).await?;
    judge_gap(&seawall, &listener, &second, began).await?;

    // Its Deployment moves it to the other node.
    let began = Instant::now();
    let moved = deployment(ENFORCING, &listener);
    seawall.cluster.apply(&moved).await?;
    let third = the_pod(&seawall, &second).await?;
    covered(&seawall, ENFORCING, &third).await?;
    judge_gap(&seawall, &listener, &third, began).await
}

async fn rebooted() -> anyhow::Result<()> {
    const KEEPER: &str = "keeper";
    const OTHER: &str = "other";
    let nodes = [KEEPER, OTHER].map(|name| (name, NodeOptions::default()));
    let pinned = format!("nodeSelector.kubernetes\\.io/hostname={KEEPER}");
    let mut seawall = Installed::start(&nodes, &[&pinned]).await?;
    seawall.cluster.namespace(NAMESPACE).await?;
    let (listener, pod) = heard_from(&seawall, OTHER, "outside").await?;
    isolate(&seawall).await?;
    covered(&seawall, OTHER, &pod).await?;

    let began = Instant::now();
    let other = seawall.nodes.iter_mut();
    let mut other = other.filter(|node| node.name() == OTHER);
    other.next().context("it was started")?.reboot().await?;
    seawall.wait_ready().await?;
    seawall.node(OTHER).pod(NAMESPACE, &pod).await?;
    covered(&seawall, OTHER, &pod).await?;
    judge_gap(&seawall, &listener, &pod, began).await
}

/// A Deployment's pod on the node, once it is heard by a host of that name.
async fn heard_from(
    seawall: &Installed,
    node: &str,
    host: &str,
) -> anyhow::Result<(Listener, String)> {
    let listener = Listener::start(seawall.cluster.host(host).await?).await?;
    let began = Instant::now();
    seawall.cluster.apply(&deployment(node, &listener)).await?;
    let pod = the_pod(seawall, "").await?;
    let address = address(seawall, &pod).await?;
    eventually("the pod to be heard", PATIENCE, || async {
        Ok(listener.heard(address, began))
    })
    .await?;
    Ok((listener, pod))
}

async fn isolate(seawall: &Installed) -> anyhow::Result<()> {
    let apply = ["apply", "-n", NAMESPACE, "-f", "-"];
    seawall.kubectl(&apply, ISOLATION).await.map(drop)
}

/// That the pod is silent now, and was not heard for longer than the status says.
async fn judge_gap(
    seawall: &Installed,
    listener: &Listener,
    pod: &str,
    since: Instant,
) -> anyhow::Result<()> {
    let address = address(seawall, pod).await?;
    listener.is_silent(address).await?;
    let heard = listener.heard(address, since);
    let heard = heard.map_or(Duration::ZERO, |(first, last)| last - first);
    eprintln!("{pod} was heard for {heard:.1?} before it was cut off");
    // The kubelet tells when a container started in whole seconds.
    let said = heard.saturating_sub(Duration::from_secs(1));
    // Words and numbers of a status are written every half minute.
    eventually("the status to tell the gap", PATIENCE, || async {
        let isolation = seawall.get(NAMESPACE, "isolation", "api").await?;
        let told = isolation["status"]["workloads"]["longestGapSeconds"].as_u64();
        // None when it knows of none.
        let told = Duration::from_secs(told.unwrap_or_default());
        Ok((told >= said).then_some(()))
    })
    .await
}

/// As `kubectl drain` does.
async fn evict(seawall: &Installed, pod: &str) -> anyhow::Result<()> {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE},
    });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction");
    let create = ["create", "--raw", &path, "-f", "-"];
    seawall
        .kubectl(&create, &eviction.to_string())
        .await
        .map(drop)
}

fn deployment(node: &str, listener: &Listener) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "api", "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": "api"}},
            "template": {
                "metadata": {"labels": {"app": "api"}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "terminationGracePeriodSeconds": 1,
                    "containers": [chatter::container(listener)],
                },
            },
        },
    })
}

/// The name of the Deployment's pod, once it is another than that, and Ready.
async fn the_pod(seawall: &Installed, but: &str) -> anyhow::Result<String> {
    let list = [
        "get", "pods", "-n", NAMESPACE, "-l", "app=api", "-o", "name",
    ];
    let name = eventually("the Deployment's pod", PATIENCE, || async {
        let names = seawall.kubectl(&list, "").await?;
        let names = names.lines().filter_map(|name| name.strip_prefix("pod/"));
        let others: Vec<&str> = names.filter(|name| *name != but).collect();
        Ok(others.first().map(ToString::to_string))
    });
    let name = name.await?;
    seawall.cluster.wait_pod(NAMESPACE, &name).await?;
    Ok(name)
}

async fn address(seawall: &Installed, pod: &str) -> anyhow::Result<IpAddr> {
    let pod = seawall.get(NAMESPACE, "pod", pod).await?;
    let address = pod["status"]["podIP"].as_str();
    Ok(address.context("the pod has an address")?.parse()?)
}

/// Waits until this pod, and no other, is told to be cut off, and the node's kernel has its address.
async fn covered(seawall: &Installed, node: &str, pod: &str) -> anyhow::Result<()> {
    eventually(&format!("{pod} to be cut off"), PATIENCE, || async {
        let list = ["list", "table", "inet", "seawall"];
        let table = seawall.node(node).run("nft", &list).await?.success()?;
        let address = address(seawall, pod).await?;
        let isolation = seawall.get(NAMESPACE, "isolation", "api").await?;
        let summary = &isolation["status"]["workloads"]["summary"];
        let in_kernel = table.contains(&address.to_string());
        Ok((summary == "1/1" && in_kernel).then_some(()))
    })
    .await
}
