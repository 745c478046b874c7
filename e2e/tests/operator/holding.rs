//! Releases: few pass, many at once are held until a person confirms, and a kind that vanished releases
//! nothing.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::{case, eventually};
use crate::operators::Device;
use crate::operators::{Fixture, PATIENCE, SYSTEM};

const TENANT: &str = "plant";

pub fn all() -> Vec<Trial> {
    vec![
        case("a few releases pass without anybody's word", few_pass),
        case(
            "a namespace with many isolations is deleted: all stay in force until a person confirms",
            namespace_deleted,
        ),
        case(
            "the kind Isolation is deleted and comes back empty: even a few stay in force",
            kind_deleted,
        ),
        case(
            "deletions while the operator was away are held when it is back",
            deleted_while_away,
        ),
        case(
            "an expiry of many at once is no mass release",
            expiry_is_no_release,
        ),
    ]
}

/// An operator and as many devices, each isolated.
async fn isolated(count: usize) -> anyhow::Result<(Fixture, Vec<Device>)> {
    let (fixture, devices) = enrolled(count).await?;
    let all: Vec<Value> = devices
        .iter()
        .map(|device| isolation(device, None))
        .collect();
    fixture.apply(&list(&all)).await?;
    wait_all(&devices, true).await?;
    Ok((fixture, devices))
}

async fn enrolled(count: usize) -> anyhow::Result<(Fixture, Vec<Device>)> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    let token = fixture.join_token(0, TENANT, count, &[]).await?;
    let mut devices = Vec::new();
    for number in 1..=count {
        let address = format!("10.9.0.{number}");
        devices.push(Device::enrol(&token, &address).await?);
    }
    Ok((fixture, devices))
}

fn isolation(device: &Device, expires_at: Option<String>) -> Value {
    let mut spec = json!({"target": {"device": device.id}, "reason": "test"});
    if let Some(at) = expires_at {
        spec["expiresAt"] = at.into();
    }
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
        "metadata": {"name": device.id.replace('_', "-"), "namespace": TENANT},
        "spec": spec,
    })
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

async fn wait_all(devices: &[Device], isolated: bool) -> anyhow::Result<()> {
    let what = format!("every device to be isolated: {isolated}");
    eventually(&what, PATIENCE, || async {
        let all = devices
            .iter()
            .all(|device| device.is_isolated() == isolated);
        Ok(all.then_some(()))
    })
    .await
}

/// Nothing changes for a while that is longer than any settling.
async fn stay_isolated(devices: &[Device]) {
    let before: Vec<usize> = devices
        .iter()
        .map(|device| device.bundles().len())
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(devices.iter().all(Device::is_isolated));
    let after: Vec<usize> = devices
        .iter()
        .map(|device| device.bundles().len())
        .collect();
    assert_eq!(before, after, "nothing was sent meanwhile");
}

/// The one open hold's id.
async fn open_hold(fixture: &Fixture) -> anyhow::Result<String> {
    eventually("a hold", PATIENCE, || async {
        let text = fixture.seawall(&["release", "holds"]).await?;
        let id = text
            .split_whitespace()
            .find(|word| word.starts_with("hold_"));
        Ok(id.map(str::to_owned))
    })
    .await
}

async fn confirm(fixture: &Fixture, devices: &[Device]) -> anyhow::Result<()> {
    let id = open_hold(fixture).await?;
    let said = fixture.seawall(&["release", "confirm", &id]).await?;
    let released = format!("{} isolations are released", devices.len());
    assert!(said.contains(&released), "{said}");
    wait_all(devices, false).await?;
    let holds = fixture.seawall(&["release", "holds"]).await?;
    assert_eq!(holds.trim(), "Nothing is held.");
    let again = fixture.seawall(&["release", "confirm", &id]).await;
    assert!(format!("{:#}", again.expect_err("gone")).contains("no hold"));
    Ok(())
}

async fn few_pass() -> anyhow::Result<()> {
    let (fixture, devices) = isolated(3).await?;
    let delete = ["delete", "isolations", "--all", "-n", TENANT];
    fixture.plane.kubectl(&delete).await?;
    wait_all(&devices, false).await
}

async fn namespace_deleted() -> anyhow::Result<()> {
    let (fixture, devices) = isolated(7).await?;
    fixture.plane.kubectl(&["delete", "ns", TENANT]).await?;
    let id = open_hold(&fixture).await?;
    stay_isolated(&devices).await;
    let events = ["get", "events", "-n", SYSTEM, "-o", "json"];
    let events = fixture.plane.kubectl(&events).await?;
    assert!(
        events.contains("ReleaseHeld") && events.contains(&id),
        "{events}"
    );
    confirm(&fixture, &devices).await
}

async fn kind_deleted() -> anyhow::Result<()> {
    let (fixture, devices) = isolated(2).await?;
    let delete = ["delete", "crd", "isolations.seawall.dev"];
    fixture.plane.kubectl(&delete).await?;
    eventually("the operator to miss the kind", PATIENCE, || async {
        Ok((fixture.health(0, "/ready").await?.0 == 503).then_some(()))
    })
    .await?;
    stay_isolated(&devices).await;
    let crd = format!(
        "{}/crds/isolations.seawall.dev.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    fixture
        .plane
        .kubectl(&["apply", "--server-side", "-f", &crd])
        .await?;
    fixture.wait_ready(0).await?;
    stay_isolated(&devices).await;
    confirm(&fixture, &devices).await
}

async fn deleted_while_away() -> anyhow::Result<()> {
    let (mut fixture, devices) = isolated(7).await?;
    fixture.wait_in_force(0, 7).await?;
    fixture.kill(0)?;
    let delete = ["delete", "isolations", "--all", "-n", TENANT];
    fixture.plane.kubectl(&delete).await?;
    fixture.start_operator(0, &[])?;
    fixture.wait_ready(0).await?;
    open_hold(&fixture).await?;
    stay_isolated(&devices).await;
    // The hold itself survives the operator too, under its id.
    let before = open_hold(&fixture).await?;
    fixture.kill(0)?;
    fixture.start_operator(0, &[])?;
    fixture.wait_leading(0).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(open_hold(&fixture).await?, before);
    confirm(&fixture, &devices).await
}

async fn expiry_is_no_release() -> anyhow::Result<()> {
    let (fixture, devices) = enrolled(7).await?;
    let at = jiff::Timestamp::now() + Duration::from_secs(6);
    let at = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let all: Vec<Value> = devices
        .iter()
        .map(|device| isolation(device, Some(at.clone())))
        .collect();
    fixture.apply(&list(&all)).await?;
    wait_all(&devices, true).await?;
    wait_all(&devices, false).await?;
    let holds = fixture.seawall(&["release", "holds"]).await?;
    assert_eq!(holds.trim(), "Nothing is held.");
    let delete = ["delete", "isolations", "--all", "-n", TENANT];
    fixture.plane.kubectl(&delete).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let holds = fixture.seawall(&["release", "holds"]).await?;
    assert_eq!(
        holds.trim(),
        "Nothing is held.",
        "they were not in force any more"
    );
    Ok(())
}
