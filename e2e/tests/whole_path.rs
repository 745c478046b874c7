//! From a person's kubectl to packets, with every part real: control plane, charts, operator, agents.

use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::{case, eventually};
use crate::lab::{Family, Flow, Reach, Responder, Transport, reach};
use crate::site::{McpClient, Site, TENANT};

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_millis(1500);

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an isolation that a person applies cuts open connections of every kind, and deleting it gives them back",
            a_persons_isolation,
        ),
        case(
            "an agent's isolation is read back by device and peers, and its answer tells how long each part of the way took",
            an_agents_isolation,
        ),
        case(
            "an isolated device stays cut while its agent is dead, when it starts again, and after a reboot without an operator",
            through_deaths,
        ),
        case(
            "a device that takes the API server's address is isolated all the same",
            takes_a_protected_address,
        ),
        case(
            "a device that takes the management host's address doesn't have it dropped by the peers",
            takes_the_management_address,
        ),
        case(
            "what an agent must not cut is refused before anything is written, in a dry run as in earnest",
            refused_in_time,
        ),
        case(
            "a policy that its agent disables is lifted from the device, and the answer knows",
            disabled_is_lifted,
        ),
        case(
            "an agent sees which isolations were deleted and are held",
            held_is_told,
        ),
    ]
}

/// Two devices and a server that answers.
struct Plant {
    site: Site,
    server: Responder,
}

impl Plant {
    async fn build() -> anyhow::Result<Self> {
        let mut site = Site::start(&[]).await?;
        for name in ["ws-1", "ws-2"] {
            site.enroll(name, "workstation").await?;
        }
        let server = Responder::start(&site.bystander("server")?, 7000).await?;
        Ok(Self { site, server })
    }

    async fn reaches(&self, name: &str, expected: Reach) -> anyhow::Result<()> {
        let host = self.site.device(name).host.clone();
        let found = reach(&host, &self.server, ANSWER).await?;
        anyhow::ensure!(found == expected, "{name} reaches {found:?}");
        Ok(())
    }

    async fn isolate(&self, name: &str) -> anyhow::Result<()> {
        self.isolate_with(name, "").await
    }

    /// With more lines of its spec.
    async fn isolate_with(&self, name: &str, more: &str) -> anyhow::Result<()> {
        let id = &self.site.device(name).id;
        self.site
            .apply(&format!(
                "apiVersion: seawall.dev/v1alpha1\nkind: Isolation\n\
                 metadata: {{name: suspect, namespace: {TENANT}}}\n\
                 spec:\n  target: {{device: {id}}}\n  reason: Lateral movement\n{more}"
            ))
            .await?;
        self.site
            .condition("isolation", "suspect", "Enforced", "True")
            .await
    }

    /// Gives the device an address on `lo`, and waits until it has told so.
    async fn claim(&self, name: &str, address: &str) -> anyhow::Result<()> {
        let device = self.site.device(name);
        let take = ["addr", "add", &format!("{address}/32"), "dev", "lo"];
        device.host.run("ip", &take, "").await?.success()?;
        let show = ["fleet", "show", &device.id, "--json"];
        eventually("the claim", PATIENCE, || async {
            let shown = self.site.seawall(&show).await?;
            let shown: serde_json::Value = serde_json::from_str(&shown)?;
            let addresses = shown["addresses"].as_array();
            let mut addresses = addresses.into_iter().flatten();
            Ok(addresses.any(|told| told == address).then_some(()))
        })
        .await
    }

    /// The status of the isolation has these words.
    async fn notes(&self, words: &str) -> anyhow::Result<()> {
        let isolation = self.site.get("isolation", "suspect").await?;
        let said = isolation.map(|isolation| isolation["status"].to_string());
        let said = said.unwrap_or_default();
        anyhow::ensure!(said.contains(words), "{said}");
        Ok(())
    }
}

