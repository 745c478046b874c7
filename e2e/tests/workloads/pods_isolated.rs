//! A pod in quarantine, by packets.

use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;

use super::{ENFORCING, PLAIN, Shop};
use crate::harness::case;
use crate::lab::{Family, Flow, Host, Reach, Responder, Transport, reach};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "with a policy engine, an isolated pod sends and receives nothing though a NetworkPolicy allows everything",
            || isolated_on("isolated-enforcing", ENFORCING),
        ),
        case(
            "without a policy engine, an isolated pod sends and receives nothing though a NetworkPolicy allows everything",
            || isolated_on("isolated-plain", PLAIN),
        ),
    ]
}

/// Long enough for an answer on a busy machine, short enough to wait for when there is none.
const ANSWER: Duration = Duration::from_millis(1500);
const EVERY: Duration = Duration::from_millis(5);
const PORT: u16 = 7000;

const ISOLATION: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Isolation
metadata: {name: suspect}
spec:
  target: {workload: {pod: suspect}}
  reason: Lateral movement
  management: [{cidr: OUTSIDE/32, ports: [{protocol: TCP, port: 7000}]}]
";

async fn isolated_on(namespace: &str, node: &str) -> anyhow::Result<()> {
    let shop = Shop::open(namespace, node).await?;
    let suspect = &shop.suspect.host;
    let others = [&shop.neighbour.host, &shop.far.host, &shop.outside];
    let mut responders = Vec::new();
    for host in others.into_iter().chain([suspect]) {
        responders.push(Responder::start(host, PORT).await?);
    }
    let of_suspect = responders.pop().expect("the last one");
    let mut flows = Vec::new();
    for other in others {
        flows.extend(flows_between(suspect, other).await?);
    }
    // The host beside the pods has no IPv6 path of its own into them.
    let unharmed = flows_between(&shop.neighbour.host, &shop.far.host).await?;
    let asked = Instant::now();
    let outside = shop.outside.v4().to_string();
    shop.apply(&ISOLATION.replace("OUTSIDE", &outside)).await?;
    shop.condition("isolation", "suspect", "Enforced", "True")
        .await?;
    let done = Instant::now();
    tokio::time::sleep(ANSWER).await;
    let mut last = Duration::ZERO;
    for flow in &flows {
        last = last.max(flow.cut(asked, done)?.latency);
    }
    eprintln!(
        "{node}: {} flows cut, the last packet after {last:.1?}",
        flows.len()
    );
    for responder in &responders {
        let found = reach(suspect, responder, ANSWER).await?;
        ensure!(
            found == Reach::NONE,
            "the pod reaches {} by {found:?}",
            responder.host().name()
        );
    }
    for from in [&shop.neighbour.host, &shop.far.host] {
        let found = reach(from, &of_suspect, ANSWER).await?;
        ensure!(
            found == Reach::NONE,
            "{} reaches the pod by {found:?}",
            from.name()
        );
    }
    // Management: the named port, from the named host alone.
    let found = reach(&shop.outside, &of_suspect, ANSWER).await?;
    let tcp4 = Reach {
        tcp4: true,
        ..Reach::NONE
    };
    ensure!(found == tcp4, "management reaches the pod by {found:?}");
    for flow in &unharmed {
        flow.flows(ANSWER).await?;
    }
    shop.seawall
        .kubectl(&["delete", "isolation", "-n", namespace, "suspect"], "")
        .await?;
    released(&of_suspect, suspect, &responders).await
}

async fn released(
    of_suspect: &Responder,
    suspect: &Host,
    others: &[Responder],
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    for responder in others {
        loop {
            let there = reach(suspect, responder, ANSWER).await?;
            let back = reach(responder.host(), of_suspect, ANSWER).await?;
            if (there, back) == (Reach::ALL, Reach::ALL) {
                break;
            }
            let name = responder.host().name();
            ensure!(
                Instant::now() < deadline,
                "{name}: {there:?} and {back:?} after release"
            );
        }
    }
    Ok(())
}

/// By every protocol, both ways.
async fn flows_between(one: &Host, other: &Host) -> anyhow::Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for transport in Transport::ALL {
        for family in Family::BOTH {
            flows.push(Flow::open(transport, family, one, other, EVERY).await?);
            flows.push(Flow::open(transport, family, other, one, EVERY).await?);
        }
    }
    Ok(flows)
}
