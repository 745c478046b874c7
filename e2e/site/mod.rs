//! A site: a control plane with the charts, the operator and the MCP server as processes on this side, and
//! devices with an agent each in namespaces of their own. What the demo, the benchmarks and the tests of
//! the whole path stand on.
//!
//! Operator and MCP server run with their ServiceAccounts' tokens, so what they may do is what the chart
//! grants.

mod device;
mod mcp_client;
mod operator;
mod scope;

pub use device::SiteDevice;
pub use mcp_client::McpClient;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::charts;
pub use crate::charts::SYSTEM;
use crate::cluster::{ControlPlane, Options};
use crate::harness::eventually;
use crate::lab::{Host, Lab};
use crate::process::{self, Daemon};
use crate::run;
use operator::Ports;

/// The tenant whose devices these are.
pub const TENANT: &str = "plant-a";

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    // Dropped from top to bottom.
    pub devices: Vec<SiteDevice>,
    mcp: Option<Daemon>,
    operator: Option<Daemon>,
    pub lab: Lab,
    pub plane: ControlPlane,
    ports: Ports,
    operator_arguments: Vec<String>,
    dir: PathBuf,
}

impl Site {
    /// Control plane, charts, operator and MCP server, all ready; no devices yet. `operator` are more
    /// arguments for the operator.
    pub async fn start(operator: &[&str]) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let plane = ControlPlane::start(Options::default()).await?;
        let dir = run::scratch("site")?;
        let ports = Ports::choose(lab.gateway4())?;
        let mut site = Self {
            devices: Vec::new(),
            mcp: None,
            operator: None,
            lab,
            plane,
            ports,
            operator_arguments: operator.iter().map(|&word| word.to_owned()).collect(),
            dir,
        };
        site.install().await?;
        site.start_operator().await?;
        site.start_mcp().await?;
        Ok(site)
    }

    /// The charts, as people install them, and the tenant.
    async fn install(&self) -> anyhow::Result<()> {
        let webhook = format!("webhook.url={}", self.ports.webhook_url());
        charts::install(&self.plane, &["replicas=0", &webhook]).await?;
        let tenant = ["create", "namespace", TENANT];
        self.plane.kubectl(&tenant).await.map(drop)
    }

    /// More arguments for the operator, from its next start on.
    pub fn add_operator_arguments(&mut self, more: &[&str]) {
        let more = more.iter().map(|&word| word.to_owned());
        self.operator_arguments.extend(more);
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the audit log is.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("data").join("audit")
    }

    pub fn mcp_url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.ports.mcp)
    }

    /// Runs `seawall` with these arguments as a person at the operator's side does.
    pub async fn seawall(&self, args: &[&str]) -> anyhow::Result<String> {
        self.try_seawall(args).await?.success()
    }

    /// The same for what may fail.
    pub async fn try_seawall(&self, args: &[&str]) -> anyhow::Result<process::Outcome> {
        let socket = [("SEAWALL_ADMIN_SOCKET", self.admin_socket())];
        self.plane.seawall(args, &socket, PATIENCE).await
    }

    /// Adds a device: a host with an agent that has enrolled and is connected. `kind` becomes a tag.
    pub async fn enroll(&mut self, name: &str, kind: &str) -> anyhow::Result<()> {
        let host = self.lab.host(name)?;
        let (kind, name) = (format!("kind={kind}"), format!("name={name}"));
        let token = self.join_token(&["--tag", &kind, "--tag", &name]).await?;
        let device = SiteDevice::enroll(self, host, &token).await?;
        device.wait_connected(self).await?;
        self.devices.push(device);
        Ok(())
    }

    /// Adds devices until there are `count`, by one join token, several at a time.
    pub async fn enroll_many(&mut self, count: usize) -> anyhow::Result<()> {
        let missing = count.saturating_sub(self.devices.len());
        if missing == 0 {
            return Ok(());
        }
        let uses = missing.to_string();
        let token = self
            .join_token(&["--tag", "kind=workstation", "--uses", &uses])
            .await?;
        let mut hosts = Vec::new();
        for number in self.devices.len()..count {
            hosts.push(self.lab.host(&format!("d{number}"))?);
        }
        let site = &*self;
        let token = token.as_str();
        let enrolled: Vec<SiteDevice> = futures::stream::iter(hosts)
            .map(|host| SiteDevice::enroll(site, host, token))
            .buffered(8)
            .try_collect()
            .await?;
        self.devices.extend(enrolled);
        self.all_connected().await
    }

    /// Waits until the operator says that every device is connected and has all that it should. Asks
    /// once for all of them: a question for each, again and again, is what the machine would be busy with.
    async fn all_connected(&self) -> anyhow::Result<()> {
        eventually("every device to be connected", PATIENCE, || async {
            let text = self.seawall(&["fleet", "list", "--json"]).await?;
            let listed: Vec<Value> = serde_json::from_str(&text)?;
            let is_up = |device: &&Value| device["connected"] == true && device["upToDate"] == true;
            let up = listed.iter().filter(is_up).count();
            Ok((up >= self.devices.len()).then_some(()))
        })
        .await
    }

    /// A join token for devices of the tenant.
    async fn join_token(&self, more: &[&str]) -> anyhow::Result<String> {
        let create = ["fleet", "join-token", "create", "--tenant", TENANT];
        let said = self.seawall(&[&create[..], more].concat()).await?;
        let token = said
            .split_whitespace()
            .find(|word| word.starts_with("swj1."));
        Ok(token.context("a join token is printed")?.to_owned())
    }

    /// A host without an agent.
    pub fn bystander(&self, name: &str) -> anyhow::Result<Host> {
        self.lab.host(name)
    }

    pub fn device(&self, name: &str) -> &SiteDevice {
        self.devices
            .iter()
            .find(|device| device.host.name() == name)
            .expect("a device of this name was enrolled")
    }

    /// kubectl as the administrator, with `yaml` on its standard input.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        let admin = self.plane.admin_kubeconfig().to_owned();
        self.apply_as(&admin, yaml).await
    }

    /// The same as whoever the kubeconfig speaks for.
    pub async fn apply_as(&self, kubeconfig: &Path, yaml: &str) -> anyhow::Result<String> {
        let outcome = self
            .plane
            .kubectl_as(kubeconfig, &["apply", "-f", "-"], yaml)
            .await?;
        outcome.success()
    }

    /// The resource as JSON, or nothing when it isn't there.
    pub async fn get(&self, kind: &str, name: &str) -> anyhow::Result<Option<Value>> {
        self.plane.get((TENANT, kind, name)).await
    }

    /// Waits until a condition of the resource has this status.
    pub async fn condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        status: &str,
    ) -> anyhow::Result<()> {
        let resource = (TENANT, kind, name);
        let wanted = (condition, status);
        self.plane.condition(resource, wanted, PATIENCE).await
    }

    /// Waits until the one Isolation of the tenant is in force everywhere.
    pub async fn isolated(&self) -> anyhow::Result<()> {
        let args = ["get", "isolations", "-n", TENANT, "-o", "name"];
        let names = self.plane.kubectl(&args).await?;
        let name = names.trim().rsplit('/').next().unwrap_or_default();
        self.condition("isolation", name, "Enforced", "True").await
    }
}
