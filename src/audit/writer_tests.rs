use std::fs;

use proptest::prelude::*;

use super::*;
use crate::audit::disk::faults::{Plan, Unsynced};
use crate::audit::disk::{JOURNAL, LOCK};
use crate::audit::note::Signer;
use crate::audit::testing::*;

/// A log that was left in the middle of its work: 250 entries settled, 2 published since, 2 only in
/// the journal.
fn unfinished(directory: &Path, keys: &LogKeys) {
    complete_log(directory, keys, 250);
    let (mut writer, _) = Writer::open(directory, keys.clone()).unwrap();
    commit_up_to(&mut writer, 252, 1);
    writer.publish().unwrap();
    commit_up_to(&mut writer, 254, 2);
}

const LEFT_IN_UNFINISHED: u64 = 254;

/// Opens, appends over the edge of a tile, publishes, settles and closes, until a step fails.
/// `acknowledged` counts entries as they are.
fn work(disk: Disk, keys: &LogKeys, acknowledged: &mut u64) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (mut writer, _) = Writer::open_on(disk, keys.clone()).map_err(|e| text(&e))?;
    for batch in [1, 3, 1] {
        let entries: Vec<Vec<u8>> = (writer.size()..).take(batch).map(entry).collect();
        writer
            .commit(entries.iter().map(Vec::as_slice))
            .map_err(|failure| text(&failure.error))?;
        *acknowledged = writer.size();
        writer.publish().map_err(|e| text(&e))?;
    }
    writer.settle().map_err(|e| text(&e))?;
    let last = entry(writer.size());
    writer
        .commit([last.as_slice()])
        .map_err(|failure| text(&failure.error))?;
    *acknowledged = writer.size();
    writer.close().map_err(|e| text(&e))
}

/// The directory opens, has every acknowledged entry where it was, and verifies.
fn recovers(directory: &Path, keys: &LogKeys, acknowledged: u64, what: &str) {
    let (mut writer, opened) =
        Writer::open(directory, keys.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(opened.size >= acknowledged, "{what}: {opened:?}");
    assert!(opened.size <= acknowledged + 3, "{what}: {opened:?}");
    commit_up_to(&mut writer, opened.size + 2, 2);
    let size = writer.size();
    writer.close().unwrap();
    let report = checked(directory, keys);
    assert!(report.ok(), "{what}: {:?}", report.faults);
    let expected: Vec<Vec<u8>> = (0..size).map(entry).collect();
    assert_eq!(published(directory, size), expected, "{what}");
}

#[test]
fn a_crash_at_any_step_loses_nothing_acknowledged_and_changes_no_entry() {
    let (template, keys) = (tempfile::tempdir().unwrap(), keys());
    unfinished(template.path(), &keys);
    let steps = {
        let directory = tempfile::tempdir().unwrap();
        copy(template.path(), directory.path());
        let disk = Disk::lock(directory.path()).unwrap();
        let faults = disk.faults.clone();
        work(disk, &keys, &mut 0).unwrap();
        faults.steps()
    };
    assert!(steps > 60, "the work has {steps} steps");
    for step in 1..=steps {
        for unsynced in [Unsynced::Kept, Unsynced::Lost, Unsynced::Torn] {
            let directory = tempfile::tempdir().unwrap();
            copy(template.path(), directory.path());
            let disk = Disk::lock(directory.path()).unwrap();
            let faults = disk.faults.clone();
            faults.plan(Some(Plan::DieAt(step)));
            let mut acknowledged = LEFT_IN_UNFINISHED;
            let died = work(disk, &keys, &mut acknowledged).is_err();
            assert!(died, "step {step}");
            faults.crash(unsynced);
            let what = format!("died at step {step}, unsynced bytes {unsynced:?}");
            recovers(directory.path(), &keys, acknowledged, &what);
        }
    }
}

#[test]
fn a_full_disk_is_an_error_to_the_appender_and_leaves_nothing_behind() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let disk = Disk::lock(directory.path()).unwrap();
    let faults = disk.faults.clone();
    let (mut writer, _) = Writer::open_on(disk, keys.clone()).unwrap();
    commit_up_to(&mut writer, 3, 1);
    let journal = fs::read(directory.path().join(JOURNAL)).unwrap();
    faults.plan(Some(Plan::FullFrom(0)));
    let failure = writer.commit([&b"never"[..], b"logged"]).unwrap_err();
    assert_eq!(failure.error.kind(), io::ErrorKind::StorageFull);
    assert!(!failure.fatal);
    assert_eq!(writer.size(), 3);
    assert_eq!(fs::read(directory.path().join(JOURNAL)).unwrap(), journal);
    assert!(writer.publish().is_err(), "tiles can't be written either");
    faults.plan(None);
    commit_up_to(&mut writer, 5, 1);
    writer.publish().unwrap();
    drop(writer);
    let report = checked(directory.path(), &keys);
    assert!(report.ok(), "{:?}", report.faults);
    assert_eq!(report.checkpoint.unwrap().size, 5);
    recovers(directory.path(), &keys, 5, "after the disk was full");
}

