//! NetworkPolicies on real nodes: enforced where kube-router runs, and nowhere else.

use std::net::SocketAddr;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::two;
use crate::cluster::node::{Node, Pod};
use crate::harness::{case, eventually};
use crate::lab::{Connection, Family, Host, Responder, connect};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a NetworkPolicy is enforced on a node with kube-router and not on one without",
            enforced_where_it_runs,
        ),
        case(
            "without kube-router a NetworkPolicy is enforced no more",
            no_more_without,
        ),
    ]
}

const LIMIT: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(20);

/// Nothing gets in to pods with the label `app: victim`.
fn deny(namespace: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": {"app": "victim"}},
            "policyTypes": ["Ingress"],
        },
    })
}

const VICTIM: [(&str, &str); 1] = [("app", "victim")];

/// Whether TCP gets from the host to the responder, by IPv4 and by IPv6.
async fn gets_in(from: &Host, to: &Responder) -> anyhow::Result<[bool; 2]> {
    let attempt = async |family| {
        let address: SocketAddr = to.address(family);
        anyhow::Ok(connect(from, address, LIMIT).await? == Connection::Answered)
    };
    let (v4, v6) = tokio::try_join!(attempt(Family::V4), attempt(Family::V6))?;
    Ok([v4, v6])
}

async fn wait_gets_in(from: &Pod, to: &Responder, wanted: bool) -> anyhow::Result<()> {
    let what = format!("{} getting in to be {wanted}", from.name);
    eventually(&what, SOON, || async {
        let found = gets_in(&from.host, to).await?;
        Ok((found == [wanted; 2]).then_some(()))
    })
    .await
}

async fn enforced_where_it_runs() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("enforced").await?;
    let (victim, near, far, free) = tokio::try_join!(
        two.enforcing.run_pod("enforced", "victim", &VICTIM),
        two.enforcing.run_pod("enforced", "near", &[]),
        two.plain.run_pod("enforced", "far", &[]),
        two.plain.run_pod("enforced", "free", &VICTIM),
    )?;
    let [victim, free] = [
        Responder::start(&victim.host, 7000).await?,
        Responder::start(&free.host, 7000).await?,
    ];
    for from in [&near, &far] {
        wait_gets_in(from, &victim, true).await?;
    }
    cluster.apply(&deny("enforced")).await?;
    for from in [&near, &far] {
        wait_gets_in(from, &victim, false).await?;
        assert_eq!(gets_in(&from.host, &free).await?, [true; 2]);
    }
    let delete = ["delete", "networkpolicy", "-n", "enforced", "deny"];
    cluster.plane.kubectl(&delete).await?;
    for from in [&near, &far] {
        wait_gets_in(from, &victim, true).await?;
    }
    Ok(())
}

async fn no_more_without() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("without").await?;
    let mut node = Node::start(cluster, "without", Default::default()).await?;
    let (victim, near) = tokio::try_join!(
        node.run_pod("without", "victim", &VICTIM),
        node.run_pod("without", "near", &[]),
    )?;
    let victim = Responder::start(&victim.host, 7000).await?;
    cluster.apply(&deny("without")).await?;
    wait_gets_in(&near, &victim, false).await?;
    node.remove_kube_router().await?;
    wait_gets_in(&near, &victim, true).await?;
    // Services are kube-proxy's, and stay.
    let api_server: SocketAddr = "10.40.0.1:443".parse()?;
    let connect = move || std::net::TcpStream::connect_timeout(&api_server, LIMIT);
    near.host.inside(connect).await??;
    Ok(())
}