async fn a_persons_isolation() -> anyhow::Result<()> {
    let plant = Plant::build().await?;
    let suspect = plant.site.device("ws-1").host.clone();
    let server = plant.server.host().clone();
    let mut flows = Vec::new();
    for transport in Transport::ALL {
        for family in Family::BOTH {
            let every = Duration::from_millis(2);
            flows.push(Flow::open(transport, family, &suspect, &server, every).await?);
            flows.push(Flow::open(transport, family, &server, &suspect, every).await?);
        }
    }
    let asked = Instant::now();
    plant.isolate("ws-1").await?;
    let done = Instant::now();
    tokio::time::sleep(ANSWER).await;
    for flow in &flows {
        flow.cut(asked, done)?;
    }
    plant.reaches("ws-1", Reach::NONE).await?;
    plant.reaches("ws-2", Reach::ALL).await?;
    let isolation = plant
        .site
        .get("isolation", "suspect")
        .await?
        .unwrap_or_default();
    anyhow::ensure!(
        isolation["status"]["phase"] == "Isolated" && isolation["status"]["self"] == "Programmed",
        "{}",
        isolation["status"]
    );
    anyhow::ensure!(
        isolation["status"]["connectionsCut"].as_i64() >= Some(8),
        "twelve flows were open: {}",
        isolation["status"]
    );

    let delete = ["delete", "isolation", "suspect", "-n", TENANT];
    plant.site.plane.kubectl(&delete).await?;
    eventually("traffic to flow again", Duration::from_secs(10), || async {
        Ok(plant.reaches("ws-1", Reach::ALL).await.ok())
    })
    .await
}

async fn an_agents_isolation() -> anyhow::Result<()> {
    let plant = Plant::build().await?;
    let agent = plant
        .site
        .agent("responder", "Contain", Some("{devices: {all: true}}"))
        .await?;
    let device = plant.site.device("ws-1").id.clone();
    let arguments = json!({"device_id": device, "reason": "Lateral movement"});
    let answer = agent.must("isolate_device", arguments).await?;
    let said = &answer.structured;
    anyhow::ensure!(
        said["in_force"] == "Everywhere" && said["peers"]["programmed"] == 1,
        "{said}"
    );
    plant.reaches("ws-1", Reach::NONE).await?;

    let stages = said["stages_ms"].as_object().context("stages")?;
    let part = |name: &str| stages[name].as_f64().unwrap_or_default();
    for name in [
        "intent_durable",
        "written",
        "device_apply",
        "device_read_back",
        "recorded",
    ] {
        anyhow::ensure!(part(name) > 0.0, "{name}: {said}");
    }
    let sum: f64 = stages.values().filter_map(Value::as_f64).sum();
    let whole = said["milliseconds"].as_f64().unwrap_or_default();
    // One is in whole milliseconds, the other in parts rounded to microseconds.
    anyhow::ensure!((sum - whole).abs() < 2.0, "{sum} of {whole}: {said}");
    anyhow::ensure!(answer.took.as_secs_f64() * 1000.0 > sum, "{said}");

    eventually("the parts to be counted", ANSWER * 4, || async {
        let metrics = plant.site.operator_metrics().await?;
        let counted = |point, stage| {
            let labels = format!("{{point=\"{point}\",stage=\"{stage}\"}}");
            metrics.contains(&format!("seawall_isolation_stage_seconds_count{labels} 1"))
        };
        Ok((counted("self", "apply") && counted("peer", "read_back")).then_some(()))
    })
    .await
}

