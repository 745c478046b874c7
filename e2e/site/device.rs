//! A device of the site: a host with a `seawall agent`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;

use super::Site;
use crate::harness::eventually;
use crate::lab::Host;
use crate::process::Daemon;

/// Longer than an agent takes to enrol on a busy machine.
const ENROLLED: Duration = Duration::from_secs(30);

/// What an agent keeps of its last bundle.
#[derive(serde::Deserialize)]
struct StoredBundle {
    payload: String,
}

pub struct SiteDevice {
    pub id: String,
    agent: Option<Daemon>,
    pub host: Host,
    state: PathBuf,
    dir: PathBuf,
}

impl SiteDevice {
    /// Returns when the device has its identity; its stream may come a moment later.
    pub(super) async fn enroll(site: &Site, host: Host, join_token: &str) -> anyhow::Result<Self> {
        let dir = site.dir().to_owned();
        let state = dir.join(format!("agent-{}", host.name()));
        std::fs::create_dir_all(&state)?;
        let token_file = state.join("join-token");
        std::fs::write(&token_file, join_token)?;
        let mut device = Self {
            id: String::new(),
            agent: None,
            host,
            state,
            dir,
        };
        device.start_agent(Some(&token_file))?;
        device.id = device.wait_enrolled().await?;
        Ok(device)
    }

    fn start_agent(&mut self, join_token: Option<&Path>) -> anyhow::Result<()> {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_seawall"));
        command
            .args(["agent", "run", "--state-dir"])
            .arg(&self.state);
        if let Some(file) = join_token {
            command.arg("--join-token-file").arg(file);
        }
        let name = format!("agent-{}", self.host.name());
        self.agent = Some(Daemon::spawn(&name, &mut command, &self.dir)?);
        Ok(())
    }

    /// Starts the agent again on the state that it left.
    pub fn restart_agent(&mut self) -> anyhow::Result<()> {
        self.agent = None;
        self.start_agent(None)
    }

    /// Ends the agent without a warning; its rules stay in the kernel.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    pub fn agent(&self) -> Option<&Daemon> {
        self.agent.as_ref()
    }

    /// Epoch and revision of the bundle on its disk.
    pub fn bundle_revision(&self) -> anyhow::Result<(u64, u64)> {
        let stored = std::fs::read_to_string(self.state.join("bundle.json"))?;
        let stored: StoredBundle = serde_json::from_str(&stored)?;
        let payload = base64::engine::general_purpose::STANDARD.decode(&stored.payload)?;
        let bundle: seawall::domain::enforcement::Bundle = serde_json::from_slice(&payload)?;
        Ok((bundle.epoch, bundle.revision))
    }

    async fn wait_enrolled(&mut self) -> anyhow::Result<String> {
        let identity = self.state.join("identity.json");
        let agent = std::sync::Mutex::new(self.agent.as_mut().context("it was started")?);
        eventually("the agent to enrol", ENROLLED, || async {
            agent.lock().expect("nobody panics holding it").check()?;
            let Ok(text) = std::fs::read_to_string(&identity) else {
                return Ok(None);
            };
            let identity: serde_json::Value = serde_json::from_str(&text)?;
            Ok(identity["device"].as_str().map(str::to_owned))
        })
        .await
    }

    /// Waits until the operator says that the device is connected and has all that it should.
    pub async fn wait_connected(&self, site: &Site) -> anyhow::Result<()> {
        let what = format!("{} to be connected", self.host.name());
        eventually(&what, ENROLLED, || async {
            let text = site.seawall(&["fleet", "show", &self.id, "--json"]).await?;
            let device: serde_json::Value = serde_json::from_str(&text)?;
            Ok((device["connected"] == true && device["upToDate"] == true).then_some(()))
        })
        .await
    }
}
