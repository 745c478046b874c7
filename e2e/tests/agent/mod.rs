//! The agent as a process on a host of a lab, against the fleet's real server: what it does to packets,
//! to its table, to its files.

mod crash;
mod enrolment;
mod isolation;
mod policy;
mod stream;
mod table;
pub mod users;
mod wards;

use std::time::Duration;

use libtest_mimic::Trial;

use crate::lab::{Family, Flow, Host, Transport};

/// What the services of these tests listen on.
const PORT: u16 = 7000;
const MANAGEMENT_PORT: u16 = 2222;
/// Longer than any answer in a lab takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a cut is watched.
const WATCH: Duration = Duration::from_millis(400);
const EVERY: Duration = Duration::from_millis(5);

pub fn all() -> Vec<Trial> {
    [
        crash::all(),
        enrolment::all(),
        isolation::all(),
        policy::all(),
        stream::all(),
        table::all(),
        users::all(),
        wards::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Every protocol and version.
async fn open_all(from: &Host, to: &Host) -> anyhow::Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for transport in Transport::ALL {
        for family in Family::BOTH {
            flows.push(Flow::open(transport, family, from, to, EVERY).await?);
        }
    }
    Ok(flows)
}

async fn all_flow(flows: &[Flow]) -> anyhow::Result<()> {
    for flow in flows {
        flow.flows(LIMIT).await?;
    }
    Ok(())
}