async fn through_deaths() -> anyhow::Result<()> {
    let mut plant = Plant::build().await?;
    plant.isolate("ws-1").await?;
    plant.reaches("ws-1", Reach::NONE).await?;

    plant.suspect_device().kill_agent();
    plant.reaches("ws-1", Reach::NONE).await?;
    plant.suspect_device().restart_agent()?;
    plant.reaches("ws-1", Reach::NONE).await?;
    let device = plant.site.device("ws-1");
    device.wait_connected(&plant.site).await?;
    plant.reaches("ws-1", Reach::NONE).await?;

    // A reboot: the kernel has forgotten, nobody answers the agent, the disk is all it has.
    plant.site.stop_operator().await?;
    plant.suspect_device().kill_agent();
    let host = plant.site.device("ws-1").host.clone();
    host.run("nft", &["delete", "table", "inet", "seawall"], "")
        .await?
        .success()?;
    plant.reaches("ws-1", Reach::ALL).await?;
    plant.suspect_device().restart_agent()?;
    eventually(
        "the agent to enforce what it last knew",
        ANSWER * 4,
        || async { Ok(plant.reaches("ws-1", Reach::NONE).await.ok()) },
    )
    .await
}

async fn takes_a_protected_address() -> anyhow::Result<()> {
    let plant = Plant::build().await?;
    let service = ["get", "service", "kubernetes", "-n", "default"];
    let service = [&service[..], &["-o", "jsonpath={.spec.clusterIP}"]].concat();
    let taken = plant.site.plane.kubectl(&service).await?.trim().to_owned();
    plant.claim("ws-1", &taken).await?;
    plant.isolate("ws-1").await?;
    plant.reaches("ws-1", Reach::NONE).await?;
    plant.reaches("ws-2", Reach::ALL).await?;
    plant.notes(&format!("{taken} is not used")).await
}

async fn takes_the_management_address() -> anyhow::Result<()> {
    let plant = Plant::build().await?;
    let management = plant.site.bystander("mgmt")?;
    let taken = management.v4().to_string();
    let peer = Responder::start(&plant.site.device("ws-2").host, 7000).await?;
    plant.claim("ws-1", &taken).await?;
    let path = format!("  management: [{{cidr: {taken}/32}}]\n");
    plant.isolate_with("ws-1", &path).await?;
    let found = reach(&management, &peer, ANSWER).await?;
    anyhow::ensure!(found == Reach::ALL, "management reaches {found:?}");
    plant
        .notes(&format!("{taken} is not dropped by the peers"))
        .await
}

/// A site with one device, and an agent that may tighten on every device.
async fn guarded() -> anyhow::Result<(Site, McpClient)> {
    let mut site = Site::start(&[]).await?;
    site.enroll("ws-1", "workstation").await?;
    let client = site
        .agent("soc-bot", "Contain", Some("{devices: {all: true}}"))
        .await?;
    Ok((site, client))
}

async fn refused_in_time() -> anyhow::Result<()> {
    let (site, client) = guarded().await?;
    let device = site.device("ws-1").id.clone();
    let operator = site.lab.gateway4().to_string();
    let deny = |cidr: &str| json!([{"name": "out", "direction": "Egress", "action": "Deny", "peers": {"cidrs": [cidr]}}]);
    for (tool, mut arguments, reason) in [
        (
            "block_destination",
            json!({"destination": operator, "fleet": true}),
            "WouldCutOperator",
        ),
        (
            "create_policy",
            json!({"name": "wide", "spec": {"subjects": {"all": true}, "rules": deny("203.0.0.0/9")}}),
            "TooWide",
        ),
        (
            "create_policy",
            json!({"name": "cut", "spec": {"subjects": {"devices": {"ids": [device]}}, "rules": deny(&format!("{operator}/32"))}}),
            "WouldCutOperator",
        ),
    ] {
        arguments["reason"] = "C2 seen".into();
        for dry_run in [true, false] {
            arguments["dry_run"] = dry_run.into();
            let answer = client.call(tool, arguments.clone()).await?;
            anyhow::ensure!(
                answer.is_error && answer.text.starts_with(reason),
                "{tool} dry_run {dry_run}: {}",
                answer.text
            );
        }
    }
    let written = ["get", "policies", "-n", TENANT, "-o", "name"];
    let written = site.plane.kubectl(&written).await?;
    anyhow::ensure!(written.trim().is_empty(), "{written}");
    let search = json!({"kind": "refusal", "actor": "soc-bot"});
    let found = client.must("search_audit_log", search).await?;
    let refusals = found.structured["entries"].as_array().map_or(0, Vec::len);
    anyhow::ensure!(refusals == 6, "{}", found.text);
    let said = "block_destination by the MCP server: WouldCutOperator";
    anyhow::ensure!(found.text.contains(said), "{}", found.text);
    Ok(())
}

