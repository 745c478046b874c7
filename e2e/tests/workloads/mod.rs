//! Pods under policies and in quarantine, with every part real: nodes, pods, Seawall as helm installs it, and
//! packets.

mod pod_security;
mod pods_come_and_go;
mod pods_explained;
mod pods_isolated;
mod pods_under_policies;
mod pods_without_agent;
mod quickstart;

use anyhow::Context;
use libtest_mimic::Trial;

use super::node;
use crate::cluster::node::{NodeOptions, Pod};
use crate::installed::{ALLOW_ALL, Installed, WITHOUT_AGENTS};
use crate::lab::Host;
use crate::shared::{Held, Shared};

pub fn all() -> Vec<Trial> {
    let trials = [
        pod_security::all(),
        pods_come_and_go::all(),
        pods_explained::all(),
        pods_isolated::all(),
        pods_under_policies::all(),
        quickstart::all(),
        pods_without_agent::all(),
    ];
    node::unless_impossible(trials.into_iter().flatten().collect())
}

/// On one node kube-router enforces NetworkPolicies, on the other nobody does.
const ENFORCING: &str = "enforcing";
const PLAIN: &str = "plain";

/// A cluster that tests share, each in namespaces of its own.
async fn installed() -> anyhow::Result<Held<Installed>> {
    static SHARED: Shared<Installed> = Shared::new();
    let start = || async {
        let plain = NodeOptions {
            network_policies: false,
            ..NodeOptions::default()
        };
        let nodes = [(ENFORCING, NodeOptions::default()), (PLAIN, plain)];
        Installed::start(&nodes, &[]).await
    };
    SHARED.get(start).await
}

/// The node of a cluster without agents, where nobody enforces NetworkPolicies either.
const BARE: &str = "bare";

/// That cluster, which tests share too.
async fn without_agents() -> anyhow::Result<Held<Installed>> {
    static SHARED: Shared<Installed> = Shared::new();
    let start = || async {
        let options = NodeOptions {
            network_policies: false,
            ..NodeOptions::default()
        };
        Installed::start(&[(BARE, options)], &[WITHOUT_AGENTS]).await
    };
    SHARED.get(start).await
}

/// A namespace with two pods on one bridge and one on the other node, whose owner allows everything from
/// everywhere, and a host beside the cluster.
struct Shop {
    seawall: Held<Installed>,
    namespace: String,
    /// On the node that is tried.
    suspect: Pod,
    neighbour: Pod,
    /// On the other node.
    far: Pod,
    outside: Host,
}

impl Shop {
    async fn open(namespace: &str, node: &str) -> anyhow::Result<Self> {
        let seawall = installed().await?;
        let cluster = &seawall.cluster;
        cluster.namespace(namespace).await?;
        seawall
            .kubectl(&["apply", "-n", namespace, "-f", "-"], ALLOW_ALL)
            .await?;
        let other = [ENFORCING, PLAIN].into_iter().find(|it| *it != node);
        let other = seawall.node(other.context("there are two")?);
        let node = seawall.node(node);
        let web = [("app", "web")];
        let (suspect, neighbour, far, outside) = tokio::try_join!(
            node.run_pod(namespace, "suspect", &web),
            node.run_pod(namespace, "neighbour", &[("app", "db")]),
            other.run_pod(namespace, "far", &[("app", "far")]),
            cluster.host(namespace),
        )?;
        Ok(Self {
            seawall,
            namespace: namespace.to_owned(),
            suspect,
            neighbour,
            far,
            outside,
        })
    }

    /// Writes a resource of the namespace.
    async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let args = ["apply", "-n", &self.namespace, "-f", "-"];
        self.seawall.kubectl(&args, yaml).await.map(drop)
    }

    async fn condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        status: &str,
    ) -> anyhow::Result<()> {
        let object = (&*self.namespace, kind, name);
        self.seawall.condition(object, condition, status).await
    }
}
