//! `make bench`: how long an isolation takes, from the tool call to the last packet that reaches the peer,
//! to the device's acknowledged read-back and to that of all its peers, with 1, 50 and 200 connected
//! agents and 200 streams in the background.

mod background;
mod figure;
mod isolation;
mod summary;

use std::process::ExitCode;
use std::time::Instant;

use crate::site::Site;
use background::Background;
use summary::Summary;

/// Connected agents, in the order of the measurements.
const AGENTS: [usize; 3] = [1, 50, 200];

/// Agents that enrol between two lines of progress.
const STEP: usize = 25;

pub async fn run() -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) {
        println!("not optimized: `make bench` measures what users run");
    }
    let started = Instant::now();
    phase(started, "control plane, charts, operator, MCP server");
    // One after the other, fast: no mass release that a person would have to confirm.
    let mut site = Site::start(&["--hold-threshold", "1000"]).await?;
    let server = site.bystander("server")?;
    let other = site.bystander("other")?;
    let key = site
        .scope("bench", "Contain", Some("{devices: {all: true}}"))
        .await?;
    phase(started, "what the API server alone takes");
    let floor = isolation::floor(&site).await?;
    let mut summary = Summary::default();
    for count in AGENTS {
        while site.devices.len() < count {
            let next = count.min(site.devices.len() + STEP);
            site.enroll_many(next).await?;
            phase(started, &format!("{next} agents are connected"));
        }
        let background = Background::open(&site, &server, &other).await?;
        phase(
            started,
            &format!("{} streams flow; isolating", background.len()),
        );
        let samples = isolation::measure(&site, &server, &key, started).await?;
        samples.publish(count, &floor)?;
        summary.add(count, samples);
    }
    phase(started, "done");
    println!("\n{}", summary.table());
    println!("{}", figure::machine());
    Ok(ExitCode::SUCCESS)
}

fn phase(started: Instant, what: &str) {
    println!("{:>6.1} s  {what}", started.elapsed().as_secs_f64());
}
