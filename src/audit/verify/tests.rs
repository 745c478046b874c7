use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::audit::keys::LogKeys;
use crate::audit::testing::*;
use crate::audit::tile;
use crate::audit::writer::Writer;

/// A log as a running writer leaves it: something synced, something published, something journaled.
fn live_log(synced: u64, published: u64, journaled: u64) -> (TempDir, LogKeys) {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    complete_log(directory.path(), &keys, synced);
    let (mut writer, _) = Writer::open(directory.path(), keys.clone()).unwrap();
    commit_up_to(&mut writer, published, 2);
    writer.publish().unwrap();
    commit_up_to(&mut writer, journaled, 2);
    (directory, keys)
}

/// The entry that a byte of a bundle belongs to.
fn entry_at(path: &str, bytes: &[u8], at: usize) -> Option<u64> {
    let tile = tile::Tile::parse(path).filter(|tile| tile.level == tile::Level::Entries)?;
    let mut end = 0;
    let (entries, _) = tile::split_bundle(bytes);
    let position = entries.iter().position(|entry| {
        end += 2 + entry.len();
        at < end
    })?;
    Some(tile.index * 256 + position as u64)
}

/// Flips one bit and checks that verification fails, and names the entry where it was one's.
fn flip_is_found(directory: &Path, keys: &LogKeys, path: &str, at: usize, bit: u32) {
    let whole = fs::read(directory.join(path)).unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1 << bit;
    fs::write(directory.join(path), flipped).unwrap();
    let own_keys = verify(directory, &Request::default()).unwrap();
    let report = checked(directory, keys);
    fs::write(directory.join(path), &whole).unwrap();
    let what = format!("{path} byte {at} bit {bit}");
    assert!(!report.ok() && !own_keys.ok(), "{what} passed");
    if let Some(index) = entry_at(path, &whole, at) {
        let named =
            |fault: &Fault| matches!(fault.place, Place::Entry { index: i, .. } if i == index);
        assert!(
            report.faults.first().is_some_and(named),
            "{what}: {:?}",
            report.faults
        );
    }
}

#[test]
fn every_flipped_byte_of_every_file_is_found_and_of_an_entry_named() {
    let (directory, keys) = live_log(3, 6, 8);
    assert!(checked(directory.path(), &keys).ok());
    let mut bytes = 0;
    for path in files(directory.path()) {
        let length = fs::metadata(directory.path().join(&path)).unwrap().len();
        for at in 0..length as usize {
            flip_is_found(directory.path(), &keys, &path, at, at as u32 % 8);
            bytes += 1;
        }
    }
    assert!(bytes > 900, "{bytes} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn a_flipped_byte_of_a_log_with_full_tiles_is_found(
        (synced, published, journaled) in (250u64..600, 1u64..200, 0u64..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u32..8), 60),
    ) {
        let (directory, keys) = live_log(synced, synced + published, synced + published + journaled);
        let files: Vec<String> = files(directory.path()).into_iter().filter(|p| p != "lock").collect();
        for (file, byte, bit) in flips {
            let path = file.get(&files);
            let length = fs::metadata(directory.path().join(path)).unwrap().len() as usize;
            flip_is_found(directory.path(), &keys, path, byte.index(length), bit);
        }
    }
}

#[test]
fn a_whole_log_is_told_with_its_size_root_and_keys() {
    let (directory, keys) = live_log(3, 6, 8);
    let report = checked(directory.path(), &keys);
    assert!(report.ok() && report.key_given);
    let checkpoint = report.checkpoint.clone().unwrap();
    assert_eq!((checkpoint.size, report.journaled), (6, 2));
    let bytes: usize = (0..6).map(|index| entry(index).len()).sum();
    assert_eq!(report.bytes, bytes as u64);
    assert_eq!(report.signed_by, [keys.current.verifier().label()]);
    let own = verify(directory.path(), &Request::default()).unwrap();
    assert!(own.ok() && !own.key_given);
    let published = tempfile::tempdir().unwrap();
    copy(directory.path(), published.path());
    for private in ["journal", "lock", "vkey"] {
        fs::remove_file(published.path().join(private)).unwrap();
    }
    assert!(checked(published.path(), &keys).ok());
    let keyless = verify(published.path(), &Request::default()).unwrap();
    assert!(keyless.faults[0].what.contains("--key"), "{keyless:?}");
}

#[test]
fn another_key_than_the_given_one_proves_nothing() {
    let (directory, _) = live_log(3, 6, 6);
    let report = checked(directory.path(), &keys());
    assert!(report.checkpoint.is_none());
    assert!(
        report.faults[0].what.contains("none of the given keys"),
        "{report:?}"
    );
}

