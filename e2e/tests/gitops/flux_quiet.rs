//! That reconciling makes no writes, and what Flux thinks while nobody answers.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;

use super::start;
use crate::gitops::{GitOps, PATIENCE, manifest, ready};
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a minute of reconciling every second writes none of our objects, by anybody",
            quiet,
        ),
        case(
            "what no operator has seen is not ready for Flux, and is once there is one",
            unseen,
        ),
    ]
}

const MINUTE: Duration = Duration::from_secs(60);

async fn quiet() -> anyhow::Result<()> {
    let all = start().await?;
    let device = &all.site.device("ws-1").id;
    let policy = "{subjects: {devices: {tags: {kind: workstation}}}, default: {ingress: Deny}, \
                  rules: [{name: ssh, direction: Ingress, action: Allow, \
                  peers: {cidrs: [198.51.100.0/24]}, ports: [{protocol: TCP, port: 22}]}]}";
    let pods = "{subjects: {workloads: {podSelector: {matchLabels: {app: shop}}}}, \
                rules: [{name: front, direction: Ingress, action: Allow, \
                peers: {workloads: {podSelector: {matchLabels: {app: front}}}}}], \
                default: {ingress: Deny}}";
    let isolation = format!(
        "{{target: {{device: {device}}}, reason: Quiet, \
         management: [{{cidr: 198.51.100.7/32, ports: [{{protocol: TCP, port: 22}}]}}]}}"
    );
    let scope = "{access: Contain, targets: {devices: {tags: {kind: workstation}}}}";
    let files = [
        (
            "quiet/net.yaml",
            Some(manifest("Policy", "quiet-net", policy)),
        ),
        (
            "quiet/pods.yaml",
            Some(manifest("Policy", "quiet-pods", pods)),
        ),
        (
            "quiet/lost.yaml",
            Some(manifest("Isolation", "quiet-lost", &isolation)),
        ),
        (
            "quiet/bot.yaml",
            Some(manifest("ApiKeyScope", "quiet-bot", scope)),
        ),
    ];
    let commit = all.git.commit("All that there is", &files).await?;
    all.follow("quiet").await?;
    all.applied("quiet", &commit).await?;
    // What is told of the last change at most every 30 s is told by then.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mark = all.site.plane.audit().mark()?;
    tokio::time::sleep(MINUTE).await;
    let looked = all.looked("quiet-net", mark)?;
    let writes = all.writes(mark)?;
    eprintln!("Flux looked {looked} times; writes: {}", writes.len());
    ensure!(looked >= 20, "Flux looked only {looked} times");
    ensure!(writes.is_empty(), "{writes:?}");
    Ok(())
}

async fn unseen() -> anyhow::Result<()> {
    let mut all = GitOps::start().await?;
    all.site.stop_operator().await?;
    let scope = manifest("ApiKeyScope", "unseen-bot", "{access: Investigate}");
    let policy = "{subjects: {all: true}, default: {ingress: Deny}}";
    let files = [
        ("unseen/bot.yaml", Some(scope)),
        (
            "unseen/net.yaml",
            Some(manifest("Policy", "unseen-net", policy)),
        ),
    ];
    let commit = all.git.commit("With nobody there", &files).await?;
    all.follow("unseen").await?;
    eventually("Flux to write it", PATIENCE, || async {
        all.site.get("policy", "unseen-net").await
    })
    .await?;
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while std::time::Instant::now() < until {
        let said = all.kustomization("unseen").await?;
        let is = ready(&said).is_some_and(|it| it["status"] == "True");
        ensure!(!is, "{said}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    all.site.start_operator().await?;
    all.applied("unseen", &commit).await
}