#[test]
fn after_a_failed_sync_the_writer_is_not_used_again() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let disk = Disk::lock(directory.path()).unwrap();
    let faults = disk.faults.clone();
    let (mut writer, _) = Writer::open_on(disk, keys.clone()).unwrap();
    // Of a commit's two steps the first writes and the second syncs.
    faults.plan(Some(Plan::DieAt(faults.steps() + 2)));
    let failure = writer.commit([&b"perhaps"[..]]).unwrap_err();
    assert!(failure.fatal);
    assert_eq!(writer.size(), 0);
}

#[test]
fn a_journal_cut_anywhere_in_its_last_write_loses_only_that() {
    let (template, keys) = (tempfile::tempdir().unwrap(), keys());
    let (mut writer, _) = Writer::open(template.path(), keys.clone()).unwrap();
    commit_up_to(&mut writer, 2, 1);
    let kept = fs::metadata(template.path().join(JOURNAL)).unwrap().len();
    commit_up_to(&mut writer, 3, 1);
    drop(writer);
    let journal = fs::read(template.path().join(JOURNAL)).unwrap();
    for length in kept..journal.len() as u64 {
        let directory = tempfile::tempdir().unwrap();
        copy(template.path(), directory.path());
        fs::write(directory.path().join(JOURNAL), &journal[..length as usize]).unwrap();
        let (writer, opened) = Writer::open(directory.path(), keys.clone()).unwrap();
        let dropped = length - kept;
        assert_eq!(
            (opened.size, opened.dropped_bytes),
            (2, dropped),
            "{length}"
        );
        drop(writer);
        recovers(directory.path(), &keys, 2, "after a cut");
    }
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let (first, _) = Writer::open(directory.path(), keys.clone()).unwrap();
    let refused = Writer::open(directory.path(), keys.clone()).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }));
    assert!(refused.to_string().contains("another process"), "{refused}");
    drop(first);
    assert!(Writer::open(directory.path(), keys).is_ok());
}

/// Opening says `words`, tells what to do, and changes no file.
fn refuses(directory: &Path, keys: &LogKeys, words: &str) {
    let read = |path: String| (fs::read(directory.join(&path)).unwrap(), path);
    let before: Vec<_> = files(directory).into_iter().map(read).collect();
    let refused = Writer::open(directory, keys.clone()).err();
    let refused = refused
        .unwrap_or_else(|| panic!("opened: {words}"))
        .to_string();
    assert!(refused.contains(words), "{words}: {refused}");
    let after: Vec<_> = files(directory)
        .into_iter()
        .filter(|path| path != LOCK)
        .map(read)
        .collect();
    let before: Vec<_> = before.into_iter().filter(|(_, p)| p != LOCK).collect();
    assert_eq!(before, after, "{words}");
}

