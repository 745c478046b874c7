//! The growing right edge of the Merkle tree, held in memory by the writer.
//!
//! Pure: entries go in, tiles, bundles and roots come out. Only what can still change is kept (at
//! most one partial tile a level and one partial bundle), plus tiles that filled up and wait to be
//! written.

use super::merkle::{self, Hash, leaf_hash, node_hash, perfect_root};
use super::tile::{self, Level, TILE_WIDTH, Tile};

/// A tile and its bytes.
pub type Filled = (Tile, Vec<u8>);

#[derive(Debug, Default)]
pub struct Tree {
    size: u64,
    /// Hashes of the partial tile of each level, from level 0 up.
    levels: Vec<Vec<Hash>>,
    /// The partial entry bundle.
    bundle: Vec<u8>,
    /// Full tiles and bundles not yet taken by the writer, in the order in which they filled.
    completed: Vec<Filled>,
}

impl Tree {
    /// The tree over leaves whose hashes are known from tiles, with the entries of its partial
    /// bundle.
    pub fn restore(leaves: impl IntoIterator<Item = Hash>, bundle: Vec<u8>) -> Self {
        let mut tree = Self::default();
        for leaf in leaves {
            tree.push_leaf(leaf);
            tree.completed.clear();
        }
        tree.bundle = bundle;
        tree
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn push(&mut self, entry: &[u8]) {
        tile::push_entry(&mut self.bundle, entry);
        let index = self.size / TILE_WIDTH;
        self.push_leaf(leaf_hash(entry));
        if self.size.is_multiple_of(TILE_WIDTH) {
            let full = Tile::new(Level::Entries, index, TILE_WIDTH as u16);
            let bundle = std::mem::take(&mut self.bundle);
            self.completed.push((full, bundle));
        }
    }

    fn push_leaf(&mut self, leaf: Hash) {
        self.size += 1;
        let mut hash = leaf;
        let mut counted = self.size;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::with_capacity(TILE_WIDTH as usize));
            }
            self.levels[level].push(hash);
            if !counted.is_multiple_of(TILE_WIDTH) {
                break;
            }
            let hashes = std::mem::take(&mut self.levels[level]);
            counted /= TILE_WIDTH;
            let full = Tile::new(Level::Hashes(level as u8), counted - 1, TILE_WIDTH as u16);
            self.completed.push((full, hashes.concat()));
            hash = perfect_root(&hashes);
        }
    }

    /// Full tiles that nobody has taken yet.
    pub fn completed(&self) -> &[Filled] {
        &self.completed
    }

    pub fn forget_completed(&mut self) {
        self.completed.clear();
    }

    /// The partial tiles and the partial bundle of the tree as it is.
    pub fn partials(&self) -> Vec<Filled> {
        let hashes = self
            .levels
            .iter()
            .enumerate()
            .map(|(level, hashes)| (Level::Hashes(level as u8), hashes.concat()));
        hashes
            .chain([(Level::Entries, self.bundle.clone())])
            .filter_map(|(level, bytes)| {
                let (index, width) = tile::shape(level, self.size);
                (width > 0).then(|| (Tile::new(level, index, width), bytes))
            })
            .collect()
    }

    pub fn root(&self) -> Hash {
        // Complete subtrees from left to right: the highest level first, and within a level the
        // binary digits of the number of hashes, the largest first.
        let mut subtrees = Vec::new();
        for hashes in self.levels.iter().rev() {
            let mut rest = &hashes[..];
            while !rest.is_empty() {
                let (subtree, after) = rest.split_at(1 << rest.len().ilog2());
                subtrees.push(perfect_root(subtree));
                rest = after;
            }
        }
        let right_to_left = subtrees.iter().rev().copied();
        right_to_left
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(merkle::empty_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::merkle::Leaves;

    #[test]
    fn the_root_is_that_of_the_whole_tree_at_every_size() {
        let mut tree = Tree::default();
        let mut leaves = Vec::new();
        for i in 0..1_000u32 {
            let expected = merkle::root(&Leaves(&leaves), tree.size()).unwrap();
            assert_eq!(tree.root(), expected, "size {i}");
            let entry = i.to_be_bytes();
            leaves.push(leaf_hash(&entry));
            tree.push(&entry);
        }
    }

    #[test]
    fn two_levels_fill_as_the_specification_counts() {
        let mut tree = Tree::default();
        for _ in 0..70_000 {
            tree.push(b"x");
        }
        let count = |level| {
            let of_level = |filled: &&Filled| filled.0.level == level;
            tree.completed().iter().filter(of_level).count()
        };
        assert_eq!(count(Level::Hashes(0)), 273);
        assert_eq!(count(Level::Hashes(1)), 1);
        assert_eq!(count(Level::Hashes(2)), 0);
        assert_eq!(count(Level::Entries), 273);
        let widths: Vec<String> = tree.partials().iter().map(|p| p.0.to_string()).collect();
        let expected = [
            "tile/0/273.p/112",
            "tile/1/001.p/17",
            "tile/2/000.p/1",
            "tile/entries/273.p/112",
        ];
        assert_eq!(widths, expected);
        for (tile, bytes) in tree.partials().iter().chain(tree.completed()) {
            if tile.level != Level::Entries {
                assert_eq!(bytes.len(), usize::from(tile.width) * merkle::HASH_SIZE);
            }
        }
    }

    #[test]
    fn a_restored_tree_goes_on_like_the_one_before() {
        let (mut before, mut leaves) = (Tree::default(), Vec::new());
        for i in 0..300u32 {
            before.push(&i.to_be_bytes());
            leaves.push(leaf_hash(&i.to_be_bytes()));
        }
        let bundle = before.partials().pop().unwrap().1;
        let mut after = Tree::restore(leaves, bundle);
        assert!(after.completed().is_empty());
        before.forget_completed();
        for i in 300..600u32 {
            before.push(&i.to_be_bytes());
            after.push(&i.to_be_bytes());
        }
        assert_eq!(after.root(), before.root());
        assert_eq!(after.completed(), before.completed());
        assert_eq!(after.partials(), before.partials());
    }
}
