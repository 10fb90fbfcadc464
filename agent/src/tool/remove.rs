//! remove: a file or link, or a directory with all that is beneath it. Each name is removed in its own directory, which was
//! opened without following a link; so a link that takes a directory's place is removed itself, and nothing behind it.

use super::beneath::{Beneath, Links};
use super::{DEPTH_MAX, ENTRIES_MAX, Tell, ToolError, done};
use coffer_evidence::call::Reach;
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

/// Names that are held of one directory.
const BATCH: usize = 128;
/// How often a directory is emptied that others fill.
const TRIES: usize = 64;

/// Removes what has the name, and tells how much it was, also when not all of it could be.
pub(super) fn remove(base: &Beneath, path: &[u8], reach: Reach, tell: Tell<'_>) -> Result<(), ToolError> {
    let (parent, last) = base.parent(path, Links::Follow).map_err(ToolError::path)?;
    let mut work = Removal { removed: 0, met: 0 };
    let result = match (unlink(&parent, last), reach) {
        (Ok(()), _) => {
            work.removed = 1;
            Ok(())
        }
        (Err(Errno::ISDIR), Reach::Tree) => work.directory(&parent, last, 1),
        (Err(errno), _) => Err(ToolError::path(errno)),
    };
    done(tell, work.removed, 0, 0)?;
    result
}

struct Removal {
    removed: u64,
    /// Names that were met; one that somebody else removes counts, too.
    met: u64,
}

impl Removal {
    /// Empties a directory and removes it.
    fn directory(&mut self, parent: &Beneath, name: &[u8], depth: usize) -> Result<(), ToolError> {
        if depth > DEPTH_MAX {
            return Err(ToolError::new("depth", Errno::FBIG));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = match parent.open(name, flags, Links::Refuse) {
            Ok(directory) => Beneath::at(directory),
            Err(Errno::NOENT) => return Ok(()),
            // It was a directory when it was looked at.
            Err(Errno::NOTDIR | Errno::LOOP) => return self.leaf(parent, name),
            Err(errno) => return Err(ToolError::path(errno)),
        };
        for _ in 0..TRIES {
            while self.batch(&directory, depth)? == Left::Names {}
            match rustix::fs::unlinkat(parent.as_fd(), OsStr::from_bytes(name), AtFlags::REMOVEDIR) {
                Ok(()) => {
                    self.removed += 1;
                    return Ok(());
                }
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                // Another thing has the name now.
                Err(Errno::NOTDIR) => return self.leaf(parent, name),
                Err(errno) => return Err(ToolError::path(errno)),
            }
        }
        Err(ToolError::path(Errno::AGAIN))
    }

    /// Removes the first names of a directory; answers whether there were any.
    fn batch(&mut self, directory: &Beneath, depth: usize) -> Result<Left, ToolError> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(directory).map_err(ToolError::path)? {
            let entry = entry.map_err(ToolError::path)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
            if names.len() == BATCH {
                break;
            }
        }
        for name in &names {
            self.met += 1;
            if self.met > ENTRIES_MAX {
                return Err(ToolError::new("limit", Errno::FBIG));
            }
            match unlink(directory, name) {
                Ok(()) => self.removed += 1,
                Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => self.directory(directory, name, depth + 1)?,
                Err(errno) => return Err(ToolError::path(errno)),
            }
        }
        Ok(if names.is_empty() { Left::Nothing } else { Left::Names })
    }

    /// What was a directory and is none any more.
    fn leaf(&mut self, parent: &Beneath, name: &[u8]) -> Result<(), ToolError> {
        match unlink(parent, name) {
            Ok(()) => {
                self.removed += 1;
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            // It changes faster than it can be removed.
            Err(Errno::ISDIR) => Err(ToolError::path(Errno::AGAIN)),
            Err(errno) => Err(ToolError::path(errno)),
        }
    }
}

/// What the last look at a directory found.
#[derive(PartialEq, Eq)]
enum Left {
    Names,
    Nothing,
}

fn unlink(parent: &Beneath, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::unlinkat(parent.as_fd(), OsStr::from_bytes(name), AtFlags::empty())
}
