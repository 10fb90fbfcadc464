//! TDVF metadata: where the parts of a TDX firmware file go in guest memory, and which of them MRTD covers.
//!
//! ```text
//! file: … [e9eaf9f3-… GUID]["TDVF" descriptor, sections…] … [entries: data, u16 length, GUID]… [u16 total][96b582de-… footer] 32 B
//! ```
//! The table of GUIDed entries ends 32 bytes before the end of the file and is walked backwards; the entry e47a6535-… holds the
//! distance of the descriptor from the end of the file. Source: Intel TDX Virtual Firmware Design Guide, section 11; QEMU's
//! `hw/i386/tdvf.c` decides what is accepted: its section types and page alignment are insisted on here.

use crate::reader::{Reader, index};

const FOOTER: [u8; 16] =
    [0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d];
const METADATA_OFFSET: [u8; 16] =
    [0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2];
const FOOTER_FROM_END: usize = 32;
const ENTRY_HEADER_BYTES: usize = 18;
const DESCRIPTOR_BYTES: usize = 16;
const SECTION_BYTES: usize = 32;

/// Bytes of a page, the unit in which TDX adds memory.
pub const PAGE_BYTES: u64 = 4096;
/// Largest firmware file that is read.
pub const MAX_FIRMWARE_BYTES: usize = 64 << 20;
/// Most sections that are read; real firmware has six.
pub const MAX_SECTIONS: u32 = 64;
/// Most memory that all sections may cover together.
pub const MAX_SECTION_MEMORY_BYTES: u64 = 256 << 20;

const EXTEND: u32 = 1;

/// Why a file has no usable TDVF metadata.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TdvfError {
    /// Over [`MAX_FIRMWARE_BYTES`].
    #[error("expected at most {MAX_FIRMWARE_BYTES} bytes, found {0}")]
    TooLarge(usize),
    /// No GUID table at the end.
    #[error("no OVMF GUID table at the end of the file")]
    NoTable,
    /// The table has no TDX entry: a generic OVMF.
    #[error("the OVMF GUID table has no TDX metadata entry: not an IntelTdx build")]
    NoTdxEntry,
    /// An entry or section points outside what holds it.
    #[error("{0} lies outside the file")]
    OutOfBounds(&'static str),
    /// The descriptor is not one.
    #[error("expected a TDVF descriptor of version 1 with 1 to {MAX_SECTIONS} sections, found another {0}")]
    Descriptor(&'static str),
    /// QEMU refuses it, so it would never boot.
    #[error("section {section}: {problem}")]
    Section {
        /// Its number, from 0.
        section: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What a section is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// Boot firmware volume: code.
    BootVolume,
    /// Configuration firmware volume: the variable store.
    ConfigurationVolume,
    /// The memory map that the VMM hands over.
    TdHob,
    /// Zeroed working memory.
    TemporaryMemory,
}

/// Does MRTD cover the content of a section, or only that its pages were added?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Pages are added and their content extended.
    Measured,
    /// Pages are added only.
    AddedOnly,
}

/// One section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section<'a> {
    /// What it is for.
    pub kind: SectionKind,
    /// Its bytes in the file; empty for memory.
    pub data: &'a [u8],
    /// Guest physical address; a multiple of a page.
    pub address: u64,
    /// Bytes of guest memory; a multiple of a page, at least as long as `data`.
    pub memory_bytes: u64,
    /// Whether MRTD covers the content.
    pub content: Content,
}

impl Section<'_> {
    /// Is this memory accepted before the firmware's first instruction, and so told apart in the memory map?
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.kind, SectionKind::TdHob | SectionKind::TemporaryMemory)
    }
}

/// The metadata of a firmware file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tdvf<'a> {
    sections: Vec<Section<'a>>,
}

