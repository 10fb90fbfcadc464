//! A cursor over the bytes of an event log: every read says what it wanted and where, and none can panic.

use super::EventLogError;

/// Reads fixed and counted fields from the front of a byte slice.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes, at: 0 }
    }

    /// What was not read.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes read so far.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    pub(super) fn bytes(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], EventLogError> {
        let short = EventLogError::Truncated { what, needed: count, left: self.rest.len(), at: self.at };
        let (head, tail) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = tail;
        self.at = self.at.saturating_add(count);
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], EventLogError> {
        let short = EventLogError::Truncated { what, needed: N, left: self.rest.len(), at: self.at };
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(short)?;
        self.rest = tail;
        self.at = self.at.saturating_add(N);
        Ok(*head)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, EventLogError> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, EventLogError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, EventLogError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, EventLogError> {
        self.array(what).map(u64::from_le_bytes)
    }
}
