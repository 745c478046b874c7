//! What the tests of this module share.

use std::fs;
use std::path::Path;

use super::keys::LogKeys;
use super::reader::LogReader;
use super::verify::{Report, Request, verify};
use super::writer::Writer;

pub const ORIGIN: &str = "seawall.example.com/test";

pub fn keys() -> LogKeys {
    LogKeys::generate(ORIGIN).unwrap()
}

pub fn entry(index: u64) -> Vec<u8> {
    format!("entry {index} {}", "x".repeat(index as usize % 40)).into_bytes()
}

/// Commits entries up to index `to`, as many at a time as given.
pub fn commit_up_to(writer: &mut Writer, to: u64, at_a_time: u64) {
    while writer.size() < to {
        let first = writer.size();
        let batch: Vec<Vec<u8>> = (first..to.min(first + at_a_time)).map(entry).collect();
        let index = writer.commit(batch.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(index, first);
    }
}

/// A complete log of `size` entries, in one commit.
pub fn complete_log(directory: &Path, keys: &LogKeys, size: u64) {
    let (mut writer, _) = Writer::open(directory, keys.clone()).unwrap();
    commit_up_to(&mut writer, size, size.max(1));
    writer.close().unwrap();
}

pub fn checked(directory: &Path, keys: &LogKeys) -> Report {
    let request = Request {
        keys: Some(keys.verifiers()),
        since: None,
    };
    verify(directory, &request).unwrap()
}

/// Every published entry.
pub fn published(directory: &Path, size: u64) -> Vec<Vec<u8>> {
    let reader = LogReader::new(directory);
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        all.extend(reader.entries(all.len() as u64..size).unwrap());
    }
    all
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).unwrap();
        }
    }
}

/// Paths of all files, relative.
pub fn files(directory: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(next) = rest.pop() {
        for file in fs::read_dir(next).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                rest.push(path);
            } else {
                let relative = path.strip_prefix(directory).unwrap();
                all.push(relative.to_str().unwrap().to_owned());
            }
        }
    }
    all.sort();
    all
}
