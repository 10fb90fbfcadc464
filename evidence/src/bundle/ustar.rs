//! ustar with one form: mode 0644, owner and time zero, no names of people, two end blocks and nothing after. Headers
//! are regenerated from name and size and compared byte for byte, so that nothing can hide in them.

use thiserror::Error;

const BLOCK: usize = 512;
/// The most members.
const MEMBERS_MAX: usize = 1024;

/// Why bytes are not such an archive.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UstarError {
    /// Cut short.
    #[error("expected a whole archive, found its end at {0}")]
    Truncated(usize),
    /// A header that this writer would not have made.
    #[error("expected a canonical header at {0}")]
    Header(usize),
    /// Padding that is not zero.
    #[error("expected zeros after the member at {0}")]
    Padding(usize),
    /// Something after the end.
    #[error("expected two zero blocks at the end and nothing after, at {0}")]
    End(usize),
    /// Too many.
    #[error("expected at most {MEMBERS_MAX} members")]
    TooMany,
}

fn header(name: &str, size: usize) -> Option<[u8; BLOCK]> {
    let mut block = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| -> Option<()> {
        block.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
        Some(())
    };
    if name.is_empty() || name.len() > 99 || size >= 1 << 33 {
        return None;
    }
    put(0, name.as_bytes())?;
    put(100, b"0000644\0")?;
    put(108, b"0000000\0")?;
    put(116, b"0000000\0")?;
    put(124, format!("{size:011o}\0").as_bytes())?;
    put(136, b"00000000000\0")?;
    put(148, b"        ")?;
    put(156, b"0")?;
    put(257, b"ustar\x0000")?;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block.get_mut(148..156)?.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(block)
}

/// The archive of these members. Names are our own and short: a name that does not fit is a fault of ours.
pub(super) fn write(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in members {
        let Some(header) = header(name, bytes.len()) else { continue };
        out.extend_from_slice(&header);
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len().saturating_add(2 * BLOCK), 0);
    out
}

fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?;
    usize::from_str_radix(text, 8).ok()
}

/// Reads the archive strictly.
pub(super) fn read(input: &[u8]) -> Result<Vec<(String, Vec<u8>)>, UstarError> {
    let mut members = Vec::new();
    let mut at = 0_usize;
    loop {
        let end = at.saturating_add(BLOCK);
        let block = input.get(at..end).ok_or(UstarError::Truncated(input.len()))?;
        if block.iter().all(|b| *b == 0) {
            let rest = input.get(end..).unwrap_or_default();
            return if rest.len() == BLOCK && rest.iter().all(|b| *b == 0) {
                Ok(members)
            } else {
                Err(UstarError::End(at))
            };
        }
        if members.len() >= MEMBERS_MAX {
            return Err(UstarError::TooMany);
        }
        let wrong = UstarError::Header(at);
        let name = block.split(|b| *b == 0).next().and_then(|n| std::str::from_utf8(n).ok()).ok_or(wrong.clone())?;
        let size = block.get(124..135).and_then(octal).ok_or(wrong.clone())?;
        if header(name, size).is_none_or(|expected| expected.as_slice() != block) {
            return Err(wrong);
        }
        let stop = end.checked_add(size).ok_or(UstarError::Truncated(input.len()))?;
        let content = input.get(end..stop).ok_or(UstarError::Truncated(input.len()))?;
        let next = stop.checked_next_multiple_of(BLOCK).ok_or(UstarError::Truncated(input.len()))?;
        let padding = input.get(stop..next).ok_or(UstarError::Truncated(input.len()))?;
        if padding.iter().any(|b| *b != 0) {
            return Err(UstarError::Padding(at));
        }
        members.push((name.to_owned(), content.to_vec()));
        at = next;
    }
}
