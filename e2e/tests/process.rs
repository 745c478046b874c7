//! That what a test starts ends, and that what it says is kept.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::harness::{case, eventually};
use crate::process::{self, Daemon};

pub fn all() -> Vec<Trial> {
    vec![
        case("a daemon that is dropped is killed and waited for", dropped),
        case(
            "a daemon that ends by itself is reported with its last words",
            last_words,
        ),
        case(
            "a daemon that heeds SIGTERM ends with its own status",
            heeds,
        ),
        case(
            "a daemon that ignores SIGTERM is an error and is killed",
            ignores,
        ),
        case(
            "a program that doesn't end is killed when its time is up",
            time_is_up,
        ),
    ]
}

/// A shell that has said that it is ready.
async fn shell(dir: &Path, script: &str) -> anyhow::Result<Daemon> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let daemon = Daemon::spawn("shell", &mut command, dir)?;
    eventually("the shell", Duration::from_secs(5), || async {
        let said = std::fs::read_to_string(daemon.log())?;
        Ok(said.contains("ready").then_some(()))
    })
    .await?;
    Ok(daemon)
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn dropped() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let daemon = shell(
        dir.path(),
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    )
    .await?;
    let pid = daemon.pid();
    assert!(is_there(pid));
    drop(daemon);
    assert!(!is_there(pid));
    Ok(())
}

async fn last_words() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut daemon = shell(
        dir.path(),
        "echo ready; sleep 0.2; echo no more >&2; exit 3",
    )
    .await?;
    daemon.check()?;
    let error = eventually("its end", Duration::from_secs(5), || {
        let checked = daemon.check();
        async { Ok(checked.err()) }
    })
    .await?
    .to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    assert!(error.contains("no more"), "{error}");
    Ok(())
}

async fn heeds() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let daemon = shell(dir.path(), script).await?;
    let status = daemon.terminate(Duration::from_secs(5)).await?;
    assert_eq!(status.code(), Some(7));
    Ok(())
}

async fn ignores() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let daemon = shell(
        dir.path(),
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    )
    .await?;
    let pid = daemon.pid();
    daemon.signal(Signal::SIGCONT)?;
    let error = daemon.terminate(Duration::from_millis(100)).await.err();
    let words = error.context("it ignores SIGTERM")?.to_string();
    assert!(words.contains("still there"), "{words}");
    assert!(!is_there(pid));
    Ok(())
}

async fn time_is_up() -> anyhow::Result<()> {
    let mut command = Command::new("sleep");
    command.arg("60");
    let began = Instant::now();
    let error = process::run(command, "", Duration::from_millis(100)).await;
    let words = error.err().context("it does not end")?.to_string();
    assert!(words.contains("sleep 60: not done after"), "{words}");
    assert!(began.elapsed() < Duration::from_secs(10));
    Ok(())
}
