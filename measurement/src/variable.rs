//! How the firmware measures EFI variables.

/// An EFI GUID in its memory form.
pub type EfiGuid = [u8; 16];

/// 8be4df61-93ca-11d2-aa0d-00e098032b8c: SecureBoot, PK, KEK, boot variables.
pub const GLOBAL_VARIABLE: EfiGuid =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// d719b2cb-3d3a-4596-a3bc-dad00e67656f: db, dbx.
pub const IMAGE_SECURITY_DATABASE: EfiGuid =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

use crate::digest::{Register, sha384};

/// Digest of a secure boot variable: over `UEFI_VARIABLE_DATA` (vendor GUID, u64 name length in characters, u64 data length, name
/// in UTF-16LE, data). Boot variables are measured otherwise: over their data alone.
#[must_use]
pub fn variable_digest(guid: &EfiGuid, name: &str, data: &[u8]) -> Register {
    let name: Vec<u16> = name.encode_utf16().collect();
    let mut bytes = guid.to_vec();
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(data);
    sha384(&bytes)
}

/// An `EFI_LOAD_OPTION`: attributes, length of the device path, description in UTF-16LE with its terminator, device path.
#[must_use]
pub fn load_option(attributes: u32, description: &str, path: &[u8]) -> Vec<u8> {
    let mut bytes = attributes.to_le_bytes().to_vec();
    bytes.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend(description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    bytes.extend(path);
    bytes
}
