//! Archives made by hand: what the writer of bundles would never make, and the index that a forger would put before it.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::cbor::{Value, encode};
use coffer_evidence::ids::Digest256;

pub(crate) const BLOCK: usize = 512;

/// Names and contents in order.
pub(crate) type Members = Vec<(String, Vec<u8>)>;

/// The canonical header.
pub(crate) fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let fields: [(usize, String); 8] = [
        (0, name.to_owned()),
        (100, "0000644\0".to_owned()),
        (108, "0000000\0".to_owned()),
        (116, "0000000\0".to_owned()),
        (124, format!("{size:011o}\0")),
        (136, "00000000000\0".to_owned()),
        (156, "0".to_owned()),
        (257, "ustar\u{0}00".to_owned()),
    ];
    for (at, text) in &fields {
        block[*at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    checksum(&mut block);
    block
}

/// Puts the right checksum into a header.
pub(crate) fn checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// One member under any header, padded.
pub(crate) fn append(archive: &mut Vec<u8>, header: &[u8; BLOCK], content: &[u8]) {
    archive.extend(header);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

/// The archive of exactly these members, with its end.
pub(crate) fn raw(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in members {
        append(&mut archive, &header(name, content.len()), content);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// The index of these members.
pub(crate) fn index(members: &[(String, Vec<u8>)]) -> (String, Vec<u8>) {
    let row = |(name, content): &(String, Vec<u8>)| {
        let digest = Value::Bytes(Digest256::of(content).as_bytes().to_vec());
        Value::Array(vec![Value::Text(name.clone()), Value::Unsigned(content.len() as u64), digest])
    };
    ("index.cbor".to_owned(), encode(&Value::Array(members.iter().map(row).collect())))
}

/// The archive of these members with their index before them.
pub(crate) fn indexed(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    raw(&[&[index(members)], members].concat())
}

/// The members of a bundle, the index left out.
pub(crate) fn members(parts: &Parts) -> Members {
    let bundle = bundle::read(&bundle::write(parts)).expect("a bundle");
    bundle.members().map(|(name, content)| (name.to_owned(), content.to_vec())).collect()
}
