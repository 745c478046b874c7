use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::audit::entry::{Actor, ActorKind, Body, Entry, Intent, Refusal, RefusedBy};
use crate::audit::index::{MAX_LIMIT, follow};
use crate::audit::keys::LogKeys;
use crate::audit::log::{AuditLog, Options};
use crate::store::testing::{Scratch, on_each_database};

on_each_database!(
    every_filter_narrows_and_all_hold_together,
    pages_follow_each_other_without_gap_or_overlap_and_have_a_limit,
    a_batch_that_overlaps_is_refused_as_a_whole,
    two_processes_leave_no_gap_and_nothing_twice,
    what_an_agent_names_never_stops_the_index,
    letters_beyond_ascii_are_compared_with_their_case,
    the_index_follows_the_log_goes_on_after_a_restart_and_starts_anew_for_another_log,
);

fn intent(tenant: &str, agent: &str, target: &str, second: i64) -> Entry {
    let body = Body::Intent(Intent {
        tool: "isolate_device".into(),
        parameters: json!({"device_id": target}),
        reason: "100% \"sure\" \\ über_all".into(),
        dry_run: false,
        target: Some(target.into()),
        call: None,
    });
    let actor = Actor::new(ActorKind::Agent, agent).user("system:serviceaccount:seawall-agents:x");
    let mut entry = Entry::new(tenant, actor, body);
    entry.time = Timestamp::from_second(second).unwrap();
    entry
}

fn refusal(second: i64) -> Entry {
    let body = Body::Refusal(Refusal {
        tool: "release_device".into(),
        parameters: json!({}),
        by: RefusedBy::Us,
        code: "outside_targets".into(),
        why: "no".into(),
        target: None,
        call: None,
    });
    let mut entry = Entry::new("plant", Actor::new(ActorKind::Agent, "triage"), body);
    entry.time = Timestamp::from_second(second).unwrap();
    entry
}

fn records(entries: &[Entry]) -> Vec<IndexRecord> {
    let bytes = entries.iter().map(|entry| entry.encode().unwrap());
    (0..)
        .zip(bytes)
        .map(|(index, bytes)| IndexRecord::of(index, &bytes))
        .collect()
}

async fn found(store: &Store, query: AuditQuery) -> Vec<u64> {
    let page = store.search(&query).await.unwrap();
    page.records.iter().map(|record| record.index).collect()
}

async fn every_filter_narrows_and_all_hold_together(scratch: Scratch) {
    let store = scratch.open().await;
    let entries = [
        intent("plant", "Triage", "dev_1", 10),
        intent("plant", "hunter", "dev_2", 20),
        intent("office", "triage", "dev_1", 30),
        refusal(40),
    ];
    store.record(&records(&entries)).await.unwrap();
    let none = AuditQuery::default();
    let text = |text: &str| Some(text.to_owned());
    let time = |second| Some(Timestamp::from_second(second).unwrap());
    let cases = [
        (none.clone(), vec![3, 2, 1, 0]),
        (
            AuditQuery {
                tenant: text("plant"),
                ..none.clone()
            },
            vec![3, 1, 0],
        ),
        (
            AuditQuery {
                kind: text("refusal"),
                ..none.clone()
            },
            vec![3],
        ),
        (
            AuditQuery {
                tool: text("isolate_device"),
                ..none.clone()
            },
            vec![2, 1, 0],
        ),
        (
            AuditQuery {
                actor: text("TRIAGE"),
                ..none.clone()
            },
            vec![3, 2, 0],
        ),
        (
            AuditQuery {
                actor: text("seawall-agents:x"),
                ..none.clone()
            },
            vec![2, 1, 0],
        ),
        (
            AuditQuery {
                target: text("dev_1"),
                ..none.clone()
            },
            vec![2, 0],
        ),
        (
            AuditQuery {
                result: text("refused"),
                ..none.clone()
            },
            vec![3],
        ),
        (
            AuditQuery {
                text: text("DEV_2"),
                ..none.clone()
            },
            vec![1],
        ),
        (
            AuditQuery {
                text: text("100% \"Sure\" \\ über_all"),
                ..none.clone()
            },
            vec![2, 1, 0],
        ),
        (
            AuditQuery {
                text: text("devx1"),
                ..none.clone()
            },
            vec![],
        ),
        (
            AuditQuery {
                text: text("%"),
                actor: text("_"),
                ..none.clone()
            },
            vec![],
        ),
        (
            AuditQuery {
                since: time(20),
                ..none.clone()
            },
            vec![3, 2, 1],
        ),
        (
            AuditQuery {
                since: time(20),
                until: time(40),
                ..none.clone()
            },
            vec![2, 1],
        ),
        (
            AuditQuery {
                before: Some(2),
                ..none.clone()
            },
            vec![1, 0],
        ),
        (
            AuditQuery {
                tenant: text("office"),
                target: text("dev_2"),
                ..none.clone()
            },
            vec![],
        ),
    ];
    for (query, expected) in cases {
        let what = format!("{query:?}");
        assert_eq!(found(&store, query).await, expected, "{what}");
    }
}

