//! The TD's registers as the kernel shows them: seven that never change and RTMR3, which is ours to extend.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use thiserror::Error;

/// The measurement files that are only read, in the order in which init passes their descriptors.
pub const FILES: [&str; 7] =
    ["mrconfigid", "mrowner", "mrownerconfig", "mrtd:sha384", "rtmr0:sha384", "rtmr1:sha384", "rtmr2:sha384"];

/// Bytes of a register.
pub const REGISTER: usize = 48;

/// A register that could not be read or extended.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The kernel's answer.
    #[error("the measurement file {name} cannot be used")]
    System {
        /// Name of the file.
        name: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Not 48 bytes.
    #[error("expected {REGISTER} bytes in the measurement file {name}, found {found}")]
    Size {
        /// Name of the file.
        name: &'static str,
        /// Bytes that were there.
        found: usize,
    },
}

/// The registers at one moment, without RTMR3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Config digest, from the host.
    pub mr_config_id: [u8; REGISTER],
    /// Tenant digest, from the host.
    pub mr_owner: [u8; REGISTER],
    /// Policy digest, from the host.
    pub mr_owner_config: [u8; REGISTER],
    /// Initial memory.
    pub mr_td: [u8; REGISTER],
    /// RTMR0 to RTMR2: firmware, kernel, command line and initramfs.
    pub rtmr: [[u8; REGISTER]; 3],
}

/// Access to the registers of this TD.
pub trait Registers {
    /// Reads the seven that do not change.
    fn snapshot(&self) -> Result<Snapshot, RegisterError>;
    /// Reads RTMR3 as it is now.
    fn rtmr3(&self) -> Result<[u8; REGISTER], RegisterError>;
    /// RTMR3 becomes SHA-384(RTMR3 ‖ digest).
    fn extend(&mut self, digest: &[u8; REGISTER]) -> Result<(), RegisterError>;
}

/// The kernel's measurement files, opened by init.
#[derive(Debug)]
pub struct MeasurementFiles {
    /// In the order of [`FILES`].
    pub fixed: [File; 7],
    /// For reading and extending.
    pub rtmr3: File,
}

impl Registers for MeasurementFiles {
    fn snapshot(&self) -> Result<Snapshot, RegisterError> {
        let at = |index: usize| read(&self.fixed[index], FILES[index]);
        Ok(Snapshot {
            mr_config_id: at(0)?,
            mr_owner: at(1)?,
            mr_owner_config: at(2)?,
            mr_td: at(3)?,
            rtmr: [at(4)?, at(5)?, at(6)?],
        })
    }

    fn rtmr3(&self) -> Result<[u8; REGISTER], RegisterError> {
        read(&self.rtmr3, "rtmr3:sha384")
    }

    fn extend(&mut self, digest: &[u8; REGISTER]) -> Result<(), RegisterError> {
        let name = "rtmr3:sha384";
        let system = |source| RegisterError::System { name, source };
        match self.rtmr3.write_at(digest, 0).map_err(system)? {
            REGISTER => Ok(()),
            found => Err(RegisterError::Size { name, found }),
        }
    }
}

/// One read from the start: the kernel computes the content anew for each.
fn read(file: &File, name: &'static str) -> Result<[u8; REGISTER], RegisterError> {
    let mut bytes = [0_u8; REGISTER + 1];
    let found = file.read_at(&mut bytes, 0).map_err(|source| RegisterError::System { name, source })?;
    match bytes.first_chunk() {
        Some(register) if found == REGISTER => Ok(*register),
        _ => Err(RegisterError::Size { name, found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(rtmr3: &[u8]) -> (tempfile::TempDir, MeasurementFiles) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, content: &[u8]| {
            std::fs::write(dir.path().join(name), content).unwrap();
            File::options().read(true).write(true).open(dir.path().join(name)).unwrap()
        };
        let mut number = 0;
        let fixed = FILES.map(|name| {
            number += 1;
            open(name, &[number; REGISTER])
        });
        let rtmr3 = open("rtmr3:sha384", rtmr3);
        (dir, MeasurementFiles { fixed, rtmr3 })
    }

    #[test]
    fn each_register_is_read_from_its_own_file() {
        let (_dir, files) = files(&[0; 48]);
        let snapshot = files.snapshot().unwrap();
        assert_eq!(snapshot.mr_config_id, [1; 48]);
        assert_eq!(snapshot.mr_td, [4; 48]);
        assert_eq!(snapshot.rtmr, [[5; 48], [6; 48], [7; 48]]);
        assert_eq!(files.rtmr3().unwrap(), [0; 48]);
    }

    #[test]
    fn a_register_that_is_not_48_bytes_is_refused() {
        for size in [0, 47, 49] {
            let (_dir, files) = files(&vec![0; size]);
            assert!(matches!(files.rtmr3(), Err(RegisterError::Size { .. })));
        }
    }
}
