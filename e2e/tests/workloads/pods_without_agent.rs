//! A pod of a node without an agent in quarantine, by packets: Seawall installed with `agent.enabled=false`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use tokio::sync::OnceCell;

use super::{ENFORCING, PLAIN};
use crate::cluster::node::{NodeOptions, Pod, SHELL};
use crate::harness::{case, eventually};
use crate::installed::{Installed, PATIENCE};
use crate::lab::{Reach, Responder, reach};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "without an agent, an isolated pod of a Deployment sends and receives nothing but its management traffic and pings, and its replacement serves",
            held_by_the_plugin,
        ),
        case(
            "without an agent and a policy engine, nobody says that an isolated pod is cut off",
            held_by_nobody,
        ),
    ]
}

const ANSWER: Duration = Duration::from_millis(1500);
const PORT: u16 = 7000;
/// kube-router lets pings pass, whatever a NetworkPolicy says.
const HELD: Reach = Reach {
    icmp4: true,
    icmp6: true,
    ..Reach::NONE
};
const MANAGEMENT: Reach = Reach { tcp4: true, ..HELD };

/// The application's own policy: everything from everywhere.
const ALLOW_WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{}]
  egress: [{}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 7000}]
";

const ISOLATION: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Isolation
metadata: {name: suspect}
spec:
  target: {workload: {pod: SUSPECT}}
  reason: Lateral movement
  management: [{cidr: OUTSIDE/32, ports: [{protocol: TCP, port: 7000}]}]
";

async fn installed() -> anyhow::Result<&'static Installed> {
    static SHARED: OnceCell<Installed> = OnceCell::const_new();
    let start = || async {
        let plain = NodeOptions {
            network_policies: false,
            ..NodeOptions::default()
        };
        let nodes = [(ENFORCING, NodeOptions::default()), (PLAIN, plain)];
        Installed::start(&nodes, &["agent.enabled=false"]).await
    };
    SHARED.get_or_try_init(start).await
}

/// Waits for the one pod of the Deployment that is not the other.
async fn pod_of_web(namespace: &str, other: &str) -> anyhow::Result<String> {
    let seawall = installed().await?;
    eventually("a pod of the Deployment", PATIENCE, || async {
        let list = [
            "get", "pods", "-n", namespace, "-l", "app=web", "-o", "name",
        ];
        let text = seawall.kubectl(&list, "").await?;
        let mut names = text.lines().filter_map(|line| line.strip_prefix("pod/"));
        Ok(names.find(|name| *name != other).map(str::to_owned))
    })
    .await
}

async fn run_web(namespace: &str, node: &str) -> anyhow::Result<Pod> {
    let seawall = installed().await?;
    seawall.cluster.namespace(namespace).await?;
    seawall
        .kubectl(&["apply", "-n", namespace, "-f", "-"], ALLOW_WEB)
        .await?;
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "shell", "image": SHELL, "imagePullPolicy": "Never"}],
            }},
        },
    });
    seawall.cluster.apply(&deployment).await?;
    let name = pod_of_web(namespace, "").await?;
    seawall.node(node).pod(namespace, &name).await
}

async fn isolate(namespace: &str, suspect: &Pod, outside: &str) -> anyhow::Result<()> {
    let seawall = installed().await?;
    let isolation = ISOLATION
        .replace("SUSPECT", &suspect.name)
        .replace("OUTSIDE", outside);
    let args = ["apply", "-n", namespace, "-f", "-"];
    seawall.kubectl(&args, &isolation).await?;
    let object = (namespace, "isolation", "suspect");
    seawall.condition(object, "Programmed", "True").await?;
    seawall.condition(object, "Enforced", "Unknown").await
}

