//! Merkle tree hashes and inclusion proofs of RFC 6962 (section 2.1; RFC 9162, section 2.1.3 for checking a proof).
//!
//! The root is built as leaves stream by, holding one digest for each power of two; a path needs the leaves at hand. Leaves
//! and inner nodes begin with different bytes, so that neither can be passed off as the other.

use crate::model::digest::{Digest, Hasher};

/// The hash of a leaf with the content `data`.
pub fn leaf(data: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(&[0]);
    hasher.update(data);
    hasher.finish()
}

fn node(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(&[1]);
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    hasher.finish()
}

/// The root of a tree whose leaves come one after the other.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Leaves taken.
    size: u64,
    /// The roots of complete subtrees, the largest first: one for each bit of the size.
    subtrees: Vec<Digest>,
}

impl Tree {
    /// Takes the hash of the next leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut root = leaf;
        // Each trailing one of the size is a subtree as large as the one that has just become complete.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                root = node(&left, &root);
            }
        }
        self.subtrees.push(root);
        self.size += 1;
    }

    /// Leaves taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over what was taken; of no leaf the digest of nothing.
    pub fn root(&self) -> Digest {
        let joined = self.subtrees.iter().rev().copied().reduce(|right, left| node(&left, &right));
        joined.unwrap_or_else(|| Digest::of(b""))
    }
}

/// The audit path of leaf `index` (from 0) among `leaves`, the sibling of the leaf first. Nothing when there is no such leaf.
pub fn path(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    let (mut rest, mut at, mut path) = (leaves, index, Vec::new());
    leaves.get(index)?;
    while rest.len() > 1 {
        let (left, right) = rest.split_at(rest.len().next_power_of_two() / 2);
        let sibling = if at < left.len() { right } else { left };
        path.push(root(sibling));
        (rest, at) = if at < left.len() { (left, at) } else { (right, at - left.len()) };
    }
    path.reverse();
    Some(path)
}

fn root(leaves: &[Digest]) -> Digest {
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

/// Whether `path` leads from the hash `leaf` of leaf `index` (from 0) to the `root` of a tree of `size` leaves.
pub fn is_included(leaf: &Digest, index: u64, size: u64, path: &[Digest], root: &Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut reached) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            reached = node(sibling, &reached);
            // The last node of a level without a sibling goes up as it is.
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            reached = node(&reached, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && reached == *root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Leaves, roots and paths that the reference implementation of Certificate Transparency is tested with
    /// (google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc).
    const LEAVES: [&[u8]; 8] = [
        b"",
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
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
    const PATHS: [(usize, usize, &[&str]); 5] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];

    #[test]
    fn roots_and_paths_are_those_of_the_reference_implementation() {
        let leaves: Vec<Digest> = LEAVES.iter().map(|data| leaf(data)).collect();
        for (size, expected) in ROOTS.iter().enumerate() {
            assert_eq!(root(&leaves[..size]).to_string(), *expected, "{size} leaves");
        }
        for (index, size, expected) in PATHS {
            let told: Vec<String> = path(&leaves[..size], index).unwrap().iter().map(Digest::to_string).collect();
            assert_eq!(told, expected, "leaf {index} of {size}");
        }
        assert_eq!(path(&leaves, 8), None);
    }

    /// The definition of the RFC, word for word.
    fn defined(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [leaf] => *leaf,
            leaves => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(&defined(left), &defined(right))
            }
        }
    }

    proptest! {
        #[test]
        fn every_leaf_is_proven_and_nothing_else(size in 1..200_u64, at in any::<u64>(), other in any::<u64>(), bit in 0..256_usize) {
            let leaves: Vec<Digest> = (0..size).map(|number| leaf(&number.to_le_bytes())).collect();
            let (at, other) = (at % size, other % size);
            let index = usize::try_from(at).unwrap();
            let root = root(&leaves);
            prop_assert_eq!(root, defined(&leaves));
            let path = path(&leaves, index).unwrap();
            prop_assert!(is_included(&leaves[index], at, size, &path, &root));
            let wrong = leaves[usize::try_from(other).unwrap()];
            prop_assert_eq!(is_included(&wrong, at, size, &path, &root), other == at);
            prop_assert_eq!(is_included(&leaves[index], other, size, &path, &root), other == at);
            prop_assert!(!is_included(&leaves[index], at, at, &path, &root), "beyond the tree");
            if !path.is_empty() {
                let mut flipped = path.clone();
                let mut bytes = *flipped[bit % path.len()].as_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                flipped[bit % path.len()] = bytes.into();
                prop_assert!(!is_included(&leaves[index], at, size, &flipped, &root));
                prop_assert!(!is_included(&leaves[index], at, size, &path[1..], &root));
            }
            let longer = [path.as_slice(), &[root]].concat();
            prop_assert!(!is_included(&leaves[index], at, size, &longer, &root));
        }
    }
}
