//! Whether entries and tiles lead to the signed root, and which of them don't.

use std::io;

use super::files::{self, Journaled};
use super::{Place, Report};
use crate::audit::checkpoint::Checkpoint;
use crate::audit::entry::Entry;
use crate::audit::merkle::{self, Hash, Leaves, leaf_hash, perfect_root};
use crate::audit::reader::{LogReader, TiledTree};
use crate::audit::tile::{self, Level, TILE_WIDTH, Tile};

/// Checks everything under the checkpoint. Gives the leaf hashes that the signed root covers, if
/// they are known.
pub fn check(
    reader: &LogReader,
    checkpoint: &Checkpoint,
    report: &mut Report,
) -> io::Result<Option<Vec<Hash>>> {
    // The listing comes before the journal: what a writer adds to the listing is in the journal.
    let listing = files::Listing::of(reader.directory())?;
    let journal = Journaled::read(reader, checkpoint.size, report)?;
    let entries = read_entries(reader, checkpoint.size, report)?;
    let Some(leaves) = signed_leaves(reader, checkpoint, &entries, report) else {
        return Ok(None);
    };
    journal.check_published(&leaves, report);
    report.journaled = journal.beyond(checkpoint.size).len() as u64;
    let mut known = leaves.clone();
    known.extend(
        journal
            .beyond(checkpoint.size)
            .iter()
            .map(|entry| leaf_hash(entry)),
    );
    files::check(reader, &listing, checkpoint.size, &known, report)?;
    Ok(Some(leaves))
}

/// Leaf hashes of the entries as they are; `None` for the place of one that can't be read.
type Found = Vec<Option<Hash>>;

