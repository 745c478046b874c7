//! What pods on real nodes can do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::json;

use super::two;
use crate::cluster::node::{Node, NodeOptions, SEAWALL, SHELL, seawall};
use crate::harness::{case, eventually};
use crate::lab::{Connection, Reach, Responder, connect, reach};

pub fn all() -> Vec<Trial> {
    vec![
        case("a pod runs, and exec and logs reach it", runs_a_pod),
        case(
            "pods of one bridge, of two nodes and a host beside them reach each other",
            reach_each_other,
        ),
        case("a Service leads from pod to pod", service),
        case("a pod finds the API server by its Service", api_server),
        case("the product's image runs, and not as root", product),
    ]
}

const LIMIT: Duration = Duration::from_secs(2);

async fn runs_a_pod() -> anyhow::Result<()> {
    let two = two().await?;
    let node = &two.enforcing;
    let cluster = node.cluster();
    cluster.namespace("runs").await?;
    let document = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "speaks", "namespace": "runs"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node.name()},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": SHELL, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "echo spoken; sleep infinity"],
            }],
        },
    });
    let applied = Instant::now();
    cluster.apply(&document).await?;
    let pod = node.pod("runs", "speaks").await?;
    eprintln!("a pod is Ready after {:.1?}", applied.elapsed());
    let said = cluster.exec("runs", "speaks", &["echo", "hello"]).await?;
    assert_eq!(said.trim(), "hello");
    let logs = cluster
        .plane
        .kubectl(&["logs", "-n", "runs", "speaks"])
        .await?;
    assert_eq!(logs.trim(), "spoken");
    let inside = cluster
        .exec("runs", "speaks", &["ip", "-o", "-4", "addr"])
        .await?;
    assert!(inside.contains(&pod.host.v4().to_string()), "{inside}");
    Ok(())
}

async fn reach_each_other() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("reach").await?;
    let (one, other, far) = tokio::try_join!(
        two.plain.run_pod("reach", "one", &[]),
        two.plain.run_pod("reach", "other", &[]),
        two.enforcing.run_pod("reach", "far", &[]),
    )?;
    let beside = cluster.host("beside").await?;
    let responder = Responder::start(&one.host, 7000).await?;
    for from in [&other.host, &far.host, &beside] {
        let found = reach(from, &responder, LIMIT).await?;
        assert_eq!(found, Reach::ALL, "{} to one", from.name());
    }
    let responder = Responder::start(&beside, 7000).await?;
    let found = reach(&far.host, &responder, LIMIT).await?;
    assert_eq!(found, Reach::ALL, "far to a host beside");
    Ok(())
}

async fn service() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("service").await?;
    let labels = [("app", "answers")];
    let (server, near, far) = tokio::try_join!(
        two.plain.run_pod("service", "server", &labels),
        two.plain.run_pod("service", "near", &[]),
        two.enforcing.run_pod("service", "far", &[]),
    )?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "answers", "namespace": "service"},
        "spec": {"selector": {"app": "answers"}, "ports": [{"port": 80, "targetPort": 7000}]},
    });
    cluster.apply(&service).await?;
    let _responder = Responder::start(&server.host, 7000).await?;
    let get = ["get", "service", "-n", "service", "answers"];
    let ip = ["-o", "jsonpath={.spec.clusterIP}"];
    let ip = cluster.plane.kubectl(&[&get[..], &ip[..]].concat()).await?;
    let address: SocketAddr = format!("{ip}:80").parse()?;
    for from in [&near, &far] {
        let what = format!("the Service to lead {} to the server", from.name);
        eventually(&what, Duration::from_secs(15), || async {
            let found = connect(&from.host, address, LIMIT).await?;
            Ok((found == Connection::Answered).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn api_server() -> anyhow::Result<()> {
    let two = two().await?;
    let node = &two.plain;
    let cluster = node.cluster();
    cluster.namespace("api-server").await?;
    let pod = node.run_pod("api-server", "client", &[]).await?;
    let kubeconfig = cluster
        .plane
        .kubeconfig_for("api-server", "default")
        .await?;
    let kubectl = cluster.plane.tool_path("kubectl")?;
    let kubectl = kubectl.to_str().context("its path is a string")?;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let address = ["--server=https://10.40.0.1", "get", "--raw", "/version"];
    let args = [&[kubeconfig.as_str()], &address[..]].concat();
    let version = pod.host.run(kubectl, &args, "").await?.success()?;
    assert!(version.contains("v1.36."), "{version}");
    Ok(())
}

async fn product() -> anyhow::Result<()> {
    let two = two().await?;
    let cluster = two.plain.cluster();
    cluster.namespace("product").await?;
    let node = Node::start(cluster, "product", NodeOptions::default()).await?;
    node.load(seawall().await?).await?;
    let document = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "version", "namespace": "product"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node.name()},
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true},
            "initContainers": [{
                "name": "nft", "image": SEAWALL, "imagePullPolicy": "Never",
                "command": ["nft", "--version"],
            }],
            "containers": [{
                "name": "seawall", "image": SEAWALL, "imagePullPolicy": "Never",
                "args": ["--version"],
                "securityContext": {"readOnlyRootFilesystem": true},
            }],
        },
    });
    cluster.apply(&document).await?;
    let logs = async |container: &str| {
        let what = format!("what {container} says");
        eventually(&what, Duration::from_secs(30), || async {
            let args = ["logs", "-n", "product", "version", "-c", container];
            let said = cluster.plane.kubectl(&args).await?;
            Ok((!said.is_empty()).then_some(said))
        })
        .await
    };
    let nft = logs("nft").await?;
    assert!(nft.starts_with("nftables v"), "{nft}");
    let seawall = logs("seawall").await?;
    assert!(seawall.contains(env!("CARGO_PKG_VERSION")), "{seawall}");
    Ok(())
}
