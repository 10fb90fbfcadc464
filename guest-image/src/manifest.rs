//! What the publisher says about an image: the digests of its files and the registers that a TD booted from them shows.
//! The types are `coffer-evidence`'s, the arithmetic is `coffer-measurement`'s; here is what of an image goes in.

use crate::acpi::{AcpiError, Source};
use crate::debian::lock::{Lock, Set};
use coffer_evidence::manifest::{ImageDigests, ImageManifest, Profile, Register, ShapeReference};
use coffer_measurement::rules::known;
use coffer_measurement::{Inputs, MeasureError, Registers, Shape, UnknownBuild, measure};
use std::collections::BTreeMap;

/// The image's name in its manifest.
pub const NAME: &str = "coffer-guest";
/// Raised when an older image must no longer be accepted.
pub const SVN: u64 = 1;
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

/// Why there are no reference values.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing is known about what these builds measure.
    #[error(transparent)]
    Unknown(#[from] UnknownBuild),
    /// See [`AcpiError`].
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// See [`MeasureError`].
    #[error("measuring the image")]
    Measure(#[from] MeasureError),
}

/// Computes the registers of every shape, by the rules of these builds.
pub fn registers(
    booted: Booted<'_>,
    acpi: &Source,
    builds: &Builds,
) -> Result<BTreeMap<String, Registers>, ReferenceError> {
    let rules = known(&builds.qemu, &builds.firmware)?;
    let of_shape = |&shape: &Shape| {
        let Booted { firmware, kernel, initrd, command_line } = booted;
        let inputs = Inputs { firmware, kernel, initrd, command_line, shape, acpi: acpi.of(shape)?, rules };
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

impl Builds {
    /// Those of the packages in a lock.
    #[must_use]
    pub fn of(lock: &Lock) -> Self {
        let version = |set, name| lock.version(set, name).unwrap_or("unknown").to_owned();
        Self { qemu: version(Set::Qemu, "qemu-system-x86"), firmware: version(Set::Firmware, "ovmf-inteltdx") }
    }
}

/// The registers as a manifest has them.
#[must_use]
pub fn references(registers: BTreeMap<String, Registers>, builds: &Builds) -> BTreeMap<String, ShapeReference> {
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
    registers.into_iter().map(reference).collect()
}

/// Puts a manifest together. `not_after` is in Unix seconds.
pub fn manifest(
    profile: Profile,
    registers: BTreeMap<String, Registers>,
    builds: &Builds,
    digests: ImageDigests,
    not_after: u64,
) -> ImageManifest {
    ImageManifest {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        svn: SVN,
        profile,
        shapes: references(registers, builds),
        digests,
        not_after,
    }
}
