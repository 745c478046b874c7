//! The isolation of one device, again and again.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::figure::{Against, Figure, Sample};
use crate::lab::{Family, Flow, Host, Transport};
use crate::site::{McpClient, Site, TENANT};

const RUNS: usize = 50;

/// Between two datagrams of the flow that is watched: what the time of the last packet can't be finer than.
const EVERY: Duration = Duration::from_millis(1);

/// What bounds it from below, measured in the same run: a write to the API server.
pub async fn floor(site: &Site) -> anyhow::Result<Vec<Against>> {
    let resource = kube::api::ApiResource::erase::<seawall::api::Isolation>(&());
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(site.plane.admin(), TENANT, &resource);
    let mut writes = Sample::default();
    for number in 0..RUNS {
        let name = format!("floor-{number}");
        let object = serde_json::from_value(json!({
            "apiVersion": "seawall.dev/v1alpha1",
            "kind": "Isolation",
            "metadata": {"name": name, "namespace": TENANT},
            "spec": {"target": {"device": "dev_00000000000000000000000000"}, "reason": "floor"},
        }))?;
        let start = Instant::now();
        api.create(&kube::api::PostParams::default(), &object)
            .await?;
        writes.add(start.elapsed());
        api.delete(&name, &kube::api::DeleteParams::default())
            .await?;
        // Apart enough that no mass release is seen in it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(vec![Against {
        name: "one create of the same kind at the API server, median".into(),
        value: writes.percentile(50),
    }])
}

#[derive(Default)]
struct Samples {
    last_packet: Sample,
    read_back: Sample,
    stages: std::collections::BTreeMap<String, Sample>,
}

pub async fn measure(
    site: &Site,
    server: &Host,
    key: &str,
    agents: usize,
    floor: &[Against],
) -> anyhow::Result<()> {
    let client = McpClient::connect(&site.mcp_url(), key).await?;
    let mut samples = Samples::default();
    for _ in 0..RUNS {
        once(site, server, &client, &mut samples).await?;
    }
    let name = |what: &str| format!("isolate_{what}_{agents}_agents");
    for (what, sample) in [
        ("last_packet", &samples.last_packet),
        ("read_back", &samples.read_back),
    ] {
        for (suffix, percent) in [("p50", 50), ("p99", 99)] {
            let name = name(&format!("{what}_{suffix}"));
            Figure::milliseconds(name, sample.percentile(percent), floor).publish()?;
        }
    }
    for (stage, sample) in &samples.stages {
        if !sample.is_empty() {
            let name = name(&format!("stage_{stage}_p50"));
            Figure::milliseconds(name, sample.percentile(50), &[]).publish()?;
        }
    }
    Ok(())
}

async fn once(
    site: &Site,
    server: &Host,
    client: &McpClient,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let device = site.devices.first().context("a device is enrolled")?;
    let mut flow = Flow::open(Transport::Udp, Family::V4, &device.host, server, EVERY).await?;
    let arguments = json!({"device_id": device.id, "reason": "measured", "ttl": "10m"});
    let called = Instant::now();
    let answer = client.must("isolate_device", arguments).await?;
    let answered = Instant::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    samples.last_packet.add(flow.cut(called, answered)?.latency);
    samples.read_back.add(answer.took);
    if let Value::Object(stages) = &answer.structured["stages_ms"] {
        for (stage, ms) in stages {
            let sample = samples.stages.entry(stage.clone()).or_default();
            ms.as_f64().into_iter().for_each(|ms| sample.add_ms(ms));
        }
    }
    flow.stop().await;
    let arguments = json!({"device_id": device.id, "reason": "measured"});
    client.must("release_device", arguments).await?;
    Ok(())
}
