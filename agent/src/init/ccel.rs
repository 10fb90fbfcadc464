//! The firmware's event log, as the kernel shows ACPI's: host input that proves nothing by itself, passed on so that a
//! verifier can replay it against the quoted registers.

use super::error::{BootError, Context as _};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

const STAGE: &str = "event log";
/// Where the kernel shows the log area; readable by root alone. The simulated platform has none.
pub const FILE: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// Largest log area that is taken, in bytes: firmware reserves 64 KiB.
const BYTES_MAX: u64 = 1 << 20;

/// Reads the log; empty when there is none.
pub fn read(path: &Path) -> Result<Vec<u8>, BootError> {
    let what = || format!("read {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.context(STAGE, what)?,
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).context(STAGE, what)?;
    if bytes.len() as u64 > BYTES_MAX {
        let (expected, found) = (format!("an event log of at most {BYTES_MAX} bytes"), "more".into());
        return Err(BootError::Unexpected { stage: STAGE, expected, found });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_log_is_read_whole_up_to_its_cap_and_may_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("CCEL");
        assert_eq!(read(&path).unwrap(), b"");
        for (size, taken) in [(1, true), (65_536, true), (1 << 20, true), ((1 << 20) + 1, false)] {
            let bytes: Vec<u8> = (0..size).map(|n: u32| n as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path).ok(), taken.then_some(bytes), "{size}");
        }
        // There, but not to be read: not the same as absent.
        assert!(read(dir.path()).is_err());
    }
}
