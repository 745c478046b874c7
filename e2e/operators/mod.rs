//! Operators beside a control plane with the charts in it: no agents, no MCP server.

mod device;

pub use device::Device;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use seawall::reconcile::records::InForceStore;
use seawall::store::Store;
use serde_json::Value;

pub use crate::charts::SYSTEM;
use crate::cluster::{ControlPlane, Options, free_port};
use crate::harness::eventually;
use crate::process::{self, Daemon, Outcome};
use crate::run;

/// The operator's user in the API server's audit log.
pub const USER: &str = "system:serviceaccount:seawall-system:seawall";
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Fixture {
    // Dropped from top to bottom.
    operators: Vec<Option<Running>>,
    /// Where each listens for agents; the same after a restart.
    listen: Vec<SocketAddr>,
    pub plane: ControlPlane,
    dir: PathBuf,
    kubeconfig: PathBuf,
}

struct Running {
    daemon: Daemon,
    health: SocketAddr,
}

impl Fixture {
    /// A control plane with the charts, and no operator yet.
    pub async fn prepare() -> anyhow::Result<Self> {
        let plane = ControlPlane::start(Options::default()).await?;
        let chart = |name: &str| format!("{}/charts/{name}", env!("CARGO_MANIFEST_DIR"));
        let (crds, seawall) = (chart("seawall-crds"), chart("seawall"));
        plane.helm(&["install", "seawall-crds", &crds]).await?;
        let system = ["--namespace", SYSTEM, "--create-namespace"];
        let install = ["install", "seawall", &seawall, "--set", "replicas=0"];
        plane.helm(&[&install[..], &system[..]].concat()).await?;
        let kubeconfig = plane.kubeconfig_for(SYSTEM, "seawall").await?;
        Ok(Self {
            operators: Vec::new(),
            listen: Vec::new(),
            plane,
            dir: run::scratch("operator")?,
            kubeconfig,
        })
    }

    /// One operator, leading and ready.
    pub async fn start() -> anyhow::Result<Self> {
        let mut this = Self::prepare().await?;
        let first = this.add_operator(&[])?;
        this.wait_ready(first).await?;
        this.wait_leading(first).await?;
        Ok(this)
    }

    /// Starts another operator with a data directory of its own; its number.
    pub fn add_operator(&mut self, more: &[&str]) -> anyhow::Result<usize> {
        let number = self.operators.len();
        self.operators.push(None);
        self.listen.push(loopback()?);
        self.start_operator(number, more)?;
        Ok(number)
    }

    /// Starts the operator of this number, on the data that it left.
    pub fn start_operator(&mut self, number: usize, more: &[&str]) -> anyhow::Result<()> {
        let (fleet, health) = (self.listen[number], loopback()?);
        let home = self.home(number);
        std::fs::create_dir_all(&home)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command
            .args(["operator", "--system-namespace", SYSTEM])
            .args(["--fleet-listen", &fleet.to_string()])
            .args(["--operator-address", &fleet.to_string()])
            .args(["--health-listen", &health.to_string()])
            .arg("--data-dir")
            .arg(home.join("data"))
            .arg("--local-socket")
            .arg(home.join("local.sock"))
            .arg("--admin-socket")
            .arg(home.join("admin.sock"))
            .arg("--mcp-token-file")
            .arg(home.join("mcp-token"))
            .args(more)
            .env("KUBECONFIG", &self.kubeconfig);
        let daemon = Daemon::spawn("operator", &mut command, &home)?;
        self.operators[number] = Some(Running { daemon, health });
        Ok(())
    }

    /// Where an operator has its data, sockets and log.
    pub fn home(&self, number: usize) -> PathBuf {
        self.dir.join(format!("operator-{number}"))
    }

    fn running(&self, number: usize) -> anyhow::Result<&Running> {
        self.operators[number]
            .as_ref()
            .context("this operator runs")
    }

    pub fn log(&self, number: usize) -> anyhow::Result<String> {
        let log = self.running(number)?.daemon.log().to_owned();
        Ok(std::fs::read_to_string(log)?)
    }

