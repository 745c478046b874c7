use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::audit::disk::Disk;
use crate::audit::disk::faults::{Plan, WAIT_FOR_THE_DISK};
use crate::audit::entry::{Actor, ActorKind, Body, Intent};
use crate::audit::testing::{checked, keys, published};

fn intent(parameters: serde_json::Value) -> Entry {
    let body = Body::Intent(Intent {
        tool: "isolate_device".into(),
        parameters,
        reason: "because".into(),
        dry_run: false,
        target: None,
        call: None,
    });
    Entry::new("plant", Actor::new(ActorKind::Agent, "plant/triage"), body)
}

struct Running {
    directory: tempfile::TempDir,
    keys: LogKeys,
    log: AuditLog,
    task: tokio::task::JoinHandle<Result<(), LogFailure>>,
}

fn start() -> Running {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let options = Options::new(directory.path(), keys.clone());
    let (log, task, _) = AuditLog::open(options).unwrap();
    Running {
        directory,
        keys,
        log,
        task: tokio::spawn(task.run()),
    }
}

#[tokio::test]
async fn an_appended_entry_is_published_soon_and_can_be_proved() {
    let running = start();
    let entry = intent(json!({"device": "dev_1"}));
    let appended = running.log.append(&entry).await.unwrap();
    assert_eq!((appended.index, &appended.id), (0, &entry.id));
    let mut published = running.log.published();
    published.wait_for(|p| p.size == 1).await.unwrap();
    let verifiers = running.keys.verifiers();
    let proof = crate::audit::proof::Proof::of(&running.log.reader(), 0, &verifiers).unwrap();
    let bytes = entry.encode().unwrap();
    assert_eq!(proof.verify(&bytes, &verifiers).unwrap().size, 1);
    running.log.close().await;
    running.task.await.unwrap().unwrap();
    let refused = running.log.append(&entry).await.unwrap_err();
    assert!(matches!(refused, AppendError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_appenders_get_consecutive_indexes_in_few_commits() {
    let running = start();
    let mut appending = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let log = running.log.clone();
        appending.spawn(async move {
            let entry = intent(json!(number));
            (log.append(&entry).await.unwrap(), entry.id)
        });
    }
    let appended = appending.join_all().await;
    let indexes: BTreeSet<u64> = appended.iter().map(|(a, _)| a.index).collect();
    assert_eq!(indexes, (0..1_000).collect());
    let journal = std::fs::read(running.directory.path().join("journal")).unwrap();
    let batches = crate::audit::journal::batches(&journal);
    assert!(batches < 300, "{batches} commits for 1,000 entries");
    running.log.close().await;
    running.task.await.unwrap().unwrap();
    let report = checked(running.directory.path(), &running.keys);
    assert!(report.ok(), "{report:?}");
    let entries = published(running.directory.path(), 1_000);
    for (appended, id) in appended {
        let entry = Entry::decode(&entries[appended.index as usize]).unwrap();
        assert_eq!(entry.id, id);
    }
}

#[tokio::test]
async fn an_entry_that_is_too_long_is_refused_and_the_log_goes_on() {
    let running = start();
    let refused = running.log.append(&intent(json!("x".repeat(70_000)))).await;
    let words = refused.unwrap_err().to_string();
    assert!(
        words.contains("not logged") && words.contains("60000"),
        "{words}"
    );
    let appended = running.log.append(&intent(json!("short"))).await.unwrap();
    assert_eq!(appended.index, 0);
}

#[tokio::test]
async fn a_full_disk_refuses_appends_until_there_is_room() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let disk = Disk::lock(directory.path()).unwrap();
    let faults = disk.faults.clone();
    let (writer, _) = Writer::open_on(disk, keys.clone()).unwrap();
    let path = directory.path().to_owned();
    let (log, task) = AuditLog::over(writer, path, Duration::from_millis(1), 16);
    let task = tokio::spawn(task.run());
    log.append(&intent(json!(1))).await.unwrap();
    faults.plan(Some(Plan::FullFrom(0)));
    let words = log.append(&intent(json!(2))).await.unwrap_err().to_string();
    assert!(
        words.contains("not logged") && words.contains("space"),
        "{words}"
    );
    faults.plan(None);
    let appended = log.append(&intent(json!(3))).await.unwrap();
    assert_eq!(appended.index, 1);
    log.close().await;
    task.await.unwrap().unwrap();
    assert!(checked(directory.path(), &keys).ok());
}

#[tokio::test]
async fn publishing_that_fails_is_told_and_done_later() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let disk = Disk::lock(directory.path()).unwrap();
    let faults = disk.faults.clone();
    let (writer, _) = Writer::open_on(disk, keys.clone()).unwrap();
    let path = directory.path().to_owned();
    let (log, task) = AuditLog::over(writer, path, Duration::from_millis(200), 16);
    let task = tokio::spawn(task.run());
    log.append(&intent(json!(1))).await.unwrap();
    faults.plan(Some(Plan::FullFrom(0)));
    let mut published = log.published();
    published.wait_for(|p| p.failing.is_some()).await.unwrap();
    assert_eq!(published.borrow().size, 0);
    faults.plan(None);
    let recovered = published.wait_for(|p| p.size == 1 && p.failing.is_none());
    tokio::time::timeout(Duration::from_secs(5), recovered)
        .await
        .unwrap()
        .unwrap();
    log.close().await;
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_sync_ends_the_task_so_that_the_process_restarts() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let disk = Disk::lock(directory.path()).unwrap();
    let faults = disk.faults.clone();
    let (writer, _) = Writer::open_on(disk, keys.clone()).unwrap();
    let path = directory.path().to_owned();
    let (log, task) = AuditLog::over(writer, path, Duration::from_secs(60), 16);
    let task = tokio::spawn(task.run());
    log.append(&intent(json!(1))).await.unwrap();
    faults.plan(Some(Plan::DieAt(faults.steps() + 2)));
    assert!(log.append(&intent(json!(2))).await.is_err());
    let failure = task.await.unwrap().unwrap_err().to_string();
    assert!(failure.contains("restart"), "{failure}");
    let (writer, opened) = Writer::open(directory.path(), keys.clone()).unwrap();
    assert!((1..=2).contains(&opened.size), "{opened:?}");
    writer.close().unwrap();
    assert!(checked(directory.path(), &keys).ok());
}