/// Rewrites the log from scratch with other entries behind `kept`, signed by the same key.
fn rewritten(keys: &LogKeys, kept: u64, size: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _) = Writer::open(directory.path(), keys.clone()).unwrap();
    commit_up_to(&mut writer, kept, 50);
    while writer.size() < size {
        writer.commit([&b"another"[..]]).unwrap();
    }
    writer.close().unwrap();
    directory
}

#[test]
fn an_earlier_checkpoint_finds_what_was_cut_or_rewritten_with_the_right_key() {
    let keys = keys();
    let earlier = rewritten(&keys, 300, 300);
    let since = fs::read_to_string(earlier.path().join("checkpoint")).unwrap();
    let check = |directory: &Path, since: &str| {
        let request = Request {
            keys: Some(keys.verifiers()),
            since: Some(since.to_owned()),
        };
        verify(directory, &request).unwrap()
    };
    let grown = rewritten(&keys, 400, 400);
    let report = check(grown.path(), &since);
    assert_eq!((report.ok(), report.since), (true, Some(300)));
    let words: BTreeMap<&str, TempDir> = [
        ("was cut", rewritten(&keys, 299, 299)),
        ("was rewritten", rewritten(&keys, 299, 400)),
    ]
    .into();
    for (words, directory) in words {
        let report = check(directory.path(), &since);
        assert!(report.faults[0].what.contains(words), "{words}: {report:?}");
    }
    let forged = since.replace("300", "299");
    let report = check(grown.path(), &forged);
    assert!(
        report.faults[0].what.contains("not to be trusted"),
        "{report:?}"
    );
    let other = LogKeys::generate("example.com/other").unwrap();
    let (mut writer, _) = Writer::open(&grown.path().join("other"), other.clone()).unwrap();
    commit_up_to(&mut writer, 2, 2);
    writer.close().unwrap();
    let text = fs::read_to_string(grown.path().join("other/checkpoint")).unwrap();
    let request = Request {
        keys: Some([keys.verifiers(), other.verifiers()].concat()),
        since: Some(text),
    };
    let report = verify(grown.path(), &request).unwrap();
    assert!(
        report.faults.iter().any(|f| f.what.contains("another log")),
        "{report:?}"
    );
}

#[test]
fn an_entry_changed_together_with_its_tile_is_still_found() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    complete_log(directory.path(), &keys, 600);
    let other = rewritten(&keys, 300, 600);
    for path in ["tile/entries/001", "tile/0/001"] {
        fs::copy(other.path().join(path), directory.path().join(path)).unwrap();
    }
    let report = checked(directory.path(), &keys);
    let first = &report.faults[0];
    assert_eq!(first.place, Place::File("tile/0/001".into()));
    assert!(first.what.contains("entries 256 to 511"), "{first:?}");
    fs::copy(
        other.path().join("tile/1/000.p/2"),
        directory.path().join("tile/1/000.p/2"),
    )
    .unwrap();
    let report = checked(directory.path(), &keys);
    assert!(
        report.faults[0]
            .what
            .contains("not the one that was signed"),
        "{report:?}"
    );
}

#[test]
fn missing_files_and_files_too_many_are_told_apart_from_strange_ones() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    complete_log(directory.path(), &keys, 300);
    fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    let report = checked(directory.path(), &keys);
    assert!(
        report.ok() && report.notes[0].contains("notes.txt"),
        "{report:?}"
    );
    fs::write(directory.path().join("tile/0/002"), [0; 8192]).unwrap();
    let report = checked(directory.path(), &keys);
    assert!(
        report.faults[0].what.contains("behind the checkpoint"),
        "{report:?}"
    );
    fs::remove_file(directory.path().join("tile/0/002")).unwrap();
    fs::remove_file(directory.path().join("tile/entries/000")).unwrap();
    let report = checked(directory.path(), &keys);
    assert_eq!(report.faults[0].place.to_string(), "entry 0");
    assert!(report.faults[0].what.contains("missing"), "{report:?}");
    fs::remove_file(directory.path().join("checkpoint")).unwrap();
    let report = checked(directory.path(), &keys);
    assert!(report.faults[0].what.contains("is missing"), "{report:?}");
}

#[test]
fn a_log_that_grows_while_it_is_read_verifies() {
    let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
    let (mut writer, _) = Writer::open(directory.path(), keys.clone()).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            for size in 1..=400 {
                commit_up_to(&mut writer, size * 2, 2);
                writer.publish().unwrap();
                if size % 30 == 0 {
                    writer.settle().unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let mut sizes = Vec::new();
        while !writing.is_finished() {
            let report = checked(directory.path(), &keys);
            assert!(report.ok(), "{report:?}");
            sizes.push(report.checkpoint.unwrap().size);
        }
        assert!(sizes.is_sorted() && sizes.len() > 3, "{sizes:?}");
    });
}
