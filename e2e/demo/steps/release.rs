//! What was taken away comes back.

use std::time::Instant;

use serde_json::json;

use super::super::Demo;
use super::super::traffic::Traffic;
use super::{expect_reach, ms};
use crate::lab::Reach;

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    let key = demo.site.key("responder").await?;
    let agent = crate::site::McpClient::connect(&demo.site.mcp_url(), &key).await?;
    let device = demo.site.device("ws-1").id.clone();
    let called = Instant::now();
    let arguments = json!({"device_id": device, "reason": "Reimaged and checked"});
    let answer = agent.must("release_device", arguments).await?;
    expect_reach(demo, "ws-1", "server", Reach::ALL).await?;
    let flowing = called.elapsed();
    expect_reach(demo, "server", "ws-1", Reach::ALL).await?;
    expect_reach(demo, "ws-2", "ws-1", Reach::ALL).await?;
    let suspect = demo.site.device("ws-1").host.clone();
    demo.suspect = Traffic::open(&[&suspect], &demo.server).await?;
    demo.report
        .latency("release: call to answer, read back", answer.took);
    Ok(format!(
        "read back after {}; every protocol answered, both ways, {} after the call",
        ms(answer.took),
        ms(flowing)
    ))
}
