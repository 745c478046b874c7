//! Seawall as helm installs it, on a cluster of real nodes: operator and MCP server in a pod, an agent on each
//! node, all from the image.

pub mod chatter;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::Api;
use serde_json::{Map, Value, json};

use crate::charts::{self, SYSTEM};
use crate::cluster::free_port;
use crate::cluster::node::{Node, NodeCluster, NodeOptions, SEAWALL, seawall};
use crate::harness::eventually;
use crate::process::Daemon;
use crate::site::McpClient;

/// Longer than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the owner of pods may have written, so that no other NetworkPolicy cuts anything.
pub const ALLOW_ALL: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-all}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{}]
  egress: [{}]
";

/// A value of the chart.
pub const WITHOUT_AGENTS: &str = "agent.enabled=false";

/// A cluster with Seawall on it.
pub struct Installed {
    // Dropped from top to bottom.
    pub nodes: Vec<Node>,
    pub cluster: Arc<NodeCluster>,
}

impl Installed {
    /// Nodes of these names, and Seawall on them.
    pub async fn start(nodes: &[(&str, NodeOptions)], values: &[&str]) -> anyhow::Result<Self> {
        let cluster = NodeCluster::start().await?;
        let starting = nodes.iter().map(|(name, options)| {
            let cluster = &cluster;
            async move {
                let node = Node::start(cluster, name, options.clone()).await?;
                node.load(seawall().await?).await?;
                anyhow::Ok(node)
            }
        });
        let nodes = futures::future::try_join_all(starting).await?;
        let this = Self { nodes, cluster };
        this.install(values).await?;
        Ok(this)
    }

    async fn install(&self, values: &[&str]) -> anyhow::Result<()> {
        let (repository, tag) = SEAWALL.split_once(':').context("an image has a tag")?;
        let repository = format!("image.repository={repository}");
        let tag = format!("image.tag={tag}");
        let mut all = vec![&*repository, &tag, "image.pullPolicy=Never"];
        // No class of storage: what is kept is gone with the pod.
        all.push("persistence.enabled=false");
        all.extend(values);
        self.namespace(!values.contains(&WITHOUT_AGENTS)).await?;
        let began = Instant::now();
        charts::install(&self.cluster.plane, &all).await?;
        self.wait_ready().await?;
        eprintln!("helm install until all are ready: {:.1?}", began.elapsed());
        Ok(())
    }

    /// The operator's namespace. The API server lets in only pods that are restricted, or, where agents run, writes in
    /// its audit log how they are not.
    async fn namespace(&self, agents: bool) -> anyhow::Result<()> {
        let modes: &[&str] = if agents {
            &["audit", "warn"]
        } else {
            &["enforce"]
        };
        let labels = modes.iter().map(|mode| {
            let label = format!("pod-security.kubernetes.io/{mode}");
            (label, json!("restricted"))
        });
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": SYSTEM, "labels": labels.collect::<Map<_, _>>()},
        });
        self.cluster.apply(&namespace).await.map(drop)
    }

    /// Waits for the operator, and for an agent on each node that has enrolled.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        let admin = self.cluster.plane.admin();
        let operators: Api<Deployment> = Api::namespaced(admin.clone(), SYSTEM);
        let agents: Api<DaemonSet> = Api::namespaced(admin, SYSTEM);
        let nodes = i32::try_from(self.nodes.len())?;
        let ready = eventually("operator and agents to be ready", PATIENCE, || async {
            let operator = operators.get("seawall").await?.status;
            let operator = operator.and_then(|status| status.available_replicas);
            let agents = agents.get_opt("seawall-agent").await?;
            // Some are installed without.
            let enrolled = agents.is_none_or(|agents| {
                let ready = agents.status.map(|status| status.number_ready);
                ready == Some(nodes)
            });
            Ok((operator == Some(1) && enrolled).then_some(()))
        });
        match ready.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.what_is_wrong().await)),
        }
    }

    /// What a person would look at.
    async fn what_is_wrong(&self) -> String {
        let mut words = String::new();
        for args in [
            &["describe", "pods", "-n", SYSTEM][..],
            &[
                "logs",
                "-n",
                SYSTEM,
                "deploy/seawall",
                "-c",
                "operator",
                "--tail=40",
            ],
            &["logs", "-n", SYSTEM, "ds/seawall-agent", "--tail=40"],
        ] {
            let said = self.cluster.plane.kubectl(args).await;
            words += &said.unwrap_or_else(|error| format!("{error:#}"));
        }
        words
    }

    pub fn node(&self, name: &str) -> &Node {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.name() == name)
            .expect("a node of the cluster")
    }

    /// What a person types, with input for `-f -`.
    pub async fn kubectl(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let plane = &self.cluster.plane;
        let outcome = plane.kubectl_as(plane.admin_kubeconfig(), args, input);
        outcome.await?.success()
    }

    pub async fn get(&self, namespace: &str, kind: &str, name: &str) -> anyhow::Result<Value> {
        let object = self.cluster.plane.get((namespace, kind, name)).await?;
        object.with_context(|| format!("there is no {kind} {namespace}/{name}"))
    }

    /// Waits until the resource's condition has the status.
    pub async fn condition(
        &self,
        resource: (&str, &str, &str),
        condition: &str,
        status: &str,
    ) -> anyhow::Result<()> {
        let plane = &self.cluster.plane;
        plane
            .condition(resource, (condition, status), PATIENCE)
            .await
    }

    /// An AI agent with a new scope for pods with these labels, at the MCP server's Service by a port that
    /// is forwarded, as a person tries it out.
    pub async fn agent(&self, scope: (&str, &str), labels: &str) -> anyhow::Result<Agent> {
        let spec = format!(
            "  access: Contain\n\
             \x20 targets: {{workloads: {{podSelector: {{matchLabels: {labels}}}}}}}\n"
        );
        let plane = &self.cluster.plane;
        let key = plane.scope(scope, &spec, PATIENCE).await?;
        let (forwarding, url) = self.forward_mcp().await?;
        let client = eventually("the MCP server to know the key", PATIENCE, || async {
            Ok(McpClient::connect(&url, &key).await.ok())
        });
        Ok(Agent {
            client: client.await?,
            _forwarding: forwarding,
        })
    }

    async fn forward_mcp(&self) -> anyhow::Result<(Daemon, String)> {
        let port = free_port()?;
        let plane = &self.cluster.plane;
        let mut command = Command::new(plane.tool_path("kubectl")?);
        command
            .arg("--kubeconfig")
            .arg(plane.admin_kubeconfig())
            .args(["port-forward", "-n", SYSTEM, "service/seawall-mcp"])
            .arg(format!("{port}:8090"));
        let forwarding = Daemon::spawn("port-forward", &mut command, plane.dir())?;
        let address = format!("127.0.0.1:{port}");
        eventually("the port to be forwarded", PATIENCE, || async {
            Ok(tokio::net::TcpStream::connect(&address).await.ok())
        })
        .await?;
        Ok((forwarding, format!("http://{address}/mcp")))
    }
}

/// An AI agent, and the way to its server.
pub struct Agent {
    pub client: McpClient,
    _forwarding: Daemon,
}
