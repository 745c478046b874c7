//! One agent as a process on a host.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seawall::agent::Options;
use seawall::agent::enforcer::{Step, Steps};
use seawall::agent::identity::Identity;
use seawall::agent::state_directory::StateDirectory;
use seawall::domain::names::DeviceId;
use tokio_util::sync::CancellationToken;

use crate::lab::Host;
use crate::process::{self, Daemon, Outcome};
use crate::run;

pub struct Agent {
    host: Host,
    folder: PathBuf,
    process: Option<Daemon>,
}

/// First argument of this program when it is an agent that dies at a step.
pub const DEADLY_COMMAND: &str = "agent-that-dies";

impl Agent {
    /// With its files, and not running.
    pub fn at_rest(host: &Host, token: &str) -> anyhow::Result<Self> {
        let folder = run::scratch(&format!("agent-{}", host.name()))?;
        let agent = Self {
            host: host.clone(),
            folder,
            process: None,
        };
        std::fs::write(agent.token_file(), token)?;
        Ok(agent)
    }

    pub fn start(host: &Host, token: &str) -> anyhow::Result<Self> {
        let mut agent = Self::at_rest(host, token)?;
        agent.restart()?;
        Ok(agent)
    }

    /// Where its join token is.
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    /// Starts it again, after it ended.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("run");
        command.arg("--join-token-file").arg(self.token_file());
        self.spawn(&mut command)
    }

    /// Starts it as one that is killed when it reaches the step.
    pub fn restart_to_die_at(&mut self, step: Step) -> anyhow::Result<()> {
        let program = std::env::current_exe()?;
        let mut command = self.host.command(&program.to_string_lossy());
        command
            .arg(DEADLY_COMMAND)
            .arg(format!("{step:?}"))
            .arg(self.state_directory());
        self.spawn(&mut command)
    }

    fn spawn(&mut self, command: &mut Command) -> anyhow::Result<()> {
        command.env("RUST_LOG", "warn,seawall=debug");
        let name = format!("agent-{}", self.host.name());
        self.process = Some(Daemon::spawn(&name, command, &self.folder)?);
        Ok(())
    }

    /// `seawall agent …` on the host, with this agent's state directory.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = self.host.command(env!("CARGO_BIN_EXE_seawall"));
        command
            .args(["agent", subcommand, "--state-dir"])
            .arg(self.state_directory());
        command
    }

    pub async fn run(&self, subcommand: &str, args: &[&str]) -> anyhow::Result<Outcome> {
        let mut command = self.command(subcommand);
        command.args(args);
        process::run(command, "", Duration::from_secs(60)).await
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn state_directory(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What enrolment gave it.
    pub fn id(&self) -> anyhow::Result<DeviceId> {
        Ok(self.identity()?.device)
    }

    pub fn identity(&self) -> anyhow::Result<Identity> {
        let directory = StateDirectory::existing(&self.state_directory());
        Identity::load(&directory)?.context("not enrolled yet")
    }

    /// SIGKILL, as a crash or a lost machine.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub async fn terminate(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let process = self.process.take().context("it runs")?;
        process.terminate(Duration::from_secs(10)).await
    }

    /// Waits for its own end.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<()> {
        let process = self.process.as_mut().context("it was started")?;
        let started = std::time::Instant::now();
        while process.check().is_ok() {
            if started.elapsed() > limit {
                bail!("it still runs after {limit:?}\n{}", process.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = None;
        Ok(())
    }

    pub fn log_tail(&self) -> String {
        self.process
            .as_ref()
            .map(Daemon::log_tail)
            .unwrap_or_default()
    }

    pub fn log(&self) -> anyhow::Result<String> {
        let path = self.folder.join(format!("agent-{}.log", self.host.name()));
        Ok(std::fs::read_to_string(path)?)
    }

    /// The agent's table as nft shows it, without counters and handles.
    pub async fn table(&self) -> anyhow::Result<String> {
        let listing = self
            .host
            .run("nft", &["-s", "list", "table", "inet", "seawall"], "")
            .await?;
        listing.success()
    }
}

/// The life of [`Agent::restart_to_die_at`].
pub fn run_deadly() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args().skip(2);
    let name = args.next().context("the step")?;
    let directory = args.next().context("the state directory")?;
    let deadly = Step::ALL
        .into_iter()
        .find(|step| format!("{step:?}") == name)
        .context("one of the steps")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let options = Options {
        state_directory: Path::new(&directory).to_owned(),
        join_token_file: None,
        node: None,
        steps: Steps::told_to(move |step| {
            if step == deadly {
                // Nothing of the process runs after this.
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
        }),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(seawall::agent::run_until(options, CancellationToken::new()))?;
    Ok(ExitCode::SUCCESS)
}
