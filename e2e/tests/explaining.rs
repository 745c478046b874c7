//! Who reaches whom: what `seawall explain` and the agents' tool say, beside what packets do.

use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::{case, eventually};
use crate::lab::{Reach, Responder, reach};
use crate::site::{McpClient, Site, TENANT};

const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_millis(1500);

pub fn all() -> Vec<Trial> {
    vec![case(
        "what a person and an agent are told of a connection is what its packets meet",
        told_and_met,
    )]
}

struct Asker {
    site: Site,
    agent: McpClient,
    server: Responder,
    from: String,
    to: String,
}

impl Asker {
    async fn start() -> anyhow::Result<Self> {
        let mut site = Site::start(&[]).await?;
        for name in ["ws-1", "ws-2"] {
            site.enroll(name, "workstation").await?;
        }
        let agent = site.agent("eyes", "Investigate", None).await?;
        let server = Responder::start(&site.device("ws-2").host, 7000).await?;
        Ok(Self {
            agent,
            server,
            from: site.device("ws-1").id.clone(),
            to: format!("device/{}", site.device("ws-2").id),
            site,
        })
    }

    /// What a person is told: the exit code and the answer.
    async fn person(&self, port: &str) -> anyhow::Result<(i32, Value)> {
        let args = ["explain", "--from", &self.from, "--to", &self.to, "--port"];
        let args = [&args[..], &[port, "--output", "json"]].concat();
        let told = self.site.try_seawall(&args).await?;
        let answer = serde_json::from_str(&told.stdout).with_context(|| format!("{told:?}"))?;
        Ok((told.status.code().context("it ended by itself")?, answer))
    }

    /// Waits until both are told this, and looks whether packets agree.
    async fn agree(&self, verdict: &str, code: i32, expected: Reach) -> anyhow::Result<Value> {
        let answer = eventually(verdict, PATIENCE, || async {
            let (found, answer) = self.person("7000/TCP").await?;
            ensure!(
                (found == code) == (answer["verdict"] == verdict),
                "{found}: {answer}"
            );
            Ok((found == code).then_some(answer))
        })
        .await?;
        let ask = json!({"from": self.from, "to": self.to, "port": "7000/TCP"});
        let told = self.agent.must("explain_connection", ask).await?;
        ensure!(told.structured["verdict"] == verdict, "{}", told.text);
        ensure!(
            told.structured["because"] == answer["because"],
            "{}",
            told.text
        );
        let host = self.site.device("ws-1").host.clone();
        let met = reach(&host, &self.server, ANSWER).await?;
        ensure!(met == expected, "{answer}: {met:?}");
        Ok(answer)
    }
}

async fn told_and_met() -> anyhow::Result<()> {
    let asker = Asker::start().await?;
    asker.agree("Reaches", 0, Reach::ALL).await?;

    let policy = format!(
        "apiVersion: seawall.dev/v1alpha1\nkind: Policy\n\
         metadata: {{name: closed, namespace: {TENANT}}}\n\
         spec: {{subjects: {{devices: {{ids: [{}]}}}}, default: {{ingress: Deny}}}}\n",
        asker.site.device("ws-2").id
    );
    asker.site.apply(&policy).await?;
    let answer = asker.agree("Blocked", 1, Reach::NONE).await?;
    let because = answer["because"].as_str().unwrap_or_default();
    ensure!(
        because.contains(&format!("Policy {TENANT}/closed")),
        "{answer}"
    );

    asker
        .site
        .apply(&format!(
            "apiVersion: seawall.dev/v1alpha1\nkind: Isolation\n\
             metadata: {{name: suspect, namespace: {TENANT}}}\n\
             spec: {{target: {{device: {}}}, reason: Lateral movement}}\n",
            asker.from
        ))
        .await?;
    asker
        .site
        .condition("isolation", "suspect", "Enforced", "True")
        .await?;
    let answer = asker.agree("Blocked", 1, Reach::NONE).await?;
    let because = answer["because"].as_str().unwrap_or_default();
    ensure!(
        because.contains(&format!("Isolation {TENANT}/suspect")),
        "{answer}"
    );

    let args = [
        "explain",
        "--from",
        &asker.from,
        "--to",
        "pod/shop/nobody",
        "--port",
        "22",
    ];
    let told = asker.site.try_seawall(&args).await?;
    ensure!(told.status.code() == Some(2), "{told:?}");
    ensure!(
        told.stderr.contains("there is no pod/shop/nobody"),
        "{told:?}"
    );
    let args = [
        "explain",
        "--from",
        &asker.from,
        "--to",
        &asker.to,
        "--port",
        "22/TCP",
    ];
    let told = asker.site.try_seawall(&args).await?;
    ensure!(told.status.code() == Some(1), "{told:?}");
    ensure!(told.stdout.starts_with("BLOCKED: device/"), "{told:?}");
    ensure!(told.stdout.contains("\n*  source"), "{told:?}");
    Ok(())
}
