//! Member `leaves`, one leaf at a time: u32le length ‖ leaf. Held are a piece of the file and the leaf it ends in, whatever the size
//! of the log. Whoever reads to the end has read what was scanned, or is told.

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::source::{PIECE, ReadError, Source};
use crate::ids::Digest256;
use crate::leaf::LEAF_MAX;

/// Before each leaf.
const LENGTH: usize = 4;

/// Why there is no next leaf, though the log goes on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The member ends in it.
    #[error("leaf {0} is cut short")]
    Cut(u64),
    /// Over the cap.
    #[error("leaf {index} has {length} bytes; at most {LEAF_MAX} are allowed")]
    TooLong {
        /// Which.
        index: u64,
        /// In bytes.
        length: usize,
    },
    /// Nothing is said of the leaf.
    #[error(transparent)]
    Unread(#[from] ReadError),
}

/// A pass over the leaves.
pub struct Frames<'s, S: ?Sized> {
    source: &'s S,
    /// Where the next piece begins, and what is left of the member from there.
    at: u64,
    left: u64,
    digest: Digest256,
    hash: Sha256,
    /// What was fetched; leaves up to `from` are behind.
    held: Vec<u8>,
    from: usize,
    index: u64,
}

impl<'s, S: Source + ?Sized> Frames<'s, S> {
    pub(super) fn new(source: &'s S, at: u64, size: u64, digest: Digest256) -> Self {
        let (hash, held) = (Sha256::new(), Vec::new());
        Self { source, at, left: size, digest, hash, held, from: 0, index: 0 }
    }

    /// The next leaf with its index; none after the last one.
    ///
    /// # Errors
    /// [`FrameError`]; the pass is over.
    pub fn next_leaf(&mut self) -> Result<Option<(u64, &[u8])>, FrameError> {
        let index = self.index;
        let Some(length) = self.ahead(LENGTH)? else {
            return match self.unread() {
                0 => {
                    self.whole()?;
                    Ok(None)
                }
                _ => Err(FrameError::Cut(index)),
            };
        };
        let length: [u8; LENGTH] = length.try_into().map_err(|_| FrameError::Cut(index))?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| FrameError::Cut(index))?;
        if length > LEAF_MAX {
            return Err(FrameError::TooLong { index, length });
        }
        let whole = LENGTH.saturating_add(length);
        if self.ahead(whole)?.is_none() {
            return Err(FrameError::Cut(index));
        }
        let from = self.from.saturating_add(LENGTH);
        self.from = self.from.saturating_add(whole);
        self.index = index.saturating_add(1);
        let leaf = self.held.get(from..self.from).ok_or(FrameError::Cut(index))?;
        Ok(Some((index, leaf)))
    }

    /// Goes on to the end without looking at leaves: whether all of them are what was scanned.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn finish(mut self) -> Result<(), ReadError> {
        while self.left > 0 {
            self.from = self.held.len();
            self.ahead(1)?;
        }
        self.whole()
    }

    fn unread(&self) -> usize {
        self.held.len().saturating_sub(self.from)
    }

    /// The next `count` bytes, fetched if need be; none where the member has fewer left.
    fn ahead(&mut self, count: usize) -> Result<Option<&[u8]>, ReadError> {
        while self.unread() < count && self.left > 0 {
            self.held.drain(..self.from);
            self.from = 0;
            let start = self.held.len();
            let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
            self.held.resize(start.saturating_add(wanted), 0);
            let Some(piece) = self.held.get_mut(start..) else { return Ok(None) };
            if self.source.read_at(self.at, piece)? < wanted {
                return Err(self.changed());
            }
            self.hash.update(piece);
            self.at = self.at.saturating_add(wanted as u64);
            self.left = self.left.saturating_sub(wanted as u64);
        }
        let end = self.from.saturating_add(count);
        Ok(self.held.get(self.from..end))
    }

    /// Whether all that went by is what was scanned.
    fn whole(&self) -> Result<(), ReadError> {
        let found = Digest256::new(self.hash.clone().finalize().into());
        if found == self.digest { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> ReadError {
        ReadError::Changed { name: "leaves".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(leaves: &[Vec<u8>]) -> Vec<u8> {
        super::super::frame_leaves(leaves)
    }

    fn read(bytes: &[u8], digest: Digest256) -> (Vec<Vec<u8>>, Option<FrameError>) {
        let mut frames = Frames::new(&bytes, 0, bytes.len() as u64, digest);
        let mut leaves = Vec::new();
        loop {
            match frames.next_leaf() {
                Ok(Some((index, leaf))) => {
                    assert_eq!(index, leaves.len() as u64);
                    leaves.push(leaf.to_vec());
                }
                Ok(None) => return (leaves, None),
                Err(error) => return (leaves, Some(error)),
            }
            assert!(frames.held.capacity() <= 4 * (PIECE + LEAF_MAX), "{} bytes are held", frames.held.capacity());
        }
    }

    #[test]
    fn leaves_of_every_length_come_back_across_the_pieces() {
        let lengths = [0, 1, LEAF_MAX, 3, LEAF_MAX, LEAF_MAX - 4, 0, PIECE - 5, 17];
        let leaves: Vec<Vec<u8>> = (0..64).map(|n| vec![n as u8; lengths[n % lengths.len()]]).collect();
        let bytes = framed(&leaves);
        assert_eq!(read(&bytes, Digest256::of(&bytes)), (leaves, None));
        assert_eq!(read(b"", Digest256::of(b"")), (Vec::new(), None));
    }

    #[test]
    fn a_cut_leaf_one_too_long_and_other_bytes_are_told() {
        let leaves = vec![vec![1; 5], vec![2; 5]];
        let bytes = framed(&leaves);
        for cut in 10..18 {
            let cut = &bytes[..cut];
            assert_eq!(read(cut, Digest256::of(cut)), (leaves[..1].to_vec(), Some(FrameError::Cut(1))));
        }
        let long = [&bytes[..9], &(LEAF_MAX as u32 + 1).to_le_bytes(), &vec![0; LEAF_MAX + 1]].concat();
        let told = FrameError::TooLong { index: 1, length: LEAF_MAX + 1 };
        assert_eq!(read(&long, Digest256::of(&long)), (leaves[..1].to_vec(), Some(told)));
        let changed = FrameError::Unread(ReadError::Changed { name: "leaves".to_owned() });
        assert_eq!(read(&bytes, Digest256::of(b"before")), (leaves.clone(), Some(changed.clone())));
        let cut = &bytes[..12];
        let mut short = Frames::new(&cut, 0, bytes.len() as u64, Digest256::of(&bytes));
        assert_eq!(short.next_leaf(), Err(changed), "the file became shorter");
    }
}
