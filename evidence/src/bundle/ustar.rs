//! ustar with one form: mode 0644, owner and time zero, no names of people, two end blocks and nothing after. Headers
//! are regenerated from name and size and compared byte for byte, so that nothing can hide in them: no link, device,
//! sparse file, long name, extended header or number in base 256 has this form.

use thiserror::Error;

/// Archives are made of blocks of so many bytes.
pub const BLOCK: usize = 512;

/// Why bytes are not such an archive.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UstarError {
    /// Cut short.
    #[error("expected a whole archive, found its end at {0}")]
    Truncated(u64),
    /// A header that this writer would not have made.
    #[error("expected a canonical header at {at}, found another {field}")]
    Header {
        /// Where.
        at: u64,
        /// The first field that differs, the checksum only where nothing else does.
        field: &'static str,
    },
    /// Padding that is not zero.
    #[error("expected zeros after the member at {0}")]
    Padding(u64),
    /// Something after the end.
    #[error("expected two zero blocks at the end and nothing after, at {0}")]
    End(u64),
}

/// The fields of a header, each with its end.
const FIELDS: [(usize, &str); 15] = [
    (100, "name"),
    (108, "mode"),
    (116, "owner"),
    (124, "group"),
    (136, "size"),
    (148, "time"),
    (156, CHECKSUM),
    (157, "type"),
    (257, "link"),
    (265, "format"),
    (297, "owner's name"),
    (329, "group's name"),
    (345, "device"),
    (500, "prefix"),
    (BLOCK, "rest"),
];
const CHECKSUM: &str = "checksum";

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

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text, 8).ok()
}

/// Name and size of a member, if its header is the one that [`write`] would have made; else the field that is not.
pub(super) fn parse_header(block: &[u8; BLOCK]) -> Result<(String, u64), &'static str> {
    let name = block.split(|b| *b == 0).next().and_then(|name| std::str::from_utf8(name).ok()).ok_or("name")?;
    let size = block.get(124..135).and_then(octal).ok_or("size")?;
    let expected = usize::try_from(size).ok().and_then(|size| header(name, size)).ok_or("name")?;
    match differing(&expected, block) {
        None => Ok((name.to_owned(), size)),
        Some(field) => Err(field),
    }
}

fn differing(expected: &[u8; BLOCK], found: &[u8; BLOCK]) -> Option<&'static str> {
    let mut fields = expected.iter().zip(found).enumerate().filter(|(_, (a, b))| a != b).filter_map(|(at, _)| {
        let (_, field) = FIELDS.iter().find(|(end, _)| at < *end)?;
        Some(*field)
    });
    let first = fields.next()?;
    // Any other change changes the sum as well.
    Some(if first == CHECKSUM { fields.find(|field| *field != CHECKSUM).unwrap_or(CHECKSUM) } else { first })
}
