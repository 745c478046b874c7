//! The folder of one run, `target/e2e/<time>-<pid>`: logs, kubeconfigs and data of all that it starts.
//!
//! Logs of the last runs are kept to be read; databases go when the run ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::cluster::audit_log;
use crate::cluster::node::Cgroup;

const RUN: &str = "SEAWALL_E2E_RUN";

/// Folders of ended runs that are kept.
const KEPT: usize = 5;

/// A folder of this name holds a database, which nobody reads after the run.
pub const DATA: &str = "data";

pub struct Run {
    dir: PathBuf,
    /// Locked for as long as the run lives, so that another run beside it doesn't tidy it away.
    _alive: File,
}

impl Run {
    pub fn begin() -> anyhow::Result<Self> {
        let runs = runs();
        let name = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        let dir = runs.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&runs).with_context(|| format!("creating {}", runs.display()))?;
        // Kubeconfigs and keys of every right are in it.
        private_folder(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let alive = File::create(dir.join("alive"))?;
        alive.lock()?;
        tidy(&runs);
        Ok(Self { dir, _alive: alive })
    }

    pub fn to_env(&self) -> (String, String) {
        (RUN.into(), self.dir.display().to_string())
    }

    pub fn end(self, success: bool) {
        remove_data(&self.dir);
        if let Err(error) = Cgroup::of_run(&self.dir).remove() {
            eprintln!("control groups of this run's nodes are left: {error}");
        }
        if !success {
            eprintln!("logs of this run: {}", self.dir.display());
        }
    }
}

/// A new folder of the run that this process is part of, named after what uses it.
pub fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let run = std::env::var_os(RUN).context("only inside a run")?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(&run).join(format!("{name}-{number}"));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Writes down how long a test took, in the run's `durations.tsv`: the slowest are what a run waits for.
pub fn note_duration(test: &str, took: Duration) {
    let Some(run) = std::env::var_os(RUN) else {
        return;
    };
    let line = format!("{:.1}\t{test}\n", took.as_secs_f64());
    let file = File::options()
        .create(true)
        .append(true)
        .open(Path::new(&run).join("durations.tsv"));
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("how long {test} took is not written down: {error}");
    }
}

/// The audit logs of all API servers that this run started so far.
pub fn audit_logs() -> anyhow::Result<Vec<PathBuf>> {
    let run = std::env::var_os(RUN).context("only inside a run")?;
    let mut logs = Vec::new();
    for entry in fs::read_dir(run)? {
        let log = audit_log(&entry?.path());
        if log.exists() {
            logs.push(log);
        }
    }
    Ok(logs)
}

/// Makes a folder that nobody else can enter.
pub fn private_folder(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)
}

fn runs() -> PathBuf {
    // Cargo's folder for tests is `<target>/tmp`.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target.expect("cargo gives a folder in target").join("e2e")
}

/// Removes ended runs but the last ones. What can't be removed is left: it costs only room.
fn tidy(runs: &Path) {
    let mut ended: Vec<PathBuf> = fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| File::open(dir.join("alive")).is_ok_and(|file| file.try_lock().is_ok()))
        .collect();
    ended.sort();
    let surplus = ended.len().saturating_sub(KEPT);
    // A run that was killed left its databases and its nodes' control groups.
    for dir in &ended {
        remove_data(dir);
        let _ = Cgroup::of_run(dir).remove();
    }
    for dir in ended.drain(..surplus) {
        let _ = fs::remove_dir_all(dir);
    }
}

fn remove_data(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(entry.path().join(DATA));
    }
}
