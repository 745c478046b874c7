//! A large fleet and many resources, against a real API server: what a quiet minute writes, how long a
//! thousand Isolations at once take until the last device is cut off, and how long a cold start takes.
//! Devices speak the agent's side of the protocol and have no kernel behind them.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use super::figure::{Against, Figure, milliseconds};
use super::phase;
use crate::harness::eventually;
use crate::operators::{Device, Fixture, USER};

const TENANT: &str = "plant";
const DEVICES: usize = 10_000;
const POLICIES: usize = 1_000;
const ISOLATIONS: usize = 1_000;
/// Each of so many tags is on as many devices.
const LINES: usize = 100;
/// Enrolments at a time.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(300);
const MINUTE: Duration = Duration::from_secs(60);

pub async fn run(started: Instant) -> anyhow::Result<()> {
    let mut fixture = Fixture::prepare().await?;
    let hold = (2 * ISOLATIONS).to_string();
    let operator = fixture.add_operator(&["--hold-threshold", &hold])?;
    fixture.wait_ready(operator).await?;
    fixture.wait_leading(operator).await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    let devices = enrol(&fixture, operator, started).await?;
    phase(started, &format!("{POLICIES} policies"));
    apply(&fixture, (0..POLICIES).map(policy)).await?;
    settled(&fixture).await?;
    phase(started, "a quiet minute");
    quiet_minute(&fixture).await?;
    phase(started, &format!("{ISOLATIONS} isolations at once"));
    isolate(&fixture, &devices).await?;
    phase(started, "a cold start");
    cold_start(&mut fixture, operator).await
}

async fn enrol(
    fixture: &Fixture,
    operator: usize,
    started: Instant,
) -> anyhow::Result<Vec<Device>> {
    let mut tokens = Vec::new();
    for line in 0..LINES {
        let tag = format!("line=l{line}");
        let (tags, uses) = ([&*tag], DEVICES / LINES);
        tokens.push(fixture.join_token(operator, TENANT, uses, &tags).await?);
    }
    let tokens = &tokens;
    let enrolling = (0..DEVICES).map(|number| async move {
        let token = &tokens[number % LINES];
        let address = format!(
            "10.{}.{}.{}",
            100 + number / 62_500,
            number / 250 % 250,
            number % 250 + 1
        );
        let device = Device::enrol(token, &address).await?;
        if (number + 1) % 1_000 == 0 {
            phase(started, &format!("{} devices have enrolled", number + 1));
        }
        anyhow::Ok(device)
    });
    futures::stream::iter(enrolling)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// For the devices with one of the tags.
fn policy(number: usize) -> serde_json::Value {
    let (high, low) = (number / 250, number % 250);
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": format!("p{number:04}"), "namespace": TENANT},
        "spec": {
            "subjects": {"devices": {"tags": {"line": format!("l{}", number % LINES)}}},
            "rules": [{
                "name": "deny", "direction": "Egress", "action": "Deny",
                "peers": {"cidrs": [format!("198.18.{high}.{low}/32")]},
            }],
        },
    })
}

/// Many objects by one client, as a pipeline does.
async fn apply(
    fixture: &Fixture,
    objects: impl Iterator<Item = serde_json::Value>,
) -> anyhow::Result<()> {
    let items: Vec<_> = objects.collect();
    for some in items.chunks(250) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": some});
        fixture.apply(&list).await?;
    }
    Ok(())
}

/// Waits until the operator has written nothing for a while.
async fn settled(fixture: &Fixture) -> anyhow::Result<()> {
    eventually("the operator to have written all", PATIENCE, || async {
        let mark = fixture.plane.audit().mark()?;
        tokio::time::sleep(Duration::from_secs(35)).await;
        let mut writes = fixture.plane.audit().writes_by(USER, mark)?;
        writes.retain(|event| !event.is_about("leases"));
        Ok(writes.is_empty().then_some(()))
    })
    .await
}

async fn quiet_minute(fixture: &Fixture) -> anyhow::Result<()> {
    let mark = fixture.plane.audit().mark()?;
    tokio::time::sleep(MINUTE).await;
    let writes = fixture.plane.audit().writes_by(USER, mark)?;
    let leases = writes
        .iter()
        .filter(|event| event.is_about("leases"))
        .count();
    let others = writes.len() - leases;
    println!("{others} writes besides {leases} of the lease, with {DEVICES} devices connected");
    let others = u32::try_from(others)?;
    Figure::new("api_writes_quiet_minute_10k", others.into(), "writes", &[]).publish()
}

async fn isolate(fixture: &Fixture, devices: &[Device]) -> anyhow::Result<()> {
    let targets = &devices[..ISOLATIONS];
    let isolation = |(number, device): (usize, &Device)| {
        json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
            "metadata": {"name": format!("i{number:04}"), "namespace": TENANT},
            "spec": {"target": {"device": device.id}, "reason": "measured"},
        })
    };
    let began = Instant::now();
    apply(fixture, targets.iter().enumerate().map(isolation)).await?;
    let written = began.elapsed();
    eventually("every target to be isolated", PATIENCE, || async {
        Ok(targets.iter().all(Device::is_isolated).then_some(()))
    })
    .await?;
    let took = began.elapsed();
    println!("written in {written:.1?}; the last target has acknowledged after {took:.1?}");
    let floor = [Against::new(
        "written to the API server",
        milliseconds(written),
    )];
    Figure::duration("isolations_1000_at_once", took, &floor).publish()
}

/// Ended, and started on its own data: until it is ready.
async fn cold_start(fixture: &mut Fixture, operator: usize) -> anyhow::Result<()> {
    fixture.terminate(operator).await?;
    let began = Instant::now();
    fixture.start_operator(operator, &[])?;
    fixture.wait_ready(operator).await?;
    let ready = began.elapsed();
    let memory = fixture.resident(operator)?;
    println!("ready {ready:.1?} after its start; it holds {memory:.0} MiB");
    Figure::duration("cold_start_1000_policies", ready, &[]).publish()?;
    Figure::new("operator_rss_10k_devices", memory, "MiB", &[]).publish()
}
