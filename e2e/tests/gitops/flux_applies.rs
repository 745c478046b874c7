//! From a commit to what is in force, and back.

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{OFF, shared};
use crate::gitops::{GitOps, PATIENCE, manifest, ready};
use crate::harness::{case, eventually};
use crate::site::TENANT;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "what is in git is applied and ready though a device is off, a change follows, and what leaves git is pruned",
            applied,
        ),
        case(
            "what a person edits beside git is put back, a field that git doesn't name too",
            drift,
        ),
        case(
            "a policy that can never be in force fails the Kustomization before its time is up, in the policy's own words",
            stalled,
        ),
    ]
}

fn blocking(network: &str) -> String {
    format!(
        "{{subjects: {{devices: {{tags: {{kind: workstation}}}}}}, rules: [{{name: c2, \
         direction: Egress, action: Deny, peers: {{cidrs: [{network}]}}}}]}}"
    )
}

async fn network_of(all: &GitOps, policy: &str) -> anyhow::Result<Value> {
    let policy = all.object("policy", policy).await?;
    Ok(policy["spec"]["rules"][0]["peers"]["cidrs"][0].clone())
}

async fn applied() -> anyhow::Result<()> {
    let all = &*shared().await?;
    let device = &all.site.device("ws-1").id;
    let policy = |network| manifest("Policy", "plant-net", &blocking(network));
    let isolation = format!("{{target: {{device: {device}}}, reason: Lost in the field}}");
    let lost = manifest("Isolation", "plant-lost", &isolation);
    let scope = manifest("ApiKeyScope", "plant-watch", "{access: Investigate}");
    let files = [
        ("plant/policy.yaml", Some(policy("203.0.113.0/24"))),
        ("plant/isolation.yaml", Some(lost)),
        ("plant/scope.yaml", Some(scope)),
    ];
    let first = all.git.commit("What the plant wants", &files).await?;
    all.follow("plant").await?;
    all.applied("plant", &first).await?;
    is_ready_with_a_device_off(all).await?;

    let other = [("plant/policy.yaml", Some(policy("198.51.100.0/24")))];
    let second = all.git.commit("Another network", &other).await?;
    all.applied("plant", &second).await?;
    ensure!(network_of(all, "plant-net").await? == "198.51.100.0/24");

    let found = [("plant/isolation.yaml", None)];
    let third = all.git.commit("It was found", &found).await?;
    all.applied("plant", &third).await?;
    let gone = all.site.get("isolation", "plant-lost").await?;
    // Deleting waits for nobody: there is no finalizer.
    ensure!(gone.is_none(), "{gone:?}");
    all.object("policy", "plant-net").await.map(drop)
}

/// Flux says ready, and it is not that nobody was to have the policy.
async fn is_ready_with_a_device_off(all: &GitOps) -> anyhow::Result<()> {
    let status = all.object("policy", "plant-net").await?["status"].clone();
    let coverage = &status["coverage"];
    ensure!(
        coverage["offline"] == 1 && coverage["programmed"] == 3,
        "{status}"
    );
    let off = &all.site.device(OFF).id;
    let shown = all.site.seawall(&["fleet", "show", off, "--json"]).await?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(shown["connected"] == false, "{shown}");
    for (kind, name) in [
        ("policy", "plant-net"),
        ("isolation", "plant-lost"),
        ("apikeyscope", "plant-watch"),
    ] {
        let object = all.object(kind, name).await?;
        let show = [
            "get",
            kind,
            name,
            "-n",
            TENANT,
            "--show-managed-fields",
            "-o",
            "yaml",
        ];
        let owners = all.site.plane.kubectl(&show).await?;
        ensure!(owners.contains("manager: kustomize-controller"), "{owners}");
        let is = ready(&object).map(|condition| condition["status"].clone());
        ensure!(is == Some("True".into()), "{kind} {name}: {object}");
    }
    Ok(())
}

async fn drift() -> anyhow::Result<()> {
    let all = &*shared().await?;
    let policy = manifest("Policy", "drift-net", &blocking("203.0.113.0/24"));
    let file = ("drift/policy.yaml", Some(policy));
    let commit = all.git.commit("A policy that people edit", &[file]).await?;
    all.follow("drift").await?;
    all.applied("drift", &commit).await?;

    let edited = r#"{"spec": {"rules": [{"name": "c2", "direction": "Egress", "action": "Allow",
        "peers": {"cidrs": ["192.0.2.0/24"]}}]}}"#;
    edit(all, edited).await?;
    eventually("the rule to be put back", PATIENCE, || async {
        let policy = all.object("policy", "drift-net").await?;
        let rule = &policy["spec"]["rules"][0];
        let back = rule["action"] == "Deny" && rule["peers"]["cidrs"][0] == "203.0.113.0/24";
        Ok(back.then_some(()))
    })
    .await?;

    edit(all, r#"{"spec": {"disabled": true}}"#).await?;
    eventually("the policy to be enabled again", PATIENCE, || async {
        let policy = all.object("policy", "drift-net").await?;
        Ok((policy["spec"]["disabled"] != true).then_some(()))
    })
    .await
}

/// As `kubectl edit` does it, and by its field manager.
async fn edit(all: &GitOps, patch: &str) -> anyhow::Result<()> {
    let args = ["patch", "policy", "drift-net", "-n", TENANT];
    let how = ["--type=merge", "--field-manager=kubectl-edit", "-p", patch];
    let said = all.site.plane.kubectl(&[&args[..], &how].concat()).await?;
    ensure!(said.contains("patched"), "{said}");
    Ok(())
}

async fn stalled() -> anyhow::Result<()> {
    let all = &*shared().await?;
    let spec = "{subjects: {devices: {tags: {kind: workstation}}}, rules: [{name: names, \
                direction: Egress, action: Deny, peers: {domains: [evil.example.com]}}]}";
    let policy = manifest("Policy", "never-names", spec);
    let file = ("never/policy.yaml", Some(policy));
    let why = "A policy of names, which no agent keeps";
    all.git.commit(why, &[file]).await?;
    let began = std::time::Instant::now();
    all.follow("never").await?;
    let said = eventually("the Kustomization to fail", PATIENCE, || async {
        let kustomization = all.kustomization("never").await?;
        let failed = ready(&kustomization).filter(|it| it["reason"] == "HealthCheckFailed");
        Ok(failed.map(|it| it["message"].as_str().unwrap_or_default().to_owned()))
    })
    .await?;
    // It would have waited 40 s for what may yet become ready.
    ensure!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    ensure!(
        said.contains("never-names") && said.contains("Failed"),
        "{said}"
    );
    let object = all.object("policy", "never-names").await?;
    let conditions = object["status"]["conditions"].as_array();
    let stalled = conditions
        .context("it has conditions")?
        .iter()
        .any(|it| it["type"] == "Stalled" && it["status"] == "True");
    ensure!(stalled, "{object}");
    // Or it fails again and again beside the other tests.
    let delete = ["delete", "kustomization", "never", "-n", "flux-system"];
    all.site.plane.kubectl(&delete).await.map(drop)
}
