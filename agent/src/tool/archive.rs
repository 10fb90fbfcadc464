//! The members of a hostile tar stream, one after the other, under the names that longer headers give them. Of the
//! stream no more is held than one such header, which has a limit. A stream that stops before its end, or goes on after
//! it, is no whole archive: what is missing or would be passed over is nobody's to guess. Names are taken as they are;
//! what they may be is `unpack`'s to say.

use super::{PATH_MAX, ToolError};
use rustix::io::Errno;
use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use tar::{Archive, EntryType, PaxExtensions};

/// Bytes of a pax header: two paths, and what else people put there.
const PAX_MAX: usize = 64 * 1024;
/// Bytes of the two blocks that end an archive.
const END: u64 = 1024;
/// Bytes after the last member that are still its end: packers fill their last record, the largest with 512 KiB or so.
const END_MAX: u64 = 1 << 20;
/// Members begin at whole blocks.
const BLOCK: u64 = 512;

/// One member, its content yet to be read.
pub(super) struct Member<'a, R: Read> {
    pub(super) path: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) modified: u64,
    pub(super) size: u64,
    pub(super) content: tar::Entry<'a, R>,
}

/// What longer headers say of the next member.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Hands every member to `take`, in order. What `take` leaves of a member is passed over.
pub(super) fn each<R: Read>(
    stream: R,
    mut take: impl FnMut(&mut Member<'_, Tail<R>>) -> Result<(), ToolError>,
) -> Result<(), ToolError> {
    let seen = Rc::new(Seen::default());
    let mut archive = Archive::new(Tail { stream, seen: seen.clone() });
    let mut said = Said::default();
    // One by one: what the library does about long names by itself has no limit.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => fresh(&mut said.path, long(&mut entry)?)?,
            EntryType::GNULongLink => fresh(&mut said.link, long(&mut entry)?)?,
            EntryType::XHeader => pax(&mut entry, &mut said)?,
            // Comments, such as the commit that `git archive` names. Nothing of it applies to a file.
            EntryType::XGlobalHeader => {}
            _ => {
                let header = entry.header();
                let (mode, modified) = (header.mode().unwrap_or(0o644), header.mtime().unwrap_or(0));
                let Said { path, link, size } = std::mem::take(&mut said);
                // Only for what is larger than anything that is taken would the two have to differ.
                if size.is_some_and(|size| size != entry.size()) {
                    return Err(ToolError::new("archive", Errno::INVAL));
                }
                let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                let size = entry.size();
                let mut member = Member { path, link, kind, mode, modified, size, content: entry };
                take(&mut member)?;
                entry = member.content;
            }
        }
        let size = entry.header().entry_size().map_err(broken)?;
        io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
        seen.forget(size);
    }
    if said.path.is_some() || said.link.is_some() {
        return Err(ToolError::new("archive", Errno::INVAL));
    }
    // To the last byte, so that whoever writes to us can finish; but somebody may never.
    io::copy(&mut archive.into_inner().take(END_MAX), &mut io::sink()).map_err(|error| ToolError::data(&error))?;
    if seen.is_an_end() { Ok(()) } else { Err(ToolError::new("archive", Errno::INVAL)) }
}

/// What the library says of a stream that is no archive, or what the stream says itself.
fn broken(error: io::Error) -> ToolError {
    match error.raw_os_error() {
        Some(_) => ToolError::data(&error),
        None => ToolError::new("archive", Errno::INVAL),
    }
}

fn fresh<T>(place: &mut Option<T>, value: T) -> Result<(), ToolError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ToolError::new("archive", Errno::INVAL)),
    }
}

/// The content of a header, if it is within its limit.
fn held(entry: &mut impl Read, most: usize) -> Result<Vec<u8>, ToolError> {
    let mut bytes = Vec::new();
    entry.take(most as u64 + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() > most { Err(ToolError::path(Errno::NAMETOOLONG)) } else { Ok(bytes) }
}

/// GNU: the content is the name, and a NUL.
fn long(entry: &mut impl Read) -> Result<Vec<u8>, ToolError> {
    let mut name = held(entry, PATH_MAX)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// POSIX: records of keys and values. Owners, times and attributes are left out here as they are elsewhere.
fn pax(entry: &mut impl Read, said: &mut Said) -> Result<(), ToolError> {
    let records = held(entry, PAX_MAX)?;
    for record in PaxExtensions::new(&records) {
        let record = record.map_err(broken)?;
        match record.key_bytes() {
            b"path" => fresh(&mut said.path, record.value_bytes().to_vec())?,
            b"linkpath" => fresh(&mut said.link, record.value_bytes().to_vec())?,
            b"size" => {
                let size = record.value().ok().and_then(|text| text.parse().ok());
                fresh(&mut said.size, size.ok_or(ToolError::new("archive", Errno::INVAL))?)?;
            }
            // A sparse file in disguise: its content is not what the file holds.
            key if key.starts_with(b"GNU.sparse.") => return Err(ToolError::new("member", Errno::PERM)),
            _ => {}
        }
    }
    Ok(())
}

/// What has passed since the content of the last member.
#[derive(Default)]
struct Seen {
    /// What fills its last block, whatever it is.
    padding: Cell<u64>,
    bytes: Cell<u64>,
    /// How many of them, at the end, are zero.
    zeros: Cell<u64>,
}

impl Seen {
    fn forget(&self, size: u64) {
        self.padding.set(size.wrapping_neg() % BLOCK);
        self.bytes.set(0);
        self.zeros.set(0);
    }

    fn more(&self, bytes: &[u8]) {
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == bytes.len() { self.zeros.get() } else { 0 };
        self.zeros.set(before + zeros as u64);
        self.bytes.set(self.bytes.get() + bytes.len() as u64);
    }

    /// Two blocks of zeros at least, and nothing else after the padding.
    fn is_an_end(&self) -> bool {
        let after = self.bytes.get().saturating_sub(self.padding.get());
        (END..=END_MAX).contains(&after) && self.zeros.get() >= after
    }
}

/// A stream of which is known how it ended.
pub(super) struct Tail<R> {
    stream: R,
    seen: Rc<Seen>,
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.seen.more(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
