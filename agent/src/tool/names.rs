//! move and mkdir: what gives names and leaves content alone.

use super::beneath::{Beneath, Links};
use super::{Tell, ToolError, done};
use coffer_evidence::call::{Above, Taken};
use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

/// Mode of the directories above.
const ABOVE_MODE: u32 = 0o755;

pub(super) fn taken(word: &OsStr) -> Result<Taken, ToolError> {
    match word.as_bytes() {
        b"refuse" => Ok(Taken::Refuse),
        b"replace" => Ok(Taken::Replace),
        _ => Err(ToolError::new("arguments", Errno::INVAL)),
    }
}

pub(super) fn above(word: &OsStr) -> Result<Above, ToolError> {
    match word.as_bytes() {
        b"expected" => Ok(Above::Expected),
        b"made" => Ok(Above::Made),
        _ => Err(ToolError::new("arguments", Errno::INVAL)),
    }
}

/// Gives a file, link or directory another name, in one step of the kernel. Links at either end are names, and not followed.
pub(super) fn rename(
    from: (&Beneath, &[u8]),
    to: (&Beneath, &[u8]),
    taken: Taken,
    tell: Tell<'_>,
) -> Result<(), ToolError> {
    let (old_parent, old) = from.0.parent(from.1, Links::Follow).map_err(ToolError::path)?;
    let (new_parent, new) = to.0.parent(to.1, Links::Follow).map_err(ToolError::path)?;
    let flags = match taken {
        Taken::Refuse => RenameFlags::NOREPLACE,
        Taken::Replace => {
            let is = |parent: &Beneath, name| parent.child(name).map(|stat| (stat.st_dev, stat.st_ino));
            // The kernel calls it done and leaves both: the one name would still be there.
            if let (Ok(one), Ok(other)) = (is(&old_parent, old), is(&new_parent, new))
                && one == other
            {
                return Err(ToolError::new("move", Errno::EXIST));
            }
            RenameFlags::empty()
        }
    };
    let (old, new) = (OsStr::from_bytes(old), OsStr::from_bytes(new));
    rustix::fs::renameat_with(old_parent.as_fd(), old, new_parent.as_fd(), new, flags).map_err(
        |errno| match errno {
            // Not a path that leads out, but two file systems; not an unknown operation, but a directory into itself.
            Errno::XDEV | Errno::INVAL => ToolError::new("move", errno),
            errno => ToolError::path(errno),
        },
    )?;
    done(tell, 1, 0, 0)
}

/// Makes a directory. With those above it, one that is there already is as good as made.
pub(super) fn make(base: &Beneath, path: &[u8], mode: u64, above: Above, tell: Tell<'_>) -> Result<(), ToolError> {
    // The mode as asked; nobody else shares this process.
    rustix::process::umask(Mode::empty());
    let mode = Mode::from_raw_mode(u32::try_from(mode & 0o777).unwrap_or(ABOVE_MODE));
    let made = match above {
        Above::Expected => {
            let (parent, last) = base.parent(path, Links::Follow).map_err(ToolError::path)?;
            rustix::fs::mkdirat(&parent, OsStr::from_bytes(last), mode).map_err(ToolError::path)?;
            1
        }
        Above::Made => make_all(base, path, mode)?,
    };
    done(tell, made, 0, 0)
}

/// Makes the directories of a path that are missing, from the first; answers how many.
fn make_all(base: &Beneath, path: &[u8], mode: Mode) -> Result<u64, ToolError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
    let mut made = 0;
    for end in ends {
        let (part, last) = (&path[..end], end == path.len());
        match base.open(part, flags, Links::Follow) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(ToolError::path(errno)),
        }
        let (parent, name) = base.parent(part, Links::Follow).map_err(ToolError::path)?;
        let mode = if last { mode } else { Mode::from_raw_mode(ABOVE_MODE) };
        match rustix::fs::mkdirat(&parent, OsStr::from_bytes(name), mode) {
            Ok(()) => made += 1,
            // Another one was faster; or a link that leads to nothing has the name.
            Err(Errno::EXIST) if is_directory(&parent, name) => {}
            Err(errno) => return Err(ToolError::path(errno)),
        }
    }
    Ok(made)
}

fn is_directory(parent: &Beneath, name: &[u8]) -> bool {
    parent.child(name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
