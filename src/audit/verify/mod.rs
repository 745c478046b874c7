//! Checks a log directory offline: signature, entries, tiles, journal, and an earlier checkpoint.
//!
//! Reads only, trusts nothing but the verifier keys it is given. A running writer may add to the
//! log meanwhile: what it adds is not taken for a fault.

mod content;
mod files;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::checkpoint::Checkpoint;
use super::disk::VKEY;
use super::keys::parse_verifiers;
use super::merkle::{self, Hash, Leaves};
use super::note::{Note, VerifierKey};
use super::reader::LogReader;

/// Faults named; more are counted only.
const NAMED_FAULTS: usize = 20;
/// A writer that publishes while the log is read makes it worth reading again.
const ATTEMPTS: usize = 5;

/// What is to be checked.
#[derive(Debug, Default)]
pub struct Request {
    /// Keys known independently of the directory; without them its own `vkey` is used.
    pub keys: Option<Vec<VerifierKey>>,
    /// An earlier checkpoint of the same log, that its entries must still lead to.
    pub since: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The checkpoint, once its signature was right.
    pub checkpoint: Option<Checkpoint>,
    pub signed_by: Vec<String>,
    /// Whether the keys came from elsewhere than the directory that they vouch for.
    pub key_given: bool,
    /// Size of the earlier checkpoint that the log goes on from.
    pub since: Option<u64>,
    /// Durable entries behind the checkpoint, in the journal only.
    pub journaled: u64,
    /// Bytes of all entries.
    pub bytes: u64,
    /// What a person should know and is no fault.
    pub notes: Vec<String>,
    /// The first ones, in the order of the log.
    pub faults: Vec<Fault>,
    pub more_faults: usize,
}

impl Report {
    pub fn ok(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, place: Place, what: impl Into<String>) {
        if self.faults.len() < NAMED_FAULTS {
            let what = what.into();
            self.faults.push(Fault { place, what });
        } else {
            self.more_faults += 1;
        }
    }
}

/// Something that isn't as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    /// What it means.
    pub what: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Entry {
        index: u64,
        /// The entry's id and time, if what is there still has them. Not to be trusted.
        says: Option<(String, Timestamp)>,
    },
    /// A path in the log directory.
    File(String),
    Log,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { index, says: None } => write!(f, "entry {index}"),
            Self::Entry {
                index,
                says: Some((id, time)),
            } => write!(f, "entry {index} ({id}, {time})"),
            Self::File(path) => f.write_str(path),
            Self::Log => f.write_str("the log"),
        }
    }
}

/// Checks a directory. An error means that it could not be read, not that it is wrong.
pub fn verify(directory: &Path, request: &Request) -> io::Result<Report> {
    let reader = LogReader::new(directory);
    let mut report = attempt(&reader, request)?;
    for _ in 1..ATTEMPTS {
        let signed = report.checkpoint.as_ref().map(|c| (c.size, c.root));
        if report.ok() || !has_moved(&reader, request, signed) {
            break;
        }
        report = attempt(&reader, request)?;
    }
    Ok(report)
}

/// Whether another checkpoint stands there than the one that was checked.
fn has_moved(reader: &LogReader, request: &Request, checked: Option<(u64, Hash)>) -> bool {
    let keys = trusted_keys(reader, request).map(|(keys, _)| keys);
    let now = reader
        .checkpoint_text()
        .ok()
        .zip(keys.ok())
        .and_then(|(text, keys)| Checkpoint::open(&text, &keys).ok().map(|(c, _)| c));
    now.map(|c| (c.size, c.root)) != checked
}

