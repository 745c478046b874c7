//! A node joins a cluster and runs pods.

use std::time::Instant;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::cluster::node::{Node, NodeCluster, NodeOptions, SHELL};
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![case("a node gets Ready and runs a pod", runs_a_pod)]
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": SHELL, "imagePullPolicy": "Never"}],
        },
    })
}

async fn runs_a_pod() -> anyhow::Result<()> {
    let began = Instant::now();
    let cluster = NodeCluster::start().await?;
    eprintln!("control plane {:?}", began.elapsed());
    let node = Node::start(&cluster, "a", NodeOptions::default()).await?;
    eprintln!("{:?}", node.phases());
    let applied = Instant::now();
    cluster.apply(&pod("first")).await?;
    let first = node.pod("default", "first").await?;
    eprintln!(
        "pod {:?} {} {}",
        applied.elapsed(),
        first.host.v4(),
        first.host.v6()
    );
    let said = cluster.exec("default", "first", &["echo", "hello"]).await?;
    assert_eq!(said.trim(), "hello");
    Ok(())
}
