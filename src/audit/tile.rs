//! Paths and contents of tiles and entry bundles, as in <https://c2sp.org/tlog-tiles>.
//!
//! Pure: names files and cuts bytes; reading and writing them is [`super::reader`]'s and
//! [`super::writer`]'s part.

use std::fmt;

use super::merkle::{HASH_SIZE, Hash};

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Height of the subtree that a full tile spans.
pub const TILE_HEIGHT: u32 = 8;
/// The longest entry a bundle can hold: its length is a uint16.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// What a file under `tile/` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Hashes: leaf hashes at level 0, roots of full tiles of the level below above that.
    Hashes(u8),
    Entries,
}

/// Names one file under `tile/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    pub level: Level,
    pub index: u64,
    /// 256 for a full tile, 1 to 255 for a partial one.
    pub width: u16,
}

impl Tile {
    pub fn new(level: Level, index: u64, width: u16) -> Self {
        debug_assert!((1..=256).contains(&width));
        Self {
            level,
            index,
            width,
        }
    }

    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// The directory that holds this tile's partial versions, relative to the log directory.
    pub fn partials_directory(&self) -> String {
        let full = Self {
            width: 256,
            ..*self
        };
        format!("{full}.p")
    }

    /// Reads a path relative to the log directory. `None` for anything that is not exactly how this
    /// tile's path is written.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let level = match level {
            "entries" => Level::Entries,
            number => Level::Hashes(number.parse().ok().filter(|l| *l < 64)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|w| (1..256).contains(w))?),
            None => (rest, 256u16),
        };
        let mut index = 0u64;
        for element in number.split('/') {
            let digits = element.strip_prefix('x').unwrap_or(element);
            let value: u64 = digits.parse().ok()?;
            index = index.checked_mul(1000)?.checked_add(value)?;
        }
        let tile = Self::new(level, index, width);
        (tile.to_string() == path).then_some(tile)
    }
}

impl fmt::Display for Tile {
    /// The path relative to the log directory: 1234067 is written `x001/x234/067`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::Hashes(level) => write!(f, "tile/{level}/")?,
            Level::Entries => f.write_str("tile/entries/")?,
        }
        let mut elements = vec![format!("{:03}", self.index % 1000)];
        let mut rest = self.index / 1000;
        while rest > 0 {
            elements.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        elements.reverse();
        f.write_str(&elements.join("/"))?;
        if !self.is_full() {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

/// The tiles of one level that a tree of `size` entries has: full ones, and the width of the
/// partial one behind them (0 when there is none).
pub fn shape(level: Level, size: u64) -> (u64, u16) {
    let hashes = match level {
        Level::Hashes(level) => size
            .checked_shr(TILE_HEIGHT * u32::from(level))
            .unwrap_or(0),
        Level::Entries => size,
    };
    (hashes / TILE_WIDTH, (hashes % TILE_WIDTH) as u16)
}

/// The last level of hash tiles that a tree of `size` entries has; `None` for the empty tree.
pub fn top_level(size: u64) -> Option<u8> {
    (0..8)
        .rev()
        .find(|level| size >> (TILE_HEIGHT * u32::from(*level)) > 0)
}

/// Adds one length-prefixed entry to a bundle.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).expect("entries are capped below 65,536 bytes");
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
}

/// Cuts a bundle into its entries. The second value is what is left over when the bytes end inside
/// an entry.
pub fn split_bundle(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some((prefix, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*prefix));
        if tail.len() < length {
            break;
        }
        let (entry, after) = tail.split_at(length);
        entries.push(entry);
        rest = after;
    }
    (entries, rest)
}

/// Cuts a tile into its hashes; `None` when it isn't made of whole hashes.
pub fn split_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<HASH_SIZE>();
    rest.is_empty().then(|| hashes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_written_as_the_specification_shows() {
        let tile = Tile::new(Level::Hashes(0), 1_234_067, 256);
        assert_eq!(tile.to_string(), "tile/0/x001/x234/067");
        let partial = Tile::new(Level::Entries, 5, 17);
        assert_eq!(partial.to_string(), "tile/entries/005.p/17");
        assert_eq!(partial.partials_directory(), "tile/entries/005.p");
    }

    #[test]
    fn a_tree_of_70000_has_the_tiles_that_the_specification_counts() {
        assert_eq!(shape(Level::Hashes(0), 70_000), (273, 112));
        assert_eq!(shape(Level::Hashes(1), 70_000), (1, 17));
        assert_eq!(shape(Level::Hashes(2), 70_000), (0, 1));
        assert_eq!(shape(Level::Hashes(3), 70_000), (0, 0));
        assert_eq!(shape(Level::Entries, 70_000), (273, 112));
        assert_eq!(top_level(70_000), Some(2));
        assert_eq!(top_level(256), Some(1));
        assert_eq!(top_level(0), None);
    }

    #[test]
    fn other_spellings_of_a_path_are_refused() {
        for wrong in [
            "tile/0/1",
            "tile/00/001",
            "tile/64/001",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/07",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/+01",
            "tile/0/",
            "tile/entries",
            "checkpoint",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_bundle_that_ends_inside_an_entry_gives_the_rest_back() {
        let mut bundle = Vec::new();
        push_entry(&mut bundle, b"one");
        push_entry(&mut bundle, b"");
        push_entry(&mut bundle, b"three");
        let (entries, rest) = split_bundle(&bundle);
        assert_eq!(entries, [&b"one"[..], b"", b"three"]);
        assert!(rest.is_empty());
        let (entries, rest) = split_bundle(&bundle[..bundle.len() - 1]);
        assert_eq!(entries.len(), 2);
        assert_eq!(rest, b"\0\x05thre");
    }

    proptest! {
        #[test]
        fn a_path_read_back_names_the_same_tile(level in 0u8..64, index: u64, width in 1u16..=256, entries: bool) {
            let level = if entries { Level::Entries } else { Level::Hashes(level) };
            let tile = Tile::new(level, index, width);
            prop_assert_eq!(Tile::parse(&tile.to_string()), Some(tile));
        }
    }
}
