//! A cursor over hostile bytes: every read says what it wanted and where, and none can panic.
//! Integers are little-endian, as everywhere in a quote.

use super::QuoteError;

/// Reads fixed and counted fields from the front of a byte slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, at: 0 }
    }

    /// Bytes consumed so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What was not read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], QuoteError> {
        let short = QuoteError::Truncated { what, needed: count, left: self.rest.len() };
        let (head, tail) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = tail;
        self.at = self.at.saturating_add(count);
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], QuoteError> {
        let short = QuoteError::Truncated { what, needed: N, left: self.rest.len() };
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = tail;
        self.at = self.at.saturating_add(N);
        Ok(*head)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, QuoteError> {
        self.array::<1>(what).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, QuoteError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, QuoteError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, QuoteError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length that the format counts in 32 bits.
    pub(super) fn length(&mut self, what: &'static str) -> Result<usize, QuoteError> {
        let length = self.u32(what)?;
        usize::try_from(length).map_err(|_| QuoteError::TooLarge { found: usize::MAX })
    }

    /// Nothing may follow.
    pub(super) fn end(self, what: &'static str) -> Result<(), QuoteError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(QuoteError::LengthMismatch { what, surplus: self.rest.len() })
    }
}
