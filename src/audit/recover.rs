//! What a log directory holds at start: finds the acknowledged entries and checks them against
//! the checkpoint.
//!
//! Reads only. Entries below the journal's base were synced to tiles before the journal began
//! there; those from its base on are the journal's, whatever state the tiles above are in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::disk::{CHECKPOINT, JOURNAL};
use super::journal::{self, Parsed, Tail};
use super::keys::LogKeys;
use super::merkle::{Hash, leaf_hash};
use super::note::NoteError;
use super::reader::LogReader;
use super::tile::{self, Level, TILE_WIDTH};
use super::tree::Tree;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the audit log {directory} is being written by another process: stop that one, or give \
         this one a directory of its own"
    )]
    Locked { directory: PathBuf },
    #[error("the audit log {directory} can't be read or written: {error}")]
    Io {
        directory: PathBuf,
        error: io::Error,
    },
    #[error("the checkpoint of the audit log {directory} is not to be trusted: {error}. {ADVICE}")]
    Checkpoint {
        directory: PathBuf,
        error: NoteError,
    },
    #[error(
        "the audit log {directory} belongs to the log '{found}', this one is called '{expected}': \
         give each log its own directory, or use the key that belongs to this one"
    )]
    OtherLog {
        directory: PathBuf,
        found: String,
        expected: String,
    },
    #[error("the audit log {directory} was changed: {what}. {ADVICE}")]
    Changed { directory: PathBuf, what: String },
}

/// What a person does with a log that doesn't check out. Starting afresh in its place would
/// destroy the evidence, so that is left to a person.
const ADVICE: &str = "Nothing was written to it. Run `seawall verify` on the directory to see \
     which entry or file is wrong, keep a copy as evidence, and then put the directory back from a \
     backup or move it away so that a new log begins; if a key was rotated, list the former \
     verifier key behind the private ones";

pub struct Recovered {
    pub tree: Tree,
    /// Acknowledged entries found in the journal only.
    pub replayed: u64,
    /// Bytes of an unfinished write at the journal's end.
    pub dropped_bytes: u64,
}

/// Loads the log of `directory`, which may be empty.
pub fn recover(directory: &Path, keys: &LogKeys) -> Result<Recovered, OpenError> {
    let recovery = Recovery {
        reader: LogReader::new(directory),
        directory,
    };
    let checkpoint = recovery.checkpoint(keys)?;
    let signed_size = checkpoint.as_ref().map_or(0, |c| c.size);
    let bytes = recovery.read(JOURNAL)?;
    if checkpoint.is_none() && directory.join("tile").exists() {
        return Err(recovery.changed("there are entries and no checkpoint"));
    }
    let parsed = match &bytes {
        Some(bytes) => journal::parse(bytes).map_err(|error| recovery.changed(error))?,
        None => Parsed {
            base: signed_size,
            entries: Vec::new(),
            tail: Tail::Clean,
            tail_bytes: 0,
        },
    };
    if parsed.base > signed_size {
        return Err(recovery.changed(format!(
            "its journal begins at entry {}, its checkpoint ends at {signed_size}: the files are \
             from different times",
            parsed.base
        )));
    }
    let mut tree = recovery.synced_part(parsed.base)?;
    let mut published = checkpoint.as_ref();
    for entry in &parsed.entries {
        recovery.check_root(&tree, &mut published)?;
        tree.push(entry);
    }
    // The journal ended early, and the entries had been published before that was lost.
    for entry in recovery.entries(tree.size()..signed_size)? {
        tree.push(&entry);
    }
    recovery.check_root(&tree, &mut published)?;
    Ok(Recovered {
        replayed: tree.size().saturating_sub(signed_size),
        tree,
        dropped_bytes: parsed.tail_bytes as u64,
    })
}

struct Recovery<'a> {
    reader: LogReader,
    directory: &'a Path,
}

impl Recovery<'_> {
    fn changed(&self, what: impl ToString) -> OpenError {
        OpenError::Changed {
            directory: self.directory.to_owned(),
            what: what.to_string(),
        }
    }

    /// A tile that is missing or cut is a change; anything else is the disk's trouble.
    fn unreadable(&self, error: io::Error) -> OpenError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => self.changed(error),
            _ => OpenError::Io {
                directory: self.directory.to_owned(),
                error,
            },
        }
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, OpenError> {
        match fs::read(self.directory.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::Io {
                directory: self.directory.to_owned(),
                error,
            }),
        }
    }

    fn checkpoint(&self, keys: &LogKeys) -> Result<Option<Checkpoint>, OpenError> {
        let Some(bytes) = self.read(CHECKPOINT)? else {
            return Ok(None);
        };
        let untrusted = |error| OpenError::Checkpoint {
            directory: self.directory.to_owned(),
            error,
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| untrusted(NoteError::Malformed("it is not text")))?;
        let verifiers = keys.verifiers();
        let (checkpoint, _) = Checkpoint::open(&text, &verifiers).map_err(untrusted)?;
        if checkpoint.origin != keys.origin() {
            return Err(OpenError::OtherLog {
                directory: self.directory.to_owned(),
                found: checkpoint.origin,
                expected: keys.origin().to_owned(),
            });
        }
        Ok(Some(checkpoint))
    }

    /// The tree over the entries that are in synced tiles, from their leaf hashes; the entries of
    /// the last, partial bundle are checked against theirs, since they will be written again.
    fn synced_part(&self, size: u64) -> Result<Tree, OpenError> {
        let (full, width) = tile::shape(Level::Hashes(0), size);
        let mut leaves: Vec<Hash> = Vec::with_capacity(size as usize);
        for index in 0..full {
            let hashes = self.reader.hashes(0, index, TILE_WIDTH as u16);
            leaves.extend(hashes.map_err(|error| self.unreadable(error))?);
        }
        let mut bundle = Vec::new();
        if width > 0 {
            let hashes = self.reader.hashes(0, full, width);
            let hashes = hashes.map_err(|error| self.unreadable(error))?;
            let entries = self.entries(full * TILE_WIDTH..size)?;
            for (position, (entry, hash)) in entries.iter().zip(&hashes).enumerate() {
                if leaf_hash(entry) != *hash {
                    let index = full * TILE_WIDTH + position as u64;
                    return Err(self.changed(format!("entry {index} is not what was logged")));
                }
                tile::push_entry(&mut bundle, entry);
            }
            leaves.extend(hashes);
        }
        Ok(Tree::restore(leaves, bundle))
    }

    fn entries(&self, mut range: std::ops::Range<u64>) -> Result<Vec<Vec<u8>>, OpenError> {
        let mut all = Vec::new();
        while !range.is_empty() {
            let some = self.reader.entries(range.clone());
            let some = some.map_err(|error| self.unreadable(error))?;
            range.start += some.len() as u64;
            all.extend(some);
        }
        Ok(all)
    }

    /// Compares the root once the tree has the size that the checkpoint was signed for.
    fn check_root(&self, tree: &Tree, signed: &mut Option<&Checkpoint>) -> Result<(), OpenError> {
        let Some(checkpoint) = signed.take_if(|c| c.size == tree.size()) else {
            return Ok(());
        };
        if tree.root() == checkpoint.root {
            return Ok(());
        }
        Err(self.changed(format!(
            "its first {} entries don't give the root that its checkpoint was signed for",
            checkpoint.size
        )))
    }
}
