//! Pods that are replaced while they are in quarantine.

use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::json;

use super::{PLAIN, installed};
use crate::cluster::node::SHELL;
use crate::harness::{case, eventually};
use crate::installed::PATIENCE;
use crate::lab::{Reach, Responder, reach};

pub fn all() -> Vec<Trial> {
    vec![case(
        "the replacement of an isolated pod is isolated, and the status says for how long it was not",
        replaced,
    )]
}

const ANSWER: Duration = Duration::from_millis(1500);
const PORT: u16 = 7000;
const NAMESPACE: &str = "replaced";

const ISOLATION: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Isolation
metadata: {name: api, namespace: replaced}
spec:
  target: {workload: {podSelector: {matchLabels: {app: api}}}}
  reason: Miner
";

async fn replaced() -> anyhow::Result<()> {
    let seawall = installed().await?;
    let node = seawall.node(PLAIN);
    seawall.cluster.namespace(NAMESPACE).await?;
    let beside = node
        .run_pod(NAMESPACE, "beside", &[("app", "beside")])
        .await?;
    let responder = Responder::start(&beside.host, PORT).await?;
    seawall.cluster.apply(&deployment(node.name())).await?;
    let first = the_pod("").await?;
    seawall.kubectl(&["apply", "-f", "-"], ISOLATION).await?;
    covered(&first).await?;
    let pod = node.pod(NAMESPACE, &first).await?;
    let found = reach(&pod.host, &responder, ANSWER).await?;
    ensure!(found == Reach::NONE, "the first reaches {found:?}");

    seawall
        .kubectl(&["delete", "pod", "-n", NAMESPACE, &first], "")
        .await?;
    let second = the_pod(&first).await?;
    covered(&second).await?;
    let pod = node.pod(NAMESPACE, &second).await?;
    let found = reach(&pod.host, &responder, ANSWER).await?;
    ensure!(found == Reach::NONE, "the second reaches {found:?}");
    let isolation = seawall.get(NAMESPACE, "isolation", "api").await?;
    let gap = &isolation["status"]["workloads"]["longestGapSeconds"];
    let gap = gap.as_i64().context("the status tells the gap")?;
    eprintln!("a pod that replaces an isolated one ran {gap} s uncovered, in whole seconds");
    ensure!((0..30).contains(&gap), "{isolation}");
    Ok(())
}

fn deployment(node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "api", "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "api"}},
            "template": {
                "metadata": {"labels": {"app": "api"}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "main", "image": SHELL, "imagePullPolicy": "Never"}],
                },
            },
        },
    })
}

/// The name of the Deployment's pod, once it is another than that, and Ready.
async fn the_pod(but: &str) -> anyhow::Result<String> {
    let seawall = installed().await?;
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

/// Waits until this pod, and no other, is told to be cut off.
async fn covered(pod: &str) -> anyhow::Result<()> {
    let seawall = installed().await?;
    eventually(&format!("{pod} to be cut off"), PATIENCE, || async {
        let named = seawall
            .node(PLAIN)
            .run("nft", &["list", "table", "inet", "seawall"]);
        let address = seawall.get(NAMESPACE, "pod", pod).await?;
        let address = address["status"]["podIP"]
            .as_str()
            .unwrap_or("none")
            .to_owned();
        let isolation = seawall.get(NAMESPACE, "isolation", "api").await?;
        let summary = &isolation["status"]["workloads"]["summary"];
        let in_kernel = named.await?.success()?.contains(&address);
        Ok((summary == "1/1" && in_kernel).then_some(()))
    })
    .await
}
