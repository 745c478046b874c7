//! `make bench`: what `compile` takes, and how long an isolation takes, from the tool call to the last packet
//! that reaches the peer, to the device's acknowledged read-back and to that of all its peers, with 1, 50 and
//! 200 connected agents and 200 streams in the background. `make bench PART=compile` measures one part.

mod background;
mod big_world;
mod compile;
mod figure;
mod isolation;
mod pods;
mod scale;
mod summary;

use std::process::ExitCode;
use std::time::Instant;

use crate::site::Site;
use background::Background;
use summary::Summary;

/// What can be measured alone.
const PARTS: [&str; 4] = ["compile", "pods", "scale", "isolation"];

/// Connected agents, in the order of the measurements.
const AGENTS: [usize; 3] = [1, 50, 200];

/// Agents that enrol between two lines of progress.
const STEP: usize = 25;

pub async fn run() -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) {
        println!("not optimized: `make bench` measures what users run");
    }
    let started = Instant::now();
    let part = std::env::args().nth(2);
    let is_wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    anyhow::ensure!(
        PARTS.iter().any(|name| is_wanted(name)),
        "nothing of that name is measured: the parts are {PARTS:?}"
    );
    if is_wanted("compile") {
        phase(started, "compile, in this process");
        compile::run()?;
    }
    if is_wanted("pods") {
        phase(started, "a node, and pods on it");
        pods::run(started).await?;
    }
    if is_wanted("scale") {
        scale::run(started).await?;
    }
    if is_wanted("isolation") {
        isolations(started).await?;
    }
    phase(started, "done");
    println!("{}", figure::machine());
    Ok(ExitCode::SUCCESS)
}

async fn isolations(started: Instant) -> anyhow::Result<()> {
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
    println!("\n{}", summary.table());
    Ok(())
}

fn phase(started: Instant, what: &str) {
    println!("{:>6.1} s  {what}", started.elapsed().as_secs_f64());
}
