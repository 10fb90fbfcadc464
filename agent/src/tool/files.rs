//! stat, list, read, write: one file or directory each.

use super::beneath::{self, Beneath, Links};
use super::{LISTING_BYTES_MAX, LISTING_MAX, Tell, ToolError, told};
use crate::frames::tool::{Report, Rest};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;

/// Tells what is at a path; a link is told, not followed.
pub(super) fn stat(base: &Beneath, path: &[u8], tell: Tell<'_>) -> Result<(), ToolError> {
    told(tell(Report::Entry(base.entry(path, path).map_err(ToolError::path)?)))?;
    done(tell, 1, 0, Rest::Nothing)
}

/// Tells the entries of a directory, sorted by name, up to the limits.
pub(super) fn list(base: &Beneath, path: &[u8], tell: Tell<'_>) -> Result<(), ToolError> {
    let directory = base.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Links::Follow).map_err(ToolError::path)?;
    let (names, mut rest) = first_names(&directory)?;
    let directory = Beneath::at(directory);
    let (mut told_entries, mut bytes) = (0, 0);
    for name in &names {
        // Gone since it was listed: as if it had never been there.
        let Ok(stat) = directory.child(name) else { continue };
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => directory.link_target(name).unwrap_or_default(),
            _ => Vec::new(),
        };
        bytes += name.len() + target.len() + 32;
        if bytes > LISTING_BYTES_MAX {
            rest = Rest::LeftOut;
            break;
        }
        told(tell(Report::Entry(beneath::entry(name, &stat, target))))?;
        told_entries += 1;
    }
    done(tell, told_entries, 0, rest)
}

/// The first names in order; memory stays bounded however large the directory is.
fn first_names(directory: &std::os::fd::OwnedFd) -> Result<(BTreeSet<Vec<u8>>, Rest), ToolError> {
    let mut names = BTreeSet::new();
    let mut rest = Rest::Nothing;
    for entry in rustix::fs::Dir::read_from(directory).map_err(ToolError::path)? {
        let entry = entry.map_err(ToolError::path)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        names.insert(name.to_vec());
        if names.len() > LISTING_MAX {
            names.pop_last();
            rest = Rest::LeftOut;
        }
    }
    Ok((names, rest))
}

/// Copies a range of a regular file to stdout. Zero as length means to the end.
pub(super) fn read(base: &Beneath, path: &[u8], offset: u64, length: u64, tell: Tell<'_>) -> Result<(), ToolError> {
    // Without blocking: a FIFO must not hold the call up before it is seen for what it is.
    let file = base.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Links::Follow);
    let file = File::from(file.map_err(ToolError::path)?);
    let stat = rustix::fs::fstat(&file).map_err(ToolError::path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(ToolError::new("type", Errno::ISDIR)),
        _ => return Err(ToolError::new("type", Errno::INVAL)),
    }
    told(tell(Report::Entry(beneath::entry(path, &stat, Vec::new()))))?;
    let mut file = file;
    told(file.seek(SeekFrom::Start(offset)).map(drop))?;
    let mut range = file.take(if length == 0 { u64::MAX } else { length });
    let bytes = copy(&mut range, &mut io::stdout().lock())?;
    done(tell, 1, bytes, Rest::Nothing)
}

/// Replaces a file by what comes from stdin, whole or not at all: the content has no name until it is complete.
pub(super) fn write(base: &Beneath, path: &[u8], mode: u64, tell: Tell<'_>) -> Result<(), ToolError> {
    let (parent, last) = base.parent(path, Links::Follow).map_err(ToolError::path)?;
    let mode = Mode::from_raw_mode(u32::try_from(mode & 0o777).unwrap_or(0o644));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&parent, ".", flags, mode).map_err(ToolError::path)?;
    let mut file = File::from(file);
    let bytes = copy(&mut io::stdin().lock(), &mut file)?;
    // The mode as asked, whatever the umask says.
    rustix::fs::fchmod(&file, mode).map_err(ToolError::path)?;
    install(&file, &parent, last)?;
    done(tell, 1, bytes, Rest::Nothing)
}

/// Gives an unnamed file a name, replacing what has it. A link of that name is replaced, not followed.
fn install(file: &File, parent: &Beneath, last: &[u8]) -> Result<(), ToolError> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    let fresh = format!(".coffer-{}-{}", std::process::id(), file.as_raw_fd());
    let here = rustix::fs::CWD;
    rustix::fs::linkat(here, source.as_str(), parent.as_fd(), fresh.as_str(), AtFlags::SYMLINK_FOLLOW)
        .map_err(ToolError::path)?;
    rustix::fs::renameat(parent.as_fd(), fresh.as_str(), parent.as_fd(), OsStr::from_bytes(last)).map_err(|errno| {
        let _ = rustix::fs::unlinkat(parent.as_fd(), fresh.as_str(), AtFlags::empty());
        ToolError::path(errno)
    })
}

/// Copies until the end, 64 KiB at a time.
fn copy(from: &mut dyn io::Read, to: &mut dyn io::Write) -> Result<u64, ToolError> {
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                told(to.write_all(&buffer[..count]))?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ToolError::data(&error)),
        }
    }
    told(to.flush())?;
    Ok(total)
}

fn done(tell: Tell<'_>, files: u64, bytes: u64, rest: Rest) -> Result<(), ToolError> {
    told(tell(Report::Done { files, bytes, rest }))
}
