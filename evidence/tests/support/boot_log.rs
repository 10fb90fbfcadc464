//! Event logs as firmware writes them, from a list of events.

use coffer_evidence::ids::Digest384;

pub(crate) const EV_SEPARATOR: u32 = 4;
pub(crate) const EV_EFI_ACTION: u32 = 0x8000_0007;

/// One event: register index (1 to 4), type, digest, payload.
pub(crate) struct Entry {
    pub(crate) index: u32,
    pub(crate) kind: u32,
    pub(crate) digest: [u8; 48],
    pub(crate) payload: Vec<u8>,
}

impl Entry {
    /// An event whose digest is of its payload.
    pub(crate) fn measured(index: u32, kind: u32, payload: &[u8]) -> Self {
        Entry { index, kind, digest: *Digest384::of(payload).as_bytes(), payload: payload.to_vec() }
    }
}

/// The first event, which declares SHA-384 alone.
pub(crate) fn header() -> Vec<u8> {
    let mut inner = b"Spec ID Event03\0".to_vec();
    inner.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
    let mut log = Vec::new();
    log.extend(1_u32.to_le_bytes());
    log.extend(3_u32.to_le_bytes());
    log.extend([0; 20]);
    log.extend(u32::try_from(inner.len()).expect("a short event").to_le_bytes());
    log.extend(inner);
    log
}

/// The bytes of one event.
pub(crate) fn encode(entry: &Entry) -> Vec<u8> {
    let mut log = Vec::new();
    log.extend(entry.index.to_le_bytes());
    log.extend(entry.kind.to_le_bytes());
    log.extend(1_u32.to_le_bytes());
    log.extend(0x000c_u16.to_le_bytes());
    log.extend(entry.digest);
    log.extend(u32::try_from(entry.payload.len()).expect("a short event").to_le_bytes());
    log.extend(&entry.payload);
    log
}

/// A whole log, with padding up to the end of a small memory area.
pub(crate) fn log(entries: &[Entry]) -> Vec<u8> {
    let mut log = header();
    log.extend(entries.iter().flat_map(encode));
    log.resize(log.len().next_multiple_of(1024), 0xff);
    log
}

/// A small boot: payloads that are measured, and one (the second) that only stands for something else.
pub(crate) fn small_boot() -> Vec<Entry> {
    vec![
        Entry::measured(1, EV_SEPARATOR, &[0; 4]),
        Entry { index: 1, kind: 0x8000_000b, digest: [0x40; 48], payload: b"TdxTable".to_vec() },
        Entry::measured(2, EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        Entry { index: 3, kind: 6, digest: [0x41; 48], payload: b"Linux initrd\0".to_vec() },
        Entry::measured(2, EV_EFI_ACTION, b"Exit Boot Services Invocation"),
    ]
}
