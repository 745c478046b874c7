//! `make soak`: for as long as SOAK_MINUTES says, people isolate and release while agents and the operator
//! die and rules are flushed, in an order that a seed decides. At no moment may a packet of an isolated
//! device pass, and in the end everything agrees. The seed is printed; SOAK_SEED plays it again.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::eventually;
use crate::lab::{Reach, Responder, reach};
use crate::site::{Site, TENANT};

const DEVICES: usize = 6;
const ANSWER: Duration = Duration::from_millis(1500);
/// An agent that lost its operator asks again at growing distances.
const PATIENCE: Duration = Duration::from_secs(90);

pub async fn run() -> anyhow::Result<ExitCode> {
    let minutes: u64 = setting("SOAK_MINUTES", 30)?;
    let seed: u64 = setting("SOAK_SEED", u64::from(std::process::id()))?;
    println!("{minutes} minutes; SOAK_SEED={seed}");
    let mut soak = Soak::begin(seed).await?;
    let started = Instant::now();
    let mut turns = 0;
    while started.elapsed() < Duration::from_secs(minutes * 60) {
        soak.turn(started).await?;
        turns += 1;
    }
    soak.converge().await?;
    println!("{turns} turns held");
    Ok(ExitCode::SUCCESS)
}

fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is a number, not {text:?}")),
        Err(_) => Ok(default),
    }
}

struct Soak {
    site: Site,
    server: Responder,
    random: StdRng,
    /// Isolated, and acknowledged to be.
    isolated: [bool; DEVICES],
    operator_runs: bool,
    agent_runs: [bool; DEVICES],
}

impl Soak {
    async fn begin(seed: u64) -> anyhow::Result<Self> {
        // Releases come one after the other, fast: not what a hold is about.
        let mut site = Site::start(&["--hold-threshold", "1000"]).await?;
        site.enroll_many(DEVICES).await?;
        let server = Responder::start(&site.bystander("server")?, 7000).await?;
        Ok(Self {
            site,
            server,
            random: StdRng::seed_from_u64(seed),
            isolated: [false; DEVICES],
            operator_runs: true,
            agent_runs: [true; DEVICES],
        })
    }

    async fn turn(&mut self, started: Instant) -> anyhow::Result<()> {
        let number = self.random.random_range(0..DEVICES);
        let action = self.random.random_range(0..6);
        let what = match action {
            0 => self.toggle(number).await?,
            1 => self.toggle_agent(number)?,
            2 => self.flush(number).await?,
            3 => self.toggle_operator().await?,
            _ => "look",
        };
        println!(
            "{:>6.0} s  d{number}: {what}",
            started.elapsed().as_secs_f64()
        );
        self.check(number).await
    }

    /// Isolates or releases, where that can be acknowledged.
    async fn toggle(&mut self, number: usize) -> anyhow::Result<&'static str> {
        if !self.operator_runs || !self.agent_runs[number] {
            return Ok("look");
        }
        let name = format!("soak-{number}");
        if self.isolated[number] {
            let delete = ["delete", "isolation", &name, "-n", TENANT];
            self.site.plane.kubectl(&delete).await?;
            self.isolated[number] = false;
            self.wait_reach(number, Reach::ALL).await?;
            return Ok("released");
        }
        let id = &self.site.devices[number].id;
        self.site
            .apply(&format!(
                "apiVersion: seawall.dev/v1alpha1\nkind: Isolation\n\
                 metadata: {{name: {name}, namespace: {TENANT}}}\n\
                 spec:\n  target: {{device: {id}}}\n  reason: soak\n"
            ))
            .await?;
        // Ready does not wait for a device that is not connected, as none is to an operator that has just started.
        eventually("the device itself to have it", PATIENCE, || async {
            let isolation = self.site.get("isolation", &name).await?;
            let own = isolation.map(|it| it["status"]["self"] == "Programmed");
            Ok((own == Some(true)).then_some(()))
        })
        .await?;
        self.isolated[number] = true;
        Ok("isolated")
    }

    fn toggle_agent(&mut self, number: usize) -> anyhow::Result<&'static str> {
        let device = &mut self.site.devices[number];
        self.agent_runs[number] = !self.agent_runs[number];
        if self.agent_runs[number] {
            device.restart_agent()?;
            return Ok("agent started");
        }
        device.kill_agent();
        Ok("agent killed")
    }

    /// With its agent alive, a flushed table has to come back.
    async fn flush(&mut self, number: usize) -> anyhow::Result<&'static str> {
        if !self.agent_runs[number] {
            return Ok("look");
        }
        let host = self.site.devices[number].host.clone();
        // An agent that has only just started may not have made it yet.
        host.run("nft", &["delete", "table", "inet", "seawall"], "")
            .await?;
        if self.isolated[number] {
            self.wait_reach(number, Reach::NONE).await?;
        }
        Ok("rules flushed")
    }

    async fn toggle_operator(&mut self) -> anyhow::Result<&'static str> {
        self.operator_runs = !self.operator_runs;
        if self.operator_runs {
            self.site.start_operator().await?;
            return Ok("operator started");
        }
        self.site.kill_operator()?;
        Ok("operator killed")
    }

    /// What was acknowledged is in force, whatever died since.
    async fn check(&self, number: usize) -> anyhow::Result<()> {
        if !self.isolated[number] {
            return Ok(());
        }
        let host = self.site.devices[number].host.clone();
        let found = reach(&host, &self.server, ANSWER).await?;
        anyhow::ensure!(
            found == Reach::NONE,
            "d{number} is isolated and reaches {found:?}"
        );
        Ok(())
    }

    async fn wait_reach(&self, number: usize, expected: Reach) -> anyhow::Result<()> {
        let host = self.site.devices[number].host.clone();
        let what = format!("d{number} to reach {expected:?}");
        eventually(&what, Duration::from_secs(20), || async {
            let found = reach(&host, &self.server, ANSWER).await?;
            Ok((found == expected).then_some(()))
        })
        .await
    }

    /// Everybody lives again, and reaches what they should.
    async fn converge(&mut self) -> anyhow::Result<()> {
        if !self.operator_runs {
            self.toggle_operator().await?;
        }
        for number in 0..DEVICES {
            if !self.agent_runs[number] {
                self.toggle_agent(number)?;
            }
            self.site.devices[number].wait_connected(&self.site).await?;
            let expected = if self.isolated[number] {
                Reach::NONE
            } else {
                Reach::ALL
            };
            self.wait_reach(number, expected).await?;
        }
        Ok(())
    }
}
