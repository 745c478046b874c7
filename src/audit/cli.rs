//! `seawall verify`: a log directory or a single proof, checked offline, told in words.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::keys::parse_verifiers;
use super::note::VerifierKey;
use super::print;
use super::proof::{Proof, ProofError};
use super::reader::LogReader;
use super::verify::{Report, Request, verify};

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The audit log's directory, or a copy of it.
    #[arg(required_unless_present = "proof")]
    pub directory: Option<PathBuf>,

    /// The log's verifier key (NAME+ID+BASE64), or a file with one a line; repeatable. Without it
    /// the directory's own `vkey` is used, which proves less.
    #[arg(long = "key", value_name = "VKEY|FILE")]
    pub keys: Vec<String>,

    /// An earlier checkpoint of the log: finds what was cut off or rewritten since.
    #[arg(long, value_name = "FILE", requires = "directory")]
    pub since: Option<PathBuf>,

    /// Check this proof of a single entry instead.
    #[arg(long, value_name = "FILE", requires = "entry")]
    pub proof: Option<PathBuf>,

    /// The entry that the proof is for, its bytes exactly.
    #[arg(long, value_name = "FILE", requires = "proof")]
    pub entry: Option<PathBuf>,

    /// Print every entry first, one line each.
    #[arg(long, requires = "directory")]
    pub print: bool,
}

/// Exit code 0: all is as it was signed. 1: it isn't.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    let right = match (&args.proof, &args.entry) {
        (Some(proof), Some(entry)) => check_proof(args, proof, entry, &mut out)?,
        _ => check_directory(args, &mut out)?,
    };
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn check_directory(args: &VerifyArgs, out: &mut impl Write) -> Result<bool> {
    let Some(directory) = &args.directory else {
        bail!("name the audit log's directory");
    };
    if !directory.is_dir() {
        bail!(
            "{} is no directory: name the one that holds `checkpoint` and `tile`",
            directory.display()
        );
    }
    let since = args.since.as_deref().map(read_text).transpose()?;
    let request = Request {
        keys: keys(&args.keys)?,
        since,
    };
    let report = verify(directory, &request)
        .with_context(|| format!("{} can't be read", directory.display()))?;
    if args.print
        && let Some(checkpoint) = &report.checkpoint
    {
        print_entries(&LogReader::new(directory), checkpoint.size, out)?;
    }
    tell(&report, out)?;
    Ok(report.ok())
}

/// Prints what can be read; what can't is in the report.
fn print_entries(reader: &LogReader, size: u64, out: &mut impl Write) -> io::Result<()> {
    let mut next = 0;
    while next < size {
        let entries = reader.entries(next..size).unwrap_or_default();
        if entries.is_empty() {
            writeln!(out, "#{next} and those behind it can't be read")?;
            break;
        }
        for entry in entries {
            writeln!(out, "{}", print::line(next, &entry))?;
            next += 1;
        }
    }
    writeln!(out)
}

fn tell(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if let Some(checkpoint) = &report.checkpoint {
        writeln!(out, "log       {}", checkpoint.origin)?;
        writeln!(
            out,
            "entries   {} ({} bytes)",
            checkpoint.size, report.bytes
        )?;
        writeln!(out, "root      {}", hex::encode(checkpoint.root))?;
        writeln!(out, "signed by {}", report.signed_by.join(", "))?;
        if report.journaled > 0 {
            let count = report.journaled;
            writeln!(
                out,
                "journal   {count} newer entries, durable and not signed for yet"
            )?;
        }
        if let Some(since) = report.since {
            writeln!(
                out,
                "since     goes on from the earlier checkpoint of {since} entries"
            )?;
        }
    }
    if !report.key_given {
        writeln!(
            out,
            "note      the key was not given independently, it is the directory's own vkey: who could \
             rewrite the log could replace that too. Keep the key elsewhere and give it with --key"
        )?;
    }
    for note in &report.notes {
        writeln!(out, "note      {note}")?;
    }
    for fault in &report.faults {
        writeln!(out, "WRONG     {} {}", fault.place, fault.what)?;
    }
    if report.more_faults > 0 {
        writeln!(out, "WRONG     and {} more", report.more_faults)?;
    }
    if report.ok() {
        writeln!(
            out,
            "verified: every entry and every tile leads to the signed root"
        )
    } else {
        writeln!(
            out,
            "NOT VERIFIED: keep this directory as evidence and compare it with a backup"
        )
    }
}

fn check_proof(
    args: &VerifyArgs,
    proof: &Path,
    entry: &Path,
    out: &mut impl Write,
) -> Result<bool> {
    let keys = match (keys(&args.keys)?, &args.directory) {
        (Some(keys), _) => keys,
        (None, Some(directory)) => {
            writeln!(
                out,
                "note      the key is the directory's own vkey, not given independently"
            )?;
            parse_verifiers(&read_text(&directory.join("vkey"))?)?
        }
        (None, None) => bail!("a proof needs the log's verifier key: give it with --key"),
    };
    let entry = fs::read(entry).with_context(|| format!("reading {}", entry.display()))?;
    let checked = read_text(proof)?
        .parse::<Proof>()
        .and_then(|proof| Ok((proof.verify(&entry, &keys)?, proof.index)));
    match checked {
        Ok((checkpoint, index)) => {
            writeln!(out, "{}", print::line(index, &entry))?;
            writeln!(
                out,
                "verified: entry {index} of the {} in the log {}",
                checkpoint.size, checkpoint.origin
            )?;
            Ok(true)
        }
        Err(ProofError::Io(error)) => Err(error.into()),
        Err(error) => {
            writeln!(out, "NOT VERIFIED: {error}")?;
            Ok(false)
        }
    }
}

/// Keys as given: each a verifier key, or a file of them.
pub fn keys(given: &[String]) -> Result<Option<Vec<VerifierKey>>> {
    if given.is_empty() {
        return Ok(None);
    }
    let mut keys = Vec::new();
    for one in given {
        match one.trim().parse() {
            Ok(key) => keys.push(key),
            Err(error) if !Path::new(one).exists() => {
                bail!("--key {one:?} is neither a file nor a key: {error}")
            }
            Err(_) => {
                let text = read_text(Path::new(one))?.replace('\r', "");
                let of_file = parse_verifiers(text.trim());
                keys.extend(of_file.with_context(|| format!("reading the keys of {one}"))?);
            }
        }
    }
    Ok(Some(keys))
}

pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
