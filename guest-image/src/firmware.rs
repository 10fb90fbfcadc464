//! Clears the Secure Boot keys in the variable store of an OVMF firmware file.
//!
//! Debian's IntelTdx firmware enforces Secure Boot with enrolled keys and refuses a kernel given by `-kernel`. Without
//! PK it is in setup mode and starts it; what it starts is measured either way. The store is rewritten as if the keys
//! had never been enrolled: the other variables side by side from its start, 0xff behind them. That is also, byte for
//! byte, what `virt-fw-vars --delete` makes.
//!
//! Format: UEFI PI 1.7 vol. 3 §3.2 (firmware volume), edk2's `VariableFormat.h` (authenticated variables).

/// The variables that hold Secure Boot keys.
const KEYS: [&str; 4] = ["PK", "KEK", "db", "dbx"];
/// A firmware image is at most this long, in bytes: below 4 GiB there is no room for more.
const FIRMWARE_MAX: usize = 16 << 20;

// fff12b8d-7696-4c8b-a985-2747075b4f50: the volume is a variable store.
const NV_DATA: [u8; 16] =
    [0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50];
// aaf32c78-947b-439a-a180-2e144ec37792: its variables are authenticated ones.
const AUTHENTICATED: [u8; 16] =
    [0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92];
const STORE_HEADER: usize = 28;
const VARIABLE_HEADER: usize = 60;
const VARIABLE_START: u16 = 0x55aa;
/// `VAR_ADDED`: the state of a variable that is neither deleted nor half written.
const STATE_LIVE: u8 = 0x3f;

/// Why the firmware is not one we can clear.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// The file is not what it should be.
    #[error(
        "expected {expected} in the firmware file at offset {offset:#x}, found {found}: use the file of Debian's ovmf-inteltdx"
    )]
    Format {
        /// What the format asks for.
        expected: &'static str,
        /// Where.
        offset: usize,
        /// What was there.
        found: String,
    },
    /// A key to be cleared is not there: this is not the file we know, and nothing is known about how it boots.
    #[error(
        "expected the variable {name} in the firmware's variable store, found none: the firmware changed; check that it boots before it is used"
    )]
    NoKey {
        /// The variable.
        name: &'static str,
    },
}

/// Gives back `firmware` without the variables PK, KEK, db and dbx.
pub fn clear_keys(firmware: &[u8]) -> Result<Vec<u8>, FirmwareError> {
    if firmware.len() > FIRMWARE_MAX {
        return Err(format_error("at most 16 MiB", 0, firmware.len()));
    }
    let store = Store::find(firmware)?;
    let mut kept = Vec::new();
    let mut cleared = Vec::new();
    for variable in store.variables(firmware)? {
        match KEYS.iter().find(|key| variable.name == **key) {
            Some(key) => cleared.push(*key),
            None if variable.state == STATE_LIVE => {
                kept.extend_from_slice(variable.bytes);
                kept.resize(kept.len().next_multiple_of(4), 0xff);
            }
            None => {}
        }
    }
    if let Some(&name) = KEYS.iter().find(|key| !cleared.contains(*key)) {
        return Err(FirmwareError::NoKey { name });
    }
    let mut result = firmware.to_vec();
    let room = &mut result[store.first..store.end];
    room.fill(0xff);
    // What is kept was in this room before, so it fits.
    room[..kept.len()].copy_from_slice(&kept);
    Ok(result)
}

/// Where the variables are, as offsets into the file.
struct Store {
    first: usize,
    end: usize,
}

struct Variable<'a> {
    name: String,
    state: u8,
    bytes: &'a [u8],
}

impl Store {
    fn find(firmware: &[u8]) -> Result<Self, FirmwareError> {
        let volume = firmware.get(..56).ok_or_else(|| format_error("a firmware volume", 0, firmware.len()))?;
        if volume[16..32] != NV_DATA || volume[40..44] != *b"_FVH" {
            return Err(format_error("the volume of the variable store", 0, hex::encode(&volume[16..32])));
        }
        let header = usize::from(u16_at(volume, 48)?);
        let store = firmware
            .get(header..header + STORE_HEADER)
            .ok_or_else(|| format_error("a variable store", header, "the end"))?;
        if store[..16] != AUTHENTICATED || store[20] != 0x5a || store[21] != 0xfe {
            return Err(format_error(
                "a formatted store of authenticated variables",
                header,
                hex::encode(&store[..22]),
            ));
        }
        let size = u32_at(store, 16)?;
        let end = header.saturating_add(size);
        if size < STORE_HEADER || end > firmware.len() {
            return Err(format_error("a store within the file", header + 16, size));
        }
        Ok(Self { first: header + STORE_HEADER, end })
    }

