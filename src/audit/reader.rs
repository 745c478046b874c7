//! Reads the published part of a log directory: checkpoint, tiles, entries.
//!
//! Never writes and takes no lock, so it works beside a running writer and on a copy. It trusts
//! nothing: who needs certainty checks what it reads against a checkpoint ([`super::verify`],
//! [`super::proof`]).

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::disk::CHECKPOINT;
use super::merkle::{HASH_SIZE, Hash, Subtrees, perfect_root};
use super::tile::{self, Level, TILE_HEIGHT, TILE_WIDTH, Tile};

#[derive(Debug, Clone)]
pub struct LogReader {
    directory: PathBuf,
}

impl LogReader {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The signed checkpoint as it stands; not verified.
    pub fn checkpoint_text(&self) -> io::Result<String> {
        fs::read_to_string(self.directory.join(CHECKPOINT))
    }

    /// The bytes of exactly this file.
    pub fn read_exactly(&self, tile: Tile) -> io::Result<Vec<u8>> {
        fs::read(self.directory.join(tile.to_string()))
    }

    /// At least `tile.width` hashes or entries of this tile: from its own file, or from the full
    /// one or a wider partial one when it has been replaced since.
    pub fn read_at_least(&self, tile: Tile) -> io::Result<Vec<u8>> {
        let missing = match self.read_exactly(tile) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => error,
            read => return read,
        };
        let full = Tile { width: 256, ..tile };
        for _ in 0..3 {
            match self.read_exactly(full) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
            let Some(wider) = self.partials(tile).into_iter().max() else {
                break;
            };
            if wider.width < tile.width {
                break;
            }
            match self.read_exactly(wider) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => return read,
            }
        }
        Err(io::Error::new(
            missing.kind(),
            format!("{tile} is missing in {}", self.directory.display()),
        ))
    }

    /// The partial versions of this tile that are there, in no order.
    pub fn partials(&self, tile: Tile) -> Vec<Tile> {
        let directory = tile.partials_directory();
        let Ok(files) = fs::read_dir(self.directory.join(&directory)) else {
            return Vec::new();
        };
        files
            .flatten()
            .filter_map(|file| {
                let name = file.file_name();
                Tile::parse(&format!("{directory}/{}", name.to_str()?))
            })
            .collect()
    }

    /// The first `width` hashes of a hash tile.
    pub fn hashes(&self, level: u8, index: u64, width: u16) -> io::Result<Vec<Hash>> {
        let tile = Tile::new(Level::Hashes(level), index, width);
        let bytes = self.read_at_least(tile)?;
        let whole = bytes.get(..usize::from(width) * HASH_SIZE);
        whole
            .and_then(tile::split_hashes)
            .ok_or_else(|| damaged(tile, "is too short"))
    }

    /// The first `width` entries of a bundle.
    pub fn bundle(&self, index: u64, width: u16) -> io::Result<Vec<Vec<u8>>> {
        let tile = Tile::new(Level::Entries, index, width);
        let bytes = self.read_at_least(tile)?;
        let (entries, _) = tile::split_bundle(&bytes);
        let whole = entries
            .get(..usize::from(width))
            .ok_or_else(|| damaged(tile, "holds fewer entries than it should"))?;
        Ok(whole.iter().map(|entry| entry.to_vec()).collect())
    }

    /// Entries of a range that lies within a published size, at most up to the end of the bundle
    /// that the range begins in. For an empty range there are none.
    pub fn entries(&self, range: Range<u64>) -> io::Result<Vec<Vec<u8>>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let index = range.start / TILE_WIDTH;
        let first = index * TILE_WIDTH;
        let width = (range.end - first).min(TILE_WIDTH);
        let mut entries = self.bundle(index, width as u16)?;
        entries.drain(..(range.start - first) as usize);
        Ok(entries)
    }
}

fn damaged(tile: Tile, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{tile} {what}"))
}

/// The tree of a given size, its hashes read from tiles.
pub struct TiledTree<'a> {
    pub reader: &'a LogReader,
    pub size: u64,
}

impl Subtrees for TiledTree<'_> {
    type Error = io::Error;

    fn subtree(&self, height: u32, index: u64) -> io::Result<Hash> {
        let level = height / TILE_HEIGHT;
        let within = height % TILE_HEIGHT;
        // In the tile's level, the subtree spans these hashes.
        let first = index << within;
        let tile_index = first / TILE_WIDTH;
        let stored = self.size >> (TILE_HEIGHT * level);
        let width = (stored - tile_index * TILE_WIDTH).min(TILE_WIDTH);
        let hashes = self.reader.hashes(level as u8, tile_index, width as u16)?;
        let start = (first % TILE_WIDTH) as usize;
        Ok(perfect_root(&hashes[start..start + (1 << within)]))
    }
}
