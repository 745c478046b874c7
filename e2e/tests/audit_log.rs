//! The audit log on a real disk, read by `seawall verify` and by another implementation.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use seawall::audit::entry::{Actor, Body, Entry, Service};
use seawall::audit::keys::LogKeys;
use seawall::audit::log::{AuditLog, Options};
use seawall::audit::proof::Proof;
use serde_json::json;

use crate::harness::case;
use crate::{interop, process};

const LIMIT: Duration = Duration::from_secs(60);

pub fn all() -> Vec<Trial> {
    let go = interop::AUDIT.program().is_none();
    vec![
        case(
            "logs of all sizes are what Go's packages take them for",
            sizes,
        )
        .with_ignored_flag(go),
        case(
            "a log of three levels is what Go's packages take it for",
            three_levels,
        )
        .with_ignored_flag(go),
        case(
            "a changed byte is found by seawall verify, which names the entry, and by Go's packages",
            changed,
        )
        .with_ignored_flag(go),
    ]
}

struct Log {
    directory: PathBuf,
    keys: LogKeys,
    _scratch: tempfile::TempDir,
}

impl Log {
    fn new() -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        Ok(Self {
            directory: scratch.path().join("audit"),
            keys: LogKeys::generate("seawall.example.com/e2e")?,
            _scratch: scratch,
        })
    }

    /// Appends `count` entries, `at_once` waiting at a time.
    async fn grow(&self, count: u64, at_once: u64) -> anyhow::Result<()> {
        let options = Options::new(&self.directory, self.keys.clone());
        let (log, task, _) = AuditLog::open(options)?;
        let writing = tokio::spawn(task.run());
        let mut appending = tokio::task::JoinSet::new();
        for appender in 0..at_once {
            let log = log.clone();
            appending.spawn(async move {
                for number in (appender..count).step_by(at_once as usize) {
                    log.append(&entry(number)).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = appending.join_next().await {
            done??;
        }
        log.close().await;
        writing.await??;
        Ok(())
    }

    fn vkey(&self) -> String {
        self.keys.current.verifier().to_string()
    }

    /// Checks the log, and the proof of an entry, with Go's packages.
    async fn go(&self, entry: u64) -> anyhow::Result<process::Outcome> {
        let reader = seawall::audit::reader::LogReader::new(&self.directory);
        let proof = Proof::of(&reader, entry, &self.keys.verifiers())?;
        let beside = self.directory.with_file_name("proof");
        fs::create_dir_all(&beside)?;
        let (proof_file, entry_file) = (beside.join("e.tlog-proof"), beside.join("e.json"));
        fs::write(&proof_file, proof.to_string())?;
        let bytes = reader.entries(entry..entry + 1)?;
        fs::write(&entry_file, &bytes[0])?;
        let program = interop::AUDIT
            .program()
            .context("the test is passed over without it")?;
        let mut command = Command::new(program);
        command.arg(&self.directory).arg(self.vkey());
        command.args([proof_file, entry_file]);
        process::run(command, "", LIMIT).await
    }

    async fn seawall_verify(&self) -> anyhow::Result<process::Outcome> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.arg("verify").arg(&self.directory);
        command.args(["--key", &self.vkey()]);
        process::run(command, "", LIMIT).await
    }

    /// Both implementations read this size and the same root.
    async fn agrees(&self, size: u64) -> anyhow::Result<()> {
        let ours = self.seawall_verify().await?;
        ensure!(ours.status.success(), "{}", ours.stdout);
        for entry in [0, size / 2, size - 1] {
            let go = self.go(entry).await?;
            ensure!(go.status.success(), "{size}: {}", go.stderr);
            let (go_size, root) = go.stdout.trim().split_once(' ').context("size and root")?;
            ensure!(go_size == size.to_string(), "{}", go.stdout);
            ensure!(ours.stdout.contains(root), "{root}: {}", ours.stdout);
        }
        Ok(())
    }
}

fn entry(number: u64) -> Entry {
    let body = Body::Service(Service {
        event: "test".into(),
        version: "0".into(),
        detail: Some(json!({ "number": number })),
    });
    Entry::new("seawall-system", Actor::operator(), body)
}

async fn sizes() -> anyhow::Result<()> {
    for size in [1, 2, 3, 255, 256, 257, 700] {
        let log = Log::new()?;
        log.grow(size, 50).await?;
        log.agrees(size).await?;
    }
    Ok(())
}

async fn three_levels() -> anyhow::Result<()> {
    let log = Log::new()?;
    log.grow(256 * 256 + 300, 1_000).await?;
    log.agrees(256 * 256 + 300).await
}

async fn changed() -> anyhow::Result<()> {
    let log = Log::new()?;
    log.grow(300, 50).await?;
    let bundle = log.directory.join("tile/entries/000");
    let mut bytes = fs::read(&bundle)?;
    let second = 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes[second + 10] ^= 1;
    fs::write(&bundle, bytes)?;
    let ours = log.seawall_verify().await?;
    assert_eq!(ours.status.code(), Some(1), "{}", ours.stdout);
    assert!(
        ours.stdout.contains("WRONG     entry 1 "),
        "{}",
        ours.stdout
    );
    let go = log.go(0).await?;
    assert!(go.stderr.contains("entry 1 is not"), "{}", go.stderr);
    Ok(())
}
