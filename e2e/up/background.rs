//! The part outside: a process in the background that holds the world, found again by a file with its id.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Addresses, FOLDER, forward, private_file};
use crate::run::private_folder;

/// A first start builds the control plane's programs.
const STARTED: Duration = Duration::from_secs(30 * 60);

const ENDED: Duration = Duration::from_secs(30);

fn folder() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target.expect("cargo gives a folder in target").join("up")
}

/// `make up`, before any namespace: the process in the background goes on to `hold`, the other waits until
/// that says hello.
pub fn outside(
    hold: impl FnOnce(&[(String, String)]) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    if std::env::var_os(FOLDER).is_some() {
        let folder = folder();
        let (mcp, api_server) = (loopback()?, loopback()?);
        let outer = Addresses {
            mcp: mcp.local_addr()?,
            api_server: api_server.local_addr()?,
        };
        let outer = serde_json::to_vec(&outer)?;
        private_file(&folder.join("outer.json"))?.write_all(&outer)?;
        forward::listen(mcp, folder.join("mcp.sock"));
        forward::listen(api_server, folder.join("api-server.sock"));
        return hold(&[(FOLDER.into(), folder.display().to_string())]);
    }
    if let Some(pid) = running() {
        println!("already running, as process {pid}:\n");
        print!("{}", fs::read_to_string(folder().join("welcome"))?);
        return Ok(ExitCode::SUCCESS);
    }
    start()
}

fn loopback() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?)
}

fn start() -> anyhow::Result<ExitCode> {
    let folder = folder();
    let _ = fs::remove_dir_all(&folder);
    if let Some(target) = folder.parent() {
        fs::create_dir_all(target)?;
    }
    private_folder(&folder)?;
    let log = folder.join("log");
    let file = private_file(&log)?;
    // A session of its own, so that it outlives the terminal.
    let mut child = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .arg("up")
        .env(FOLDER, &folder)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("starting setsid (package util-linux)")?;
    fs::write(folder.join("pid"), child.id().to_string())?;
    let deadline = Instant::now() + STARTED;
    let mut shown = 0;
    loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        print!("{}", &said[shown..]);
        shown = said.len();
        if let Ok(words) = fs::read_to_string(folder.join("welcome")) {
            print!("\n{words}");
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "it did not start: {status}; its words are in {}",
                log.display()
            );
        }
        ensure!(
            Instant::now() < deadline,
            "not started after {STARTED:?}: {}",
            log.display()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The process in the background, if it lives.
fn running() -> Option<Pid> {
    let pid = fs::read_to_string(folder().join("pid")).ok()?;
    let pid = Pid::from_raw(pid.trim().parse().ok()?);
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let ours = std::env::current_exe().ok()?;
    // Another program may have the id by now.
    (program.file_name()?.to_str()?.starts_with("e2e-") && program.parent() == ours.parent())
        .then_some(pid)
}

/// `make down`.
pub fn down() -> anyhow::Result<ExitCode> {
    let Some(pid) = running() else {
        println!("nothing is running");
        return Ok(ExitCode::SUCCESS);
    };
    kill(pid, Signal::SIGTERM)?;
    let deadline = Instant::now() + ENDED;
    while running().is_some() {
        ensure!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = fs::remove_dir_all(folder());
    println!("ended");
    Ok(ExitCode::SUCCESS)
}