#[test]
fn a_log_that_was_changed_is_not_opened_and_not_touched() {
    let (template, good) = (tempfile::tempdir().unwrap(), keys());
    complete_log(template.path(), &good, 300);
    let tampered = |change: &dyn Fn(&Path)| {
        let directory = tempfile::tempdir().unwrap();
        copy(template.path(), directory.path());
        change(directory.path());
        directory
    };
    let flip = |path: &'static str| {
        move |directory: &Path| {
            let mut bytes = fs::read(directory.join(path)).unwrap();
            bytes[30] ^= 1;
            fs::write(directory.join(path), bytes).unwrap();
        }
    };
    let older = tempfile::tempdir().unwrap();
    complete_log(older.path(), &good, 100);
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(Change, &str); 8] = [
        (&flip("tile/entries/001.p/44"), "is not what was logged"),
        (&flip("tile/0/000"), "don't give the root"),
        (&flip("checkpoint"), "is not to be trusted"),
        (&flip("journal"), "header was changed"),
        (
            &|d| fs::remove_file(d.join("tile/0/000")).unwrap(),
            "is missing",
        ),
        (
            &|d| fs::remove_file(d.join("checkpoint")).unwrap(),
            "no checkpoint",
        ),
        (
            &|d| {
                fs::copy(older.path().join("checkpoint"), d.join("checkpoint")).unwrap();
            },
            "different times",
        ),
        (
            &|d| fs::remove_dir_all(d.join("tile/entries/001.p")).unwrap(),
            "is missing",
        ),
    ];
    for (change, words) in cases {
        refuses(tampered(change).path(), &good, words);
    }
    refuses(template.path(), &keys(), "is not to be trusted");
    let mut other = LogKeys::generate("example.com/other").unwrap();
    other.former = good.verifiers();
    refuses(template.path(), &other, "belongs to the log");
}

#[test]
fn keys_rotate_by_signing_beside_each_other_for_a_while() {
    let (directory, old) = (tempfile::tempdir().unwrap(), keys());
    complete_log(directory.path(), &old, 3);
    let mut both = keys();
    both.outgoing = Some(old.current.clone());
    complete_log(directory.path(), &both, 5);
    let new_only = LogKeys::new(both.current.clone());
    for known in [&old, &new_only] {
        let report = checked(directory.path(), known);
        assert!(report.ok(), "{:?}", report.faults);
    }
    let mut new = new_only.clone();
    new.former = old.verifiers();
    complete_log(directory.path(), &new, 7);
    assert!(checked(directory.path(), &new).ok());
    assert!(!checked(directory.path(), &old).ok());
    let stranger = LogKeys::new(Signer::generate(ORIGIN).unwrap());
    refuses(directory.path(), &stranger, "former verifier key");
}

#[test]
fn partial_files_are_pruned_and_gone_once_the_full_one_is_there() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let (mut writer, _) = Writer::open(directory.path(), keys.clone()).unwrap();
    for size in 1..=255 {
        commit_up_to(&mut writer, size, 1);
        writer.publish().unwrap();
    }
    let count = |within: &str| {
        let all = files(directory.path());
        all.iter().filter(|path| path.starts_with(within)).count()
    };
    assert_eq!(count("tile/entries/000.p/"), PARTIAL_BUNDLES);
    assert_eq!(count("tile/0/000.p/"), 255);
    commit_up_to(&mut writer, 260, 1);
    writer.publish().unwrap();
    writer.settle().unwrap();
    assert_eq!(count("tile/entries/000.p/") + count("tile/0/000.p/"), 0);
    assert!(checked(directory.path(), &keys).ok());
}

#[derive(Debug, Clone)]
enum Doing {
    Commit(u64),
    Publish,
    Settle,
    Crash,
    Close,
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        4 => (1u64..90).prop_map(Doing::Commit),
        2 => Just(Doing::Publish),
        1 => Just(Doing::Settle),
        1 => Just(Doing::Crash),
        1 => Just(Doing::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sequence_of_appends_and_restarts_verifies(doings in prop::collection::vec(doing(), 1..25)) {
        let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
        let mut writer = Writer::open(directory.path(), keys.clone()).unwrap().0;
        let mut size = 0;
        for doing in doings {
            match doing {
                Doing::Commit(count) => {
                    size += count;
                    commit_up_to(&mut writer, size, count);
                }
                Doing::Publish => writer.publish().unwrap(),
                Doing::Settle => {
                    writer.publish().unwrap();
                    writer.settle().unwrap();
                }
                Doing::Crash => {
                    drop(writer);
                    writer = Writer::open(directory.path(), keys.clone()).unwrap().0;
                }
                Doing::Close => {
                    writer.close().unwrap();
                    writer = Writer::open(directory.path(), keys.clone()).unwrap().0;
                }
            }
            let report = checked(directory.path(), &keys);
            prop_assert!(report.ok(), "{:?}", report.faults);
            prop_assert_eq!(report.checkpoint.unwrap().size + report.journaled, size);
        }
        writer.close().unwrap();
        let expected: Vec<Vec<u8>> = (0..size).map(entry).collect();
        prop_assert_eq!(published(directory.path(), size), expected);
    }
}