fn attempt(reader: &LogReader, request: &Request) -> io::Result<Report> {
    let mut report = Report {
        checkpoint: None,
        signed_by: Vec::new(),
        key_given: request.keys.is_some(),
        since: None,
        journaled: 0,
        bytes: 0,
        notes: Vec::new(),
        faults: Vec::new(),
        more_faults: 0,
    };
    let keys = match trusted_keys(reader, request) {
        Ok((keys, listed)) => {
            check_signature(reader, &keys, listed, &mut report)?;
            keys
        }
        Err(what) => {
            report.fault(Place::File(VKEY.into()), what);
            return Ok(report);
        }
    };
    let Some(checkpoint) = report.checkpoint.clone() else {
        return Ok(report);
    };
    let leaves = content::check(reader, &checkpoint, &mut report)?;
    if let (Some(leaves), Some(since)) = (leaves, &request.since) {
        check_since(since, &keys, &checkpoint, &leaves, &mut report);
    }
    Ok(report)
}

/// The keys to trust, and those that the directory lists.
fn trusted_keys(
    reader: &LogReader,
    request: &Request,
) -> Result<(Vec<VerifierKey>, Vec<VerifierKey>), String> {
    let listed = match fs::read(reader.directory().join(VKEY)) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).ok().filter(|t| t.ends_with('\n'));
            let text = text.ok_or("it is no text file of keys any more: it was changed")?;
            parse_verifiers(&text).map_err(|error| format!("it was changed: {error}"))?
        }
        Err(_) => Vec::new(),
    };
    match &request.keys {
        Some(keys) => Ok((keys.clone(), listed)),
        None if listed.is_empty() => {
            Err("the directory has no readable vkey file: is it the folder `audit` of the operator's data? \
             Else give the log's verifier key with --key"
                .into())
        }
        None => Ok((listed.clone(), listed)),
    }
}

fn check_signature(
    reader: &LogReader,
    keys: &[VerifierKey],
    listed: Vec<VerifierKey>,
    report: &mut Report,
) -> io::Result<()> {
    let place = || Place::File("checkpoint".into());
    let text = match reader.checkpoint_text() {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.fault(place(), "is missing: this is no log, or it was taken away");
            return Ok(());
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            report.fault(place(), "is not text any more: it was changed");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (checkpoint, signed_by) = match Checkpoint::open(&text, keys) {
        Ok(opened) => opened,
        Err(error) => {
            report.fault(place(), format!("is not to be trusted: {error}"));
            return Ok(());
        }
    };
    report.signed_by = signed_by.iter().map(|key| key.label()).collect();
    let strange = Note::parse(&text).map(|note| note.signer_labels());
    let ours = |label: &String| {
        let mut known = keys.iter().chain(&listed);
        label.starts_with(&format!("{}+", checkpoint.origin))
            && !known.any(|key| key.label() == *label)
    };
    for label in strange.into_iter().flatten().filter(ours) {
        report.fault(
            place(),
            format!("carries a signature in the log's name by {label}, a key that nobody knows"),
        );
    }
    report.checkpoint = Some(checkpoint);
    Ok(())
}

/// The entries that an earlier checkpoint was signed for must be the first ones still.
fn check_since(
    since: &str,
    keys: &[VerifierKey],
    now: &Checkpoint,
    leaves: &[Hash],
    report: &mut Report,
) {
    let earlier = match Checkpoint::open(since, keys) {
        Ok((earlier, _)) => earlier,
        Err(error) => {
            let what = format!("the earlier checkpoint is not to be trusted: {error}");
            report.fault(Place::Log, what);
            return;
        }
    };
    if earlier.origin != now.origin {
        let what = format!(
            "the earlier checkpoint is of another log, {}",
            earlier.origin
        );
        report.fault(Place::Log, what);
    } else if earlier.size > now.size {
        report.fault(
            Place::Log,
            format!(
                "was cut: it had {} entries when the earlier checkpoint was signed and has {}",
                earlier.size, now.size
            ),
        );
    } else {
        let Ok(root) = merkle::root(&Leaves(leaves), earlier.size);
        if root == earlier.root {
            report.since = Some(earlier.size);
        } else {
            report.fault(
                Place::Log,
                format!(
                    "was rewritten: its first {} entries are not those that the earlier checkpoint \
                     was signed for",
                    earlier.size
                ),
            );
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
