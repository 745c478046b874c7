//! A person with kubectl takes the same way as the agent: first to see, then to cut, then to take it back.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::Demo;
use super::expect_reach;
use crate::harness::eventually;
use crate::lab::Reach;
use crate::site::TENANT;

const PERSON: &str = "duty-engineer";

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    demo.site
        .plane
        .kubectl(&[
            "create",
            "rolebinding",
            "on-duty",
            "-n",
            TENANT,
            "--clusterrole=edit",
            &format!("--user={PERSON}"),
        ])
        .await?;
    let person = demo.site.plane.kubeconfig_for_person(PERSON, &[])?;

    demo.site
        .apply_as(&person, &policy(demo, "Observe"))
        .await?;
    demo.site
        .condition("policy", "no-server", "Ready", "True")
        .await?;
    demo.suspect.flows().await?;
    demo.others.flows().await?;
    let counted = would_have_denied(demo).await?;

    let asked = Instant::now();
    demo.site
        .apply_as(&person, &policy(demo, "Enforce"))
        .await?;
    demo.site
        .condition("policy", "no-server", "Ready", "True")
        .await?;
    let done = Instant::now();
    tokio::time::sleep(super::ANSWER).await;
    demo.suspect.cut(asked, done)?;
    demo.others.cut(asked, done)?;
    expect_reach(demo, "ws-3", "server", Reach::NONE).await?;

    delete(demo, &person).await?;
    eventually("traffic to flow again", Duration::from_secs(10), || async {
        let reach = super::reaches(demo, "ws-3", "server").await?;
        Ok((reach == Reach::ALL).then_some(()))
    })
    .await?;
    demo.reopen_traffic().await?;
    let verbs = recorded(demo).await?;
    Ok(format!(
        "Observe counted {counted} packets and cut none; Enforce cut every flow; deleted, all is answered; the log has {PERSON}: {verbs}"
    ))
}

fn policy(demo: &Demo, mode: &str) -> String {
    let (v4, v6) = (demo.server.v4(), demo.server.v6());
    format!(
        "apiVersion: seawall.dev/v1alpha1
kind: Policy
metadata: {{name: no-server, namespace: {TENANT}}}
spec:
  description: Workstations do not talk to the server
  mode: {mode}
  subjects: {{devices: {{tags: {{kind: workstation}}}}}}
  rules:
    - {{name: out, direction: Egress, action: Deny, peers: {{cidrs: [{v4}/32, {v6}/128]}}}}
    - {{name: in, direction: Ingress, action: Deny, peers: {{cidrs: [{v4}/32, {v6}/128]}}}}
"
    )
}

/// How many packets the observing policy would have dropped, asked of the devices themselves.
async fn would_have_denied(demo: &Demo) -> anyhow::Result<u64> {
    let auditor = demo.site.agent_once("auditor", "Investigate").await?;
    eventually(
        "the observed packets to be counted",
        Duration::from_secs(5),
        || async {
            let report = auditor.must("verify_enforcement", json!({})).await?;
            let counts = report.structured["devices"]
                .as_array()
                .into_iter()
                .flatten();
            let counts =
                counts.flat_map(|device| device["counts"].as_array().cloned().unwrap_or_default());
            let observed = counts.filter(|count| count["observing"] == true);
            let packets: u64 = observed.filter_map(|count| count["packets"].as_u64()).sum();
            Ok((packets > 0).then_some(packets))
        },
    )
    .await
}

async fn delete(demo: &Demo, person: &Path) -> anyhow::Result<()> {
    let args = ["delete", "policy", "no-server", "-n", TENANT];
    let outcome = demo.site.plane.kubectl_as(person, &args, "").await?;
    outcome.success().map(drop)
}

/// What the audit log holds of the person's changes, in order.
async fn recorded(demo: &Demo) -> anyhow::Result<String> {
    let auditor = demo.site.agent_once("auditor", "Investigate").await?;
    eventually(
        "the person's changes in the log",
        Duration::from_secs(10),
        || async {
            let query = json!({
            "kind": "resource_change", "actor": PERSON, "limit": 50, "response_format": "detailed",
        });
            let found = auditor.must("search_audit_log", query).await?;
            let text = found.structured.to_string().to_lowercase();
            let all = ["create", "update", "delete"];
            let complete = all.iter().all(|verb| text.contains(&format!("\"{verb}\"")));
            Ok(complete.then(|| all.join(", ")))
        },
    )
    .await
}
