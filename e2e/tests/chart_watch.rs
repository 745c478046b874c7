//! What the chart has for those who watch Seawall: alerts of metrics that exist, each with a runbook, and
//! a NetworkPolicy that leaves open what is used.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::charts::{self, SYSTEM};
use crate::harness::case;
use crate::site::{Site, TENANT};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "every alert is of metrics that operator and MCP server export, and every alert has a runbook",
            alerts,
        ),
        case(
            "PodMonitor, NetworkPolicy and budget name ports and labels that the pod has",
            names,
        ),
    ]
}

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/seawall");
const RUNBOOKS: &str = include_str!("../../docs/runbooks.md");

const ALL_ON: [&str; 6] = [
    "--set",
    "podMonitor.enabled=true,podMonitor.labels.release=prometheus",
    "--set",
    "prometheusRule.enabled=true,prometheusRule.runbookUrl=https://wiki.example.com/runbooks",
    "--set",
    "podDisruptionBudget.enabled=true",
];

async fn rendered(more: &[&str]) -> anyhow::Result<Vec<Value>> {
    let cluster = charts::installed().await?;
    let command = ["template", "seawall", CHART, "-n", SYSTEM];
    let text = cluster.helm(&[&command, more].concat()).await?;
    seawall::yaml::documents(&text).context("the chart renders YAML")
}

fn only<'a>(objects: &'a [Value], kind: &str) -> anyhow::Result<&'a Value> {
    let mut found = objects.iter().filter(|it| it["kind"] == kind);
    let one = found.next().with_context(|| format!("a {kind}"))?;
    ensure!(found.next().is_none(), "more than one {kind}");
    Ok(one)
}

/// The names in an expression that are ours.
fn metrics(expression: &str) -> BTreeSet<&str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("seawall_"))
        .collect()
}

/// The line that tells of what kind the metric is.
fn declared(metric: &str) -> String {
    if let Some(counter) = metric.strip_suffix("_total") {
        format!("# TYPE {counter} counter\n")
    } else if let Some(histogram) = metric.strip_suffix("_bucket") {
        format!("# TYPE {histogram} histogram\n")
    } else {
        format!("# TYPE {metric} gauge\n")
    }
}

async fn alerts() -> anyhow::Result<()> {
    let objects = rendered(&ALL_ON).await?;
    let rule = only(&objects, "PrometheusRule")?;
    let rules = rule["spec"]["groups"][0]["rules"].as_array();
    let rules = rules.context("it has rules")?;
    let site = Site::start(&[]).await?;
    let page = pages(&site).await?;
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().context("an alert has a name")?;
        let used = metrics(rule["expr"].as_str().unwrap_or_default());
        ensure!(!used.is_empty(), "{name} is of nothing of ours");
        for metric in used {
            ensure!(
                page.contains(&declared(metric)),
                "{name}: no {metric} in\n{page}"
            );
        }
        let link = format!("https://wiki.example.com/runbooks#{}", name.to_lowercase());
        ensure!(rule["annotations"]["runbook_url"] == link, "{rule}");
        names.insert(name);
    }
    let sections: BTreeSet<_> = RUNBOOKS
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|title| title.starts_with("Seawall"))
        .collect();
    ensure!(names == sections, "alerts {names:?}, runbooks {sections:?}");
    let without = rendered(&["--set", "prometheusRule.enabled=true,mcp.enabled=false"]).await?;
    let text = only(&without, "PrometheusRule")?.to_string();
    ensure!(!text.contains("seawall_mcp"), "{text}");
    ensure!(text.contains("docs/runbooks.md#seawallabsent"), "{text}");
    Ok(())
}

/// What operator and MCP server tell Prometheus after a status was written and a key refused: what has labels is told once
/// there is something to tell.
async fn pages(site: &Site) -> anyhow::Result<String> {
    let scope = json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "ApiKeyScope",
        "metadata": {"name": "watched", "namespace": TENANT},
        "spec": {"access": "Investigate"},
    });
    site.apply(&scope.to_string()).await?;
    let ready = site.condition("apikeyscope", "watched", "Ready", "True");
    ready.await?;
    let client = reqwest::Client::new();
    let refused = client.post(site.mcp_url()).bearer_auth("swk_wrong").send();
    ensure!(refused.await?.status() == 401);
    let mcp = reqwest::get(site.mcp_url().replace("/mcp", "/metrics")).await?;
    Ok(site.operator_metrics().await? + &mcp.text().await?)
}

async fn names() -> anyhow::Result<()> {
    let objects = rendered(&ALL_ON).await?;
    let template = &only(&objects, "Deployment")?["spec"]["template"];
    let containers = template["spec"]["containers"].as_array();
    let ports: BTreeSet<_> = containers
        .into_iter()
        .flatten()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter_map(|port| port["name"].as_str())
        .collect();
    let monitor = &only(&objects, "PodMonitor")?;
    ensure!(monitor["metadata"]["labels"]["release"] == "prometheus");
    let endpoints = monitor["spec"]["podMetricsEndpoints"].as_array();
    for endpoint in endpoints.context("endpoints")? {
        let port = endpoint["port"].as_str().unwrap_or_default();
        ensure!(ports.contains(port), "no port {port} in {ports:?}");
    }
    let policy = &only(&objects, "NetworkPolicy")?["spec"];
    ensure!(policy["policyTypes"] == json!(["Ingress"]), "{policy}");
    let open: BTreeSet<_> = policy["ingress"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["ports"][0]["port"].as_str())
        .collect();
    ensure!(
        open == ports,
        "open are {open:?}, listened to are {ports:?}"
    );
    for selector in [
        &policy["podSelector"],
        &monitor["spec"]["selector"],
        &only(&objects, "PodDisruptionBudget")?["spec"]["selector"],
    ] {
        let labels = selector["matchLabels"].as_object().context("labels")?;
        ensure!(labels.len() == 2, "{labels:?}");
        for (label, value) in labels {
            ensure!(template["metadata"]["labels"][label] == *value, "{label}");
        }
    }
    Ok(())
}
