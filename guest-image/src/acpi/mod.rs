//! ACPI tables by shape, for RTMR0. QEMU makes them and the firmware completes them (its assignment of PCI addresses is in
//! them), so they are read from a run of the same QEMU with the same firmware and devices: emulated, until the kernel is
//! started and, without a root, ends. `docs/measurement.md` says what such a run cannot show.

mod conversation;
mod machine;

use crate::kit::Kit;
use coffer_evidence::manifest::Profile;
use coffer_measurement::{AcpiDigests, AcpiTables, Shape};
use conversation::Conversation;
pub use machine::{PhysicalBits, Vsock};
use sha2::{Digest as _, Sha256};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files QEMU generates, as the guest's `/sys/firmware/qemu_fw_cfg/by_name/etc` shows them, below `--acpi DIR`.
pub const FILES: [&str; 3] = ["table-loader", "acpi/rsdp", "acpi/tables"];
/// Largest of them, in bytes; real ones have 128 KiB.
const FILE_MAX: u32 = 4 << 20;
/// How long the run may take: 12 s on two free processors.
const RUN: Duration = Duration::from_secs(180);

/// Why there are no ACPI tables to measure.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// They could not be read.
    #[error("reading the ACPI table blob {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// QEMU did not do what it was started for.
    #[error(
        "expected the QEMU of the kit to boot the firmware for the ACPI tables of shape {shape}, found that {found}: free \
         memory (2 GiB are needed), or give tables with --acpi DIR"
    )]
    Run {
        /// For which shape.
        shape: Shape,
        /// What happened.
        found: String,
    },
    /// Files of the run.
    #[error("running QEMU for the ACPI tables")]
    Io(#[from] io::Error),
}

/// Where the ACPI part of RTMR0 comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The simulated platform: nothing is measured.
    Simulated,
    /// Blobs below a directory: in one of the shape's name if there is one, else in itself.
    Directory(PathBuf),
    /// What the kit's QEMU showed, by shape.
    Shown(Vec<(Shape, AcpiDigests)>),
}

impl Source {
    /// The tables of a shape.
    ///
    /// # Errors
    /// [`AcpiError`] when they cannot be read.
    pub fn of(&self, shape: Shape) -> Result<AcpiTables, AcpiError> {
        match self {
            Source::Simulated => Ok(AcpiTables::Simulated),
            Source::Directory(directory) => {
                let own = directory.join(shape.name());
                let blobs = Blobs::read(if own.is_dir() { &own } else { directory })?;
                Ok(AcpiTables::Digests(blobs.digests()))
            }
            Source::Shown(shown) => {
                let found = shown.iter().find(|(known, _)| *known == shape).map(|(_, digests)| *digests);
                let none = || AcpiError::Run { shape, found: "it was not asked for this shape".into() };
                Ok(AcpiTables::Digests(found.ok_or_else(none)?))
            }
        }
    }

    /// What an image of a profile is measured with, where the user says so or nothing needs to be run.
    #[must_use]
    pub fn given(profile: Profile, directory: Option<&Path>) -> Option<Self> {
        match (directory, profile) {
            (Some(directory), _) => Some(Source::Directory(directory.into())),
            (None, Profile::Simulated) => Some(Source::Simulated),
            (None, Profile::Tdx) => None,
        }
    }
}

/// The three blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blobs([Vec<u8>; 3]);

impl Blobs {
    fn read(directory: &Path) -> Result<Self, AcpiError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(|source| AcpiError::Read { path, source })
        };
        let [loader, rsdp, tables] = FILES;
        Ok(Self([read(loader)?, read(rsdp)?, read(tables)?]))
    }

    fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory.join("acpi"))?;
        FILES.iter().zip(&self.0).try_for_each(|(name, bytes)| fs::write(directory.join(name), bytes))
    }

    /// What the firmware measures.
    #[must_use]
    pub fn digests(&self) -> AcpiDigests {
        let [loader, rsdp, tables] = &self.0;
        AcpiDigests::of(loader, rsdp, tables)
    }
}

/// What decides about the tables besides the shape.
#[derive(Debug, Clone, Copy)]
pub struct Ran<'a> {
    /// The QEMU.
    pub kit: &'a Kit,
    /// The firmware file, keys cleared.
    pub firmware: &'a [u8],
    /// A kernel that the firmware starts.
    pub kernel: &'a [u8],
    /// Of the hosts' processors.
    pub bits: PhysicalBits,
}

/// The name of a directory for what a run shows: by the packages of the QEMU, the files, and every argument it is started
/// with, so that another machine is another directory.
#[must_use]
pub fn directory_name(packages: &str, firmware: &[u8], kernel: &[u8], bits: PhysicalBits) -> String {
    let of_shape =
        |&shape: &Shape| machine::arguments(shape, bits, &Vsock::StandIn, Path::new("firmware"), Path::new("kernel"));
    let arguments: Vec<OsString> = Shape::ALL.iter().flat_map(of_shape).collect();
    name_over(packages, firmware, kernel, &arguments)
}

