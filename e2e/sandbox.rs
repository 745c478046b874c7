//! The namespaces that everything real runs in: user, network, mount and process namespaces of its own,
//! made by `unshare`; as root without the user namespace where those are blocked.
//!
//! Nothing outlives it: the sandbox's first process ends when the process outside does, however that
//! dies, and the kernel then kills all that is left inside.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Which of its three lives this process is in. See the module of `main`.
pub enum Stage {
    Outside,
    Init,
    Inside,
}

const STAGE: &str = "SEAWALL_E2E_STAGE";

/// What ends with the parent: the inner processes' chance to stop by themselves.
const GRACE: Duration = Duration::from_secs(5);

const WITHOUT_USER: [&str; 6] = ["-n", "-m", "-p", "-f", "--kill-child", "--mount-proc"];
const WITH_USER: [&str; 8] = [
    "-U",
    "-r",
    "-n",
    "-m",
    "-p",
    "-f",
    "--kill-child",
    "--mount-proc",
];

pub fn stage() -> Stage {
    match std::env::var(STAGE).as_deref() {
        Ok("init") => Stage::Init,
        Ok("inside") => Stage::Inside,
        _ => Stage::Outside,
    }
}

/// Runs this program again inside the sandbox and waits for its end.
///
/// SIGINT, SIGTERM and SIGHUP end the sandbox and are then answered by the exit code.
pub fn enter(env: &[(String, String)]) -> anyhow::Result<ExitCode> {
    let mut child = Command::new("unshare")
        .args(namespaces()?)
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "init")
        .envs(env.iter().cloned())
        .stdin(Stdio::piped())
        .spawn()
        .context("starting unshare (package util-linux)")?;
    // The sandbox lives as long as this pipe is open, so it can't outlive this process.
    let lifeline = Arc::new(Mutex::new(child.stdin.take()));
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Only after the spawn: a child inherits the mask.
    signals.thread_block()?;
    let on_signal = lifeline.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            on_signal.lock().expect("nobody panics holding it").take();
        }
    });
    let status = child.wait()?;
    drop(lifeline);
    Ok(exit_code(status))
}

/// The flags of `unshare` that work on this machine.
fn namespaces() -> anyhow::Result<&'static [&'static str]> {
    let works = |flags: &[&str]| -> anyhow::Result<bool> {
        let out = Command::new("unshare").args(flags).arg("true").output()?;
        Ok(out.status.success())
    };
    if works(&WITH_USER)? {
        return Ok(&WITH_USER);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "user namespaces are blocked here: run e2e/preflight.sh, which names the settings, or run as root"
    );
    if works(&WITHOUT_USER)? {
        return Ok(&WITHOUT_USER);
    }
    bail!("namespaces are blocked here, even for root: CAP_SYS_ADMIN and CAP_NET_ADMIN are needed")
}

/// The sandbox's first process: makes the ground ready, starts the process that does the work, reaps
/// orphans, and ends when the work or the process outside ends.
pub fn init() -> anyhow::Result<ExitCode> {
    prepare("ip", &["link", "set", "lo", "up"])?;
    // The whole of /run, since /run/netns is often missing and can't be made without real root.
    prepare("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    std::fs::create_dir("/run/netns")?;

    let worker = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, "inside")
        .stdin(Stdio::null())
        .spawn()?;
    let worker = Pid::from_raw(worker.id().try_into()?);
    std::thread::spawn(move || {
        // Nothing is ever written to it: it ends when the process outside does.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = kill(worker, Signal::SIGTERM);
        std::thread::sleep(GRACE);
        std::process::exit(128 + Signal::SIGTERM as i32);
    });
    loop {
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, code) if pid == worker => {
                return Ok(exit_code(ExitStatus::from_raw(code << 8)));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == worker => {
                return Ok(exit_code(ExitStatus::from_raw(signal as i32)));
            }
            _ => {}
        }
    }
}

fn prepare(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(args)
        .status()
        .with_context(|| format!("starting {program}: e2e/preflight.sh says how to install it"))?;
    ensure!(
        status.success(),
        "{program} {} failed: {status}",
        args.join(" ")
    );
    Ok(())
}

/// As a shell reports it: 128 and the signal's number for a process that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
