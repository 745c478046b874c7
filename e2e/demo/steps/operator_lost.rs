//! Without its operator a device enforces what it last knew; with it back, nothing flaps.

use std::time::{Duration, Instant};

use super::super::Demo;
use super::{expect_reach, ms};
use crate::lab::Reach;

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    // Until the log has what became of the last changes: a request that the kill leaves unanswered may be a gap.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = revisions(demo)?;
    let gone = Instant::now();
    demo.site.kill_operator()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    expect_reach(demo, "ws-1", "server", Reach::NONE).await?;
    expect_reach(demo, "ws-2", "ws-1", Reach::NONE).await?;
    demo.others.flows().await?;

    let started = Instant::now();
    demo.site.start_operator().await?;
    for device in &demo.site.devices {
        device.wait_connected(&demo.site).await?;
    }
    let back = started.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let passed = demo.suspect.passed_since(gone);
    anyhow::ensure!(
        passed == 0,
        "{passed} packets of the isolated device passed"
    );
    demo.others.flows().await?;
    let after = revisions(demo)?;
    anyhow::ensure!(
        before == after,
        "bundles were sent again: {before:?}, now {after:?}"
    );
    demo.report
        .latency("operator back: all devices connected", back);
    Ok(format!(
        "0 packets of the isolated device in {}; leading and all devices connected {} after the start; every device still at the bundle it had",
        ms(gone.elapsed()),
        ms(back)
    ))
}

/// Epoch and revision that each device has on disk.
fn revisions(demo: &Demo) -> anyhow::Result<Vec<(u64, u64)>> {
    demo.site
        .devices
        .iter()
        .map(|device| device.bundle_revision())
        .collect()
}