fn name_over(packages: &str, firmware: &[u8], kernel: &[u8], arguments: &[OsString]) -> String {
    let mut key = Sha256::new();
    let arguments = arguments.iter().map(|argument| argument.as_encoded_bytes());
    // Each by its digest: what is cut otherwise is not the same.
    for part in [packages.as_bytes(), firmware, kernel].into_iter().chain(arguments) {
        key.update(Sha256::digest(part));
    }
    hex::encode(key.finalize())[..16].to_owned()
}

/// Runs QEMU once for each shape, or takes what an earlier run left below `directory`.
///
/// # Errors
/// [`AcpiError`].
pub fn run(ran: Ran<'_>, directory: &Path, mut say: impl FnMut(Shape)) -> Result<Source, AcpiError> {
    let of_shape = |&shape: &Shape| {
        let kept = directory.join(shape.name());
        if let Ok(blobs) = Blobs::read(&kept) {
            return Ok((shape, blobs.digests()));
        }
        say(shape);
        let blobs = show(ran, shape, &Vsock::StandIn)?;
        let parent = tempfile::Builder::new().prefix(".partial-").tempdir_in(directory)?;
        blobs.write(parent.path())?;
        fs::rename(parent.keep(), &kept)?;
        Ok((shape, blobs.digests()))
    };
    fs::create_dir_all(directory)?;
    Shape::ALL.iter().map(of_shape).collect::<Result<_, _>>().map(Source::Shown)
}

/// Boots firmware and kernel, and reads what QEMU offers then.
///
/// # Errors
/// [`AcpiError`].
pub fn show(ran: Ran<'_>, shape: Shape, vsock: &Vsock) -> Result<Blobs, AcpiError> {
    let scratch = tempfile::tempdir()?;
    let file = |name: &str, bytes: &[u8]| {
        let path = scratch.path().join(name);
        fs::write(&path, bytes).map(|()| path)
    };
    let (firmware, kernel) = (file("firmware.fd", ran.firmware)?, file("vmlinuz", ran.kernel)?);
    let mut command = ran.kit.qemu();
    command.args(machine::arguments(shape, ran.bits, vsock, &firmware, &kernel));
    let failed = |found: String| AcpiError::Run { shape, found };
    let mut qemu = Conversation::start(command, RUN)?;
    qemu.wait_for_the_end_of_the_guest().map_err(failed)?;
    let [loader, rsdp, tables] = FILES.map(|name| qemu.item(&format!("etc/{name}"), FILE_MAX));
    Ok(Blobs([loader.map_err(failed)?, rsdp.map_err(failed)?, tables.map_err(failed)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_another_machine_are_not_those_that_an_earlier_run_left() {
        let name = |bits: &str| directory_name("packages", b"firmware", b"kernel", bits.parse().unwrap());
        assert_eq!((name("52"), name("52").len()), (name("52"), 16));
        assert_ne!(name("52"), name("46"));
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let over = |words: &[&str]| name_over("packages", b"firmware", b"kernel", &arguments(words));
        let names = [
            over(&["-machine", "q35"]),
            over(&["-machine", "q35,hpet=off"]),
            over(&["-machine", "q35", "-sandbox"]),
            over(&["-machineq35"]),
            name_over("others", b"firmware", b"kernel", &arguments(&["-machine", "q35"])),
            name_over("packages", b"another", b"kernel", &arguments(&["-machine", "q35"])),
            name_over("packages", b"firmware", b"another", &arguments(&["-machine", "q35"])),
        ];
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), names.len(), "{names:?}");
        // What a run is started with is what the name is made of.
        let ran = |shape| {
            machine::arguments(
                shape,
                "52".parse().unwrap(),
                &Vsock::StandIn,
                Path::new("firmware"),
                Path::new("kernel"),
            )
        };
        let all: Vec<_> = Shape::ALL.iter().flat_map(|shape| ran(*shape)).collect();
        assert_eq!(name("52"), name_over("packages", b"firmware", b"kernel", &all));
    }

    #[test]
    fn reference_values_for_tdx_are_never_made_of_the_simulators_stand_ins() {
        assert_eq!(Source::given(Profile::Tdx, None), None);
        assert_eq!(Source::given(Profile::Simulated, None), Some(Source::Simulated));
        let dir = tempfile::tempdir().unwrap();
        let source = Source::given(Profile::Tdx, Some(dir.path())).unwrap();
        fs::create_dir(dir.path().join("acpi")).unwrap();
        for name in FILES {
            assert!(matches!(source.of(Shape::S1), Err(AcpiError::Read { .. })));
            fs::write(dir.path().join(name), name).unwrap();
        }
        let of_all = source.of(Shape::S1).unwrap();
        assert!(matches!(of_all, AcpiTables::Digests(_)));
        // Those of the shape go before those of all.
        Blobs(["a", "b", "c"].map(|text| text.as_bytes().to_vec())).write(&dir.path().join("s1")).unwrap();
        assert_ne!(source.of(Shape::S1).unwrap(), of_all);
        assert!(matches!(Source::Shown(Vec::new()).of(Shape::S1), Err(AcpiError::Run { .. })));
    }
}