async fn pages_follow_each_other_without_gap_or_overlap_and_have_a_limit(scratch: Scratch) {
    let store = scratch.open().await;
    let entries: Vec<Entry> = (0..1_203).map(refusal).collect();
    store.record(&records(&entries)).await.unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let query = AuditQuery {
            before,
            limit: 400,
            ..AuditQuery::default()
        };
        let page = store.search(&query).await.unwrap();
        seen.extend(page.records.iter().map(|record| record.index));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..1_203).rev().collect::<Vec<_>>());
    let all = AuditQuery {
        limit: 100_000,
        ..AuditQuery::default()
    };
    let page = store.search(&all).await.unwrap();
    assert_eq!(
        (page.records.len() as u64, page.next),
        (MAX_LIMIT, Some(703))
    );
}

async fn a_batch_that_overlaps_is_refused_as_a_whole(scratch: Scratch) {
    let store = scratch.open().await;
    let all = records(&[refusal(1), refusal(2), refusal(3)]);
    store.record(&all[..2]).await.unwrap();
    assert!(
        store
            .record(&[all[2].clone(), all[1].clone()])
            .await
            .is_err()
    );
    assert_eq!(store.last().await.unwrap().as_ref(), Some(&all[1]));
}

/// Appends refusals to a log in `directory` and follows it into the store until all are indexed.
async fn append_and_follow(store: &Store, directory: &std::path::Path, keys: &LogKeys, count: i64) {
    let options = Options::new(directory, keys.clone());
    let (log, task, opened) = AuditLog::open(options).unwrap();
    let writing = tokio::spawn(task.run());
    let stop = CancellationToken::new();
    let following = {
        let (reader, published, store) = (log.reader(), log.published(), store.clone());
        let stop = stop.clone();
        tokio::spawn(async move { follow(reader, published, &store, stop).await })
    };
    for second in 0..count {
        log.append(&refusal(second)).await.unwrap();
    }
    let last = opened.size + count as u64 - 1;
    let indexed = async {
        while store.last().await.unwrap().map(|record| record.index) != Some(last) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), indexed)
        .await
        .unwrap();
    stop.cancel();
    following.await.unwrap();
    log.close().await;
    writing.await.unwrap().unwrap();
}

async fn the_index_follows_the_log_goes_on_after_a_restart_and_starts_anew_for_another_log(
    scratch: Scratch,
) {
    let store = scratch.open().await;
    let log = tempfile::tempdir().unwrap();
    let keys = LogKeys::generate("example.com/log").unwrap();
    append_and_follow(&store, log.path(), &keys, 300).await;
    append_and_follow(&store, log.path(), &keys, 5).await;
    let all = AuditQuery {
        limit: 500,
        ..AuditQuery::default()
    };
    assert_eq!(store.search(&all).await.unwrap().records.len(), 305);
    let another = tempfile::tempdir().unwrap();
    append_and_follow(&store, another.path(), &keys, 7).await;
    let page = store.search(&all).await.unwrap();
    assert_eq!(page.records.len(), 7);
    let bytes = crate::audit::reader::LogReader::new(another.path())
        .entries(6..7)
        .unwrap();
    assert_eq!(page.records[0], IndexRecord::of(6, &bytes[0]));
}

async fn two_processes_leave_no_gap_and_nothing_twice(scratch: Scratch) {
    let stores = [scratch.open().await, scratch.open().await];
    let all = records(&(0..40).map(refusal).collect::<Vec<_>>());
    // Each writes the same log from the beginning, as two do that both believe to be alone.
    let writing = stores.clone().map(|store| {
        let all = all.clone();
        tokio::spawn(async move {
            let mut written = 0;
            for batch in all.chunks(2) {
                written += usize::from(store.record(batch).await.is_ok());
            }
            written
        })
    });
    let mut written = 0;
    for one in writing {
        written += one.await.unwrap();
    }
    assert_eq!(written, 20, "each batch was taken from one of them");
    let ahead = stores[0].record(&records(&[refusal(50)])).await;
    assert!(ahead.unwrap_err().to_string().contains("it goes on at 40"));
    let indexes = found(&stores[1], AuditQuery::default()).await;
    assert_eq!(indexes, (0..40).rev().collect::<Vec<_>>());
}

async fn what_an_agent_names_never_stops_the_index(scratch: Scratch) {
    let store = scratch.open().await;
    let entries = [intent("plant", "triage", "dev\0_1", 10)];
    store.record(&records(&entries)).await.unwrap();
    let query = AuditQuery {
        target: Some("dev\0_1".to_owned()),
        actor: Some("\0".to_owned()),
        ..AuditQuery::default()
    };
    assert!(found(&store, query).await.is_empty());
    let query = AuditQuery {
        target: Some("dev\0_1".to_owned()),
        ..AuditQuery::default()
    };
    assert_eq!(found(&store, query).await, [0]);
}

async fn letters_beyond_ascii_are_compared_with_their_case(scratch: Scratch) {
    let store = scratch.open().await;
    let entries = [intent("plant", "Ünal", "dev_1", 10)];
    store.record(&records(&entries)).await.unwrap();
    for (actor, expected) in [("ÜNAL", vec![0]), ("ünal", vec![])] {
        let query = AuditQuery {
            actor: Some(actor.to_owned()),
            ..AuditQuery::default()
        };
        assert_eq!(found(&store, query).await, expected, "{actor}");
    }
}
