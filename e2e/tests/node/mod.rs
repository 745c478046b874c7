//! Real nodes: that they are what a cluster's nodes are, and that nothing of them is left behind.

mod node_life;
mod node_pods;
mod node_policies;

use std::time::Instant;

use anyhow::Context;
use libtest_mimic::Trial;

use crate::cluster::node::{Node, NodeCluster, NodeOptions, can_run_a_node};
use crate::shared::{Held, Shared};

pub fn all() -> Vec<Trial> {
    let trials = [node_life::all(), node_pods::all(), node_policies::all()];
    unless_impossible(trials.into_iter().flatten().collect())
}

/// The trials, marked as skipped with the reason where no node can run.
pub fn unless_impossible(trials: Vec<Trial>) -> Vec<Trial> {
    match can_run_a_node() {
        Ok(()) => trials,
        Err(why) => trials
            .into_iter()
            .map(|trial| {
                let kind = format!("skipped: {why:#}");
                trial.with_kind(kind).with_ignored_flag(true)
            })
            .collect(),
    }
}

/// Two nodes of one cluster that tests share, each in a namespace of its own.
struct Two {
    /// kube-router runs on it.
    enforcing: Node,
    /// Nobody enforces NetworkPolicies on it.
    plain: Node,
}

async fn two() -> anyhow::Result<Held<Two>> {
    static SHARED: Shared<Two> = Shared::new();
    SHARED.get(start_two).await
}

async fn start_two() -> anyhow::Result<Two> {
    let began = Instant::now();
    let cluster = NodeCluster::start().await?;
    let plane = began.elapsed();
    let plain = NodeOptions {
        network_policies: false,
        ..NodeOptions::default()
    };
    let (enforcing, plain) = tokio::try_join!(
        Node::start(&cluster, "enforcing", NodeOptions::default()),
        Node::start(&cluster, "plain", plain),
    )
    .context("starting two nodes")?;
    eprintln!(
        "control plane after {plane:.1?}, then {}",
        enforcing.phases()
    );
    Ok(Two { enforcing, plain })
}
