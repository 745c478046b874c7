//! Pods: the same as for devices, on real nodes, with Seawall as helm installs it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::super::Demo;
use super::super::workloads::{NAMESPACE, Workloads};
use super::{ANSWER, ms};
use crate::lab::{Reach, reach};

pub async fn install(demo: &mut Demo) -> anyhow::Result<String> {
    let began = Instant::now();
    let workloads = Workloads::start().await?;
    let shown = workloads
        .installed
        .kubectl(&["get", "pods", "-A", "-o", "wide"], "")
        .await?;
    println!("\n{shown}");
    let nodes = workloads.installed.nodes.len();
    demo.workloads = Some(workloads);
    Ok(format!(
        "{nodes} nodes, Seawall on them, and three pods with traffic after {:.1} s",
        began.elapsed().as_secs_f64()
    ))
}

pub async fn isolate(demo: &mut Demo) -> anyhow::Result<String> {
    let workloads = demo.workloads.as_mut().context("the cluster is there")?;
    let scope = (NAMESPACE, "responder");
    let agent = workloads.installed.agent(scope, "{app: web}").await?;
    for flows in &workloads.suspect {
        flows.flows().await?;
    }
    let called = Instant::now();
    let arguments = json!({
        "pod": workloads.pods[0].name,
        "reason": "Beaconing to a known command server, confidence 0.95",
        "ttl": "1h",
    });
    let answer = agent.client.must("isolate_workload", arguments).await?;
    let answered = Instant::now();
    workloads.agent = Some(agent);
    tokio::time::sleep(ANSWER).await;
    let (mut last, mut flows) = (Duration::ZERO, 0);
    for traffic in &workloads.suspect {
        last = last.max(traffic.cut(called, answered)?);
        flows += traffic.len();
    }
    workloads.others.flows().await?;
    everywhere(workloads, Reach::NONE).await?;
    let shown = workloads
        .installed
        .kubectl(&["get", "isolations", "-n", NAMESPACE], "")
        .await?;
    println!("\n{shown}");
    demo.report
        .latency("isolate a pod: call to last packet", last);
    demo.report
        .latency("isolate a pod: call to answer, read back", answer.took);
    Ok(format!(
        "{flows} open flows cut, the last packet {} after the call; read back by the node's agent after {}",
        ms(last),
        ms(answer.took)
    ))
}

pub async fn release(demo: &mut Demo) -> anyhow::Result<String> {
    let workloads = demo.workloads.as_mut().context("the cluster is there")?;
    let agent = workloads.agent.as_ref().context("the agent is there")?;
    let arguments = json!({
        "pod": workloads.pods[0].name,
        "reason": "The image was replaced",
    });
    let answer = agent.client.must("release_workload", arguments).await?;
    everywhere(workloads, Reach::ALL).await?;
    workloads.others.flows().await?;
    Ok(format!("lifted after {}", ms(answer.took)))
}

/// What the pod reaches, and who reaches it.
async fn everywhere(workloads: &Workloads, expected: Reach) -> anyhow::Result<()> {
    let pod = workloads.pod.host();
    for other in &workloads.rest {
        let there = reach(pod, other, ANSWER).await?;
        let back = reach(other.host(), &workloads.pod, ANSWER).await?;
        let name = other.host().name();
        ensure!(
            (there, back) == (expected, expected),
            "{} → {name}: {there:?}, {name} → it: {back:?}, expected {expected:?}",
            pod.name()
        );
    }
    Ok(())
}
