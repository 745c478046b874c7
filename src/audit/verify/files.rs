//! Every file of a log directory against the leaf hashes that are known to be right.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::content::place_says;
use super::{Place, Report};
use crate::audit::disk::{CHECKPOINT, JOURNAL, LOCK, TEMPORARY, VKEY};
use crate::audit::journal::{self, Tail};
use crate::audit::merkle::{HASH_SIZE, Hash, leaf_hash, perfect_root};
use crate::audit::reader::LogReader;
use crate::audit::tile::{self, Level, TILE_WIDTH, Tile};

/// The files that are there.
pub struct Listing {
    tiles: BTreeSet<Tile>,
    strange: Vec<String>,
}

impl Listing {
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut listing = Self {
            tiles: BTreeSet::new(),
            strange: Vec::new(),
        };
        listing.add(directory, "")?;
        Ok(listing)
    }

    fn add(&mut self, directory: &Path, within: &str) -> io::Result<()> {
        for file in fs::read_dir(directory)? {
            let file = file?;
            let name = file.file_name();
            let path = match within {
                "" => name.to_string_lossy().into_owned(),
                within => format!("{within}/{}", name.to_string_lossy()),
            };
            if file.file_type()?.is_dir() {
                match self.add(&file.path(), &path) {
                    // The writer removes directories of partial tiles.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    added => added?,
                }
            } else if let Some(tile) = Tile::parse(&path) {
                self.tiles.insert(tile);
            } else if !is_ours(&path) {
                self.strange.push(path);
            }
        }
        Ok(())
    }
}

fn is_ours(path: &str) -> bool {
    [CHECKPOINT, VKEY, JOURNAL, LOCK].contains(&path) || path.ends_with(TEMPORARY)
}

/// What the journal holds.
pub struct Journaled {
    base: u64,
    entries: Vec<Vec<u8>>,
}

impl Journaled {
    pub fn read(reader: &LogReader, size: u64, report: &mut Report) -> io::Result<Self> {
        let nothing = Self {
            base: size,
            entries: Vec::new(),
        };
        let place = || Place::File(JOURNAL.into());
        let bytes = match fs::read(reader.directory().join(JOURNAL)) {
            Ok(bytes) => bytes,
            // A copy made for an auditor needs none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
            Err(error) => return Err(error),
        };
        let parsed = match journal::parse(&bytes) {
            Ok(parsed) => parsed,
            Err(error) => {
                report.fault(place(), error.to_string());
                return Ok(nothing);
            }
        };
        if parsed.base > size {
            let what = format!(
                "begins at entry {}, and the checkpoint ends at {size}: they are not from one time",
                parsed.base
            );
            report.fault(place(), what);
            return Ok(nothing);
        }
        match parsed.tail {
            Tail::Clean => {}
            Tail::CutShort => report.notes.push(format!(
                "the journal ends inside a write of {} bytes that was not acknowledged: a crash \
                 leaves that, and so does looking while it is written",
                parsed.tail_bytes
            )),
            Tail::Damaged => report.fault(
                place(),
                format!(
                    "its last record, of entry {}, is not what was written: it was changed, or the \
                     machine lost its power in the middle of that write (then it was never \
                     acknowledged, and the next start of the operator drops it)",
                    parsed.end()
                ),
            ),
        }
        Ok(Self {
            base: parsed.base,
            entries: parsed.entries.iter().map(|entry| entry.to_vec()).collect(),
        })
    }

    /// The entries from `size` on.
    pub fn beyond(&self, size: u64) -> &[Vec<u8>] {
        let start = size.saturating_sub(self.base) as usize;
        self.entries.get(start..).unwrap_or_default()
    }

    /// Entries that are in the journal and in the tiles are the same.
    pub fn check_published(&self, leaves: &[Hash], report: &mut Report) {
        let published = leaves.iter().skip(self.base as usize);
        for (index, (entry, leaf)) in (self.base..).zip(self.entries.iter().zip(published)) {
            if leaf_hash(entry) != *leaf {
                let says = place_says(entry);
                report.fault(
                    Place::Entry { index, says },
                    "is another in the journal than the one that was signed for",
                );
            }
        }
    }
}