    fn variables<'a>(&self, firmware: &'a [u8]) -> Result<Vec<Variable<'a>>, FirmwareError> {
        let mut found = Vec::new();
        let mut at = self.first;
        while at + VARIABLE_HEADER <= self.end && u16_at(firmware, at)? == VARIABLE_START {
            let name_size = u32_at(firmware, at + 36)?;
            let data_size = u32_at(firmware, at + 40)?;
            let length = VARIABLE_HEADER.saturating_add(name_size).saturating_add(data_size);
            if length > self.end - at {
                return Err(format_error("a variable within the store", at, length));
            }
            let name = &firmware[at + VARIABLE_HEADER..at + VARIABLE_HEADER + name_size];
            let units: Vec<u16> = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            let name = String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned();
            found.push(Variable { name, state: firmware[at + 2], bytes: &firmware[at..at + length] });
            at = (at + length).next_multiple_of(4);
        }
        let rest = &firmware[at.min(self.end)..self.end];
        match rest.iter().position(|&byte| byte != 0xff) {
            None => Ok(found),
            Some(offset) => Err(format_error("nothing behind the last variable", at + offset, "other bytes than 0xff")),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, FirmwareError> {
    match bytes.get(at..at.saturating_add(2)) {
        Some(pair) => Ok(u16::from_le_bytes([pair[0], pair[1]])),
        None => Err(format_error("two more bytes", at, "the end")),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize, FirmwareError> {
    match bytes.get(at..at.saturating_add(4)) {
        Some(four) => Ok(u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize),
        None => Err(format_error("four more bytes", at, "the end")),
    }
}

fn format_error(expected: &'static str, offset: usize, found: impl ToString) -> FirmwareError {
    FirmwareError::Format { expected, offset, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 0x800;

    fn variable(name: &str, state: u8, data: &[u8]) -> Vec<u8> {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let mut bytes = vec![0; VARIABLE_HEADER];
        bytes[..2].copy_from_slice(&VARIABLE_START.to_le_bytes());
        bytes[2] = state;
        bytes[36..40].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[40..44].copy_from_slice(&(data.len() as u32).to_le_bytes());
        bytes.extend(name);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes
    }

    fn firmware(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 0x48];
        bytes[16..32].copy_from_slice(&NV_DATA);
        bytes[40..44].copy_from_slice(b"_FVH");
        bytes[48..50].copy_from_slice(&0x48_u16.to_le_bytes());
        bytes.extend(AUTHENTICATED);
        bytes.extend(((STORE_HEADER + ROOM) as u32).to_le_bytes());
        bytes.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
        let mut room = variables.concat();
        room.resize(ROOM, 0xff);
        bytes.extend(room);
        bytes.extend(b"code that must not change");
        bytes
    }

    fn keys() -> Vec<Vec<u8>> {
        KEYS.iter().map(|name| variable(name, STATE_LIVE, b"certificates")).collect()
    }

    #[test]
    fn the_keys_are_gone_and_everything_else_stays_as_it_was() {
        let other = variable("Other", STATE_LIVE, b"odd");
        let mut with = keys();
        with.insert(2, other.clone());
        with.push(variable("Deleted", 0x3c, b"half"));
        assert_eq!(clear_keys(&firmware(&with)).unwrap(), firmware(&[other]));
    }

    #[test]
    fn a_store_of_keys_alone_becomes_an_empty_one() {
        assert_eq!(clear_keys(&firmware(&keys())).unwrap(), firmware(&[]));
    }

    #[test]
    fn a_firmware_without_the_keys_we_know_is_refused() {
        assert_eq!(clear_keys(&firmware(&keys()[..3])), Err(FirmwareError::NoKey { name: "dbx" }));
    }

    #[test]
    fn no_truncation_and_no_changed_byte_of_the_headers_panics() {
        let whole = firmware(&keys());
        for length in 0..whole.len() {
            drop(clear_keys(&whole[..length]));
        }
        for at in 0..0x48 + STORE_HEADER + 300 {
            for value in [0, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                drop(clear_keys(&changed));
            }
        }
    }
}
