//! The audit log says of people's requests what became of them, and loses no change: with the real webhook
//! and the real API server, which refuses, and keeps what a finalizer keeps.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::{case, eventually};
use crate::operators::PATIENCE;
use crate::site::{McpClient, Site, TENANT};

pub fn all() -> Vec<Trial> {
    vec![case(
        "what was asked for is told apart from what happened, and a pending deletion hides no change",
        requests,
    )]
}

fn policy(name: &str, mode: &str) -> String {
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
        "metadata": {
            "name": name, "namespace": TENANT, "finalizers": ["test.example.com/keep"],
        },
        "spec": {
            "mode": mode,
            "subjects": {"all": true},
            "rules": [{
                "name": "r", "direction": "Egress", "action": "Deny",
                "peers": {"cidrs": ["203.0.113.0/24"]},
            }],
        },
    })
    .to_string()
}

/// Entries of a kind with a text, as `user verb`, oldest first.
async fn entries_about(auditor: &McpClient, text: &str, kind: &str) -> anyhow::Result<Vec<String>> {
    let query = json!({
        "kind": kind, "text": text, "limit": 50, "response_format": "detailed",
    });
    let found = auditor.must("search_audit_log", query).await?;
    let items = found.structured["entries"].as_array().into_iter().flatten();
    let words = items.map(|item| {
        let data = &item["entry"]["data"];
        let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match kind {
            "gap" => format!(
                "{} {}",
                string(&data["why"]),
                data["objects"][0]["generation"]
            ),
            _ => format!("{} {}", string(&data["user"]), string(&data["verb"])),
        }
    });
    let mut words: Vec<String> = words.collect();
    words.reverse();
    Ok(words)
}

async fn entries(auditor: &McpClient, kind: &str) -> anyhow::Result<Vec<String>> {
    entries_about(auditor, "kept-by-test", kind).await
}

async fn wait(auditor: &McpClient, kind: &str, wanted: &[&str]) -> anyhow::Result<()> {
    let what = format!("the entries {kind} {wanted:?}");
    let found = eventually(&what, PATIENCE, || async {
        Ok((entries(auditor, kind).await? == wanted).then_some(()))
    })
    .await;
    let there = entries(auditor, kind).await?;
    found.with_context(|| format!("there are {there:?}"))
}

/// kubectl's arguments that merge `patch` into the policy.
fn patching(patch: &str) -> [&str; 8] {
    [
        "patch",
        "policy",
        "kept-by-test",
        "-n",
        TENANT,
        "--type=merge",
        "-p",
        patch,
    ]
}

async fn requests() -> anyhow::Result<()> {
    let site = Site::start(&[]).await?;
    let auditor = site.agent("auditor", "Investigate", None).await?;
    let person = |name| site.plane.kubeconfig_for_person(name, &["system:masters"]);
    let (alice, bob) = (person("alice")?, person("bob")?);
    let kubectl = async |who: &Path, args: &[&str], input: &str| {
        let outcome = site.plane.kubectl_as(who, args, input).await?;
        anyhow::Ok(outcome.success())
    };
    let create = ["create", "-f", "-"];
    let mut probes = 0;
    eventually("the webhook to be told", PATIENCE, || {
        probes += 1;
        let (name, site, auditor) = (format!("probe-{probes}"), &site, &auditor);
        async move {
            site.apply(&policy(&name, "Observe")).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let told = entries_about(auditor, "probe-", "change_request").await?;
            Ok((!told.is_empty()).then_some(()))
        }
    })
    .await?;
    kubectl(&alice, &create, &policy("kept-by-test", "Observe")).await??;
    let taken = kubectl(&bob, &create, &policy("kept-by-test", "Enforce")).await?;
    let refusal = format!("{:#}", taken.expect_err("the name is taken"));
    assert!(refusal.contains("AlreadyExists"), "{refusal}");
    let delete = [
        "delete",
        "policy",
        "kept-by-test",
        "-n",
        TENANT,
        "--wait=false",
    ];
    kubectl(&alice, &delete, "").await??;
    wait(
        &auditor,
        "change_request",
        &["alice create", "bob create", "alice delete"],
    )
    .await?;
    wait(&auditor, "resource_change", &["alice create"]).await?;

    // Nobody is told of what bob does now.
    let webhook = ["delete", "validatingwebhookconfiguration", "seawall"];
    site.plane.kubectl(&webhook).await?;
    let mut mode = "Observe";
    let patched = eventually("a change that the webhook is not told of", PATIENCE, || {
        mode = if mode == "Enforce" {
            "Observe"
        } else {
            "Enforce"
        };
        let patch = json!({"spec": {"mode": mode}}).to_string();
        let (site, bob, auditor) = (&site, &bob, &auditor);
        async move {
            let args = patching(&patch);
            let before = entries(auditor, "change_request").await?.len();
            let outcome = site.plane.kubectl_as(bob, &args, "").await?;
            outcome.success()?;
            // Longer than the search index takes.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let told = entries(auditor, "change_request").await?.len() > before;
            let object = site
                .get("policy", "kept-by-test")
                .await?
                .unwrap_or_default();
            Ok((!told).then(|| object["metadata"]["generation"].to_string()))
        }
    })
    .await?;
    let gap = format!("written, and the webhook was not told by whom {patched}");
    wait(&auditor, "gap", &[&gap]).await?;

    let keep = r#"{"metadata": {"finalizers": null}}"#;
    kubectl(&bob, &patching(keep), "").await??;
    eventually("alice's deletion", PATIENCE, || async {
        let found = entries(&auditor, "resource_change").await?;
        let last = found.last().is_some_and(|words| words == "alice delete");
        Ok(last.then_some(()))
    })
    .await?;
    // Bob's creation was refused, and is nowhere told to have happened.
    let changed = entries(&auditor, "resource_change").await?;
    assert!(!changed.contains(&"bob create".to_owned()), "{changed:?}");
    Ok(())
}
