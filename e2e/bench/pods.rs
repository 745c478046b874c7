//! A hundred pods that come and go under a policy on one node: for how long each got connections out before
//! the node's agent cut it, and the memory of that agent beside kube-router's, for the same pods.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::figure::{Against, Figure, Sample};
use super::phase;
use crate::cluster::node::{NodeOptions, can_run_a_node};
use crate::harness::eventually;
use crate::installed::chatter::{self, Listener};
use crate::installed::{ALLOW_ALL, Installed, PATIENCE};
use crate::process;

const WAVES: usize = 4;
const PODS: usize = 25;
const NAMESPACE: &str = "waves";

/// A Deny by a rule, which no NetworkPolicy can carry: the agent alone enforces it.
const POLICY: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Policy
metadata: {name: waves}
spec:
  subjects: {workloads: {podSelector: {matchLabels: {app: wave}}}}
  rules: [{name: nothing, direction: Egress, action: Deny, peers: {any: true}}]
";

pub async fn run(started: Instant) -> anyhow::Result<()> {
    if let Err(why) = can_run_a_node() {
        println!("skipped: {why:#}");
        return Ok(());
    }
    let seawall = Installed::start(&[("node", NodeOptions::default())], &[]).await?;
    seawall.cluster.namespace(NAMESPACE).await?;
    let listener = Listener::start(seawall.cluster.host("outside").await?).await?;
    // kube-router has something to do for the same pods, and lets everything through.
    for resource in [ALLOW_ALL, POLICY] {
        let apply = ["apply", "-n", NAMESPACE, "-f", "-"];
        seawall.kubectl(&apply, resource).await?;
    }
    seawall.cluster.apply(&deployment(&listener)).await?;
    let (mut exposed, mut silent) = (Sample::default(), 0);
    let mut memory = (0.0, 0.0);
    for wave in 1..=WAVES {
        let began = Instant::now();
        scale(&seawall, PODS).await?;
        // What was under way when the last was covered has arrived then.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let heard = listener.each(began);
        silent += PODS.saturating_sub(heard.len());
        heard.iter().for_each(|span| exposed.add(*span));
        memory = (resident("seawall agent")?, resident("kube-router")?);
        phase(started, &format!("{} pods have come", wave * PODS));
        scale(&seawall, 0).await?;
    }
    let (median, p99) = exposed.median_and_p99();
    let pods = WAVES * PODS;
    println!("{silent} of {pods} pods were covered before their first connection");
    println!("the others had connections for {median} ms (median), {p99} ms (99th percentile)");
    println!("agent {} MiB, kube-router {} MiB", memory.0, memory.1);
    let quick = [Against::new(
        "pods covered before their first connection",
        silent as f64,
    )];
    Figure::milliseconds("pod_uncovered_p50_ms", median, &quick).publish()?;
    Figure::milliseconds("pod_uncovered_p99_ms", p99, &quick).publish()?;
    let router = [Against::new("kube-router", memory.1)];
    Figure::new("node_agent_rss", memory.0, "MiB", &router).publish()
}

/// Waits until that many run and are covered.
async fn scale(seawall: &Installed, pods: usize) -> anyhow::Result<()> {
    let replicas = format!("--replicas={pods}");
    let scale = ["scale", "-n", NAMESPACE, "deployment/wave", &replicas];
    seawall.kubectl(&scale, "").await?;
    let wanted = format!("{pods}/{pods}");
    eventually(
        &format!("{wanted} pods to be covered"),
        PATIENCE,
        || async {
            let list = ["get", "pods", "-n", NAMESPACE, "-o", "name"];
            let there = seawall.kubectl(&list, "").await?.lines().count();
            let policy = seawall.get(NAMESPACE, "policy", "waves").await?;
            let covered = &policy["status"]["coverage"]["summary"];
            Ok((there == pods && covered == &wanted).then_some(()))
        },
    )
    .await
}

fn deployment(listener: &Listener) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "wave", "namespace": NAMESPACE},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "wave"}},
            "template": {
                "metadata": {"labels": {"app": "wave"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [chatter::container(listener)],
                },
            },
        },
    })
}

/// What the one process whose command line has these words holds, in MiB.
fn resident(words: &str) -> anyhow::Result<f64> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // It may have ended meanwhile.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let program = line.split_once(words).map(|(before, _)| before);
        if program.is_some_and(|before| !before.contains(' ')) {
            found.push(pid);
        }
    }
    let pid = found.first().with_context(|| format!("no {words} runs"))?;
    ensure!(found.len() == 1, "{words} runs {} times", found.len());
    process::resident(*pid)
}