const APPEND_TO: &str = "SEAWALL_TEST_APPEND_TO";

/// Not a test: what the process does that the test below kills.
#[tokio::test]
#[ignore = "run by another test"]
async fn append_until_killed() {
    let Some(directory) = std::env::var_os(APPEND_TO).map(PathBuf::from) else {
        return;
    };
    let keys = std::fs::read(directory.with_file_name("keys")).unwrap();
    let mut options = Options::new(&directory, LogKeys::from_bytes(&keys).unwrap());
    options.publish_delay = Duration::from_millis(1);
    let (log, task, _) = AuditLog::open(options).unwrap();
    tokio::spawn(task.run());
    for number in 0..1_000_000 {
        let entry = intent(json!(number));
        let appended = log.append(&entry).await.unwrap();
        println!("acknowledged {} {}", appended.index, appended.id);
    }
}

#[test]
fn a_process_that_is_killed_loses_no_acknowledged_entry() {
    use std::io::BufRead;
    let (scratch, keys) = (tempfile::tempdir().unwrap(), keys());
    let directory = scratch.path().join("audit");
    std::fs::write(scratch.path().join("keys"), keys.to_bytes()).unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::log::tests::append_until_killed"])
            .args(["--ignored", "--nocapture"])
            .env(APPEND_TO, &directory)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: String| {
            let told = line
                .split_once("acknowledged ")
                .map(|(_, told)| told.to_owned());
            acknowledged.extend(told);
        };
        lines
            .by_ref()
            .take(150)
            .for_each(|line| take(line.unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still said before it died. Its last line may be cut.
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let whole = rest.len().saturating_sub(1);
        rest.into_iter().take(whole).for_each(&mut take);
    }
    let (writer, opened) = Writer::open(&directory, keys.clone()).unwrap();
    assert!(acknowledged.len() > 400 && opened.size >= acknowledged.len() as u64);
    writer.close().unwrap();
    assert!(checked(&directory, &keys).ok());
    let entries = published(&directory, opened.size);
    for told in acknowledged {
        let (index, id) = told.split_once(' ').unwrap();
        let entry = Entry::decode(&entries[index.parse::<usize>().unwrap()]).unwrap();
        assert_eq!(entry.id, id);
    }
}

/// Not an assertion of speed: `cargo test --lib audit_append_latency -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn audit_append_latency() {
    WAIT_FOR_THE_DISK.store(true, std::sync::atomic::Ordering::Relaxed);
    let running = start();
    let mut took = Vec::new();
    for number in 0..2_000 {
        let entry = intent(json!({"device": "dev_1", "number": number, "note": "x".repeat(400)}));
        let began = std::time::Instant::now();
        running.log.append(&entry).await.unwrap();
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort();
    println!(
        "append one at a time: p50 {:?} p99 {:?} max {:?}",
        took[1_000], took[1_980], took[1_999]
    );
    let began = std::time::Instant::now();
    let mut appending = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let log = running.log.clone();
        appending.spawn(async move {
            for number in 0..500 {
                log.append(&intent(json!({"number": number, "note": "x".repeat(400)})))
                    .await
                    .unwrap();
            }
        });
    }
    appending.join_all().await;
    let rate = 32_000.0 / began.elapsed().as_secs_f64();
    println!("64 appenders: {rate:.0} entries/s");
    running.log.close().await;
    running.task.await.unwrap().unwrap();
    let began = std::time::Instant::now();
    let report = checked(running.directory.path(), &running.keys);
    println!(
        "verify: {:?} in {:?}",
        report.checkpoint.map(|c| c.size),
        began.elapsed()
    );
    let began = std::time::Instant::now();
    let (_writer, opened) = Writer::open(running.directory.path(), running.keys.clone()).unwrap();
    println!("open {} entries: {:?}", opened.size, began.elapsed());
}