/// Compares each tile and bundle with what `known` leaf hashes, at least `size` of them, give.
pub fn check(
    reader: &LogReader,
    listing: &Listing,
    size: u64,
    known: &[Hash],
    report: &mut Report,
) -> io::Result<()> {
    for path in &listing.strange {
        report.notes.push(format!(
            "{path:?} is no part of the log and was not looked at"
        ));
    }
    let levels = levels_of(known);
    for tile in &listing.tiles {
        let bytes = match reader.read_exactly(*tile) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match tile.level {
            Level::Hashes(level) => {
                check_hashes(*tile, &bytes, levels.get(usize::from(level)), report)
            }
            Level::Entries => check_bundle(*tile, &bytes, known, report),
        }
    }
    for needed in needed(size) {
        let full = Tile {
            width: 256,
            ..needed
        };
        if listing.tiles.range(needed..=full).next().is_none() {
            report.fault(
                Place::File(needed.to_string()),
                "is missing: it was taken away",
            );
        }
    }
    Ok(())
}

/// The hashes of every level.
fn levels_of(leaves: &[Hash]) -> Vec<Vec<Hash>> {
    let mut levels = vec![leaves.to_vec()];
    loop {
        let full = levels[levels.len() - 1].chunks_exact(TILE_WIDTH as usize);
        let above: Vec<Hash> = full.map(perfect_root).collect();
        if above.is_empty() {
            return levels;
        }
        levels.push(above);
    }
}

/// The tiles and bundles that a log of this size must have.
fn needed(size: u64) -> Vec<Tile> {
    let top = tile::top_level(size).map_or(0, |level| level + 1);
    let levels = (0..top).map(Level::Hashes).chain([Level::Entries]);
    levels
        .flat_map(|level| {
            let (full, partial) = tile::shape(level, size);
            let full_tiles = (0..full).map(move |index| Tile::new(level, index, 256));
            full_tiles.chain((partial > 0).then(|| Tile::new(level, full, partial)))
        })
        .collect()
}

fn check_hashes(tile: Tile, bytes: &[u8], level: Option<&Vec<Hash>>, report: &mut Report) {
    let start = (tile.index * TILE_WIDTH) as usize;
    let range = start..start + usize::from(tile.width);
    let Some(expected) = level.and_then(|hashes| hashes.get(range)) else {
        report.fault(beyond(tile), BEYOND);
        return;
    };
    if bytes.len() != usize::from(tile.width) * HASH_SIZE || bytes != expected.concat() {
        report.fault(
            Place::File(tile.to_string()),
            "is not what the entries hash to: this tile was changed, or torn by a crash (then the \
             next start of the operator writes it again); the entries are right",
        );
    }
}

const BEYOND: &str = "lies behind the checkpoint and the journal: these were cut, or the file is from \
                      another log";

fn beyond(tile: Tile) -> Place {
    Place::File(tile.to_string())
}

fn check_bundle(tile: Tile, bytes: &[u8], known: &[Hash], report: &mut Report) {
    let first = tile.index * TILE_WIDTH;
    let range = first as usize..first as usize + usize::from(tile.width);
    let Some(expected) = known.get(range) else {
        report.fault(beyond(tile), BEYOND);
        return;
    };
    let (entries, rest) = tile::split_bundle(bytes);
    for (position, leaf) in expected.iter().enumerate() {
        let entry = entries.get(position);
        if entry.is_some_and(|entry| leaf_hash(entry) == *leaf) {
            continue;
        }
        let index = first + position as u64;
        let already = |fault: &super::Fault| matches!(fault.place, Place::Entry { index: named, .. } if named == index);
        if !report.faults.iter().any(already) {
            let says = entry.and_then(|entry| place_says(entry));
            let what = format!("is not what was logged, in {tile}: its bytes were changed or cut");
            report.fault(Place::Entry { index, says }, what);
        }
        return;
    }
    if !rest.is_empty() || entries.len() > expected.len() {
        let what = "has more in it than its entries: it was added to";
        report.fault(Place::File(tile.to_string()), what);
    }
}
