//! Opening files beneath a directory, in the kernel: neither `..` nor a link nor a magic link of /proc leads out,
//! and nothing is checked first and opened later.

use crate::frames::tool::{Entry, Kind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

/// How often a path is tried that changes while it is looked up.
const TRIES: usize = 64;

/// A directory that no path leaves.
#[derive(Debug)]
pub struct Beneath(OwnedFd);

/// Whether links inside the directory are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Yes, as long as they stay inside.
    Follow,
    /// No: a link in the path is an error.
    Refuse,
}

impl Beneath {
    /// Where a path of a request starts, and what of it is beneath there: the working directory, or the root of the file
    /// system for an absolute one.
    pub fn start(path: &[u8]) -> Result<(Self, &[u8]), Errno> {
        let (from, rest) = match path.strip_prefix(b"/") {
            Some(rest) => ("/", rest),
            None => (".", path),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok((Self(rustix::fs::open(from, flags, Mode::empty())?), rest))
    }

    /// A directory that is open already.
    pub fn at(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens a path; the empty path is the directory itself.
    pub fn open(&self, path: &[u8], flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refuse {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        for _ in 0..TRIES {
            match openat2(&self.0, name(path), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed while the kernel looked, so it cannot tell whether a `..` of a link led out.
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens the directory that holds the last component, and gives that component. The last component is never
    /// `.` or `..` and never followed by what the caller does with it.
    pub fn parent<'p>(&self, path: &'p [u8], links: Links) -> Result<(Beneath, &'p [u8]), Errno> {
        let (directory, last) = split(path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((Self(self.open(directory, flags, links)?), last))
    }

    /// What is at a path, the last component not followed.
    pub fn entry(&self, path: &[u8], shown: &[u8]) -> Result<Entry, Errno> {
        let file = self.open(path, OFlags::PATH | OFlags::NOFOLLOW, Links::Follow)?;
        let stat = rustix::fs::fstat(&file)?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => rustix::fs::readlinkat(&file, "", Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        Ok(entry(shown, &stat, target))
    }

    /// `lstat` of a direct child.
    pub fn child(&self, name: &[u8]) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.0, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Where a direct child, a link, points.
    pub fn link_target(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(&self.0, OsStr::from_bytes(name), Vec::new())?.into_bytes())
    }
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is told about a file.
pub fn entry(shown: &[u8], stat: &Stat, target: Vec<u8>) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    };
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = stat.st_mtime_nsec;
    Entry {
        name: shown.to_vec(),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: u64::from(stat.st_mode & 0o7777),
        modified_ms: seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000),
        target,
    }
}

fn name(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(if path.is_empty() { b"." } else { path })
}

/// Directory part and last component.
fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let (directory, last) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    match last {
        b"" | b"." => Err(Errno::ISDIR),
        b".." => Err(Errno::XDEV),
        // A leading slash leaves an empty directory part, which must not become `.`.
        _ if path.starts_with(b"/") => Err(Errno::XDEV),
        _ => Ok((directory, last)),
    }
}
