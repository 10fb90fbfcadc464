//! A file in memory that nobody can change any more: how bytes go from process to process that are too many for a packet. Who has it
//! can read it when there is time for it, and it is gone with its last descriptor. Not for keys: its memory is not overwritten.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// What makes it unchangeable, this list included.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// Puts bytes into a new one.
pub fn seal(bytes: &[u8]) -> rustix::io::Result<OwnedFd> {
    // The guest's kernel makes no others but those that can never be executed.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    let file = memfd_create(c"coffer", flags)?;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        at += rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, rest, at as u64))?;
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// Reads one of at most `most` bytes. One that could still change, or is larger, is `INVAL`.
pub fn read(file: impl AsFd, most: usize) -> rustix::io::Result<Vec<u8>> {
    let file = file.as_fd();
    let size = usize::try_from(fstat(file)?.st_size).map_err(|_| Errno::INVAL)?;
    if size > most || !fcntl_get_seals(file)?.contains(SEALS) {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; size];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *rest, at as u64))? {
            0 => return Err(Errno::IO),
            count => at += count,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_and_never_changed() {
        for bytes in [vec![], vec![7; 300_000]] {
            let file = seal(&bytes).unwrap();
            assert_eq!(read(&file, bytes.len()).unwrap(), bytes);
            assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(Errno::PERM));
            assert_eq!(rustix::fs::ftruncate(&file, 1 << 20), Err(Errno::PERM));
        }
        assert_eq!(read(seal(b"abc").unwrap(), 2), Err(Errno::INVAL), "it is larger than was agreed");
    }

    #[test]
    fn what_could_still_change_is_not_read() {
        let open = memfd_create(c"open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(read(&open, 10), Err(Errno::INVAL));
        fcntl_add_seals(&open, SealFlags::WRITE | SealFlags::GROW).unwrap();
        assert_eq!(read(&open, 10), Err(Errno::INVAL));
        assert!(read(tempfile::tempfile().unwrap(), 10).is_err(), "a file of a file system");
    }
}
