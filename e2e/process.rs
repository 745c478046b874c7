//! Processes that tests start: daemons that end with their handle, and programs that are run to their
//! end within a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;

/// A process in the background, with its output in a file. Dropping it kills it and waits for its end.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Output goes to `<dir>/<name>.log`, appended, so that a restart doesn't hide what came before.
    pub fn spawn(name: &str, command: &mut Command, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name} ({:?})", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails with the end of the log when the process has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, self.log_tail()),
        }
    }

    /// The last lines of its output, with a line above that says whose they are.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("--- end of {}\n{tail}", self.log.display())
    }

    /// Sends a signal, which the process may answer as it likes.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid().try_into()?), signal)?;
        Ok(())
    }

    /// SIGTERM, and its exit status if it ends within `grace`; it is killed and it is an error if not.
    pub async fn terminate(mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!(
            "{} was still there {grace:?} after SIGTERM\n{}",
            self.name,
            self.log_tail()
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Its standard output, or what it said when it failed.
    pub fn success(self) -> anyhow::Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!(
            "{} failed: {}\n{}{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        )
    }
}

/// The resident memory of a process, in MiB.
pub fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = status
        .lines()
        .filter_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = lines.next().and_then(|line| line.split_whitespace().next());
    let kibibytes: f64 = kibibytes.context("a process has VmRSS")?.parse()?;
    Ok((kibibytes / 102.4).round() / 10.0)
}

/// Runs a program to its end, feeding it `input`. It is killed when `limit` has passed.
pub async fn run(command: Command, input: &str, limit: Duration) -> anyhow::Result<Outcome> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {line}"))?;
    let mut stdin = child.stdin.take().context("stdin was piped")?;
    let feed = async move {
        // A program may end without reading all of it, which its status tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let Ok(output) = tokio::time::timeout(limit, both).await else {
        bail!("{line}: not done after {limit:?}");
    };
    let output = output?;
    Ok(Outcome {
        command: line,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
