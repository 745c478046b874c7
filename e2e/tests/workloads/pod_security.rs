//! What the chart's pods ask of their nodes, as the API server judges it by the Pod Security Standards.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{installed, without_agents};
use crate::caller::Caller;
use crate::charts::{self, SYSTEM};
use crate::cluster::audit::{AuditEvent, Mark};
use crate::harness::case;
use crate::installed::Installed;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "without agents, all of the chart's pods run where pods are restricted, and an agent would be refused",
            restricted,
        ),
        case(
            "of the chart's pods only the agents' are not restricted, by what the threat model lists and nothing else",
            violations,
        ),
    ]
}

const VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const PAGE: &str = include_str!("../../../docs/threat-model.md");

/// What was judged in the operator's namespace: who asked for what.
fn judged(seawall: &Installed) -> anyhow::Result<Vec<AuditEvent>> {
    let mut events = seawall.cluster.plane.audit().since(Mark::default())?;
    events.retain(|event| {
        let object = event.object_ref.as_ref();
        object.is_some_and(|object| object.namespace == SYSTEM)
            && [ENFORCED, VIOLATIONS]
                .iter()
                .any(|key| event.annotations.contains_key(*key))
    });
    Ok(events)
}

async fn restricted() -> anyhow::Result<()> {
    let seawall = without_agents().await?;
    let pods = seawall
        .cluster
        .plane
        .kubectl(&["get", "pods", "-n", SYSTEM, "-o", "json"]);
    let pods: Value = serde_json::from_str(&pods.await?)?;
    let pods = pods["items"].as_array().context("a list")?;
    ensure!(!pods.is_empty(), "nothing of the chart runs");
    for pod in pods {
        ensure!(pod["status"]["phase"] == "Running", "{pod}");
    }
    let by_controllers: Vec<AuditEvent> = judged(&seawall)?
        .into_iter()
        .filter(|event| event.is_about("pods") && event.actor().ends_with(":replicaset-controller"))
        .collect();
    ensure!(!by_controllers.is_empty(), "no pod was judged");
    for event in by_controllers {
        ensure!(
            event.annotations[ENFORCED].starts_with("restricted:"),
            "{event:?}"
        );
        ensure!(event.code() == 201, "{event:?}");
    }
    let rendered = charts::template(&[]).await?;
    let agents = rendered.iter().find(|it| it["kind"] == "DaemonSet");
    let template = &agents.context("a DaemonSet")?["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]});
    pod["metadata"] = json!({"name": "agent", "namespace": SYSTEM});
    // There is no account of that name here, and the API server asks for that first.
    pod["spec"]["serviceAccountName"] = json!("default");
    let answer = Caller::admin(&seawall.cluster.plane).try_create(&pod).await;
    let refusal = answer.err().context("an agent's pod is accepted")?;
    ensure!(refusal.code == 403, "{refusal}");
    let (_, found) = refusal
        .message
        .split_once("\": ")
        .with_context(|| refusal.to_string())?;
    ensure!(needs_in(found) == listed(), "{refusal}");
    Ok(())
}

async fn violations() -> anyhow::Result<()> {
    let mut violators = BTreeSet::new();
    let mut ran = 0;
    for event in judged(&*installed().await?)? {
        let Some(said) = event.annotations.get(VIOLATIONS) else {
            ran += usize::from(event.is_about("pods"));
            continue;
        };
        let object = event.object_ref.clone().unwrap_or_default();
        let actor = event
            .actor()
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .to_owned();
        violators.insert((object.resource, actor));
        let (standard, found) = said.split_once(": ").context("what it would violate")?;
        ensure!(
            standard == "would violate PodSecurity \"restricted:latest\"",
            "{said}"
        );
        ensure!(needs_in(found) == listed(), "the API server says {said}");
    }
    ensure!(ran > 0, "the operator's pod was not judged");
    let expected = [("daemonsets", "admin"), ("pods", "daemon-set-controller")];
    let expected = expected.map(|(resource, actor)| (resource.to_owned(), actor.to_owned()));
    ensure!(violators == BTreeSet::from(expected), "{violators:?}");
    Ok(())
}

/// `first (detail), second (detail)`, one by one.
fn needs_in(said: &str) -> BTreeSet<String> {
    let said = said.trim_end().trim_end_matches(')');
    said.split("), ").map(|one| format!("{one})")).collect()
}

/// The same from the page: the first column of the section's table.
fn listed() -> BTreeSet<String> {
    let section = PAGE
        .split("\n## ")
        .find(|it| it.starts_with("What the agents' pods need\n"));
    let rows = section.unwrap_or_default().lines();
    rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect()
}
