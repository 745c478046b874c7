use clap::Parser;

use super::*;
use crate::audit::entry::{Actor, Body, Entry, Service};
use crate::audit::testing::keys;
use crate::audit::writer::Writer;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    verify: VerifyArgs,
}

fn parse(args: &[&str]) -> VerifyArgs {
    let args = std::iter::once("verify").chain(args.iter().copied());
    Cli::try_parse_from(args).unwrap().verify
}

fn entry(event: &str) -> Vec<u8> {
    let service = Service {
        event: event.into(),
        version: "1".into(),
        detail: None,
    };
    let entry = Entry::new("seawall-system", Actor::operator(), Body::Service(service));
    entry.encode().unwrap()
}

struct Log {
    directory: tempfile::TempDir,
    key: String,
    entries: [Vec<u8>; 2],
}

impl Log {
    fn new() -> Self {
        let (directory, keys) = (tempfile::tempdir().unwrap(), keys());
        let (mut writer, _) = Writer::open(directory.path(), keys.clone()).unwrap();
        let entries = [entry("start"), entry("stop")];
        writer.commit(entries.iter().map(Vec::as_slice)).unwrap();
        writer.close().unwrap();
        let key = keys.current.verifier().to_string();
        Self {
            directory,
            key,
            entries,
        }
    }

    fn path(&self, file: &str) -> String {
        self.directory.path().join(file).display().to_string()
    }

    fn check(&self, args: &[&str]) -> (bool, String) {
        let directory = self.directory.path().to_str().unwrap();
        let args = parse(&[&[directory], args].concat());
        let mut out = Vec::new();
        let right = check_directory(&args, &mut out).unwrap();
        (right, String::from_utf8(out).unwrap())
    }
}

#[test]
fn a_whole_log_is_told_and_printed() {
    let log = Log::new();
    let (right, told) = log.check(&["--key", &log.key, "--print"]);
    assert!(right, "{told}");
    for words in [
        "#0 ",
        "service: start version 1",
        "entries   2 (",
        "verified: every entry",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("not given independently"), "{told}");
    let key_file = log.path("vkey");
    assert!(log.check(&["--key", &key_file]).0);
}

#[test]
fn without_a_key_it_says_that_this_proves_less() {
    let (right, told) = Log::new().check(&[]);
    assert!(right && told.contains("not given independently"), "{told}");
}

#[test]
fn a_changed_entry_is_named_with_its_id_and_the_end_is_not_verified() {
    let log = Log::new();
    let path = log.path("tile/entries/000.p/2");
    let mut changed = fs::read(&path).unwrap();
    let stop = changed.windows(4).position(|four| four == b"stop").unwrap();
    changed[stop + 2] = b'a';
    fs::write(path, changed).unwrap();
    let (right, told) = log.check(&["--key", &log.key]);
    assert!(!right);
    let id = Entry::decode(&log.entries[1]).unwrap().id;
    assert!(told.contains(&format!("WRONG     entry 1 ({id}")), "{told}");
    assert!(told.contains("NOT VERIFIED"), "{told}");
}

#[test]
fn an_earlier_checkpoint_is_told_of() {
    let log = Log::new();
    let (right, told) = log.check(&["--since", &log.path("checkpoint")]);
    assert!(
        right && told.contains("earlier checkpoint of 2 entries"),
        "{told}"
    );
}

#[test]
fn a_proof_is_checked_with_nothing_but_the_key() {
    let log = Log::new();
    let keys = [log.key.parse().unwrap()];
    let proof = Proof::of(&LogReader::new(log.directory.path()), 1, &keys).unwrap();
    let (proof_file, entry_file) = (log.path("a.tlog-proof"), log.path("entry"));
    fs::write(&proof_file, proof.to_string()).unwrap();
    let args = parse(&[
        "--proof",
        &proof_file,
        "--entry",
        &entry_file,
        "--key",
        &log.key,
    ]);
    let check = |entry: &[u8], args: &VerifyArgs| {
        fs::write(&entry_file, entry).unwrap();
        let mut out = Vec::new();
        let paths = (Path::new(&proof_file), Path::new(&entry_file));
        let right = check_proof(args, paths.0, paths.1, &mut out);
        right.map(|right| (right, String::from_utf8(out).unwrap()))
    };
    let (right, told) = check(&log.entries[1], &args).unwrap();
    assert!(right && told.contains("entry 1 of the 2"), "{told}");
    let (right, told) = check(&log.entries[0], &args).unwrap();
    assert!(
        !right && told.contains("not the one that the proof is for"),
        "{told}"
    );
    let keyless = parse(&["--proof", &proof_file, "--entry", &entry_file]);
    let error = check(&log.entries[1], &keyless).unwrap_err().to_string();
    assert!(error.contains("--key"), "{error}");
}

#[test]
fn what_is_missing_or_makes_no_sense_is_said() {
    assert!(Cli::try_parse_from(["verify"]).is_err());
    assert!(Cli::try_parse_from(["verify", "--proof", "p", "--key", "k"]).is_err());
    let error = keys_error("nonsense");
    assert!(error.contains("neither a file nor a key"), "{error}");
    let args = parse(&["/nonexistent-directory"]);
    let error = check_directory(&args, &mut Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("is no directory"), "{error}");
}

fn keys_error(key: &str) -> String {
    super::keys(&[key.to_owned()]).unwrap_err().to_string()
}
