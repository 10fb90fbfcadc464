//! Where a bundle's bytes come from: a place that is read piece by piece and as often as a rule needs, so that nobody holds
//! gigabytes of leaves. What a second reading finds is held to the digest of the first.

use thiserror::Error;

use crate::ids::Digest256;

/// Bytes are fetched in pieces of so many.
pub(super) const PIECE: usize = 64 * 1024;

/// Bytes that can be read at any place, again and again.
pub trait Source {
    /// Fills the buffer from `at` on and says how far it came; short of its end only where the bytes end.
    ///
    /// # Errors
    /// [`ReadError::Failed`].
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError>;
}

impl Source for &[u8] {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let count = from.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

/// Nothing can be said of a bundle, because it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// By the one who fetches.
    #[error("expected to read the bundle at byte {at}, found: {why}")]
    Failed {
        /// Where.
        at: u64,
        /// In the words of what is below.
        why: String,
    },
    /// It is not what it was a moment ago.
    #[error("expected {name} to stay as it is while it is read, found other bytes: somebody writes to the bundle")]
    Changed {
        /// The member.
        name: String,
    },
}

/// A stretch of the bytes, with the digest that it had when it was first read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) name: String,
    pub(super) at: u64,
    pub(super) size: u64,
    pub(super) digest: Digest256,
}

impl Stretch {
    pub(super) fn changed(&self) -> ReadError {
        ReadError::Changed { name: self.name.clone() }
    }

    /// Where it stands in all of the bytes.
    pub(super) fn within<'b>(&self, all: &'b [u8]) -> Option<&'b [u8]> {
        let (at, size) = (usize::try_from(self.at).ok()?, usize::try_from(self.size).ok()?);
        all.get(at..)?.get(..size)
    }

    /// All of it, as it was.
    pub(super) fn load<S: Source + ?Sized>(&self, source: &S) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; usize::try_from(self.size).map_err(|_| self.changed())?];
        let found = source.read_at(self.at, &mut bytes)?;
        if found == bytes.len() && Digest256::of(&bytes) == self.digest { Ok(bytes) } else { Err(self.changed()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_memory_end_where_they_end() {
        let bytes: &[u8] = b"abcdef";
        for (at, wanted, found) in
            [(0, 3, "abc"), (4, 3, "ef"), (6, 3, ""), (7, 3, ""), (u64::MAX, 3, ""), (0, 9, "abcdef")]
        {
            let mut buffer = vec![0; wanted];
            let count = bytes.read_at(at, &mut buffer).expect("memory");
            assert_eq!(&buffer[..count], found.as_bytes(), "{at}");
        }
    }

    #[test]
    fn a_stretch_that_is_not_what_it_was_is_not_loaded() {
        let bytes: &[u8] = b"abcdef";
        let stretch = |at, size, of: &[u8]| Stretch { name: "m".to_owned(), at, size, digest: Digest256::of(of) };
        assert_eq!(stretch(1, 3, b"bcd").load(&bytes), Ok(b"bcd".to_vec()));
        for (at, size, of) in [(1, 3, &b"bce"[..]), (2, 3, b"bcd"), (4, 3, b"ef"), (1, 2, b"bcd")] {
            assert_eq!(stretch(at, size, of).load(&bytes), Err(ReadError::Changed { name: "m".to_owned() }), "{at}");
        }
    }
}
