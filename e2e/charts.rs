//! The charts, installed on a control plane as people install them, by helm. No operator runs unless a
//! test starts one.

use std::time::Duration;

use anyhow::{Context, ensure};
use seawall::api::stamps;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::caller::Caller;
use crate::cluster::toolset::Toolset;
use crate::cluster::{ControlPlane, Options};
use crate::harness::eventually;
use crate::{process, run};

/// The namespace that the tests install into, and so the operator's.
pub const SYSTEM: &str = "seawall-system";

/// Longer than helm takes on a busy machine.
const RENDERING: Duration = Duration::from_secs(30);

const CHARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts");

/// Installs both charts, with `values` as `--set` takes them, and waits until the admission policies
/// refuse. A Deployment stays without pods: a control plane has no node.
pub async fn install(cluster: &ControlPlane, values: &[&str]) -> anyhow::Result<()> {
    let crds = format!("{CHARTS}/seawall-crds");
    cluster
        .helm(&["install", "seawall-crds", &crds, "-n", "kube-system"])
        .await?;
    let chart = format!("{CHARTS}/seawall");
    let mut args = vec!["install", "seawall", &chart, "-n", SYSTEM];
    args.push("--create-namespace");
    for value in values {
        args.extend(["--set", *value]);
    }
    cluster.helm(&args).await?;
    wait_policies(cluster).await
}

/// What the chart renders, without a cluster.
pub async fn template(values: &[&str]) -> anyhow::Result<Vec<Value>> {
    let dir = run::scratch("template")?;
    let mut command = Toolset::from_env()?.command("helm")?;
    command
        .args([
            "template",
            "seawall",
            &format!("{CHARTS}/seawall"),
            "-n",
            SYSTEM,
        ])
        .env_remove("KUBECONFIG")
        .env("HELM_CACHE_HOME", dir.join("cache"))
        .env("HELM_CONFIG_HOME", dir.join("config"))
        .env("HELM_DATA_HOME", dir.join("data"));
    for value in values {
        command.args(["--set", value]);
    }
    let rendered = process::run(command, "", RENDERING).await?.success()?;
    seawall::yaml::documents(&rendered).context("the chart renders YAML")
}

/// A control plane with the charts that tests share, each in namespaces of its own and with agents of
/// its own. There is no operator: a test does what it would do, as its ServiceAccount.
pub async fn installed() -> anyhow::Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED
        .get_or_try_init(|| async {
            let cluster = ControlPlane::start(Options::default()).await?;
            install(&cluster, &["replicas=0"]).await?;
            anyhow::Ok(cluster)
        })
        .await
}

/// New admission policies take about half a second to bite; they all start together.
async fn wait_policies(cluster: &ControlPlane) -> anyhow::Result<()> {
    let admin = Caller::admin(cluster);
    let forged = json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "Isolation",
        "metadata": {
            "name": "forged",
            "namespace": "default",
            "annotations": {stamps::SOURCE: stamps::SOURCE_MCP_AGENT},
        },
        "spec": {"target": {"node": "none"}, "reason": "Is the policy in force?"},
    });
    let limit = Duration::from_secs(20);
    eventually("the admission policies to bite", limit, || async {
        match admin.try_create(&forged).await {
            Ok(_) => Ok(None),
            Err(refusal) => {
                ensure!(refusal.message.contains("seawall-stamps"), "{refusal}");
                Ok(Some(()))
            }
        }
    })
    .await
}
