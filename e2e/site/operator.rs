//! The operator's and the MCP server's processes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal;

use super::{PATIENCE, SYSTEM, Site};
use crate::cluster::free_port;
use crate::process::Daemon;

/// Where they listen.
pub struct Ports {
    /// Where agents find the operator.
    pub fleet: SocketAddr,
    pub health: u16,
    pub webhook: u16,
    pub mcp: u16,
}

impl Ports {
    pub fn choose(gateway: Ipv4Addr) -> anyhow::Result<Self> {
        Ok(Self {
            fleet: SocketAddr::new(gateway.into(), free_port()?),
            health: free_port()?,
            webhook: free_port()?,
            mcp: free_port()?,
        })
    }

    pub fn webhook_url(&self) -> String {
        format!("https://127.0.0.1:{}/admission", self.webhook)
    }
}

impl Site {
    /// Where `seawall fleet` finds the operator.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    fn local_socket(&self) -> PathBuf {
        self.dir.join("local.sock")
    }

    /// Where the operator puts the tokens that it mints for the MCP server.
    fn mcp_token(&self) -> PathBuf {
        self.dir.join("mcp-token")
    }

    pub fn mcp_address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.mcp)
    }

    /// Starts the operator and waits until it leads and is ready.
    pub async fn start_operator(&mut self) -> anyhow::Result<()> {
        let kubeconfig = self.plane.kubeconfig_for(SYSTEM, "seawall").await?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command
            .arg("operator")
            .args(["--system-namespace", SYSTEM])
            .args(["--fleet-listen", &self.ports.fleet.to_string()])
            .args(["--operator-address", &self.ports.fleet.to_string()])
            .args(["--health-listen", &loopback(self.ports.health)])
            .args(["--webhook-listen", &loopback(self.ports.webhook)])
            .args(["--webhook-name", "127.0.0.1"])
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .arg("--local-socket")
            .arg(self.local_socket())
            .arg("--admin-socket")
            .arg(self.admin_socket())
            .arg("--mcp-token-file")
            .arg(self.mcp_token())
            .args(&self.operator_arguments)
            .env("KUBECONFIG", kubeconfig);
        self.operator = Some(Daemon::spawn("operator", &mut command, &self.dir)?);
        self.wait_ready("operator", self.ports.health).await
    }

    pub(super) async fn start_mcp(&mut self) -> anyhow::Result<()> {
        let mut command = self.mcp_command(self.ports.mcp);
        self.mcp = Some(Daemon::spawn("mcp", &mut command, &self.dir)?);
        self.wait_ready("mcp", self.ports.mcp).await
    }

    /// An MCP server beside the operator, at this port of loopback.
    pub fn mcp_command(&self, port: u16) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command
            .arg("mcp")
            .args(["--listen", &loopback(port)])
            .arg("--local-socket")
            .arg(self.local_socket())
            .arg("--token-file")
            .arg(self.mcp_token())
            .args(["--api-server", self.plane.server_url()])
            .arg("--api-server-ca-file")
            .arg(self.plane.dir().join("ca.crt"));
        command
    }

    /// Where the API server calls the webhook.
    pub fn webhook_address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.webhook)
    }

    /// What Prometheus would read.
    pub async fn operator_metrics(&self) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports.health);
        let answer = reqwest::get(url).await?.error_for_status()?;
        Ok(answer.text().await?)
    }

    /// Ends the operator without a warning, as a lost node does.
    pub fn kill_operator(&mut self) -> anyhow::Result<()> {
        let operator = self.operator.take().context("the operator runs")?;
        operator.signal(Signal::SIGKILL)
    }

    /// Ends the operator as Kubernetes does.
    pub async fn stop_operator(&mut self) -> anyhow::Result<()> {
        let operator = self.operator.take().context("the operator runs")?;
        operator.terminate(Duration::from_secs(15)).await.map(drop)
    }

    async fn wait_ready(&mut self, name: &str, port: u16) -> anyhow::Result<()> {
        let url = format!("http://127.0.0.1:{port}/ready");
        let client = reqwest::Client::new();
        let daemon = match name {
            "operator" => &mut self.operator,
            _ => &mut self.mcp,
        };
        let daemon = daemon.as_mut().context("it was started")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            daemon.check()?;
            let answer = client.get(&url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let late = || {
                format!(
                    "{name} is not ready after {PATIENCE:?}\n{}",
                    daemon.log_tail()
                )
            };
            anyhow::ensure!(Instant::now() < deadline, "{}", late());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
