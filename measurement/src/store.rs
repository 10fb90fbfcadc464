//! Looks for secure boot keys in a firmware's variable store: with one, the firmware measures other variables than the rules
//! have, and may refuse the kernel. Format: UEFI PI volume 3 (firmware volume), edk2's `VariableFormat.h` (authenticated).

use crate::reader::{Reader, index};

const KEYS: [&str; 4] = ["PK", "KEK", "db", "dbx"];
const VOLUME_SIGNATURE_AT: usize = 40;
const VOLUME_LENGTH_AT: usize = 48;
const STORE_HEADER: usize = 28;
const VARIABLE_HEADER: usize = 60;
const VARIABLE_START: u16 = 0x55aa;
/// Added; and added, with a deletion begun and not ended: the firmware finds that one as long as there is no other.
const LIVE: [u8; 2] = [0x3f, 0x3e];

/// A key that is stored and not deleted. A volume in another form holds none that this firmware would find.
pub(crate) fn live_key(volume: &[u8]) -> Option<&'static str> {
    let reader = Reader(volume);
    if reader.bytes(VOLUME_SIGNATURE_AT, 4) != Some(b"_FVH") {
        return None;
    }
    let mut at = usize::from(reader.u16(VOLUME_LENGTH_AT)?).checked_add(STORE_HEADER)?;
    while reader.u16(at)? == VARIABLE_START {
        let state = *reader.bytes(at.checked_add(2)?, 1)?.first()?;
        let (name_bytes, data_bytes) =
            (index(reader.u32(at.checked_add(36)?)?), index(reader.u32(at.checked_add(40)?)?));
        let name = reader.bytes(at.checked_add(VARIABLE_HEADER)?, name_bytes)?;
        let stored = |key: &&&str| key.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).eq(name.iter().copied());
        if let (true, Some(key)) = (LIVE.contains(&state), KEYS.iter().find(stored)) {
            return Some(key);
        }
        let end = at.checked_add(VARIABLE_HEADER)?.checked_add(name_bytes)?.checked_add(data_bytes)?;
        at = end.checked_next_multiple_of(4)?;
    }
    None
}
