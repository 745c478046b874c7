//! `make demo`: the whole path on one machine, with real parts. Three devices with an agent each, a server and
//! a management host; an AI agent over MCP and a person with kubectl act, and packets show what happened.

mod report;
mod steps;
mod traffic;
mod workloads;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

use crate::lab::{Host, Responder};
use crate::site::Site;
use report::{Report, Step};
use traffic::Traffic;
use workloads::Workloads;

/// A port that every host answers at.
const PORT: u16 = 7000;

/// What the steps act on.
pub struct Demo {
    pub site: Site,
    pub server: Host,
    pub management: Host,
    /// Answers on every host.
    pub responders: Vec<Responder>,
    /// From the device that gets isolated.
    pub suspect: Traffic,
    /// From the devices that must not notice.
    pub others: Traffic,
    /// The cluster with real nodes, once it is there.
    pub workloads: Option<Workloads>,
    pub report: Report,
}

pub async fn run() -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut demo = Demo::set_up(started).await?;
    demo.walk(started).await;
    phase(started, "done");
    demo.report.print();
    let path = demo.report.write()?;
    println!("\nreport: {}", path.display());
    if demo.report.ok() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("logs:   {}", demo.site.dir().display());
    Ok(ExitCode::FAILURE)
}

impl Demo {
    pub async fn set_up(started: Instant) -> anyhow::Result<Self> {
        phase(started, "control plane, charts, operator, MCP server");
        let mut site = Site::start(&[]).await?;
        phase(started, "three devices enrol");
        for name in ["ws-1", "ws-2", "ws-3"] {
            site.enroll(name, "workstation").await?;
        }
        phase(started, "a server, a management host, and traffic");
        let server = site.bystander("server")?;
        let management = site.bystander("mgmt")?;
        let mut responders = Vec::new();
        let hosts = site.devices.iter().map(|device| &device.host);
        for host in hosts.chain([&server, &management]) {
            responders.push(Responder::start(host, PORT).await?);
        }
        let suspect = Traffic::open(&[&site.device("ws-1").host], &server).await?;
        let others = [&site.device("ws-2").host, &site.device("ws-3").host];
        let others = Traffic::open(&others, &server).await?;
        Ok(Self {
            site,
            server,
            management,
            responders,
            suspect,
            others,
            workloads: None,
            report: Report::default(),
        })
    }

    /// Step after step; the first that fails ends the walk.
    async fn walk(&mut self, started: Instant) {
        for step in steps::ALL {
            let mut told = Step {
                name: step.name,
                expected: step.expected,
                measured: String::new(),
                ok: true,
                skipped: None,
            };
            if let Err(why) = (step.possible)() {
                told.skipped = Some(format!("{why:#}"));
                self.report.steps.push(told);
                continue;
            }
            phase(started, step.name);
            let outcome = (step.run)(self).await;
            told.ok = outcome.is_ok();
            told.measured = outcome.unwrap_or_else(|error| format!("{error:#}"));
            let ok = told.ok;
            self.report.steps.push(told);
            if !ok {
                return;
            }
        }
    }

    pub fn responder(&self, host: &str) -> anyhow::Result<&Responder> {
        self.responders
            .iter()
            .find(|responder| responder.host().name() == host)
            .context("every host answers")
    }
}

fn phase(started: Instant, what: &str) {
    println!("{:>6.1} s  {what}", started.elapsed().as_secs_f64());
}
