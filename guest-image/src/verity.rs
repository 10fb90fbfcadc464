//! The dm-verity hash tree over a file, with the superblock that `veritysetup` writes, so that its tools read ours.
//! Format: the kernel's admin-guide/device-mapper/verity.rst (hash type 1) and cryptsetup's `verity_sb`, version 1.
//! Not here: opening the device; the agent does that in the guest.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

/// Size of a data block and of a hash block, in bytes.
pub const BLOCK: usize = 4096;
/// Hashes in one hash block.
const FANOUT: usize = BLOCK / 32;
/// No image is larger, in bytes: 64 GiB.
const DATA_MAX: u64 = 64 << 30;
/// The salt of every image. It need not be random: the tree protects public bytes, and the same packages must give the
/// same tree. It is the SHA-256 of `coffer/verity/salt/v1`.
pub const SALT: [u8; 32] = [
    0x2d, 0x97, 0x8a, 0x8a, 0x73, 0x6d, 0xce, 0xcd, 0xdf, 0xf9, 0x36, 0x9b, 0x1a, 0x14, 0x67, 0xc9, 0x30, 0x1f, 0x72,
    0x3d, 0x21, 0x4f, 0xc6, 0x42, 0xa9, 0x35, 0x7c, 0xde, 0x5d, 0xbf, 0xb1, 0xac,
];
/// The UUID in the superblock, fixed for the same reason.
pub const UUID: [u8; 16] = *b"coffer-verity-v1";

/// What is wrong with the data, or with reading and writing.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// The data has no whole number of blocks, or none, or too many.
    #[error("expected the root file system to be 1 to {} blocks of {BLOCK} bytes, found {found} bytes: build it again", DATA_MAX / BLOCK as u64)]
    Size {
        /// Bytes that were there.
        found: u64,
    },
    /// Reading the data or writing the tree failed.
    #[error("building the verity tree")]
    Io(#[from] io::Error),
}

/// Reads all of `data`, writes superblock and tree to `tree`, and gives back the root hash.
///
/// The tree is written from the top level down, as the kernel expects; all of it is held in memory (1/128 of the data).
pub fn build(mut data: impl Read, mut tree: impl Write) -> Result<[u8; 32], VerityError> {
    let (mut level, length) = leaves(&mut data)?;
    if length == 0 || !length.is_multiple_of(BLOCK as u64) {
        return Err(VerityError::Size { found: length });
    }
    let mut levels = Vec::new();
    let root = loop {
        let blocks = to_blocks(&level);
        // One block is hashed once more: its hash is the root. (One data block alone has no level at all.)
        if level.len() == 1 {
            break level[0];
        }
        level = blocks.chunks_exact(BLOCK).map(hash).collect();
        levels.push(blocks);
    };
    tree.write_all(&superblock(length / BLOCK as u64))?;
    for blocks in levels.iter().rev() {
        tree.write_all(blocks)?;
    }
    tree.flush()?;
    Ok(root)
}

fn leaves(data: &mut impl Read) -> Result<(Vec<[u8; 32]>, u64), VerityError> {
    let mut hashes = Vec::new();
    let mut length = 0_u64;
    let mut block = vec![0; BLOCK];
    loop {
        let filled = fill(data, &mut block)?;
        length += filled as u64;
        if filled == 0 {
            return Ok((hashes, length));
        }
        if filled < BLOCK || length > DATA_MAX {
            return Err(VerityError::Size { found: length });
        }
        hashes.push(hash(&block));
    }
}

fn fill(data: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match data.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hash(block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(SALT).chain_update(block).finalize().into()
}

/// Hashes side by side, the last block filled up with zeros.
fn to_blocks(hashes: &[[u8; 32]]) -> Vec<u8> {
    let mut blocks = hashes.concat();
    blocks.resize(hashes.len().div_ceil(FANOUT) * BLOCK, 0);
    blocks
}

fn superblock(data_blocks: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &1_u32.to_le_bytes());
    put(12, &1_u32.to_le_bytes());
    put(16, &UUID);
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &data_blocks.to_le_bytes());
    put(80, &(SALT.len() as u16).to_le_bytes());
    put(88, &SALT);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn data(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK).map(|at| (at / 7 + at / BLOCK) as u8).collect()
    }

    #[test]
    fn the_salt_is_the_hash_of_its_label() {
        assert_eq!(SALT[..], Sha256::digest(b"coffer/verity/salt/v1")[..]);
    }

    #[test]
    fn data_without_a_whole_number_of_blocks_is_refused() {
        for length in [0, 1, BLOCK - 1, BLOCK + 1] {
            let result = build(&data(2)[..length], Vec::new());
            assert!(matches!(result, Err(VerityError::Size { found }) if found == length as u64), "{length}");
        }
    }

    #[test]
    fn every_changed_byte_changes_the_root() {
        let mut bytes = data(130);
        let root = build(&bytes[..], Vec::new()).unwrap();
        for at in [0, BLOCK, 129 * BLOCK + 4095] {
            bytes[at] ^= 1;
            assert_ne!(build(&bytes[..], Vec::new()).unwrap(), root, "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn the_tree_is_byte_for_byte_the_one_of_veritysetup() {
        let Some(program) =
            ["/usr/sbin/veritysetup", "/sbin/veritysetup"].iter().find(|path| std::path::Path::new(path).exists())
        else {
            println!("NOT RUN: veritysetup is not installed (cryptsetup-bin)");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let (data_path, theirs) = (dir.path().join("data"), dir.path().join("theirs"));
        // 1 block: no level. 128: one full level. 129 and 16,385: one hash more than a level holds.
        for blocks in [1, 2, 127, 128, 129, 300, 16_385] {
            let bytes = data(blocks);
            std::fs::write(&data_path, &bytes).unwrap();
            drop(std::fs::remove_file(&theirs));
            let output = Command::new(program)
                .arg("format")
                .arg(format!("--salt={}", hex::encode(SALT)))
                .args(["--uuid=636f6666-6572-2d76-6572-6974792d7631", "--hash=sha256"])
                .args(["--data-block-size=4096", "--hash-block-size=4096"])
                .args([&data_path, &theirs])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let mut ours = Vec::new();
            let root = build(&bytes[..], &mut ours).unwrap();
            assert!(String::from_utf8_lossy(&output.stdout).contains(&hex::encode(root)), "{blocks} blocks: root hash");
            assert!(std::fs::read(&theirs).unwrap() == ours, "{blocks} blocks: hash device");
        }
    }
}
