//! The agent is killed between each of its steps.

use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use seawall::agent::enforcer::Step;
use seawall::domain::enforcement::DeviceState;

use super::{EVERY, LIMIT, MANAGEMENT_PORT, PORT};
use crate::fleet::{Agent, Operator, isolated};
use crate::harness::case;
use crate::lab::{Connection, Family, Flow, Host, Lab, Responder, Transport, connect};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "killed at each step of a change, an isolated device has the last state or the next and is never open",
            killed_while_isolated,
        ),
        case(
            "killed at each step of its isolation, a device comes back with what is on its disk, without the operator",
            killed_while_being_isolated,
        ),
    ]
}

const GRACE: Duration = Duration::from_secs(20);

/// How long the bundle takes to the disk is not needed: the steps after it are known.
fn is_on_disk(step: Step) -> bool {
    matches!(
        step,
        Step::Persisted | Step::Applied | Step::Cut | Step::ReadBack
    )
}

fn is_in_force(step: Step) -> bool {
    matches!(step, Step::Applied | Step::Cut | Step::ReadBack)
}

async fn killed_while_isolated() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let mut agent = operator.agent(&laptop).await?;
    let service = Responder::start(&laptop, PORT).await?;
    let mut flows = Vec::new();
    for family in Family::BOTH {
        flows.push(Flow::open(Transport::Udp, family, &server, &laptop, EVERY).await?);
    }
    // Two states that differ in the port that management reaches.
    let mut port = MANAGEMENT_PORT;
    let applied = operator.apply(&agent, isolated(&admin, &[port])?).await?;
    for step in Step::ALL {
        let before = agent.table().await?;
        agent.kill();
        operator.disconnected(&agent.id()?, GRACE).await?;
        port += 1;
        let next = operator.want(&agent, isolated(&admin, &[port])?).await?;
        agent.restart_to_die_at(step)?;
        agent
            .ended(GRACE)
            .await
            .with_context(|| format!("{step:?}"))?;

        let left = agent.table().await?;
        match is_in_force(step) {
            true => assert!(left.contains(&port.to_string()), "{step:?}: {left}"),
            false => assert_eq!(left, before, "{step:?}"),
        }
        let probe = connect(&server, service.address(Family::V4), LIMIT).await?;
        assert_eq!(probe, Connection::Silent, "{step:?}");

        agent.restart()?;
        operator.acknowledged(&agent, &next).await?;
        let after = agent.table().await?;
        assert!(after.contains(&port.to_string()), "{step:?}: {after}");
    }
    // In all that time nothing came through.
    for flow in &flows {
        flow.cut(applied.action, applied.done)?;
    }
    Ok(())
}

async fn killed_while_being_isolated() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let mut agent = operator.agent(&laptop).await?;
    for step in Step::ALL.into_iter().filter(|step| *step != Step::Loaded) {
        operator.apply(&agent, DeviceState::default()).await?;
        let open = agent.table().await?;
        agent.kill();
        operator.disconnected(&agent.id()?, GRACE).await?;
        let isolated = operator
            .want(&agent, isolated(&admin, &[MANAGEMENT_PORT])?)
            .await?;
        agent.restart_to_die_at(step)?;
        agent
            .ended(GRACE)
            .await
            .with_context(|| format!("{step:?}"))?;
        assert_eq!(agent.table().await? != open, is_in_force(step), "{step:?}");

        // The machine is started anew, without a table, and can't reach the operator.
        laptop.nft("delete table inet seawall").await?;
        let operators_port = operator.address().port();
        laptop
            .nft(&format!(
                "table inet away {{
                    chain leave {{ type filter hook output priority -20; tcp dport {operators_port} drop; }}
                }}"
            ))
            .await?;
        agent.restart()?;
        let expected = match is_on_disk(step) {
            true => String::from("isolation"),
            false => open,
        };
        table_becomes(&agent, &laptop, &expected)
            .await
            .with_context(|| format!("{step:?}"))?;
        laptop.nft("delete table inet away").await?;
        operator.acknowledged(&agent, &isolated).await?;
    }
    Ok(())
}

/// Waits until the table holds the text.
async fn table_becomes(agent: &Agent, host: &Host, text: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let table = agent.table().await.unwrap_or_default();
        if table.contains(text) {
            return Ok(());
        }
        anyhow::ensure!(
            started.elapsed() < GRACE,
            "{} has another table: {table}\n{}",
            host.name(),
            agent.log_tail()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
