//! Reads an initramfs as the kernel gets it: one zstd frame around one newc archive. Nothing of it is trusted: sizes end
//! at named limits, and bytes after the frame are refused, because the kernel would unpack them as a second archive.

use super::Kind;
use ruzstd::decoding::StreamingDecoder;
use std::io::{self, Read as _};

/// Largest archive, unpacked, in bytes.
pub const UNPACKED_MAX: u64 = 256 << 20;
/// Most entries.
pub const ENTRIES_MAX: usize = 10_000;

/// Why an initramfs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// Not the one form.
    #[error("expected {0} in the initramfs: it is damaged, or made by another program than ours")]
    Format(&'static str),
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
    /// Content of a file, target of a link.
    pub content: Vec<u8>,
}

/// Every entry, in the order of the archive.
pub fn entries(compressed: &[u8]) -> Result<Vec<Entry>, InitramfsError> {
    let archive = unpack(compressed)?;
    let mut found = Vec::new();
    let mut rest: &[u8] = &archive;
    loop {
        let mut reader = cpio::newc::Reader::new(rest)?;
        if reader.entry().is_trailer() {
            let rest = reader.finish()?;
            return if rest.iter().all(|byte| *byte == 0) {
                Ok(found)
            } else {
                Err(InitramfsError::Format("nothing after the end of the archive"))
            };
        }
        if found.len() >= ENTRIES_MAX {
            return Err(InitramfsError::Format("at most 10000 entries"));
        }
        let (mode, uid) = (reader.entry().mode(), reader.entry().uid());
        let path = reader.entry().name().to_owned();
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| [".", "..", ""].contains(&part)) {
            return Err(InitramfsError::Format("plain relative paths"));
        }
        let kind = Kind::of_mode(mode).ok_or(InitramfsError::Format("entries of a known type"))?;
        if u64::from(reader.entry().file_size()) > archive.len() as u64 {
            return Err(InitramfsError::Format("contents inside the archive"));
        }
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        found.push(Entry { path, kind, permissions: mode & 0o7777, uid, content });
        rest = reader.finish()?;
    }
}

/// The archive inside the one frame.
fn unpack(compressed: &[u8]) -> Result<Vec<u8>, InitramfsError> {
    let mut rest = compressed;
    let frame = StreamingDecoder::new(&mut rest).map_err(|_| InitramfsError::Format("a zstd frame"))?;
    let mut archive = Vec::new();
    let read = frame.take(UNPACKED_MAX + 1).read_to_end(&mut archive);
    read.map_err(|_| InitramfsError::Format("an undamaged zstd frame"))?;
    if archive.len() as u64 > UNPACKED_MAX {
        return Err(InitramfsError::Format("at most 256 MiB, unpacked"));
    }
    if !rest.is_empty() {
        return Err(InitramfsError::Format("nothing after the zstd frame"));
    }
    Ok(archive)
}
