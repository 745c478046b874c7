//! The one writer of a log directory: commits to the journal, publishes tiles and checkpoint.
//!
//! Synchronous; [`super::log`] gives it its entries and its times. The order is what makes it
//! safe:
//!
//! 1. `commit` appends entries to the journal and syncs it. Then they are acknowledged.
//! 2. `publish` writes tiles and bundles (not synced) and then a signed checkpoint (synced).
//! 3. `settle` syncs what `publish` wrote and begins a new journal behind it.
//!
//! A crash between any two steps leaves a journal from which every acknowledged entry is written
//! again, byte for byte the same.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::disk::{CHECKPOINT, Disk, VKEY};
use super::journal;
use super::keys::LogKeys;
use super::merkle::Hash;
use super::reader::LogReader;
use super::recover::{OpenError, Recovered, recover};
use super::tile::{Level, Tile};
use super::tree::Tree;

/// A journal longer than this is settled when nobody waits, one four times as long in any case.
const JOURNAL_LIMIT: u64 = 2 << 20;
/// Partial bundles kept until the full one is there. Hash tiles are all kept, as the specification
/// wants; of bundles, which repeat whole entries, those of the newest checkpoints are: who holds an
/// older checkpoint cuts its entries from a wider bundle.
const PARTIAL_BUNDLES: usize = 16;

pub struct Writer {
    disk: Disk,
    keys: LogKeys,
    tree: Tree,
    published: Option<u64>,
    journal_bytes: u64,
    /// Files written since the last sync that a settled log needs.
    unsynced: BTreeMap<String, Tile>,
    partial_bundles: VecDeque<Tile>,
}

/// What was found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub size: u64,
    pub root: Hash,
    /// Acknowledged entries that had not been published before the last end.
    pub replayed: u64,
    /// Bytes of an unfinished write, never acknowledged, that were dropped.
    pub dropped_bytes: u64,
}

#[derive(Debug)]
pub struct CommitFailure {
    pub error: io::Error,
    /// The writer must be opened again before the next commit.
    pub fatal: bool,
}

