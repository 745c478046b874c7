//! Isolation, from the tool call to the last packet.

use std::time::Instant;

use serde_json::json;

use super::super::{Demo, PORT};
use super::{expect_reach, ms};
use crate::lab::Reach;
use crate::site::{McpClient, TENANT};

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    let targets = Some("{devices: {tags: {kind: workstation}}}");
    let agent = demo.site.agent("responder", "Contain", targets).await?;
    let device = demo.site.device("ws-1").id.clone();
    let management = format!("{}/32", demo.management.v4());
    let arguments = json!({
        "device_id": device,
        "reason": "Lateral movement to 14 hosts, confidence 0.97",
        "ttl": "1h",
        "management": [{"cidr": management, "ports": [{"protocol": "TCP", "port": PORT}]}],
    });
    dry_run(demo, &agent, &arguments).await?;

    demo.suspect.flows().await?;
    let called = Instant::now();
    let answer = agent.must("isolate_device", arguments).await?;
    let answered = Instant::now();
    tokio::time::sleep(super::ANSWER).await;
    let last = demo.suspect.cut(called, answered)?;
    demo.others.flows().await?;

    expect_reach(demo, "ws-1", "server", Reach::NONE).await?;
    expect_reach(demo, "ws-1", "ws-2", Reach::NONE).await?;
    expect_reach(demo, "server", "ws-1", Reach::NONE).await?;
    expect_reach(demo, "ws-2", "ws-1", Reach::NONE).await?;
    let only_tcp4 = Reach {
        tcp4: true,
        ..Reach::NONE
    };
    expect_reach(demo, "mgmt", "ws-1", only_tcp4).await?;
    expect_reach(demo, "ws-2", "server", Reach::ALL).await?;

    demo.site.isolated().await?;
    let shown = demo
        .site
        .plane
        .kubectl(&["get", "isolations", "-n", TENANT])
        .await?;
    println!("\n{shown}");
    demo.report.latency("isolate: call to last packet", last);
    demo.report
        .latency("isolate: call to answer, read back", answer.took);
    Ok(format!(
        "{} open flows cut, the last packet {} after the call; read back by device and peers after {}; the other devices' {} flows go on; management TCP answers",
        demo.suspect.len(),
        ms(last),
        ms(answer.took),
        demo.others.len()
    ))
}

/// A dry run is checked by everybody and changes nothing.
async fn dry_run(
    demo: &Demo,
    agent: &McpClient,
    arguments: &serde_json::Value,
) -> anyhow::Result<()> {
    let mut arguments = arguments.clone();
    arguments["dry_run"] = json!(true);
    agent.must("isolate_device", arguments).await?;
    let found = demo
        .site
        .plane
        .kubectl(&["get", "isolations", "-n", TENANT, "-o", "name"])
        .await?;
    anyhow::ensure!(found.trim().is_empty(), "the dry run made {found}");
    demo.suspect.flows().await
}
