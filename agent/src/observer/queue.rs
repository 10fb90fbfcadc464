//! The kernel's queues of events, read some at a time.

use anyhow::Context as _;
use std::os::fd::BorrowedFd;

/// Bytes of events with names that are read at once.
const NAMES_BYTES: usize = 64 * 1024;
/// Bytes of the largest event: two names of 255 bytes, three handles of 128, and what is around them.
const EVENT_BYTES: usize = 1_100;

/// What reading a queue once has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found {
    /// No event.
    Nothing,
    /// All that there was.
    Events,
    /// As many events as are read at once: there may be more.
    More,
}

/// The buffer, as large as it is to be; it is to be given back.
pub(super) fn lend(buffer: &mut Vec<u8>) -> Vec<u8> {
    let mut lent = std::mem::take(buffer);
    lent.resize(NAMES_BYTES, 0);
    lent
}

/// Some events with names of a queue.
pub(super) fn read_names<'a>(queue: BorrowedFd<'_>, buffer: &'a mut [u8]) -> anyhow::Result<(&'a [u8], Found)> {
    let count = read(queue, buffer)?;
    let found = match count {
        0 => Found::Nothing,
        _ if count + EVENT_BYTES > buffer.len() => Found::More,
        _ => Found::Events,
    };
    Ok((buffer.get(..count).unwrap_or_default(), found))
}

/// Bytes of some events of a queue; 0 when there are none.
pub(super) fn read(queue: BorrowedFd<'_>, buffer: &mut [u8]) -> anyhow::Result<usize> {
    match rustix::io::read(queue, buffer) {
        Ok(count) => Ok(count),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
        Err(errno) => Err(errno).context("read the kernel's events"),
    }
}
