//! How a client is connected: with what `seawall mcp config` prints, used as the client would use it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::case;
use crate::process;
use crate::site::Site;

pub fn all() -> Vec<Trial> {
    vec![case(
        "a client that starts its servers reaches the server with what is printed for it, and without a key is told",
        started,
    )]
}

const PATIENCE: Duration = Duration::from_secs(30);

/// What a client of this kind runs.
#[derive(Deserialize)]
struct Started {
    command: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Started {
    async fn printed(url: &str, key: Option<&str>) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(["mcp", "config", "--client", "claude-desktop", "--url", url]);
        match key {
            Some(key) => command.env("SEAWALL_API_KEY", key),
            None => command.env_remove("SEAWALL_API_KEY"),
        };
        let printed = process::run(command, "", PATIENCE).await?.success()?;
        let mut file: Value = serde_json::from_str(&printed)?;
        let server = file["mcpServers"]["seawall"].take();
        serde_json::from_value(server).context("a server to start")
    }

    async fn run(&self, lines: &str) -> anyhow::Result<process::Outcome> {
        let mut command = Command::new(&self.command);
        command.args(&self.args).envs(&self.env);
        process::run(command, lines, PATIENCE).await
    }
}

async fn started() -> anyhow::Result<()> {
    let site = Site::start(&[]).await?;
    let key = site.scope("desktop", "Investigate", None).await?;
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "desktop", "version": "1"}}});
    let hello = format!("{hello}\n");

    let client = Started::printed(&site.mcp_url(), Some(&key)).await?;
    let said = client.run(&hello).await?.success()?;
    let answer: Value = serde_json::from_str(said.lines().next().context("an answer")?)?;
    assert_eq!(answer["result"]["serverInfo"]["name"], "seawall", "{said}");

    let nobody = Started::printed(&site.mcp_url(), None).await?;
    let refused = nobody.run(&hello).await?;
    let all = format!("{}{}", refused.stdout, refused.stderr);
    assert!(all.contains("key"), "{all}");
    assert!(!refused.stdout.contains("serverInfo"), "{all}");
    Ok(())
}
