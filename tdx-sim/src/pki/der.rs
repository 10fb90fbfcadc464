//! The little DER that Intel's SGX extension of a PCK certificate needs (OID 1.2.840.113741.1.13.1): writing only.

use super::{FMSPC, PCE_ID, PCE_SVN, PLATFORM_INSTANCE, PPID, SGX_COMPONENTS};

/// The extension's object identifier.
pub(super) const SGX_EXTENSION: &[u64] = &[1, 2, 840, 113_741, 1, 13, 1];
/// The same, as the content bytes of a DER object identifier.
const PREFIX: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        medium @ 0x80..=0xff => out.extend([0x81, medium as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

/// `SEQUENCE { OBJECT prefix.arc, value }`
fn field(arc: &[u8], value: Vec<u8>) -> Vec<u8> {
    let object = element(OBJECT, &[&PREFIX[..], arc].concat());
    element(SEQUENCE, &[object, value].concat())
}

fn integer(value: u16) -> Vec<u8> {
    match value {
        0..=0x7f => element(INTEGER, &[value as u8]),
        0x80..=0x7fff => {
            let bytes = value.to_be_bytes();
            element(INTEGER, if bytes[0] == 0 && bytes[1] < 0x80 { &bytes[1..] } else { &bytes })
        }
        _ => element(INTEGER, &[&[0], &value.to_be_bytes()[..]].concat()),
    }
}

/// Content of the extension for the simulated platform: as Intel writes it for a platform CA, with dynamic platform, cached keys
/// and SMT false.
pub(super) fn sgx_extension() -> Vec<u8> {
    let components = SGX_COMPONENTS.iter().zip(1u8..).map(|(svn, n)| field(&[2, n], integer(u16::from(*svn))));
    let tcb: Vec<u8> = components
        .chain([field(&[2, 17], integer(PCE_SVN)), field(&[2, 18], element(OCTETS, &SGX_COMPONENTS))])
        .flatten()
        .collect();
    let configuration: Vec<u8> = (1..=3u8).flat_map(|n| field(&[7, n], element(BOOLEAN, &[0]))).collect();
    let fields = [
        field(&[1], element(OCTETS, &PPID)),
        field(&[2], element(SEQUENCE, &tcb)),
        field(&[3], element(OCTETS, &PCE_ID)),
        field(&[4], element(OCTETS, &FMSPC)),
        field(&[5], element(ENUMERATED, &[1])),
        field(&[6], element(OCTETS, &PLATFORM_INSTANCE)),
        field(&[7], element(SEQUENCE, &configuration)),
    ];
    element(SEQUENCE, &fields.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_as_short_as_der_demands_and_never_negative() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(0x7f), [2, 1, 0x7f]);
        assert_eq!(integer(0x80), [2, 2, 0, 0x80]);
        assert_eq!(integer(0x7fff), [2, 2, 0x7f, 0xff]);
        assert_eq!(integer(0xffff), [2, 3, 0, 0xff, 0xff]);
    }

    #[test]
    fn lengths_take_one_two_or_three_bytes() {
        assert_eq!(element(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(element(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(element(4, &[0; 256])[..4], [4, 0x82, 1, 0]);
    }
}
