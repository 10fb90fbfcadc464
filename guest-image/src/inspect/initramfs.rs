//! Reads an initramfs as the kernel gets it: one zstd frame around one newc archive. Nothing of it is trusted: sizes end
//! at named limits, and bytes after the frame are refused, because the kernel would unpack them as a second archive.

use super::Kind;
use ruzstd::decoding::StreamingDecoder;
use std::collections::HashSet;
use std::io::{self, Read as _};

/// Of a header: its magic number, and all of it. Between them stand thirteen numbers of eight hex digits.
const MAGIC: &[u8] = b"070701";
const HEADER: usize = 110;
/// Where the length of the name stands in it.
const NAME_LENGTH: std::ops::Range<usize> = 94..102;

/// Most of everything that is read of an initramfs.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes, unpacked.
    pub unpacked: u64,
    /// Entries.
    pub entries: u64,
}

impl Limits {
    /// Those of a guest's initramfs.
    pub const GUEST: Self = Self { unpacked: 256 << 20, entries: 10_000 };
}

/// Why an initramfs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// Not the one form.
    #[error("expected {0} in the initramfs: it is damaged, or made by another program than ours")]
    Format(&'static str),
    /// More than is read.
    #[error("expected at most {most} {what} in the initramfs, found more")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is read.
        most: u64,
    },
    /// The archive.
    #[error("reading the archive of the initramfs")]
    Io(#[from] io::Error),
}

/// One entry with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path from the root, as the archive has it.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// The twelve permission bits.
    pub permissions: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Content of a file, target of a link.
    pub content: Vec<u8>,
}

/// Every entry, in the order of the archive.
pub fn entries(compressed: &[u8], limits: Limits) -> Result<Vec<Entry>, InitramfsError> {
    let archive = unpack(compressed, limits.unpacked)?;
    let mut found = Vec::new();
    let mut paths = HashSet::new();
    let mut rest: &[u8] = &archive;
    loop {
        check_header(rest)?;
        let mut reader = cpio::newc::Reader::new(rest)?;
        if reader.entry().is_trailer() {
            let rest = reader.finish()?;
            return if rest.iter().all(|byte| *byte == 0) {
                Ok(found)
            } else {
                Err(InitramfsError::Format("nothing after the end of the archive"))
            };
        }
        if found.len() as u64 >= limits.entries {
            return Err(InitramfsError::TooMuch { what: "entries", most: limits.entries });
        }
        let (mode, uid, gid) = (reader.entry().mode(), reader.entry().uid(), reader.entry().gid());
        let path = reader.entry().name().to_owned();
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| [".", "..", ""].contains(&part)) {
            return Err(InitramfsError::Format("plain relative paths"));
        }
        // The kernel writes the second content over the first.
        if !paths.insert(path.clone()) {
            return Err(InitramfsError::Format("each path once"));
        }
        let kind = Kind::of_mode(mode).ok_or(InitramfsError::Format("entries of a known type"))?;
        // The kernel makes entries of one inode into one file, with the last content under every name.
        if kind != Kind::Directory && reader.entry().nlink() != 1 {
            return Err(InitramfsError::Format("files and links of one name each, without hard links"));
        }
        if u64::from(reader.entry().file_size()) > archive.len() as u64 {
            return Err(InitramfsError::Format("contents inside the archive"));
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        found.push(Entry { path, kind, permissions: mode & 0o7777, uid, gid, content });
        rest = reader.finish()?;
    }
}

/// Is the next header in the one form that every reader reads alike? The kernel ends a name at its first NUL and a number
/// at what is no hex digit, where others read on.
fn check_header(archive: &[u8]) -> Result<(), InitramfsError> {
    let refuse = |expected| Err(InitramfsError::Format(expected));
    let Some(header) = archive.get(..HEADER) else { return refuse("the end of the archive where it is told") };
    if !header.starts_with(MAGIC) || !header[MAGIC.len()..].iter().all(u8::is_ascii_hexdigit) {
        return refuse("the magic number 070701 and hex digits behind it");
    }
    let length = std::str::from_utf8(&header[NAME_LENGTH]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
    let name = length.and_then(|length| archive[HEADER..].get(..length)).unwrap_or_default();
    if name.iter().position(|byte| *byte == 0) != name.len().checked_sub(1) {
        return refuse("names with one NUL, at their end");
    }
    Ok(())
}

/// The archive inside the one frame.
fn unpack(compressed: &[u8], most: u64) -> Result<Vec<u8>, InitramfsError> {
    let mut rest = compressed;
    let frame = StreamingDecoder::new(&mut rest).map_err(|_| InitramfsError::Format("a zstd frame"))?;
    let mut archive = Vec::new();
    let read = frame.take(most + 1).read_to_end(&mut archive);
    read.map_err(|_| InitramfsError::Format("an undamaged zstd frame"))?;
    if archive.len() as u64 > most {
        return Err(InitramfsError::TooMuch { what: "bytes, unpacked,", most });
    }
    if !rest.is_empty() {
        return Err(InitramfsError::Format("nothing after the zstd frame"));
    }
    Ok(archive)
}
