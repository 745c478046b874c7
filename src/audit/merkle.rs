//! RFC 6962 section 2.1: hashes of leaves, nodes and trees, inclusion paths.
//!
//! Pure. Where the hashes of complete subtrees come from (tiles on disk, leaves in memory) is
//! behind [`Subtrees`].

use sha2::{Digest, Sha256};

pub const HASH_SIZE: usize = 32;

/// A Merkle Tree Hash or leaf hash.
pub type Hash = [u8; HASH_SIZE];

/// The hash of a leaf: SHA-256 of 0x00 and the entry's bytes.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0u8])
        .chain_update(entry)
        .finalize()
        .into()
}

/// The hash of an inner node: SHA-256 of 0x01 and both children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([1u8])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The root of the tree with no leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// Where hashes of complete subtrees come from.
pub trait Subtrees {
    type Error;
    /// The hash of the complete subtree over leaves `index << height .. (index + 1) << height`.
    fn subtree(&self, height: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// Leaf hashes held in memory.
pub struct Leaves<'a>(pub &'a [Hash]);

impl Subtrees for Leaves<'_> {
    type Error = std::convert::Infallible;

    fn subtree(&self, height: u32, index: u64) -> Result<Hash, Self::Error> {
        let width = 1usize << height;
        let start = (index as usize) * width;
        Ok(perfect_root(&self.0[start..start + width]))
    }
}

/// The root over a power of two of hashes.
pub fn perfect_root(hashes: &[Hash]) -> Hash {
    debug_assert!(hashes.len().is_power_of_two());
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks_exact(2)
            .map(|pair| node_hash(&pair[0], &pair[1]))
            .collect();
    }
    row[0]
}

/// The Merkle Tree Hash over leaves `start..end`; `start` must be where a subtree of that size may
/// begin, as in the recursion of RFC 6962.
pub fn range_root<S: Subtrees>(source: &S, start: u64, end: u64) -> Result<Hash, S::Error> {
    let width = end - start;
    if width == 0 {
        return Ok(empty_root());
    }
    if width.is_power_of_two() {
        let height = width.trailing_zeros();
        return source.subtree(height, start >> height);
    }
    let split = start + largest_power_below(width);
    let left = range_root(source, start, split)?;
    let right = range_root(source, split, end)?;
    Ok(node_hash(&left, &right))
}

/// The root of the tree over the first `size` leaves.
pub fn root<S: Subtrees>(source: &S, size: u64) -> Result<Hash, S::Error> {
    range_root(source, 0, size)
}

/// PATH(index, D[size]) of RFC 6962 section 2.1.1: from the leaf's sibling up.
pub fn inclusion_path<S: Subtrees>(
    source: &S,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, S::Error> {
    assert!(index < size, "an entry's index is below the tree's size");
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let split = start + largest_power_below(end - start);
        if index < split {
            path.push(range_root(source, split, end)?);
            end = split;
        } else {
            path.push(range_root(source, start, split)?);
            start = split;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root that `leaf` at `index` in a tree of `size` leaves leads to over `path`; `None` when the
/// path has the wrong length.
pub fn root_from_path(leaf: Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    // RFC 9162 section 2.1.3.2: walk up with the index of the node and of the last node of its row.
    let (mut node, mut last) = (index, size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The largest power of two smaller than `width`, which is at least 2.
fn largest_power_below(width: u64) -> u64 {
    1 << (63 - (width - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The eight leaves and their roots are the test vectors of the Certificate Transparency
    /// reference implementation (github.com/google/certificate-transparency, merkle tree tests).
    const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    #[test]
    fn roots_are_those_of_the_reference_implementation() {
        let hashes: Vec<Hash> = LEAVES
            .iter()
            .map(|leaf| leaf_hash(&hex::decode(leaf).unwrap()))
            .collect();
        for (size, expected) in ROOTS.iter().enumerate() {
            let root = root(&Leaves(&hashes), size as u64).unwrap();
            assert_eq!(&hex::encode(root), expected, "size {size}");
        }
    }

    #[test]
    fn every_inclusion_path_of_every_small_tree_leads_to_its_root() {
        let hashes = leaves(70);
        for size in 1..=70u64 {
            let expected = root(&Leaves(&hashes), size).unwrap();
            for index in 0..size {
                let path = inclusion_path(&Leaves(&hashes), index, size).unwrap();
                let got = root_from_path(hashes[index as usize], index, size, &path);
                assert_eq!(got, Some(expected), "{index} of {size}");
            }
        }
    }

    #[test]
    fn a_path_of_the_wrong_length_leads_nowhere() {
        let hashes = leaves(6);
        let mut path = inclusion_path(&Leaves(&hashes), 2, 6).unwrap();
        path.push([7; HASH_SIZE]);
        assert_eq!(root_from_path(hashes[2], 2, 6, &path), None);
        assert_eq!(root_from_path(hashes[2], 2, 6, &path[..1]), None);
        assert_eq!(root_from_path(hashes[2], 6, 6, &path), None);
    }

    proptest! {
        #[test]
        fn a_path_proves_no_other_leaf_and_no_other_index(size in 2u64..300, a in any::<u64>(), b in any::<u64>()) {
            let hashes = leaves(size as usize);
            let (index, other) = (a % size, b % size);
            prop_assume!(index != other);
            let expected = root(&Leaves(&hashes), size).unwrap();
            let path = inclusion_path(&Leaves(&hashes), index, size).unwrap();
            prop_assert_ne!(root_from_path(hashes[other as usize], index, size, &path), Some(expected));
            prop_assert_ne!(root_from_path(hashes[index as usize], other, size, &path), Some(expected));
        }
    }
}
