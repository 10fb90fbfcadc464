//! The Merkle tree of RFC 6962 section 2.1 over SHA-256: an append-only frontier, and proofs. Leaf and node hashes
//! are domain-separated by their first byte (0 and 1).

use sha2::{Digest as _, Sha256};

use crate::ids::Digest256;

/// SHA-256(0x00 ‖ leaf).
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Digest256 {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(leaf);
    Digest256::new(hash.finalize().into())
}

/// SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Digest256, right: &Digest256) -> Digest256 {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left.as_bytes());
    hash.update(right.as_bytes());
    Digest256::new(hash.finalize().into())
}

/// The right edge of the tree: what is needed to append and to know the root. At most 64 hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees, largest first: one per set bit of `size`.
    frontier: Vec<Digest256>,
}

impl Tree {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends the hash of a leaf.
    pub fn append(&mut self, leaf: Digest256) {
        let mut carry = leaf;
        let mut bits = self.size;
        while bits & 1 == 1 {
            if let Some(left) = self.frontier.pop() {
                carry = node_hash(&left, &carry);
            }
            bits >>= 1;
        }
        self.frontier.push(carry);
        self.size = self.size.saturating_add(1);
    }

    /// The root: SHA-256 of nothing for the empty tree.
    #[must_use]
    pub fn root(&self) -> Digest256 {
        let mut subtrees = self.frontier.iter().rev().copied();
        let Some(last) = subtrees.next() else { return Digest256::of(b"") };
        subtrees.fold(last, |right, left| node_hash(&left, &right))
    }
}

/// The root over these leaf hashes.
#[must_use]
pub fn root(leaves: &[Digest256]) -> Digest256 {
    let mut tree = Tree::new();
    leaves.iter().for_each(|leaf| tree.append(*leaf));
    tree.root()
}

/// The largest power of two below `n`, for n ≥ 2.
fn split(n: usize) -> usize {
    n.checked_next_power_of_two().map_or(n, |p| if p == n { n >> 1 } else { p >> 1 })
}

/// The audit path of leaf `index` (RFC 6962 section 2.1.1), leaf side first. `None` when there is no such leaf.
#[must_use]
pub fn inclusion_proof(leaves: &[Digest256], index: usize) -> Option<Vec<Digest256>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = leaves.split_at_checked(split(leaves.len()))?;
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (inclusion_proof(left, index)?, root(right)),
        Some(index) => (inclusion_proof(right, index)?, root(left)),
    };
    path.push(sibling);
    Some(path)
}

/// Whether the path proves that `leaf` is at `index` of the tree of `size` leaves with this root.
#[must_use]
pub fn verify_inclusion(leaf: &Digest256, index: u64, size: u64, path: &[Digest256], root: &Digest256) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size.saturating_sub(1), *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// The consistency proof from the first `old` leaves to all of them (RFC 6962 section 2.1.2).
#[must_use]
pub fn consistency_proof(leaves: &[Digest256], old: usize) -> Option<Vec<Digest256>> {
    if old == 0 || old > leaves.len() {
        return None;
    }
    subproof(leaves, old, Whole::Yes)
}

/// Whether the old tree is a whole subtree here, whose root the other side knows.
#[derive(Clone, Copy, PartialEq)]
enum Whole {
    Yes,
    No,
}

fn subproof(leaves: &[Digest256], old: usize, whole: Whole) -> Option<Vec<Digest256>> {
    if old == leaves.len() {
        return Some(if whole == Whole::Yes { Vec::new() } else { vec![root(leaves)] });
    }
    let (left, right) = leaves.split_at_checked(split(leaves.len()))?;
    let (mut proof, other) = if old <= left.len() {
        (subproof(left, old, whole)?, root(right))
    } else {
        (subproof(right, old.checked_sub(left.len())?, Whole::No)?, root(left))
    };
    proof.push(other);
    Some(proof)
}

/// Whether the proof shows that the tree (`new`, `new_root`) extends the tree (`old`, `old_root`).
#[must_use]
pub fn verify_consistency(old: u64, old_root: &Digest256, new: u64, new_root: &Digest256, proof: &[Digest256]) -> bool {
    if old == 0 || old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    let (mut at, mut last) = (old.saturating_sub(1), new.saturating_sub(1));
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let mut proof = proof.iter();
    let seed = if at == 0 { Some(old_root) } else { proof.next() };
    let Some(seed) = seed else { return false };
    let (mut from_old, mut from_new) = (*seed, *seed);
    for hash in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            from_old = node_hash(hash, &from_old);
            from_new = node_hash(hash, &from_new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, hash);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_those_of_rfc_6962() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Tree::new().root().to_string(), empty);
        // The reference tree of the Certificate Transparency test suite.
        let leaves: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::new();
        for (leaf, root) in leaves.iter().zip(roots) {
            tree.append(leaf_hash(leaf));
            assert_eq!(tree.root().to_string(), root);
        }
    }

    #[test]
    fn proofs_hold_for_every_pair_and_fail_when_changed() {
        let leaves: Vec<Digest256> = (0..20_u8).map(|n| leaf_hash(&[n])).collect();
        for size in 1..=leaves.len() {
            let tree = &leaves[..size];
            let top = root(tree);
            for index in 0..size {
                let path = inclusion_proof(tree, index).expect("a leaf of the tree");
                let (i, n) = (index as u64, size as u64);
                assert!(verify_inclusion(&tree[index], i, n, &path, &top));
                assert!(!verify_inclusion(&leaf_hash(b"x"), i, n, &path, &top));
                assert!(size == 1 || !verify_inclusion(&tree[index], (i + 1) % n, n, &path, &top));
                assert!(path.is_empty() || !verify_inclusion(&tree[index], i, n, &path[1..], &top));
            }
            for old in 1..=size {
                let proof = consistency_proof(tree, old).expect("a prefix");
                let before = root(&tree[..old]);
                let (o, n) = (old as u64, size as u64);
                assert!(verify_consistency(o, &before, n, &top, &proof), "{old} {size}");
                assert!(!verify_consistency(o, &leaf_hash(b"x"), n, &top, &proof));
                assert!(old == size || !verify_consistency(o, &before, n, &leaf_hash(b"x"), &proof));
            }
        }
    }
}
