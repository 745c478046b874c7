//! That reconciling makes no writes.

use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;

use super::start;
use crate::gitops::manifest;
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![case(
        "a minute of reconciling every second writes none of our objects, by anybody",
        quiet,
    )]
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
    for (kind, name, spec) in [
        ("Policy", "quiet-net", policy),
        ("Policy", "quiet-pods", pods),
        ("Isolation", "quiet-lost", &isolation),
        ("ApiKeyScope", "quiet-bot", scope),
    ] {
        let text = manifest(kind, name, spec);
        all.git.write(&format!("quiet/{name}.yaml"), &text)?;
    }
    let commit = all.git.push("All that there is").await?;
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
