//! `seawall prove`: the proof of one entry, for somebody who is shown that entry and not the log.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::cli;
use super::keys::parse_verifiers;
use super::proof::Proof;
use super::reader::LogReader;

#[derive(Debug, Args)]
pub struct ProveArgs {
    /// The audit log's directory, or a copy of it.
    directory: PathBuf,

    /// The entry's number, as `seawall verify --print` shows it: the first is 0.
    index: u64,

    /// Where to put the entry's bytes: whoever checks the proof needs them exactly.
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,

    /// The log's verifier key (NAME+ID+BASE64), or a file with one a line; repeatable. Without it
    /// the directory's own `vkey` is used.
    #[arg(long = "key", value_name = "VKEY|FILE")]
    keys: Vec<String>,
}

/// Prints the proof as <https://c2sp.org/tlog-proof>, after it was checked against the entry.
pub fn run(args: &ProveArgs) -> Result<ExitCode> {
    let (proof, entry) = prove(args)?;
    if let Some(file) = &args.entry {
        fs::write(file, entry).with_context(|| format!("writing {}", file.display()))?;
    }
    io::stdout()
        .lock()
        .write_all(proof.to_string().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn prove(args: &ProveArgs) -> Result<(Proof, Vec<u8>)> {
    let keys = match cli::keys(&args.keys)? {
        Some(keys) => keys,
        None => parse_verifiers(&cli::read_text(&args.directory.join("vkey"))?)?,
    };
    let reader = LogReader::new(&args.directory);
    let proof = Proof::of(&reader, args.index, &keys)?;
    let mut entries = reader.entries(args.index..args.index + 1)?.into_iter();
    let entry = entries
        .next()
        .context("the entry's bundle has no such entry")?;
    proof.verify(&entry, &keys)?;
    Ok((proof, entry))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::audit::cli::VerifyArgs;
    use crate::audit::testing::keys;
    use crate::audit::writer::Writer;

    #[derive(Parser)]
    struct Proving {
        #[command(flatten)]
        args: ProveArgs,
    }

    #[derive(Parser)]
    struct Verifying {
        #[command(flatten)]
        args: VerifyArgs,
    }

    fn proving(args: &[&str]) -> ProveArgs {
        let args = std::iter::once("prove").chain(args.iter().copied());
        Proving::try_parse_from(args).unwrap().args
    }

    #[test]
    fn a_proof_is_checked_without_the_log_and_an_entry_that_is_not_there_has_none() {
        let (log, keys, elsewhere) = (
            tempfile::tempdir().unwrap(),
            keys(),
            tempfile::tempdir().unwrap(),
        );
        let entries: Vec<Vec<u8>> = (0..300)
            .map(|n| format!("entry {n}").into_bytes())
            .collect();
        let (mut writer, _) = Writer::open(log.path(), keys.clone()).unwrap();
        writer.commit(entries.iter().map(Vec::as_slice)).unwrap();
        writer.close().unwrap();
        let directory = log.path().to_str().unwrap();

        let (proof, entry) = prove(&proving(&[directory, "299"])).unwrap();
        assert_eq!(entry, entries[299]);
        let file = |name: &str| elsewhere.path().join(name).display().to_string();
        let (proof_file, entry_file) = (file("proof"), file("entry"));
        fs::write(&proof_file, proof.to_string()).unwrap();
        fs::write(&entry_file, &entry).unwrap();
        drop(log);
        let vkey = keys.current.verifier().to_string();
        let check = ["verify", "--proof", &proof_file, "--entry", &entry_file];
        let check = [&check[..], &["--key", &vkey]].concat();
        let verify = || cli::run(&Verifying::try_parse_from(&check).unwrap().args).unwrap();
        assert_eq!(
            format!("{:?}", verify()),
            format!("{:?}", ExitCode::SUCCESS)
        );
        fs::write(&entry_file, b"another entry").unwrap();
        assert_eq!(
            format!("{:?}", verify()),
            format!("{:?}", ExitCode::FAILURE)
        );
    }

    #[test]
    fn an_entry_that_is_not_published_has_no_proof_yet() {
        let log = tempfile::tempdir().unwrap();
        let (mut writer, _) = Writer::open(log.path(), keys()).unwrap();
        writer.commit([b"entry".as_slice()]).unwrap();
        writer.close().unwrap();
        let directory = log.path().to_str().unwrap();
        let largest = u64::MAX.to_string();
        for index in ["1", &largest] {
            let error = prove(&proving(&[directory, index])).unwrap_err();
            assert!(error.to_string().contains("not published yet"), "{error}");
        }
    }
}