async fn disabled_is_lifted() -> anyhow::Result<()> {
    let (site, client) = guarded().await?;
    let device = site.device("ws-1").id.clone();
    let deny = json!({"name": "out", "direction": "Egress", "action": "Deny", "peers": {"cidrs": ["203.0.113.7/32"]}});
    let spec = json!({"subjects": {"devices": {"ids": [device]}}, "rules": [deny]});
    let creating = json!({"name": "c2", "spec": spec, "reason": "C2 seen"});
    let created = client.must("create_policy", creating).await?;
    anyhow::ensure!(
        created.structured["in_force"] == "Everywhere",
        "{}",
        created.text
    );
    let disabling = json!({"name": "c2", "reason": "false alarm"});
    let disabled = client.must("disable_policy", disabling).await?;
    anyhow::ensure!(
        disabled.structured["lifted_everywhere"] == true,
        "{}",
        disabled.text
    );
    let shown = client
        .must("get_device", json!({"device_id": device}))
        .await?;
    anyhow::ensure!(shown.structured["policies"] == json!([]), "{}", shown.text);
    Ok(())
}

async fn held_is_told() -> anyhow::Result<()> {
    let mut site = Site::start(&["--hold-threshold", "1"]).await?;
    let client = site
        .agent("soc-bot", "Contain", Some("{devices: {all: true}}"))
        .await?;
    for name in ["ws-1", "ws-2"] {
        site.enroll(name, "workstation").await?;
        let id = &site.device(name).id;
        let arguments = json!({"device_id": id, "reason": "lateral movement"});
        client.must("isolate_device", arguments).await?;
    }
    let delete = ["delete", "isolations", "--all", "-n", TENANT];
    site.plane.kubectl(&delete).await?;
    let device = site.device("ws-1").id.clone();
    let about = json!({"device_id": device});
    let shown = eventually("a hold", PATIENCE, || async {
        let shown = client.must("get_device", about.clone()).await?;
        let held = shown.structured["held"]
            .as_array()
            .is_some_and(|held| held.len() == 1);
        Ok(held.then_some(shown))
    })
    .await?;
    let confirm = shown.structured["held"][0]["confirm"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let words: Vec<&str> = confirm.split(' ').collect();
    let ["seawall", "release", "confirm", hold] = words[..] else {
        anyhow::bail!("{}", shown.text);
    };
    let listed = client.must("list_isolations", about.clone()).await?;
    let item = &listed.structured["isolations"][0];
    anyhow::ensure!(item["held_until"] == confirm.as_str(), "{item}");
    let releasing = json!({"device_id": device, "reason": "false alarm"});
    let released = client.must("release_device", releasing).await?;
    anyhow::ensure!(released.text.contains(&confirm), "{}", released.text);

    site.seawall(&["release", "confirm", hold]).await?;
    eventually("the release", PATIENCE, || async {
        let shown = client.must("get_device", about.clone()).await?;
        let free = shown.structured["isolated_by"] == json!([]);
        Ok((free && shown.structured["held"].is_null()).then_some(()))
    })
    .await
}

impl Plant {
    fn suspect_device(&mut self) -> &mut crate::site::SiteDevice {
        self.site
            .devices
            .iter_mut()
            .find(|device| device.host.name() == "ws-1")
            .expect("it was enrolled")
    }
}