impl<'a> Tdvf<'a> {
    /// Parses the metadata out of a whole firmware file.
    ///
    /// # Errors
    /// [`TdvfError`] for a file that QEMU would not start as a TD.
    pub fn parse(firmware: &'a [u8]) -> Result<Self, TdvfError> {
        if firmware.len() > MAX_FIRMWARE_BYTES {
            return Err(TdvfError::TooLarge(firmware.len()));
        }
        let from_end = index(metadata_offset(firmware)?);
        let start = firmware.len().checked_sub(from_end).ok_or(TdvfError::OutOfBounds("the TDVF descriptor"))?;
        let reader = Reader(firmware);
        let word =
            |at: usize| reader.u32(start.saturating_add(at)).ok_or(TdvfError::OutOfBounds("the TDVF descriptor"));
        let count = word(12)?;
        if word(0)? != u32::from_le_bytes(*b"TDVF") {
            return Err(TdvfError::Descriptor("signature"));
        }
        if word(8)? != 1 {
            return Err(TdvfError::Descriptor("version"));
        }
        if count == 0 || count > MAX_SECTIONS {
            return Err(TdvfError::Descriptor("number of sections"));
        }
        if index(word(4)?) != DESCRIPTOR_BYTES + SECTION_BYTES * index(count) {
            return Err(TdvfError::Descriptor("length"));
        }
        let mut sections = Vec::new();
        let mut memory = 0_u64;
        for (number, at) in (0..count).zip((start + DESCRIPTOR_BYTES..).step_by(SECTION_BYTES)) {
            let section = section(reader, at, number)?;
            memory = memory.saturating_add(section.memory_bytes);
            if memory > MAX_SECTION_MEMORY_BYTES {
                return Err(TdvfError::Section { section: number, problem: "the sections cover too much memory" });
            }
            sections.push(section);
        }
        Ok(Tdvf { sections })
    }

    /// The sections, in the order of the metadata, which is the order of measurement.
    #[must_use]
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }
}

/// Walks the GUID table backwards to the TDX entry: the distance of the descriptor from the end of the file.
fn metadata_offset(firmware: &[u8]) -> Result<u32, TdvfError> {
    let reader = Reader(firmware);
    let table_end = firmware.len().checked_sub(FOOTER_FROM_END).ok_or(TdvfError::NoTable)?;
    let footer = table_end.checked_sub(ENTRY_HEADER_BYTES).ok_or(TdvfError::NoTable)?;
    if reader.array(footer + 2) != Some(FOOTER) {
        return Err(TdvfError::NoTable);
    }
    let total = usize::from(reader.u16(footer).ok_or(TdvfError::NoTable)?);
    let outside = TdvfError::OutOfBounds("an entry of the OVMF GUID table");
    let table_start = table_end.checked_sub(total).ok_or(outside.clone())?;
    let mut end = footer;
    while end > table_start {
        let header = end.checked_sub(ENTRY_HEADER_BYTES).filter(|at| *at >= table_start).ok_or(outside.clone())?;
        let length = usize::from(reader.u16(header).ok_or(outside.clone())?);
        let start = end.checked_sub(length).filter(|at| *at >= table_start && *at <= header).ok_or(outside.clone())?;
        if reader.array(header + 2) == Some(METADATA_OFFSET) {
            return if header - start == 4 { reader.u32(start).ok_or(outside) } else { Err(outside) };
        }
        end = start;
    }
    Err(TdvfError::NoTdxEntry)
}

fn section<'a>(reader: Reader<'a>, at: usize, number: u32) -> Result<Section<'a>, TdvfError> {
    let outside = || TdvfError::OutOfBounds("a section of the TDVF metadata");
    let refuse = |problem| Err(TdvfError::Section { section: number, problem });
    let word = |offset: usize| reader.u32(at.saturating_add(offset)).ok_or_else(outside);
    let long = |offset: usize| reader.u64(at.saturating_add(offset)).ok_or_else(outside);
    let (offset, raw_bytes, address, memory_bytes) = (word(0)?, word(4)?, long(8)?, long(16)?);
    let kind = match word(24)? {
        0 => SectionKind::BootVolume,
        1 => SectionKind::ConfigurationVolume,
        2 => SectionKind::TdHob,
        3 => SectionKind::TemporaryMemory,
        _ => return refuse("QEMU starts only sections of type 0 to 3"),
    };
    let content = match word(28)? {
        0 => Content::AddedOnly,
        EXTEND => Content::Measured,
        _ => return refuse("only the attribute MR.EXTEND is known"),
    };
    if address % PAGE_BYTES != 0 || memory_bytes % PAGE_BYTES != 0 || memory_bytes == 0 {
        return refuse("its address and size must be whole pages");
    }
    if address.checked_add(memory_bytes).is_none() {
        return refuse("it lies beyond the address space");
    }
    if u64::from(raw_bytes) > memory_bytes {
        return refuse("its bytes in the file do not fit its memory");
    }
    let holds_data = matches!(kind, SectionKind::BootVolume | SectionKind::ConfigurationVolume);
    if holds_data == (raw_bytes == 0) {
        return refuse("volumes must have bytes in the file, and memory must have none");
    }
    let data = reader.bytes(index(offset), index(raw_bytes)).ok_or_else(outside)?;
    Ok(Section { kind, data, address, memory_bytes, content })
}
