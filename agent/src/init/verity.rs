//! dm-verity: the superblock on the hash disk, parsed strictly, and the table line made of it.
//!
//! The root hash comes from the measured command line and covers the tree and its salt, so a host that changes the
//! superblock can only make the root unreadable. Format: cryptsetup's `verity_sb`, version 1 (512 bytes, little endian).

use super::error::BootError;
use std::fmt::Write as _;

const STAGE: &str = "verity";
/// The one block size this image format uses, for data and for hashes.
pub const BLOCK: u64 = 4096;
const SUPERBLOCK: usize = 512;
const SALT_MAX: usize = 256;

/// What the superblock says, after everything fixed was checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Number of data blocks of 4,096 bytes.
    pub data_blocks: u64,
    /// Prepended to every block that is hashed.
    pub salt: Vec<u8>,
}

impl Superblock {
    /// Parses the first bytes of the hash disk.
    pub fn parse(bytes: &[u8]) -> Result<Self, BootError> {
        let block = bytes.get(..SUPERBLOCK).ok_or_else(|| unexpected("512 bytes of superblock", "fewer"))?;
        let u32_at = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let mut name = [0_u8; 32];
        name[..6].copy_from_slice(b"sha256");
        require("the signature `verity`", block[..8] == *b"verity\0\0")?;
        require("version 1", u32_at(8) == 1)?;
        require("hash type 1", u32_at(12) == 1)?;
        require("sha256", block[32..64] == name)?;
        require("data blocks of 4096 bytes", u64::from(u32_at(64)) == BLOCK)?;
        require("hash blocks of 4096 bytes", u64::from(u32_at(68)) == BLOCK)?;
        let mut count = [0_u8; 8];
        count.copy_from_slice(&block[72..80]);
        let data_blocks = u64::from_le_bytes(count);
        // 2^31 blocks are 8 TiB: no image is that large, and the products below cannot overflow.
        require("between 1 and 2^31 data blocks", (1..=1 << 31).contains(&data_blocks))?;
        let salt_size = usize::from(u16::from_le_bytes([block[80], block[81]]));
        require("a salt of at most 256 bytes", salt_size <= SALT_MAX)?;
        require("zeros as padding", block[82..88].iter().all(|&byte| byte == 0))?;
        require("zeros after the salt", block[88 + salt_size..].iter().all(|&byte| byte == 0))?;
        Ok(Self { data_blocks, salt: block[88..88 + salt_size].to_vec() })
    }

    /// Sectors of 512 bytes of the verified device.
    pub fn sectors(&self) -> u64 {
        self.data_blocks * (BLOCK / 512)
    }

    /// The parameters of the `verity` target. A block that does not verify panics the kernel: only the host can
    /// cause that, and nothing the guest does afterwards would be worth having.
    pub fn table(&self, data: &str, hash: &str, root: &RootHash) -> String {
        let salt = if self.salt.is_empty() { "-".into() } else { hex(&self.salt) };
        format!(
            "1 {data} {hash} {BLOCK} {BLOCK} {} 1 sha256 {} {salt} 1 panic_on_corruption",
            self.data_blocks,
            hex(&root.0)
        )
    }
}

/// The root hash of the verity tree, from the measured command line.
#[derive(Debug, PartialEq, Eq)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// Takes the one `coffer.root=` of the command line: 64 lower-case hex digits.
    pub fn from_command_line(line: &str) -> Result<Self, BootError> {
        let mut words = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("coffer.root="));
        let (Some(text), None) = (words.next(), words.next()) else {
            return Err(unexpected("exactly one coffer.root= on the command line", "none or several"));
        };
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(digits) {
            return Err(unexpected("64 lower-case hex digits after coffer.root=", &format!("{text:?}")));
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or("00");
            *byte = u8::from_str_radix(pair, 16).unwrap_or(0);
        }
        Ok(Self(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn require(expected: &str, holds: bool) -> Result<(), BootError> {
    if holds { Ok(()) } else { Err(unexpected(expected, "something else")) }
}

fn unexpected(expected: &str, found: &str) -> BootError {
    BootError::Unexpected { stage: STAGE, expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Vec<u8> {
        let mut block = vec![0_u8; 4096];
        block[..8].copy_from_slice(b"verity\0\0");
        block[8] = 1;
        block[12] = 1;
        block[16..32].fill(9);
        block[32..38].copy_from_slice(b"sha256");
        block[64..68].copy_from_slice(&4096_u32.to_le_bytes());
        block[68..72].copy_from_slice(&4096_u32.to_le_bytes());
        block[72..80].copy_from_slice(&300_u64.to_le_bytes());
        block[80..82].copy_from_slice(&2_u16.to_le_bytes());
        block[88..90].copy_from_slice(&[0xab, 0xcd]);
        block
    }

    #[test]
    fn the_table_line_is_made_of_superblock_and_command_line() {
        let parsed = Superblock::parse(&superblock()).unwrap();
        assert_eq!(parsed.sectors(), 2400);
        let root = RootHash::from_command_line(&format!("quiet coffer.root={} x", "0f".repeat(32))).unwrap();
        assert_eq!(
            parsed.table("/dev/vda", "/dev/vdb", &root),
            format!("1 /dev/vda /dev/vdb 4096 4096 300 1 sha256 {} abcd 1 panic_on_corruption", "0f".repeat(32))
        );
    }

    #[test]
    fn every_fixed_field_of_the_superblock_is_insisted_on() {
        for at in [0, 7, 8, 12, 32, 38, 63, 65, 69, 76, 81, 82, 90, 343, 511] {
            let mut block = superblock();
            block[at] ^= 0x80;
            assert!(Superblock::parse(&block).is_err(), "byte {at} was changed and nobody minded");
        }
        assert!(Superblock::parse(&superblock()[..511]).is_err());
    }

    #[test]
    fn a_command_line_without_exactly_one_root_hash_is_refused() {
        let root = "0f".repeat(32);
        assert!(RootHash::from_command_line("quiet").is_err());
        assert!(RootHash::from_command_line(&format!("coffer.root={root} coffer.root={root}")).is_err());
        assert!(RootHash::from_command_line(&format!("coffer.root={}", root.to_uppercase())).is_err());
        assert!(RootHash::from_command_line("coffer.root=0f0f").is_err());
    }
}
