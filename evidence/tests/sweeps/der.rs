//! As much of DER as takes a certificate or a revocation list apart and puts it together again.

/// An item: where its content begins, and where it ends.
pub(crate) fn item(der: &[u8]) -> (usize, usize) {
    match der[1] {
        0x81 => (3, 3 + usize::from(der[2])),
        0x82 => (4, 4 + usize::from(u16::from_be_bytes([der[2], der[3]]))),
        short => (2, 2 + usize::from(short)),
    }
}

/// The item with this content.
pub(crate) fn enclosed(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("short").to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![tag, length[3]],
        0x80..0x100 => vec![tag, 0x81, length[3]],
        0x100..0x1_0000 => vec![tag, 0x82, length[2], length[3]],
        0x1_0000..0x100_0000 => vec![tag, 0x83, length[1], length[2], length[3]],
        _ => [&[tag, 0x84][..], &length].concat(),
    };
    [head.as_slice(), content].concat()
}

/// What is signed, and everything after it.
pub(crate) fn signed(der: &[u8]) -> (&[u8], &[u8]) {
    let (start, end) = item(der);
    assert_eq!(end, der.len());
    der[start..].split_at(item(&der[start..]).1)
}
