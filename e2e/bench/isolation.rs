//! The isolation of one device, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::figure::{Against, Figure, Sample};
use crate::lab::{Family, Flow, Host, Transport};
use crate::site::{McpClient, Site, TENANT};

const RUNS: usize = 50;

/// Between two datagrams of the flow that is watched: what the time of the last packet can't be finer than.
const EVERY: Duration = Duration::from_millis(1);

/// Parts of the answer's `stages_ms` that come after the device's own read-back.
const AFTER_DEVICE: [&str; 3] = ["peers", "answered", "recorded"];

/// All of them, in their order.
pub const STAGES: [&str; 16] = [
    "authenticated",
    "decided",
    "intent_durable",
    "written",
    "seen",
    "compiled",
    "sent",
    "on_the_way",
    "device_verify",
    "device_persist",
    "device_apply",
    "device_cut",
    "device_read_back",
    "peers",
    "answered",
    "recorded",
];

/// What no part of the answer covers: HTTP, and the client.
pub const OUTSIDE: &str = "outside";

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

/// From the tool call.
#[derive(Default)]
pub struct Samples {
    /// To the last packet that reached the peer.
    pub last_packet: Sample,
    /// To the isolated device's own acknowledged read-back.
    pub device: Sample,
    /// To the answer, which waits for that of every connected peer.
    pub answer: Sample,
    /// Answers that did not wait for every peer any longer.
    pub late: usize,
    /// By name: [`STAGES`] and [`OUTSIDE`].
    stages: std::collections::BTreeMap<String, Sample>,
}

pub async fn measure(
    site: &Site,
    server: &Host,
    key: &str,
    started: Instant,
) -> anyhow::Result<Samples> {
    let client = McpClient::connect(&site.mcp_url(), key).await?;
    let mut samples = Samples::default();
    for run in 1..=RUNS {
        let once = once(site, server, &client, &mut samples).await;
        once.with_context(|| format!("run {run} of {RUNS}"))?;
        if run % 10 == 0 {
            super::phase(started, &format!("{run} of {RUNS} runs"));
        }
    }
    Ok(samples)
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
    let said = &answer.structured;
    ensure!(said["self_programmed"] == true, "{}", answer.text);
    samples.late += usize::from(said["in_force"] != "Everywhere");
    samples.take(answer.took, &said["stages_ms"])?;
    flow.stop().await;
    let arguments = json!({"device_id": device.id, "reason": "measured"});
    client.must("release_device", arguments).await?;
    Ok(())
}

impl Samples {
    /// The client's time, and the parts that the answer says it had.
    fn take(&mut self, took: Duration, stages: &Value) -> anyhow::Result<()> {
        let took = took.as_secs_f64() * 1000.0;
        let (mut sum, mut after_device) = (0.0, 0.0);
        for stage in STAGES {
            let ms = stages[stage]
                .as_f64()
                .with_context(|| format!("the answer does not say how long {stage} took"))?;
            self.stage(stage).add_ms(ms);
            sum += ms;
            if AFTER_DEVICE.contains(&stage) {
                after_device += ms;
            }
        }
        self.stage(OUTSIDE).add_ms(took - sum);
        // What is outside may have been before or after: it counts as before.
        self.device.add_ms(took - after_device);
        self.answer.add_ms(took);
        Ok(())
    }

    fn stage(&mut self, name: &str) -> &mut Sample {
        self.stages.entry(name.to_owned()).or_default()
    }

    /// Median and 99th percentile, in milliseconds; nothing for a part that nobody told of.
    pub fn of_stage(&self, name: &str) -> Option<(f64, f64)> {
        self.stages.get(name).map(Sample::median_and_p99)
    }

    pub fn publish(&self, agents: usize, floor: &[Against]) -> anyhow::Result<()> {
        let whole = [
            ("last_packet", &self.last_packet),
            ("device_read_back", &self.device),
            ("answer", &self.answer),
        ];
        let stages = self.stages.iter();
        let stages = stages.map(|(name, sample)| (format!("stage_{name}"), sample, &[][..]));
        let whole = whole.map(|(name, sample)| (name.to_owned(), sample, floor));
        for (what, sample, against) in whole.into_iter().chain(stages) {
            let (median, p99) = sample.median_and_p99();
            for (suffix, value) in [("p50", median), ("p99", p99)] {
                let name = format!("isolate_{what}_{suffix}_{agents}_agents");
                Figure::milliseconds(&name, value, against).publish()?;
            }
        }
        Ok(())
    }
}