/// Addresses that the Service has.
async fn served(namespace: &str) -> anyhow::Result<BTreeSet<String>> {
    let seawall = installed().await?;
    let path = "jsonpath={.items[*].endpoints[*].addresses[*]}";
    let slices = "kubernetes.io/service-name=web";
    let args = [
        "get",
        "endpointslices",
        "-n",
        namespace,
        "-l",
        slices,
        "-o",
        path,
    ];
    let text = seawall.kubectl(&args, "").await?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

async fn held_by_the_plugin() -> anyhow::Result<()> {
    let namespace = "stripped-enforcing";
    let suspect = run_web(namespace, ENFORCING).await?;
    let seawall = installed().await?;
    let (neighbour, far, outside) = tokio::try_join!(
        seawall
            .node(ENFORCING)
            .run_pod(namespace, "neighbour", &[("app", "db")]),
        seawall
            .node(PLAIN)
            .run_pod(namespace, "far", &[("app", "far")]),
        seawall.cluster.host(namespace),
    )?;
    let of_suspect = Responder::start(&suspect.host, PORT).await?;
    let mut others = Vec::new();
    for host in [&neighbour.host, &far.host, &outside] {
        let responder = Responder::start(host, PORT).await?;
        until(Reach::ALL, &suspect, &responder, &of_suspect, Reach::ALL).await?;
        others.push(responder);
    }
    isolate(namespace, &suspect, &outside.v4().to_string()).await?;
    let from = [HELD, HELD, MANAGEMENT];
    for (other, in_) in others.iter().zip(from) {
        until(HELD, &suspect, other, &of_suspect, in_).await?;
    }
    // And it lasts.
    for (other, in_) in others.iter().zip(from) {
        let out = reach(&suspect.host, other, ANSWER).await?;
        let back = reach(other.host(), &of_suspect, ANSWER).await?;
        ensure!((out, back) == (HELD, in_), "{out:?} and {back:?}");
    }
    let replacement = pod_of_web(namespace, &suspect.name).await?;
    let replacement = seawall.node(ENFORCING).pod(namespace, &replacement).await?;
    let own = replacement.host.v4().to_string();
    eventually(
        "the Service to have the replacement alone",
        PATIENCE,
        || async { Ok((served(namespace).await? == [own.clone()].into()).then_some(())) },
    )
    .await?;
    let of_replacement = Responder::start(&replacement.host, PORT).await?;
    until(
        Reach::ALL,
        &replacement,
        &others[0],
        &of_replacement,
        Reach::ALL,
    )
    .await?;

    let delete = ["delete", "isolation", "-n", namespace, "suspect"];
    seawall.kubectl(&delete, "").await?;
    eventually("the pod to go", PATIENCE, || async {
        let get = [
            "get",
            "pod",
            "-n",
            namespace,
            &suspect.name,
            "--ignore-not-found",
            "-o",
            "name",
        ];
        Ok(seawall
            .kubectl(&get, "")
            .await?
            .trim()
            .is_empty()
            .then_some(()))
    })
    .await?;
    eventually("its NetworkPolicy to go", PATIENCE, || async {
        let get = ["get", "networkpolicy", "-n", namespace, "-o", "name"];
        let left = seawall.kubectl(&get, "").await?;
        Ok((!left.contains("seawall.isolated")).then_some(()))
    })
    .await?;
    ensure!(
        served(namespace).await? == [own].into(),
        "the replacement still serves"
    );
    Ok(())
}

/// Waits until the pod reaches the other so far, and is reached from there so far.
async fn until(
    out: Reach,
    pod: &Pod,
    other: &Responder,
    of_pod: &Responder,
    in_: Reach,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let found = reach(&pod.host, other, ANSWER).await?;
        let back = reach(other.host(), of_pod, ANSWER).await?;
        if (found, back) == (out, in_) {
            return Ok(());
        }
        let name = other.host().name();
        ensure!(
            Instant::now() < deadline,
            "{name}: reached by {found:?}, reaches the pod by {back:?}"
        );
    }
}

async fn held_by_nobody() -> anyhow::Result<()> {
    let namespace = "stripped-plain";
    let suspect = run_web(namespace, PLAIN).await?;
    let seawall = installed().await?;
    let outside = seawall.cluster.host(namespace).await?;
    let responder = Responder::start(&outside, PORT).await?;
    isolate(namespace, &suspect, "192.0.2.77").await?;
    let found = reach(&suspect.host, &responder, ANSWER).await?;
    ensure!(found != Reach::NONE, "somebody enforces here after all");
    let isolation = seawall.get(namespace, "isolation", "suspect").await?;
    let status = &isolation["status"];
    ensure!(status["phase"] == "Partial", "{status}");
    let all = status["conditions"].as_array().context("conditions")?;
    let enforced = all.iter().find(|it| it["type"] == "Enforced");
    let enforced = enforced.context("it is said")?;
    ensure!(enforced["status"] == "Unknown", "{enforced}");
    let message = enforced["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("nobody sees whether the network plugin"),
        "{message}"
    );
    Ok(())
}
