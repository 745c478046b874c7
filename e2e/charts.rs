//! The charts, installed on a control plane as people install them, by helm. No operator runs unless a
//! test starts one.

use std::time::Duration;

use anyhow::ensure;
use seawall::api::stamps;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::caller::Caller;
use crate::cluster::{ControlPlane, Options};
use crate::harness::eventually;

/// The namespace that the tests install into, and so the operator's.
pub const SYSTEM: &str = "seawall-system";

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
