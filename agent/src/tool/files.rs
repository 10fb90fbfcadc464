//! stat and read: one file each, which stays as it is.

use super::beneath::{self, Beneath, Links};
use super::{TRANSFER_MAX, Tell, ToolError, done, told};
use crate::frames::tool::Report;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

/// Tells what is at a path; a link is told, not followed.
pub(super) fn stat(base: &Beneath, path: &[u8], shown: &[u8], tell: Tell<'_>) -> Result<(), ToolError> {
    told(tell(Report::Entry(base.entry(path, shown).map_err(ToolError::path)?)))?;
    done(tell, 1, 0, 0)
}

/// Copies a range of a regular file to stdout. Zero as length means to the end that the file has when it
/// is opened. A file may be larger than a range can
/// be, and cost its owner nothing: it is sparse.
pub(super) fn read(
    base: &Beneath,
    path: &[u8],
    shown: &[u8],
    offset: u64,
    length: u64,
    tell: Tell<'_>,
) -> Result<(), ToolError> {
    let (file, stat) = regular(base, path, Links::Follow)?;
    let length = if length == 0 { u64::MAX } else { length };
    let there = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset).min(length);
    if there > TRANSFER_MAX {
        return Err(ToolError::new("limit", Errno::FBIG));
    }
    told(tell(Report::Entry(beneath::entry(shown, &stat, Vec::new()))))?;
    let mut file = file;
    told(file.seek(SeekFrom::Start(offset)).map(drop))?;
    // What was there when it was opened: the kernel refuses to read further than files can go.
    let bytes = copy(&mut file.take(there), &mut io::stdout().lock())?;
    done(tell, 1, bytes, 0)
}

/// Opens a regular file for reading, whose last component is followed only with the other links.
pub(super) fn regular(base: &Beneath, path: &[u8], links: Links) -> Result<(File, Stat), ToolError> {
    // Without blocking: a FIFO must not hold the call up before it is seen for what it is.
    let file = base.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, links);
    let file = File::from(file.map_err(ToolError::path)?);
    let stat = rustix::fs::fstat(&file).map_err(ToolError::path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        FileType::Directory => Err(ToolError::new("type", Errno::ISDIR)),
        _ => Err(ToolError::new("type", Errno::NXIO)),
    }
}

/// Copies until the end, 64 KiB at a time.
pub(super) fn copy(from: &mut dyn io::Read, to: &mut dyn io::Write) -> Result<u64, ToolError> {
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
