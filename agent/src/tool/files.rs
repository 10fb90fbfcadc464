//! stat and read: one file each, which stays as it is.

use super::beneath::{self, Beneath, Links};
use super::{TRANSFER_MAX, Tell, ToolError, done, told};
use crate::frames::tool::Report;
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};

/// Bytes that are passed on at once, where a pipe has room for them.
const PASSED: usize = 1 << 20;

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
    let bytes = pass(&mut file, io::stdout().as_fd(), there)?;
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

/// Passes on at most so many bytes. The pages of a file in memory go into a pipe as they are; what cannot go so is copied.
fn pass(file: &mut File, to: BorrowedFd<'_>, most: u64) -> Result<u64, ToolError> {
    let mut total = 0;
    while total < most {
        let wanted = usize::try_from(most - total).unwrap_or(usize::MAX).min(PASSED);
        match splice(&*file, None, to, None, wanted, SpliceFlags::empty()) {
            Ok(0) => break,
            Ok(count) => total += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::INVAL) if total == 0 => {
                let to = to.try_clone_to_owned().map_err(|error| ToolError::data(&error))?;
                return copy(&mut file.take(most), &mut File::from(to));
            }
            Err(errno) => return Err(ToolError::new("data", errno)),
        }
    }
    Ok(total)
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn file(content: &[u8], from: u64) -> File {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, content).unwrap();
        file.seek(SeekFrom::Start(from)).unwrap();
        file
    }

    /// More than a pipe holds, from a place within, no further than asked, and not beyond the end.
    #[test]
    fn what_is_passed_on_is_the_range_whether_it_goes_into_a_pipe_or_not() {
        let content: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        for (from, most, expected) in [
            (0, 300_000, &content[..]),
            (5, 200_001, &content[5..200_006]),
            (299_000, 9999, &content[299_000..]),
            (7, 0, &[]),
        ] {
            let (out, into) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                File::from(out).read_to_end(&mut got).unwrap();
                got
            });
            let passed = pass(&mut file(&content, from), into.as_fd(), most).unwrap();
            drop(into);
            assert_eq!((passed, &reader.join().unwrap()[..]), (expected.len() as u64, expected), "a pipe, from {from}");

            let mut sink = tempfile::tempfile().unwrap();
            let passed = pass(&mut file(&content, from), sink.as_fd(), most).unwrap();
            let mut got = Vec::new();
            sink.rewind().unwrap();
            sink.read_to_end(&mut got).unwrap();
            assert_eq!((passed, &got[..]), (expected.len() as u64, expected), "a file, from {from}");
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(out);
        assert_eq!(pass(&mut file(b"x", 0), into.as_fd(), 1), Err(ToolError::new("data", Errno::PIPE)));
    }
}