impl Writer {
    /// Takes the directory, recovers, and publishes what it found.
    pub fn open(directory: &Path, keys: LogKeys) -> Result<(Self, Opened), OpenError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked {
                directory: directory.to_owned(),
            },
            _ => OpenError::Io {
                directory: directory.to_owned(),
                error,
            },
        };
        let disk = Disk::lock(directory).map_err(failed)?;
        Self::open_on(disk, keys)
    }

    pub(super) fn open_on(disk: Disk, keys: LogKeys) -> Result<(Self, Opened), OpenError> {
        let Recovered {
            tree,
            replayed,
            dropped_bytes,
        } = recover(disk.root(), &keys)?;
        let opened = Opened {
            size: tree.size(),
            root: tree.root(),
            replayed,
            dropped_bytes,
        };
        let mut writer = Self {
            disk,
            keys,
            tree,
            published: None,
            journal_bytes: 0,
            unsynced: BTreeMap::new(),
            partial_bundles: VecDeque::new(),
        };
        let begun = writer.begin();
        begun.map_err(|error| OpenError::Io {
            directory: writer.disk.root().to_owned(),
            error,
        })?;
        Ok((writer, opened))
    }

    fn begin(&mut self) -> io::Result<()> {
        self.drop_torn_partials()?;
        self.disk
            .replace_durably(VKEY, self.keys.vkey_file().as_bytes())?;
        self.publish()?;
        self.settle()
    }

    /// A power cut may have torn partial tiles of checkpoints older than the recovered tree.
    fn drop_torn_partials(&mut self) -> io::Result<()> {
        let reader = LogReader::new(self.disk.root());
        for (tile, bytes) in self.tree.partials() {
            let mut kept = Vec::new();
            for partial in reader.partials(tile) {
                let read = reader.read_exactly(partial)?;
                let whole = match tile.level {
                    Level::Hashes(_) => read.len() == usize::from(partial.width) * 32,
                    Level::Entries => {
                        let (entries, rest) = super::tile::split_bundle(&read);
                        entries.len() == usize::from(partial.width) && rest.is_empty()
                    }
                };
                if whole && bytes.starts_with(&read) {
                    kept.push(partial);
                } else {
                    self.disk.remove(&partial.to_string())?;
                }
            }
            if tile.level == Level::Entries {
                kept.sort();
                self.partial_bundles = kept.into();
            }
        }
        Ok(())
    }

    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Makes entries durable as one batch and gives the index of the first. On an error none of
    /// them is in the log.
    pub fn commit<'a>(
        &mut self,
        entries: impl IntoIterator<Item = &'a [u8]> + Clone,
    ) -> Result<u64, CommitFailure> {
        let first = self.tree.size();
        let mut records = Vec::new();
        for (index, entry) in (first..).zip(entries.clone()) {
            journal::push_record(&mut records, index, first, entry);
        }
        self.disk
            .append_journal(&records)
            .map_err(|failure| CommitFailure {
                error: failure.error,
                fatal: !failure.journal_usable,
            })?;
        self.journal_bytes += records.len() as u64;
        for entry in entries {
            self.tree.push(entry);
        }
        Ok(first)
    }

    pub fn has_unpublished(&self) -> bool {
        self.published != Some(self.tree.size())
    }

    pub fn wants_settling(&self, idle: bool) -> bool {
        let limit = if idle {
            JOURNAL_LIMIT
        } else {
            4 * JOURNAL_LIMIT
        };
        self.journal_bytes > limit
    }

    /// Writes the tiles and the signed checkpoint of what was committed.
    pub fn publish(&mut self) -> io::Result<()> {
        if !self.has_unpublished() {
            return Ok(());
        }
        let partials = self.tree.partials();
        for (tile, bytes) in self.tree.completed().iter().chain(&partials) {
            let path = tile.to_string();
            self.disk.replace(&path, bytes)?;
            self.unsynced.insert(path, *tile);
        }
        let checkpoint = Checkpoint {
            origin: self.keys.origin().to_owned(),
            size: self.tree.size(),
            root: self.tree.root(),
        };
        let text = checkpoint
            .sign(self.keys.signers())
            .map_err(io::Error::other)?;
        self.disk.replace_durably(CHECKPOINT, text.as_bytes())?;
        self.tree.forget_completed();
        self.published = Some(checkpoint.size);
        let bundle = partials
            .iter()
            .find(|(tile, _)| tile.level == Level::Entries);
        self.forget_old_bundles(bundle.map(|(tile, _)| *tile))
    }

    fn forget_old_bundles(&mut self, newest: Option<Tile>) -> io::Result<()> {
        let Some(newest) = newest else {
            return Ok(());
        };
        // Those of a bundle that is full by now go with their directory.
        self.partial_bundles
            .retain(|old| old.index == newest.index && *old != newest);
        self.partial_bundles.push_back(newest);
        while self.partial_bundles.len() > PARTIAL_BUNDLES {
            if let Some(old) = self.partial_bundles.pop_front() {
                let path = old.to_string();
                self.unsynced.remove(&path);
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Syncs the published tiles, drops partial tiles of those that are full now, and begins a new
    /// journal behind them.
    pub fn settle(&mut self) -> io::Result<()> {
        debug_assert!(!self.has_unpublished(), "settling follows publishing");
        let partials = self.tree.partials();
        let needed = |tile: &Tile| tile.is_full() || partials.iter().any(|(now, _)| now == tile);
        let paths = self.unsynced.iter().filter(|(_, tile)| needed(tile));
        self.disk.sync(paths.map(|(path, _)| path.as_str()))?;
        for tile in self.unsynced.values().filter(|tile| tile.is_full()) {
            self.disk.remove(&tile.partials_directory())?;
        }
        self.disk
            .replace_journal(&journal::header(self.tree.size()))?;
        self.journal_bytes = 0;
        self.unsynced.clear();
        Ok(())
    }

    /// Publishes and settles, so that the directory is complete without its journal.
    pub fn close(mut self) -> io::Result<()> {
        self.publish()?;
        self.settle()
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
