//! The TD HOB: the memory map that QEMU hands to the firmware, and the first thing that the firmware measures.
//!
//! A handoff block of 56 bytes, then one resource descriptor of 48 bytes per range of memory, sorted by address: accepted where
//! the firmware's metadata has memory, unaccepted elsewhere. Layout: PI specification volume 3; order and values: QEMU's
//! `hw/i386/tdvf-hob.c`. The closing block is not measured.

use crate::tdvf::{SectionKind, Tdvf};

/// Below this much memory, all of it is in one low range; from here on it is split as q35 does.
const SPLIT_FROM_BYTES: u64 = 0xb000_0000;
/// End of low memory once it is split.
const LOW_END: u64 = 0x8000_0000;
/// Start of high memory.
const HIGH_START: u64 = 1 << 32;

const HANDOFF_BYTES: u16 = 56;
const RESOURCE_BYTES: u16 = 48;
const CLOSING_BYTES: u64 = 8;
const SYSTEM_MEMORY: u32 = 0;
const UNACCEPTED_MEMORY: u32 = 7;
/// Present, initialised, tested.
const ATTRIBUTES: u32 = 7;

/// Why there is no memory map.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HobError {
    /// QEMU wants exactly one place for it.
    #[error("expected one TD HOB section in the firmware metadata, found {0}")]
    Place(usize),
    /// A section of memory where there is none, or where another one is.
    #[error("memory of the firmware metadata at {0:#x} overlaps another section or lies outside the low memory")]
    Memory(u64),
}

/// The bytes of the memory map that are measured, for `memory_bytes` of RAM.
///
/// # Errors
/// [`HobError`] when the firmware's memory does not fit.
pub fn td_hob(tdvf: &Tdvf<'_>, memory_bytes: u64) -> Result<Vec<u8>, HobError> {
    let places: Vec<u64> = tdvf.sections().iter().filter(|s| s.kind == SectionKind::TdHob).map(|s| s.address).collect();
    let [base] = places[..] else { return Err(HobError::Place(places.len())) };

    let split = memory_bytes >= SPLIT_FROM_BYTES;
    let low_end = if split { LOW_END } else { memory_bytes };
    let mut ranges = Vec::new();
    let mut next = 0;
    let mut accepted: Vec<(u64, u64)> =
        tdvf.sections().iter().filter(|s| s.is_memory()).map(|s| (s.address, s.memory_bytes)).collect();
    accepted.sort_unstable();
    for (address, length) in accepted {
        let end = address.checked_add(length).filter(|end| *end <= low_end).ok_or(HobError::Memory(address))?;
        if address < next {
            return Err(HobError::Memory(address));
        }
        ranges.push((UNACCEPTED_MEMORY, next, address - next));
        ranges.push((SYSTEM_MEMORY, address, length));
        next = end;
    }
    ranges.push((UNACCEPTED_MEMORY, next, low_end - next));
    if split {
        ranges.push((UNACCEPTED_MEMORY, HIGH_START, memory_bytes - low_end));
    }
    ranges.retain(|(_, _, length)| *length > 0);

    let mut resources = Vec::new();
    for (kind, start, length) in ranges {
        resources.extend(header(3, RESOURCE_BYTES));
        resources.extend([0; 16]);
        resources.extend(kind.to_le_bytes());
        resources.extend(ATTRIBUTES.to_le_bytes());
        resources.extend(start.to_le_bytes());
        resources.extend(length.to_le_bytes());
    }
    let end_of_list = base.wrapping_add(u64::from(HANDOFF_BYTES) + resources.len() as u64 + CLOSING_BYTES);
    let mut hob = header(1, HANDOFF_BYTES).to_vec();
    hob.extend(9_u32.to_le_bytes());
    hob.extend([0; 36]);
    hob.extend(end_of_list.to_le_bytes());
    hob.extend(resources);
    Ok(hob)
}

fn header(kind: u16, length: u16) -> [u8; 8] {
    let [k0, k1] = kind.to_le_bytes();
    let [l0, l1] = length.to_le_bytes();
    [k0, k1, l0, l1, 0, 0, 0, 0]
}
