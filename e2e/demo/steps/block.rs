//! A destination is blocked for the whole fleet, and for a while.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::Demo;
use super::super::traffic::Traffic;
use super::{expect_reach, ms};
use crate::harness::eventually;
use crate::lab::Reach;

const FOR: Duration = Duration::from_secs(12);

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    let agent = demo
        .site
        .agent("blocker", "Contain", Some("{devices: {all: true}}"))
        .await?;
    let mut latest = Duration::ZERO;
    let called = Instant::now();
    let mut answered = called;
    for address in [demo.server.v4().to_string(), demo.server.v6().to_string()] {
        let arguments = json!({
            "destination": address,
            "fleet": true,
            "reason": "Command and control",
            "ttl": format!("{}s", FOR.as_secs()),
        });
        let answer = agent.must("block_destination", arguments).await?;
        latest = latest.max(answer.took);
        answered = Instant::now();
    }
    tokio::time::sleep(super::ANSWER).await;
    demo.suspect.cut(called, answered)?;
    demo.others.cut(called, answered)?;
    expect_reach(demo, "ws-2", "server", Reach::NONE).await?;
    expect_reach(demo, "ws-2", "ws-3", Reach::ALL).await?;

    eventually("the block to end by itself", FOR * 2, || async {
        let reach = super::reaches(demo, "ws-2", "server").await?;
        Ok((reach == Reach::ALL).then_some(()))
    })
    .await?;
    let ended = called.elapsed();
    demo.reopen_traffic().await?;
    demo.report
        .latency("block fleet: call to answer, read back", latest);
    Ok(format!(
        "open flows of all three devices cut; read back after {}; free again after {:.1} s",
        ms(latest),
        ended.as_secs_f64()
    ))
}

impl Demo {
    /// Opens all flows afresh, as programs do when their connection was lost.
    pub(super) async fn reopen_traffic(&mut self) -> anyhow::Result<()> {
        let hosts: Vec<_> = ["ws-1", "ws-2", "ws-3"]
            .map(|name| self.site.device(name).host.clone())
            .into();
        self.suspect = Traffic::open(&[&hosts[0]], &self.server).await?;
        self.others = Traffic::open(&[&hosts[1], &hosts[2]], &self.server).await?;
        Ok(())
    }
}
