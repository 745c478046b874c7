//! Who leads, and how it passes on.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{case, eventually};
use crate::operators::Device;
use crate::operators::{Fixture, PATIENCE, SYSTEM};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a second operator takes over at once when the first ends in order",
            hands_over,
        ),
        case(
            "a second operator takes over when the lease of a killed first has run out, and not before",
            takes_over,
        ),
        case(
            "an operator that was frozen while another took over writes nothing when it wakes",
            frozen,
        ),
        case(
            "an API server that falls silent ends leading, and its return begins it anew",
            silence,
        ),
        case(
            "an operator that was killed leads again at once on its own data",
            comes_back,
        ),
    ]
}

async fn two() -> anyhow::Result<Fixture> {
    let mut fixture = Fixture::start().await?;
    let second = fixture.add_operator(&[])?;
    fixture.wait_ready(second).await?;
    Ok(fixture)
}

async fn hands_over() -> anyhow::Result<()> {
    let mut fixture = two().await?;
    assert!(!fixture.leads(1).await?, "one leads");
    let took = fixture.terminate(0).await?;
    assert!(took < Duration::from_secs(10), "{took:?}");
    let began = Instant::now();
    fixture.wait_leading(1).await?;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}

async fn takes_over() -> anyhow::Result<()> {
    let mut fixture = two().await?;
    let renewed = Instant::now();
    fixture.kill(0)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!fixture.leads(1).await?, "the lease has not run out");
    fixture.wait_leading(1).await?;
    let took = renewed.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let lease = fixture.get(&["lease", "seawall", "-n", SYSTEM]).await?;
    let transitions = lease.map(|lease| lease["spec"]["leaseTransitions"].clone());
    assert_eq!(transitions, Some(2.into()));
    Ok(())
}

async fn frozen() -> anyhow::Result<()> {
    let fixture = two().await?;
    fixture.signal(0, Signal::SIGSTOP)?;
    fixture.wait_leading(1).await?;
    let scope = json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "ApiKeyScope",
        "metadata": {"name": "bot", "namespace": "default"},
        "spec": {"access": "Contain"},
    });
    fixture.apply(&scope).await?;
    let account = ["serviceaccount", "-n", "seawall-agents", "default.bot"];
    eventually("the ServiceAccount", PATIENCE, || fixture.get(&account)).await?;
    // Were the woken one to act on what it last knew, it would take this for unwanted.
    fixture.signal(0, Signal::SIGCONT)?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(fixture.get(&account).await?.is_some());
    }
    assert!(!fixture.leads(0).await? && fixture.leads(1).await?);
    Ok(())
}

async fn silence() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", "plant"]).await?;
    let token = fixture.join_token(0, "plant", 1, &[]).await?;
    let device = Device::enrol(&token, "10.9.0.1").await?;
    eventually("the device to be told its state", PATIENCE, || async {
        Ok((device.bundles().len() == 1).then_some(()))
    })
    .await?;
    let [_, api_server, _] = fixture.plane.pids();
    let api_server = Pid::from_raw(api_server.try_into()?);
    // Its connections stay open, and nothing comes over them.
    kill(api_server, Signal::SIGSTOP)?;
    let silent = Instant::now();
    eventually("the operator to stop leading", PATIENCE, || async {
        Ok((!fixture.leads(0).await?).then_some(()))
    })
    .await?;
    assert!(
        silent.elapsed() < Duration::from_secs(10),
        "{:?}",
        silent.elapsed()
    );
    assert_eq!(fixture.health(0, "/live").await?.0, 200);
    tokio::time::sleep(Duration::from_secs(35).saturating_sub(silent.elapsed())).await;
    kill(api_server, Signal::SIGCONT)?;
    fixture.wait_leading(0).await?;
    let isolation = json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
        "metadata": {"name": "first", "namespace": "plant"},
        "spec": {"target": {"device": device.id}, "reason": "test"},
    });
    fixture.apply(&isolation).await?;
    eventually("the watches to see again", PATIENCE, || async {
        Ok(device.is_isolated().then_some(()))
    })
    .await?;
    assert_eq!(
        device.bundles().len(),
        2,
        "the unchanged state was not sent again"
    );
    Ok(())
}

async fn comes_back() -> anyhow::Result<()> {
    let mut fixture = Fixture::start().await?;
    fixture.kill(0)?;
    fixture.start_operator(0, &[])?;
    let began = Instant::now();
    fixture.wait_leading(0).await?;
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    eventually("it to be ready", PATIENCE, || async {
        Ok((fixture.health(0, "/ready").await?.0 == 200).then_some(()))
    })
    .await
}
