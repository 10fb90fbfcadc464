//! Little-endian integers out of hostile bytes: every read is checked, none panics.

/// Reads at any offset of a byte string.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// `length` bytes at `offset`, or `None` past the end.
    pub(crate) fn bytes(self, offset: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(offset..offset.checked_add(length)?)
    }

    pub(crate) fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.bytes(offset, N)?.try_into().ok()
    }

    pub(crate) fn u16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

/// A 32-bit size or offset of a file format, as an index.
pub(crate) fn index(value: u32) -> usize {
    // Every target of this library has at least 32-bit addresses; where it had not, no file could be that long.
    usize::try_from(value).unwrap_or(usize::MAX)
}
