//! `make bench`: how long an isolation takes, from the tool call to the last packet that reaches the peer
//! and to the read-back, with 1, 50 and 200 connected agents and 200 streams in the background.

mod figure;
mod isolation;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::lab::{Family, Flow, Transport};
use crate::site::Site;

/// Streams that go on while it is measured.
const STREAMS: usize = 200;

/// Between two packets of such a stream.
const EVERY: Duration = Duration::from_millis(100);

/// Connected agents, in the order of the measurements.
const AGENTS: [usize; 3] = [1, 50, 200];

pub async fn run() -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    // One after the other, fast: no mass release that a person would have to confirm.
    let mut site = Site::start(&["--hold-threshold", "1000"]).await?;
    let server = site.bystander("server")?;
    let key = site
        .scope("bench", "Contain", Some("{devices: {all: true}}"))
        .await?;
    let floor = isolation::floor(&site).await?;
    let mut streams: Vec<Flow> = Vec::new();
    for count in AGENTS {
        site.enroll_many(count).await?;
        streams.clear();
        for number in 0..STREAMS {
            let from = &site.devices[number % count].host;
            // The first device is the one that gets isolated; its own streams are not the background.
            let from = if number % count == 0 { &server } else { from };
            let to = if number % 2 == 0 { &server } else { from };
            streams.push(Flow::open(Transport::Tcp, Family::V4, from, to, EVERY).await?);
        }
        println!(
            "{:>6.1} s  {count} agents connected, {} streams flow",
            started.elapsed().as_secs_f64(),
            streams.len()
        );
        isolation::measure(&site, &server, &key, count, &floor).await?;
    }
    Ok(ExitCode::SUCCESS)
}
