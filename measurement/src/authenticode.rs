//! The Authenticode digest of a PE image, as the firmware computes it when it measures a kernel.
//!
//! The steps are those of edk2 (`MeasureBootPeCoff.c`), not only of the PE specification: where a file has gaps or bytes after its
//! sections, the firmware's arithmetic decides, because its digest is the one in the register.

use sha2::{Digest as _, Sha384};

use crate::digest::Register;
use crate::reader::{Reader, index};

/// Largest image that is read.
pub const MAX_IMAGE_BYTES: usize = 1 << 30;
/// Most sections of an image.
pub const MAX_SECTIONS: u16 = 96;

const FILE_HEADER_BYTES: usize = 20;
const SECTION_HEADER_BYTES: usize = 40;
const CHECKSUM_AT: usize = 64;
const SECURITY_DIRECTORY: usize = 4;

/// Why a file is not a PE image that can be measured.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeError {
    /// Over [`MAX_IMAGE_BYTES`].
    #[error("expected at most {MAX_IMAGE_BYTES} bytes, found {0}")]
    TooLarge(usize),
    /// A header says otherwise.
    #[error("{0}")]
    Header(&'static str),
    /// Something lies outside the file.
    #[error("{0} lies outside the file of {1} bytes")]
    OutOfBounds(&'static str, usize),
}

/// SHA-384 over the image without its checksum, without the entry of the certificate table and without that table.
///
/// # Errors
/// [`PeError`] for everything that is not a PE32 or PE32+ image.
pub fn authenticode_sha384(image: &[u8]) -> Result<Register, PeError> {
    let layout = Layout::parse(image)?;
    let mut hash = Sha384::new();
    let mut put = |what, from: usize, to: usize| match image.get(from..to) {
        Some(bytes) => {
            hash.update(bytes);
            Ok(())
        }
        None => Err(PeError::OutOfBounds(what, image.len())),
    };
    put("the header", 0, layout.checksum)?;
    match layout.certificate_entry {
        Some(entry) => {
            put("the header", layout.checksum + 4, entry)?;
            put("the header", entry + 8, layout.headers)?;
        }
        None => put("the header", layout.checksum + 4, layout.headers)?,
    }
    let mut hashed = layout.headers;
    for (start, length) in &layout.sections {
        put("a section", *start, start.saturating_add(*length))?;
        hashed = hashed.saturating_add(*length);
    }
    if hashed < image.len() {
        let end = image.len().saturating_sub(layout.certificates);
        if end < hashed {
            return Err(PeError::Header("its certificate table overlaps its sections"));
        }
        put("what follows the sections", hashed, end)?;
    }
    Ok(hash.finalize().into())
}

/// Where the parts of an image are.
struct Layout {
    checksum: usize,
    certificate_entry: Option<usize>,
    certificates: usize,
    headers: usize,
    /// Offset and length of those with bytes in the file, sorted by offset.
    sections: Vec<(usize, usize)>,
}

impl Layout {
    fn parse(image: &[u8]) -> Result<Self, PeError> {
        if image.len() > MAX_IMAGE_BYTES {
            return Err(PeError::TooLarge(image.len()));
        }
        let reader = Reader(image);
        let outside = || PeError::OutOfBounds("the header", image.len());
        if !image.starts_with(b"MZ") {
            return Err(PeError::Header("it does not begin with MZ"));
        }
        let pe = index(reader.u32(0x3c).ok_or_else(outside)?);
        if reader.bytes(pe, 4) != Some(b"PE\0\0") {
            return Err(PeError::Header("it has no PE header"));
        }
        let file_header = pe + 4;
        let count = reader.u16(file_header + 2).ok_or_else(outside)?;
        let optional_bytes = usize::from(reader.u16(file_header + 16).ok_or_else(outside)?);
        let optional = file_header + FILE_HEADER_BYTES;
        let directories = match reader.u16(optional).ok_or_else(outside)? {
            0x10b => 92,
            0x20b => 108,
            _ => return Err(PeError::Header("it is neither PE32 nor PE32+")),
        };
        let headers = index(reader.u32(optional + 60).ok_or_else(outside)?);
        let directory_count = index(reader.u32(optional + directories).ok_or_else(outside)?);
        let entry = optional + directories + 4 + SECURITY_DIRECTORY * 8;
        let (certificate_entry, certificates) = if directory_count > SECURITY_DIRECTORY {
            (Some(entry), index(reader.u32(entry + 4).ok_or_else(outside)?))
        } else {
            (None, 0)
        };
        let after_entry = certificate_entry.map_or(optional + CHECKSUM_AT + 4, |entry| entry + 8);
        if after_entry > headers || headers > image.len() {
            return Err(PeError::Header("its stated header size does not fit"));
        }
        if certificates > image.len() {
            return Err(PeError::OutOfBounds("the certificate table", image.len()));
        }
        if count > MAX_SECTIONS {
            return Err(PeError::Header("it has more than 96 sections"));
        }
        let table = optional + optional_bytes;
        let mut sections = Vec::new();
        let mut total = 0_usize;
        for header in (table..).step_by(SECTION_HEADER_BYTES).take(usize::from(count)) {
            let word = |at: usize| reader.u32(header + at).map(index);
            let (length, start) = (word(16).ok_or_else(outside)?, word(20).ok_or_else(outside)?);
            if length > 0 {
                sections.push((start, length));
                total = total.saturating_add(length);
            }
        }
        if total > image.len() {
            return Err(PeError::Header("its sections are together longer than the file"));
        }
        sections.sort_unstable();
        Ok(Layout { checksum: optional + CHECKSUM_AT, certificate_entry, certificates, headers, sections })
    }
}
