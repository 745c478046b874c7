//! The steps of the demo, one file each, in order. A step answers with what it measured, or fails with what
//! was not as expected.

mod audited;
mod block;
mod cluster;
mod contain;
mod flushed;
mod investigate;
mod operator_lost;
mod person;
mod release;

use std::time::Duration;

use futures::future::BoxFuture;

use super::Demo;
use crate::cluster::node::can_run_a_node;
use crate::lab::{Reach, reach};

pub struct DemoStep {
    pub name: &'static str,
    pub expected: &'static str,
    /// Why it can't be tried here, if so.
    pub possible: fn() -> anyhow::Result<()>,
    pub run: for<'a> fn(&'a mut Demo) -> BoxFuture<'a, anyhow::Result<String>>,
}

pub const ALL: [DemoStep; 11] = [
    DemoStep {
        name: "An Investigate key reads, and is refused an isolation",
        expected: "three devices listed; isolate_device neither listed nor answered; the API server refuses the same write",
        possible: anywhere,
        run: |demo| Box::pin(investigate::run(demo)),
    },
    DemoStep {
        name: "A Contain key isolates a device",
        expected: "a dry run changes nothing; then every open flow dies, nothing new passes in either direction, the management host gets through, the other devices don't notice",
        possible: anywhere,
        run: |demo| Box::pin(contain::run(demo)),
    },
    DemoStep {
        name: "The device's own rules are flushed, as lost root would",
        expected: "peers still drop it; the agent repairs the table and reports it",
        possible: anywhere,
        run: |demo| Box::pin(flushed::run(demo)),
    },
    DemoStep {
        name: "The operator is killed and comes back",
        expected: "the device stays isolated; nothing is sent again and no flow of the others is disturbed",
        possible: anywhere,
        run: |demo| Box::pin(operator_lost::run(demo)),
    },
    DemoStep {
        name: "release_device",
        expected: "traffic flows again in every protocol, both ways",
        possible: anywhere,
        run: |demo| Box::pin(release::run(demo)),
    },
    DemoStep {
        name: "block_destination for the fleet, with an end",
        expected: "no device reaches the server, open flows included; after the end all do",
        possible: anywhere,
        run: |demo| Box::pin(block::run(demo)),
    },
    DemoStep {
        name: "A person's Policy: observe, enforce, delete",
        expected: "Observe counts and cuts nothing; Enforce cuts; deleted, traffic flows; the log knows who",
        possible: anywhere,
        run: |demo| Box::pin(person::run(demo)),
    },
    DemoStep {
        name: "The audit log",
        expected: "verifies; with one byte changed, verification names the entry",
        possible: anywhere,
        run: |demo| Box::pin(audited::run(demo)),
    },
    DemoStep {
        name: "helm install on a cluster with real nodes",
        expected: "operator, MCP server and an agent on each node run from the image; both nodes have enrolled",
        possible: can_run_a_node,
        run: |demo| Box::pin(cluster::install(demo)),
    },
    DemoStep {
        name: "A Contain key isolates a pod that a NetworkPolicy allows everything",
        expected: "every open flow dies, with the pod beside it, one on another node and a host outside; nothing new passes; the other pods don't notice",
        possible: can_run_a_node,
        run: |demo| Box::pin(cluster::isolate(demo)),
    },
    DemoStep {
        name: "release_workload",
        expected: "the pod is as it was: all protocols, both ways",
        possible: can_run_a_node,
        run: |demo| Box::pin(cluster::release(demo)),
    },
];

fn anywhere() -> anyhow::Result<()> {
    Ok(())
}

/// Long enough for an answer on a busy machine, short enough to wait for when there is none.
const ANSWER: Duration = Duration::from_millis(1500);

/// What `from` reaches at `to`, both by name.
async fn reaches(demo: &Demo, from: &str, to: &str) -> anyhow::Result<Reach> {
    let host = demo.responder(from)?.host().clone();
    reach(&host, demo.responder(to)?, ANSWER).await
}

/// That it is as expected, with both names when it isn't.
async fn expect_reach(demo: &Demo, from: &str, to: &str, expected: Reach) -> anyhow::Result<()> {
    let found = reaches(demo, from, to).await?;
    anyhow::ensure!(
        found == expected,
        "{from} → {to}: expected {expected:?}, found {found:?}"
    );
    Ok(())
}

fn ms(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
