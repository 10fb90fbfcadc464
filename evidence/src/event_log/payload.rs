//! Payloads of events: which bytes are those that were measured, and which are only there.

use super::EV_NO_ACTION;
use super::cursor::Cursor;
use crate::ids::Digest384;

const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
const EV_EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;

/// The payload of an event, by what is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventPayload<'a> {
    /// Exactly these bytes were measured: the digest is their SHA-384. For a boot variable they are its data without its name,
    /// because firmware measures that alone.
    Recomputed(&'a [u8]),
    /// The digest is of something else, which is not in the log: the host may have written anything here.
    Opaque(&'a [u8]),
}

impl<'a> EventPayload<'a> {
    /// Finds the bytes in the payload that the digest is of.
    pub(super) fn recompute(kind: u32, digest: &Digest384, payload: &'a [u8]) -> Self {
        // Nothing was extended, so nothing vouches for any byte.
        if kind == EV_NO_ACTION {
            return Self::Opaque(payload);
        }
        if Digest384::of(payload) == *digest {
            return Self::Recomputed(payload);
        }
        match kind {
            EV_EFI_VARIABLE_BOOT | EV_EFI_VARIABLE_BOOT2 => variable_data(payload)
                .filter(|data| Digest384::of(data) == *digest)
                .map_or(Self::Opaque(payload), Self::Recomputed),
            _ => Self::Opaque(payload),
        }
    }
}

/// The data in UEFI_VARIABLE_DATA: GUID, u64 length of the name in UTF-16 units, u64 length of the data, name, data.
fn variable_data(payload: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor::new(payload);
    let _guid = cursor.array::<16>("GUID").ok()?;
    let name = usize::try_from(cursor.u64("length of the name").ok()?).ok()?.checked_mul(2)?;
    let data = usize::try_from(cursor.u64("length of the data").ok()?).ok()?;
    let _name = cursor.bytes("name", name).ok()?;
    let data = cursor.bytes("data", data).ok()?;
    cursor.rest().is_empty().then_some(data)
}
