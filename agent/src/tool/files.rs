//! stat, list, read, write: one file or directory each.

use super::beneath::{self, Beneath, Links};
use super::{LISTING_BYTES_MAX, LISTING_MAX, TRANSFER_MAX, Tell, ToolError, told};
use crate::frames::tool::Report;
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
    done(tell, 1, 0, 0)
}

/// Tells the entries of a directory, sorted by name, up to the limits.
pub(super) fn list(base: &Beneath, path: &[u8], tell: Tell<'_>) -> Result<(), ToolError> {
    let directory = base.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Links::Follow).map_err(ToolError::path)?;
    let (names, mut left_out) = first_names(&directory)?;
    let directory = Beneath::at(directory);
    let (mut told_entries, mut bytes) = (0, 0);
    for (at, name) in names.iter().enumerate() {
        // Gone since it was listed: as if it had never been there.
        let Ok(stat) = directory.child(name) else { continue };
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => directory.link_target(name).unwrap_or_default(),
            _ => Vec::new(),
        };
        bytes += name.len() + target.len() + 32;
        if bytes > LISTING_BYTES_MAX {
            left_out += (names.len() - at) as u64;
            break;
        }
        told(tell(Report::Entry(beneath::entry(name, &stat, target))))?;
        told_entries += 1;
    }
    done(tell, told_entries, 0, left_out)
}

/// The first names in order, and how many there are besides; memory stays bounded however large the directory is.
fn first_names(directory: &std::os::fd::OwnedFd) -> Result<(BTreeSet<Vec<u8>>, u64), ToolError> {
    let mut names = BTreeSet::new();
    let mut left_out = 0;
    for entry in rustix::fs::Dir::read_from(directory).map_err(ToolError::path)? {
        let entry = entry.map_err(ToolError::path)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        names.insert(name.to_vec());
        if names.len() > LISTING_MAX {
            names.pop_last();
            left_out += 1;
        }
    }
    Ok((names, left_out))
}

/// Copies a range of a regular file to stdout. Zero as length means to the end that the file has when it
/// is opened. A file may be larger than a range can
/// be, and cost its owner nothing: it is sparse.
pub(super) fn read(base: &Beneath, path: &[u8], offset: u64, length: u64, tell: Tell<'_>) -> Result<(), ToolError> {
    // Without blocking: a FIFO must not hold the call up before it is seen for what it is.
    let file = base.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Links::Follow);
    let file = File::from(file.map_err(ToolError::path)?);
    let stat = rustix::fs::fstat(&file).map_err(ToolError::path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(ToolError::new("type", Errno::ISDIR)),
        _ => return Err(ToolError::new("type", Errno::NXIO)),
    }
    let length = if length == 0 { u64::MAX } else { length };
    let there = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset).min(length);
    if there > TRANSFER_MAX {
        return Err(ToolError::new("limit", Errno::FBIG));
    }
    told(tell(Report::Entry(beneath::entry(path, &stat, Vec::new()))))?;
    let mut file = file;
    told(file.seek(SeekFrom::Start(offset)).map(drop))?;
    // What was there when it was opened: the kernel refuses to read further than files can go.
    let bytes = copy(&mut file.take(there), &mut io::stdout().lock())?;
    done(tell, 1, bytes, 0)
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
    done(tell, 1, bytes, 0)
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

fn done(tell: Tell<'_>, files: u64, bytes: u64, left_out: u64) -> Result<(), ToolError> {
    told(tell(Report::Done { files, bytes, left_out }))
}