fn read_entries(reader: &LogReader, size: u64, report: &mut Report) -> io::Result<Found> {
    let (full, partial) = tile::shape(Level::Entries, size);
    let widths = (0..full)
        .map(|index| (index, TILE_WIDTH as u16))
        .chain((partial > 0).then_some((full, partial)));
    let mut found: Found = Vec::with_capacity(size as usize);
    for (index, width) in widths {
        let bytes = match reader.read_at_least(Tile::new(Level::Entries, index, width)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (entries, _) = tile::split_bundle(&bytes);
        let entries = &entries[..entries.len().min(usize::from(width))];
        report.bytes += entries.iter().map(|entry| entry.len() as u64).sum::<u64>();
        found.extend(entries.iter().map(|entry| Some(leaf_hash(entry))));
        found.resize((index * TILE_WIDTH) as usize + usize::from(width), None);
    }
    Ok(found)
}

/// The leaf hashes under the signed root: those of the entries if they lead to it, else those of
/// the tiles if these do, with the entries that differ reported.
fn signed_leaves(
    reader: &LogReader,
    checkpoint: &Checkpoint,
    found: &Found,
    report: &mut Report,
) -> Option<Vec<Hash>> {
    let whole: Option<Vec<Hash>> = found.iter().copied().collect();
    if let Some(leaves) = whole {
        let Ok(root) = merkle::root(&Leaves(&leaves), checkpoint.size);
        if root == checkpoint.root {
            return Some(leaves);
        }
    }
    let size = checkpoint.size;
    let tiled = merkle::root(&TiledTree { reader, size }, size).ok();
    let leads_there = tiled == Some(checkpoint.root);
    let stored = stored_leaves(reader, size);
    if leads_there && let Some(leaves) = descend(reader, size, &stored, found, report) {
        report_entries(reader, &leaves, found, report);
        return Some(leaves);
    }
    let differs = |(index, hash): (usize, &Option<Hash>)| {
        let stored = stored.get(index).copied().flatten();
        (stored.is_none() || *hash != stored).then_some(index as u64)
    };
    match found.iter().enumerate().find_map(differs) {
        Some(index) => report.fault(
            place_of(reader, index),
            "is the first that doesn't fit its leaf hash; the tiles don't lead to the signed root \
             either, so more than this entry was changed",
        ),
        None => report.fault(
            Place::Log,
            format!(
                "is not the one that was signed: entries and tiles fit each other, and their root \
                 is not that of the checkpoint for {size} entries"
            ),
        ),
    }
    None
}

/// Leaf hashes as the level 0 tiles have them.
fn stored_leaves(reader: &LogReader, size: u64) -> Found {
    let (full, partial) = tile::shape(Level::Hashes(0), size);
    let mut stored = Found::new();
    for index in 0..full + u64::from(partial > 0) {
        let width = (size - index * TILE_WIDTH).min(TILE_WIDTH);
        let hashes = reader.hashes(0, index, width as u16).unwrap_or_default();
        stored.extend(hashes.into_iter().map(Some));
        stored.resize((index * TILE_WIDTH + width) as usize, None);
    }
    stored
}

/// From hashes that are known to be right down to the leaves: a full tile below must hash to its
/// place in the tile above. Where the level 0 tile doesn't, its entries may. `None` when neither
/// does; that is reported.
fn descend(
    reader: &LogReader,
    size: u64,
    stored: &Found,
    found: &Found,
    report: &mut Report,
) -> Option<Vec<Hash>> {
    let mut leaves = Vec::with_capacity(size as usize);
    let (full, _) = tile::shape(Level::Hashes(0), size);
    for index in 0..full {
        let range = (index * TILE_WIDTH) as usize..((index + 1) * TILE_WIDTH) as usize;
        let above = index / TILE_WIDTH;
        let width = (full - above * TILE_WIDTH).min(TILE_WIDTH) as u16;
        let parent = reader
            .hashes(1, above, width)
            .ok()
            .map(|hashes| hashes[(index % TILE_WIDTH) as usize]);
        let candidates = [&stored[range.clone()], &found[range.clone()]];
        let right = candidates.into_iter().find_map(|hashes| {
            let hashes: Option<Vec<Hash>> = hashes.iter().copied().collect();
            hashes.filter(|hashes| Some(perfect_root(hashes)) == parent)
        });
        let Some(right) = right else {
            report.fault(
                Place::File(Tile::new(Level::Hashes(0), index, 256).to_string()),
                format!(
                    "and the entries {} to {} that it covers were changed: neither leads to the \
                     signed root",
                    range.start,
                    range.end - 1
                ),
            );
            return None;
        };
        leaves.extend(right);
    }
    let edge: Option<Vec<Hash>> = stored[leaves.len()..].iter().copied().collect();
    leaves.extend(edge?);
    // Trees of three levels and more: the tiles between were not looked at on the way.
    let Ok(root) = merkle::root(&Leaves(&leaves), size);
    let signed = merkle::root(&TiledTree { reader, size }, size).ok();
    (signed == Some(root)).then_some(leaves)
}

fn report_entries(reader: &LogReader, leaves: &[Hash], found: &Found, report: &mut Report) {
    let mut last_bundle = None;
    for (index, (leaf, hash)) in (0u64..).zip(leaves.iter().zip(found)) {
        // One wrong length makes all behind it in the bundle unreadable: the first is named.
        if *hash == Some(*leaf) || last_bundle == Some(index / TILE_WIDTH) {
            continue;
        }
        last_bundle = Some(index / TILE_WIDTH);
        let what = match hash {
            Some(_) => "is not what was logged: its bytes were changed after they were signed for",
            None => "is missing: its bundle was cut or taken away",
        };
        report.fault(place_of(reader, index), what);
    }
}

/// The entry's place, with what its bytes say of themselves.
pub fn place_of(reader: &LogReader, index: u64) -> Place {
    let bytes = reader.entries(index..index + 1).ok();
    let entry = bytes.and_then(|entries| place_says(entries.first()?));
    Place::Entry { index, says: entry }
}

pub fn place_says(bytes: &[u8]) -> Option<(String, jiff::Timestamp)> {
    let entry = Entry::decode(bytes).ok()?;
    let id = crate::audit::text::clean(&entry.id, 40);
    Some((id, entry.time))
}
