//! What the publisher says about an image: the digests of its files and the registers that a TD booted from them shows.
//! The types are `coffer-evidence`'s, the arithmetic is `coffer-measurement`'s; here is what of an image goes in.

use coffer_evidence::manifest::{ImageDigests, ImageManifest, Profile, Register, ShapeReference};
use coffer_measurement::rules::DIRECT_BOOT;
use coffer_measurement::{AcpiDigests, AcpiTables, Inputs, MeasureError, Registers, Shape, measure};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The image's name in its manifest.
pub const NAME: &str = "coffer-guest";
/// Raised when an older image must no longer be accepted.
pub const SVN: u64 = 1;
/// The files QEMU generates, as the guest's `/sys/firmware/qemu_fw_cfg/by_name/etc` shows them, below `--acpi DIR`.
const ACPI_FILES: [&str; 3] = ["table-loader", "acpi/rsdp", "acpi/tables"];

/// What boots, besides the file systems.
#[derive(Debug, Clone, Copy)]
pub struct Booted<'a> {
    /// `firmware.fd`.
    pub firmware: &'a [u8],
    /// `vmlinuz`.
    pub kernel: &'a [u8],
    /// `initrd.img`.
    pub initrd: &'a [u8],
    /// `cmdline`.
    pub command_line: &'a [u8],
}

/// Computes the registers of every shape.
pub fn registers(booted: Booted<'_>, acpi: AcpiTables) -> Result<BTreeMap<String, Registers>, MeasureError> {
    let of_shape = |&shape: &Shape| {
        let Booted { firmware, kernel, initrd, command_line } = booted;
        let inputs = Inputs { firmware, kernel, initrd, command_line, shape, acpi, rules: &DIRECT_BOOT };
        Ok((shape.name().to_owned(), measure(&inputs)?))
    };
    Shape::ALL.iter().map(of_shape).collect()
}

/// The builds that the registers hold for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Builds {
    /// Debian version of QEMU.
    pub qemu: String,
    /// Debian version of the firmware.
    pub firmware: String,
}

/// Puts a manifest together. `not_after` is in Unix seconds.
pub fn manifest(
    profile: Profile,
    registers: BTreeMap<String, Registers>,
    builds: &Builds,
    digests: ImageDigests,
    not_after: u64,
) -> ImageManifest {
    let reference = |(shape, registers): (String, Registers)| {
        let Registers { mrtd, rtmr0, rtmr1, rtmr2 } = registers;
        let reference = ShapeReference {
            mrtd: Register(mrtd),
            rtmr0: Register(rtmr0),
            rtmr1: Register(rtmr1),
            rtmr2: Register(rtmr2),
            qemu: builds.qemu.clone(),
            firmware: builds.firmware.clone(),
        };
        (shape, reference)
    };
    ImageManifest {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        svn: SVN,
        profile,
        shapes: registers.into_iter().map(reference).collect(),
        digests,
        not_after,
    }
}

/// Why there are no ACPI tables to measure.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// The tdx profile was asked for without them.
    #[error(
        "expected --acpi DIR for the tdx profile, found none: RTMR0 covers tables that QEMU generates. Start the QEMU of \
         the kit with the session's devices, load qemu_fw_cfg in the guest, and copy \
         /sys/firmware/qemu_fw_cfg/by_name/etc/{{table-loader,acpi/rsdp,acpi/tables}}/raw to DIR/{{table-loader,acpi/rsdp,acpi/tables}}"
    )]
    Missing,
    /// They could not be read.
    #[error("reading the ACPI table blob {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Where the ACPI part of RTMR0 comes from: the blobs below `directory`, or the simulator's stand-in.
pub fn acpi(profile: Profile, directory: Option<&Path>) -> Result<AcpiTables, AcpiError> {
    let Some(directory) = directory else {
        return match profile {
            Profile::Simulated => Ok(AcpiTables::Simulated),
            Profile::Tdx => Err(AcpiError::Missing),
        };
    };
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read(&path).map_err(|source| AcpiError::Read { path, source })
    };
    let [loader, rsdp, tables] = ACPI_FILES;
    Ok(AcpiTables::Digests(AcpiDigests::of(&read(loader)?, &read(rsdp)?, &read(tables)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_values_for_tdx_are_never_made_of_the_simulators_stand_ins() {
        assert!(matches!(acpi(Profile::Tdx, None), Err(AcpiError::Missing)));
        assert!(matches!(acpi(Profile::Simulated, None), Ok(AcpiTables::Simulated)));
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("acpi")).unwrap();
        for name in ACPI_FILES {
            assert!(matches!(acpi(Profile::Tdx, Some(dir.path())), Err(AcpiError::Read { .. })));
            fs::write(dir.path().join(name), name).unwrap();
        }
        assert!(matches!(acpi(Profile::Tdx, Some(dir.path())), Ok(AcpiTables::Digests(_))));
    }
}
