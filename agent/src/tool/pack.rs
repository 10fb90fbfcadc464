//! Packs a file or a directory as a tar stream, sorted by name, so that the same files give the same bytes. Links
//! are packed as links; owners are left out; what is neither file, directory nor link has no content to
//! carry: it is counted and told, not packed.

use super::beneath::{Beneath, Links};
use super::{DEPTH_MAX, ENTRIES_MAX, TRANSFER_MAX, Tell, ToolError, told};
use crate::frames::tool::Report;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Packs what is at `path`: a directory's content under relative names, or one file under its own name.
pub(super) fn pack(base: &Beneath, path: &[u8], stream: impl io::Write, tell: Tell<'_>) -> Result<(), ToolError> {
    let mut work =
        Pack { tar: Builder::new(io::BufWriter::with_capacity(64 * 1024, stream)), entries: 0, bytes: 0, special: 0 };
    let found = base.entry(path, path).map_err(ToolError::path)?;
    match found.kind {
        crate::frames::tool::Kind::Directory => {
            let directory = base.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Links::Follow);
            work.directory(&Beneath::at(directory.map_err(ToolError::path)?), b"", 0)?;
        }
        _ => {
            let (parent, last) = base.parent(path, Links::Follow).map_err(ToolError::path)?;
            work.child(&parent, last, last, 0)?;
        }
    }
    let mut stream = work.tar.into_inner().map_err(|error| ToolError::data(&error))?;
    told(io::Write::flush(&mut stream))?;
    let files = work.entries - work.special;
    told(tell(Report::Done { files, bytes: work.bytes, left_out: work.special }))
}

struct Pack<W: io::Write> {
    tar: Builder<W>,
    entries: u64,
    bytes: u64,
    /// Of the entries, those that are not packed.
    special: u64,
}

impl<W: io::Write> Pack<W> {
    fn directory(&mut self, directory: &Beneath, prefix: &[u8], depth: usize) -> Result<(), ToolError> {
        if depth > DEPTH_MAX {
            return Err(ToolError::new("depth", Errno::FBIG));
        }
        let readable = directory.open(b".", OFlags::RDONLY | OFlags::DIRECTORY, Links::Refuse);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(readable.map_err(ToolError::path)?).map_err(ToolError::path)? {
            let entry = entry.map_err(ToolError::path)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        for name in names {
            let path = if prefix.is_empty() { name.clone() } else { [prefix, &name].join(&b'/') };
            self.child(directory, &name, &path, depth)?;
        }
        Ok(())
    }

    fn child(&mut self, directory: &Beneath, name: &[u8], path: &[u8], depth: usize) -> Result<(), ToolError> {
        let stat = directory.child(name).map_err(ToolError::path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(ToolError::new("limit", Errno::FBIG));
        }
        match kind {
            FileType::Directory => {
                let mut header = header(&stat, EntryType::Directory, 0);
                let mut with_slash = path.to_vec();
                with_slash.push(b'/');
                self.append(&mut header, &with_slash, io::empty())?;
                let below = directory.open(name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Links::Refuse);
                self.directory(&Beneath::at(below.map_err(ToolError::path)?), path, depth + 1)
            }
            FileType::Symlink => {
                let target = directory.link_target(name).map_err(ToolError::path)?;
                let mut header = header(&stat, EntryType::Symlink, 0);
                let (path, target) = (Path::new(OsStr::from_bytes(path)), Path::new(OsStr::from_bytes(&target)));
                told(self.tar.append_link(&mut header, path, target))
            }
            FileType::RegularFile => self.file(directory, name, path),
            _ => {
                self.special += 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, directory: &Beneath, name: &[u8], path: &[u8]) -> Result<(), ToolError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = File::from(directory.open(name, flags, Links::Refuse).map_err(ToolError::path)?);
        let stat = rustix::fs::fstat(&file).map_err(ToolError::path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            // It was one when it was looked at.
            return Err(ToolError::new("type", Errno::STALE));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > TRANSFER_MAX {
            return Err(ToolError::new("limit", Errno::FBIG));
        }
        let mut header = header(&stat, EntryType::Regular, size);
        self.append(&mut header, path, Exact { file, left: size })
    }

    fn append(&mut self, header: &mut Header, path: &[u8], content: impl io::Read) -> Result<(), ToolError> {
        told(self.tar.append_data(header, Path::new(OsStr::from_bytes(path)), content))
    }
}

/// Exactly the bytes that the header promises: a file that grows is cut, one that shrinks is an error.
struct Exact {
    file: File,
    left: u64,
}

impl io::Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::from(Errno::STALE));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(stat.st_mode & 0o777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header
}
