//! Unpacks a tar stream beneath a directory. The archive is hostile: it may name any path, link anywhere, repeat
//! itself and lie about sizes. Links in it are made and never followed; what is in the way is replaced, not written
//! through; set-user-id and its kin are dropped; devices, FIFOs and sparse files are refused.

use super::archive::{self, Member};
use super::beneath::{Beneath, Links};
use super::{ENTRIES_MAX, PATH_MAX, TRANSFER_MAX, Tell, ToolError, told};
use crate::frames::tool::Report;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use tar::EntryType;

/// Unpacks `stream` beneath `path`, which is made when missing.
pub(super) fn unpack(base: &Beneath, path: &[u8], stream: impl io::Read, tell: Tell<'_>) -> Result<(), ToolError> {
    let target = if path.is_empty() { None } else { Some(make_directories(base, path, Links::Follow)?) };
    let target = target.map(Beneath::at);
    let mut work = Unpack { base: target.as_ref().unwrap_or(base), files: 0, bytes: 0, directories: BTreeMap::new() };
    archive::each(stream, |member| work.member(member))?;
    work.finish_directories()?;
    told(tell(Report::Done { files: work.files, bytes: work.bytes, left_out: 0 }))
}

struct Unpack<'a> {
    base: &'a Beneath,
    files: u64,
    bytes: u64,
    /// Modes of the archive's directories, set at the end: a directory may forbid writing to itself.
    directories: BTreeMap<Vec<u8>, Mode>,
}

impl Unpack<'_> {
    fn member<R: io::Read>(&mut self, member: &mut Member<'_, R>) -> Result<(), ToolError> {
        let path = inside(&member.path)?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(member.size);
        if self.files > ENTRIES_MAX || self.bytes > TRANSFER_MAX {
            return Err(ToolError::new("limit", Errno::FBIG));
        }
        let mode = Mode::from_raw_mode(member.mode & 0o777);
        if path.is_empty() {
            // The directory itself: it is there, and its mode is not the archive's to choose.
            return if member.kind == EntryType::Directory { Ok(()) } else { Err(ToolError::path(Errno::ISDIR)) };
        }
        match member.kind {
            EntryType::Directory => {
                make_directories(self.base, &path, Links::Refuse)?;
                self.directories.insert(path, mode);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => {
                self.file(&path, mode, member.modified, member.size, &mut member.content)
            }
            EntryType::Symlink | EntryType::Link => {
                let target = member.link.take().unwrap_or_default();
                if target.is_empty() || target.contains(&0) {
                    return Err(ToolError::path(Errno::INVAL));
                }
                if target.len() >= PATH_MAX {
                    return Err(ToolError::path(Errno::NAMETOOLONG));
                }
                if member.kind == EntryType::Symlink {
                    self.symlink(&path, &target)
                } else {
                    self.hardlink(&path, &target)
                }
            }
            _ => Err(ToolError::new("member", Errno::PERM)),
        }
    }

    fn file(
        &self,
        path: &[u8],
        mode: Mode,
        modified: u64,
        size: u64,
        content: &mut impl io::Read,
    ) -> Result<(), ToolError> {
        let (parent, last) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, last, flags, Mode::from_raw_mode(0o600)).map_err(ToolError::path)?;
        let mut file = File::from(file);
        let written = io::copy(content, &mut file).map_err(|error| ToolError::data(&error))?;
        if written != size {
            return Err(ToolError::new("archive", Errno::INVAL));
        }
        rustix::fs::fchmod(&file, mode).map_err(ToolError::path)?;
        let time = Timespec { tv_sec: modified.try_into().unwrap_or(0), tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).map_err(ToolError::path)
    }

    fn symlink(&self, path: &[u8], target: &[u8]) -> Result<(), ToolError> {
        let (parent, last) = self.place(path)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, last).map_err(ToolError::path)
    }

    /// A second name for a file that is inside already, reached without following a link.
    fn hardlink(&self, path: &[u8], target: &[u8]) -> Result<(), ToolError> {
        let target = inside(target)?;
        let (from, old) = self.base.parent(&target, Links::Refuse).map_err(ToolError::path)?;
        if target == path {
            return Ok(());
        }
        let (parent, last) = self.place(path)?;
        rustix::fs::linkat(from.as_fd(), OsStr::from_bytes(old), &parent, last, AtFlags::empty())
            .map_err(ToolError::path)
    }

    /// The directory for a new entry, made when missing, and its name there, made free.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), ToolError> {
        let at = path.iter().rposition(|&byte| byte == b'/');
        let last = OsStr::from_bytes(&path[at.map_or(0, |at| at + 1)..]);
        let directory = make_directories(self.base, &path[..at.unwrap_or(0)], Links::Refuse)?;
        match rustix::fs::unlinkat(&directory, last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((directory, last)),
            Err(errno) => Err(ToolError::path(errno)),
        }
    }

    fn finish_directories(&self) -> Result<(), ToolError> {
        // The deepest first: a parent may be closed by its own mode.
        for (path, mode) in self.directories.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = self.base.open(path, flags, Links::Refuse).map_err(ToolError::path)?;
            rustix::fs::fchmod(&directory, *mode).map_err(ToolError::path)?;
        }
        Ok(())
    }
}

/// Opens a directory beneath `base`, making what is missing of it.
fn make_directories(base: &Beneath, path: &[u8], links: Links) -> Result<OwnedFd, ToolError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match base.open(path, flags, links) {
        Err(Errno::NOENT) => {}
        result => return result.map_err(ToolError::path),
    }
    let (above, last) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let parent = make_directories(base, above, links)?;
    match rustix::fs::mkdirat(&parent, OsStr::from_bytes(last), Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => base.open(path, flags, links).map_err(ToolError::path),
        Err(errno) => Err(ToolError::path(errno)),
    }
}

/// A path of the archive as one beneath the target: `.` and empty components dropped, `..` and `/` refused.
fn inside(path: &[u8]) -> Result<Vec<u8>, ToolError> {
    if path.len() >= PATH_MAX {
        return Err(ToolError::path(Errno::NAMETOOLONG));
    }
    if path.contains(&0) {
        return Err(ToolError::path(Errno::INVAL));
    }
    if path.starts_with(b"/") || path.split(|&byte| byte == b'/').any(|component| component == b"..") {
        return Err(ToolError::path(Errno::XDEV));
    }
    let components: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b".")).collect();
    Ok(components.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_an_archive_stay_inside_or_are_refused() {
        for (path, expected) in [
            (&b"a"[..], Ok(&b"a"[..])),
            (b"./a//b/", Ok(b"a/b")),
            (b"./", Ok(b"")),
            (b"..a/b..", Ok(b"..a/b..")),
            (b"/etc/passwd", Err(Errno::XDEV)),
            (b"../a", Err(Errno::XDEV)),
            (b"a/../../b", Err(Errno::XDEV)),
            (b"a/..", Err(Errno::XDEV)),
            (b"a\0b", Err(Errno::INVAL)),
        ] {
            let found = inside(path);
            assert_eq!(found.map_err(|error| error.errno), expected.map(<[u8]>::to_vec), "{path:?}");
        }
    }
}