    /// Ends it without a warning.
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let running = self.operators[number].take().context("it runs")?;
        running.daemon.signal(Signal::SIGKILL)
    }

    /// Ends it as Kubernetes does; how long that took.
    pub async fn terminate(&mut self, number: usize) -> anyhow::Result<Duration> {
        let running = self.operators[number].take().context("it runs")?;
        let began = std::time::Instant::now();
        let status = running.daemon.terminate(Duration::from_secs(15)).await?;
        anyhow::ensure!(status.success(), "it ended with {status}");
        Ok(began.elapsed())
    }

    pub fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        self.running(number)?.daemon.signal(signal)
    }

    /// What `path` of its health server answers.
    pub async fn health(&self, number: usize, path: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("http://{}{path}", self.running(number)?.health);
        let answer = reqwest::Client::new()
            .get(url)
            .timeout(Duration::from_secs(5))
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub async fn wait_ready(&self, number: usize) -> anyhow::Result<()> {
        eventually("the operator to be ready", PATIENCE, || async {
            Ok((self.health(number, "/ready").await?.0 == 200).then_some(()))
        })
        .await
        .with_context(|| self.log(number).unwrap_or_default())
    }

    pub async fn leads(&self, number: usize) -> anyhow::Result<bool> {
        let (_, metrics) = self.health(number, "/metrics").await?;
        Ok(metrics.lines().any(|line| line == "seawall_leading 1"))
    }

    pub async fn wait_leading(&self, number: usize) -> anyhow::Result<()> {
        eventually("the operator to lead", PATIENCE, || async {
            Ok(self.leads(number).await?.then_some(()))
        })
        .await
    }

    pub async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let admin = self.plane.admin_kubeconfig().to_owned();
        let args = ["apply", "--server-side", "-f", "-"];
        let applied = self
            .plane
            .kubectl_as(&admin, &args, &object.to_string())
            .await?;
        applied.success().map(drop)
    }

    /// Runs `seawall` as a person with every right; its output.
    pub async fn seawall(&self, args: &[&str]) -> anyhow::Result<String> {
        self.seawall_at(0, args).await
    }

    /// The same beside the operator of this number.
    async fn seawall_at(&self, number: usize, args: &[&str]) -> anyhow::Result<String> {
        self.try_seawall(number, args).await?.success()
    }

    /// The same for what may fail.
    pub async fn try_seawall(&self, number: usize, args: &[&str]) -> anyhow::Result<Outcome> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command
            .args(args)
            .env("KUBECONFIG", self.plane.admin_kubeconfig())
            .env("SEAWALL_ADMIN_SOCKET", self.home(number).join("admin.sock"));
        process::run(command, "", PATIENCE).await
    }

    /// A join token for so many devices of the tenant, which carry the tags.
    pub async fn join_token(
        &self,
        number: usize,
        tenant: &str,
        uses: usize,
        tags: &[&str],
    ) -> anyhow::Result<String> {
        let uses = uses.to_string();
        let create = ["fleet", "join-token", "create", "--tenant", tenant];
        let mut create = [&create[..], &["--uses", &uses]].concat();
        create.extend(tags.iter().flat_map(|tag| ["--tag", tag]));
        let said = self.seawall_at(number, &create).await?;
        let mut words = said.split_whitespace();
        let token = words.find(|word| word.starts_with("swj1."));
        Ok(token.context("a join token is printed")?.to_owned())
    }

    /// The memory that it holds, in MiB.
    pub fn resident(&self, number: usize) -> anyhow::Result<f64> {
        process::resident(self.running(number)?.daemon.pid())
    }

    /// Waits until so many isolations are written down in the operator's store.
    pub async fn wait_in_force(&self, number: usize, count: usize) -> anyhow::Result<()> {
        let file = self.home(number).join("data/seawall.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let store = Store::open(&url).await?;
        eventually("what is in force to be written down", PATIENCE, || async {
            Ok((store.in_force().await?.len() == count).then_some(()))
        })
        .await
    }

    /// The object as JSON, or nothing when it isn't there.
    pub async fn get(&self, args: &[&str]) -> anyhow::Result<Option<Value>> {
        let get = [
            "get",
            "--ignore-not-found",
            "--show-managed-fields",
            "-o",
            "json",
        ];
        let text = self.plane.kubectl(&[&get[..], args].concat()).await?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }
}

fn loopback() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}
