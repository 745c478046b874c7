//! Root is lost on the isolated device: its own table goes, and the other side still holds.

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use super::super::Demo;
use super::{expect_reach, ms};
use crate::lab::Reach;
use crate::site::SiteDevice;

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    // Held still, the agent can't repair: what drops the device now is its peers alone.
    signal(demo.site.device("ws-1"), Signal::SIGSTOP)?;
    let flush = ["delete", "table", "inet", "seawall"];
    let suspect = demo.site.device("ws-1").host.clone();
    suspect.run("nft", &flush, "").await?.success()?;
    let held = async {
        expect_reach(demo, "ws-1", "ws-2", Reach::NONE).await?;
        expect_reach(demo, "ws-1", "ws-3", Reach::NONE).await?;
        expect_reach(demo, "ws-2", "ws-1", Reach::NONE).await
    };
    let held = held.await;
    signal(demo.site.device("ws-1"), Signal::SIGCONT)?;
    held?;

    // Now with the agent awake: flushed once more, it has to come back.
    demo.site.reported_tampering("ws-1", 1).await?;
    let flushed = Instant::now();
    suspect.run("nft", &flush, "").await?.success()?;
    crate::harness::eventually("the table to be back", super::ANSWER, || async {
        let listed = suspect
            .run("nft", &["list", "table", "inet", "seawall"], "")
            .await?;
        Ok(listed.status.success().then_some(()))
    })
    .await?;
    let repaired = flushed.elapsed();
    expect_reach(demo, "ws-1", "server", Reach::NONE).await?;
    let reports = demo.site.reported_tampering("ws-1", 2).await?;
    demo.report.latency("flushed table: back after", repaired);
    Ok(format!(
        "peers dropped it without its own rules; the agent put them back within {}; {reports} reports in the audit log",
        ms(repaired)
    ))
}

fn signal(device: &SiteDevice, signal: Signal) -> anyhow::Result<()> {
    match device.agent() {
        Some(agent) => agent.signal(signal),
        None => anyhow::bail!("no agent runs on {}", device.host.name()),
    }
}

impl crate::site::Site {
    /// Waits until the audit log holds this many reports of tampering with a device; how many it holds.
    async fn reported_tampering(&self, device: &str, at_least: usize) -> anyhow::Result<usize> {
        let id = &self.device(device).id;
        let auditor = self.agent_once("auditor", "Investigate").await?;
        crate::harness::eventually("the report of the tampering", super::ANSWER * 4, || async {
            let query = json!({"kind": "device", "text": id, "limit": 50});
            let found = auditor.must("search_audit_log", query).await?;
            let entries = found.structured["entries"].as_array().into_iter().flatten();
            let tampered = entries.filter(|entry| entry["summary"].to_string().contains("amper"));
            let count = tampered.count();
            Ok((count >= at_least).then_some(count))
        })
        .await
    }
}
