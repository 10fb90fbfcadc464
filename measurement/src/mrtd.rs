//! MRTD: the digest over how the initial memory of a TD was built.
//!
//! One SHA-384 over a record per page added and, where the content counts, sixteen records with 256 bytes each. Upstream KVM (6.16
//! and later) under QEMU 10.1 and later goes page by page, added and extended before the next one; older stacks added all pages of
//! a section first.
//! Source: Intel TDX Module ABI specification (TDH.MEM.PAGE.ADD, TDH.MR.EXTEND).

use sha2::{Digest as _, Sha384};

use crate::digest::Register;
use crate::reader::index;
use crate::rules::PageOrder;
use crate::tdvf::{Content, PAGE_BYTES, Section, Tdvf};

const CHUNK_BYTES: usize = 256;
const RECORD_BYTES: usize = 128;

/// Why MRTD cannot be computed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MrtdError {
    /// A page can be added only once.
    #[error("two sections of the firmware metadata cover the same page, from {0:#x}")]
    Overlap(u64),
    /// The content of working memory is the VMM's choice: nobody could predict MRTD.
    #[error("the firmware metadata measures memory that holds no bytes of the file, at {0:#x}")]
    MeasuredMemory(u64),
}

/// Computes MRTD. It does not depend on memory size, number of processors, variable store or command line.
///
/// # Errors
/// [`MrtdError`] for metadata with which no TD could be built, or not predictably.
pub fn mrtd(tdvf: &Tdvf<'_>, order: PageOrder) -> Result<Register, MrtdError> {
    refuse_overlap(tdvf)?;
    let mut hash = Sha384::new();
    for section in tdvf.sections() {
        if section.content == Content::Measured && section.is_memory() {
            return Err(MrtdError::MeasuredMemory(section.address));
        }
        let pages = (0..section.memory_bytes / PAGE_BYTES).map(|page| page * PAGE_BYTES);
        match order {
            PageOrder::PageByPage => pages.for_each(|offset| {
                add_page(&mut hash, section, offset);
                extend_page(&mut hash, section, offset);
            }),
            PageOrder::SectionBySection => {
                pages.clone().for_each(|offset| add_page(&mut hash, section, offset));
                pages.for_each(|offset| extend_page(&mut hash, section, offset));
            }
        }
    }
    Ok(hash.finalize().into())
}

fn refuse_overlap(tdvf: &Tdvf<'_>) -> Result<(), MrtdError> {
    let mut ranges: Vec<(u64, u64)> = tdvf.sections().iter().map(|s| (s.address, s.memory_bytes)).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(first, length), (second, _)] = pair
            && first.saturating_add(*length) > *second
        {
            return Err(MrtdError::Overlap(*second));
        }
    }
    Ok(())
}

fn add_page(hash: &mut Sha384, section: &Section<'_>, offset: u64) {
    hash.update(record(b"MEM.PAGE.ADD", section.address + offset));
}

fn extend_page(hash: &mut Sha384, section: &Section<'_>, offset: u64) {
    let address = section.address + offset;
    if section.content == Content::AddedOnly {
        return;
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    for chunk in (0..index(PAGE_BYTES as u32)).step_by(CHUNK_BYTES) {
        let mut bytes = [0; CHUNK_BYTES];
        // Past the bytes of the file a section is zero-filled.
        let rest = section.data.get(start.saturating_add(chunk)..).unwrap_or_default();
        let length = rest.len().min(CHUNK_BYTES);
        bytes[..length].copy_from_slice(&rest[..length]);
        hash.update(record(b"MR.EXTEND", address + chunk as u64));
        hash.update(bytes);
    }
}

/// Name at 0, guest physical address at 16, zeros to 128.
fn record(name: &[u8], address: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..name.len()].copy_from_slice(name);
    record[16..24].copy_from_slice(&address.to_le_bytes());
    record
}
