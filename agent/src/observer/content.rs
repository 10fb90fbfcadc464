//! What is in a file at one moment, within a budget: reading costs time that a call waits for.

use coffer_evidence::file_record::Content;
use coffer_evidence::ids::Digest256;
use rustix::fs::Stat;
use sha2::{Digest as _, Sha256};
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of the largest file that is read.
pub(super) const FILE_MAX: u64 = 64 << 20;
/// Bytes of the largest program that is read.
pub(super) const PROGRAM_MAX: u64 = 256 << 20;
/// Bytes that are read of the files of one call while it runs, and again when it has ended.
pub(super) const CALL_MAX: u64 = 1 << 30;

/// Bytes of the largest file that is read as soon as it was written; what is larger is read when the call has ended.
pub(super) const SOON_MAX: u64 = 256 * 1024;
/// Bytes that are read so of the files of one call.
pub(super) const SOON_CALL_MAX: u64 = 256 << 20;

/// Bytes that are read at once.
const BUFFER: usize = 64 * 1024;

/// How a file looks from outside: another look means that it was changed, the same one does not mean that it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Look {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Bytes that may still be read for one call.
#[derive(Debug)]
pub(super) struct Budget(u64);

impl Budget {
    pub(super) fn new(most: u64) -> Self {
        Self(most)
    }
}

/// Reads the file from its beginning. No digest of one that is empty, that is larger than `most`, that the budget has no room
/// for, or that cannot be read.
pub(super) fn take(file: impl AsFd, stat: &Stat, most: u64, budget: &mut Budget) -> Content {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 || size > most || size > budget.0 {
        return Content { size, sha256: None };
    }
    budget.0 -= size;
    match digest(file.as_fd(), size, most) {
        Some((size, sha256)) => Content { size, sha256: Some(sha256) },
        None => Content { size, sha256: None },
    }
}

/// Up to `most` bytes of it: it may be larger by now than it was. Most files are small, and so is what they are read into: a byte more
/// than there should be, so that a read that ends where the file did is the only one.
fn digest(file: BorrowedFd<'_>, size: u64, most: u64) -> Option<(u64, Digest256)> {
    let (mut hash, mut at) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(BUFFER).saturating_add(1).min(BUFFER)];
    loop {
        match rustix::io::pread(file, &mut buffer[..], at) {
            Ok(count) => {
                hash.update(&buffer[..count]);
                at += count as u64;
                if count == 0 || (at == size && count < buffer.len()) {
                    return Some((at, Digest256::new(hash.finalize().into())));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        if at > most {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_fits_is_read_and_the_budget_goes_down() {
        let mut file = tempfile::tempfile().unwrap();
        let mut budget = Budget(10);
        let look = |file: &std::fs::File| rustix::fs::fstat(file).unwrap();
        assert_eq!(take(&file, &look(&file), 8, &mut budget), Content { size: 0, sha256: None });
        file.write_all(b"abcdef").unwrap();
        let whole = Content { size: 6, sha256: Some(Digest256::of(b"abcdef")) };
        assert_eq!(take(&file, &look(&file), 6, &mut budget), whole);
        let none = Content { size: 6, sha256: None };
        assert_eq!(take(&file, &look(&file), 6, &mut budget), none, "four bytes of the budget are left");
        assert_eq!(take(&file, &look(&file), 5, &mut Budget(100)), none, "it is too large");
        let before = Look::of(&look(&file));
        file.write_all(b"g").unwrap();
        assert_ne!(before, Look::of(&look(&file)));
    }
}
