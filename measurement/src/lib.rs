//! From the files that boot to the registers they must leave: MRTD and RTMR0-2 of a TD started by QEMU's direct boot.
//!
//! Pure: bytes in, registers out. The image builder puts the result into the signed manifest, and the simulator into its
//! registers; both call [`measure`], so they agree by construction. What is known only about certain builds of QEMU and of the
//! firmware is data ([`rules`]), and `docs/measurement.md` says which parts have been compared with real hardware and which have
//! not.
//!
//! Not here: RTMR3 (the agent's own events, `coffer-evidence`), verification of quotes, reading files.

mod acpi;
pub mod authenticode;
mod digest;
mod hob;
mod kernel;
mod mrtd;
mod reader;
pub mod rules;
mod shape;
mod store;
pub mod tdvf;
mod variable;

use std::fmt;

pub use acpi::{AcpiDigests, AcpiTables};
pub use authenticode::{PeError, authenticode_sha384};
pub use digest::{Register, ZERO_REGISTER, extend, replay, sha384};
pub use hob::{HobError, td_hob};
pub use kernel::{PatchError, as_patched_by_qemu};
pub use mrtd::{MrtdError, mrtd};
pub use rules::{Event, InitrdArgument, KernelBytes, PageOrder, Rules, UnknownBuild};
pub use shape::{Shape, UnknownShape};
pub use tdvf::{Section, SectionKind, Tdvf, TdvfError};
pub use variable::{EfiGuid, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, load_option, variable_digest};

/// Longest command line, in bytes, as the kernel's own limit (`COMMAND_LINE_SIZE`).
pub const MAX_COMMAND_LINE_BYTES: usize = 2048;

/// What boots, and on what.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The firmware file given to `-bios`: an IntelTdx (TDVF) build.
    pub firmware: &'a [u8],
    /// The kernel file given to `-kernel`.
    pub kernel: &'a [u8],
    /// The file given to `-initrd`.
    pub initrd: &'a [u8],
    /// Exactly the bytes given to `-append`: ASCII, no newline.
    pub command_line: &'a [u8],
    /// Processors and memory.
    pub shape: Shape,
    /// What QEMU generates and the firmware measures into RTMR0.
    pub acpi: AcpiTables,
    /// The order of events for this generation of QEMU and firmware.
    pub rules: &'a Rules,
}

/// The registers at the moment the first userspace process starts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// The firmware as loaded.
    pub mrtd: Register,
    /// Firmware configuration: memory map, variables, ACPI tables, boot options.
    pub rtmr0: Register,
    /// The kernel and the boot steps.
    pub rtmr1: Register,
    /// Command line and initial file system.
    pub rtmr2: Register,
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers")
            .field("mrtd", &digest::Hex(&self.mrtd))
            .field("rtmr0", &digest::Hex(&self.rtmr0))
            .field("rtmr1", &digest::Hex(&self.rtmr1))
            .field("rtmr2", &digest::Hex(&self.rtmr2))
            .finish()
    }
}

/// Why files cannot be measured.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MeasureError {
    /// The firmware file has no usable TDVF metadata.
    #[error("the firmware file is not a TDVF build that QEMU would start; use an IntelTdx build of OVMF")]
    Firmware(#[from] TdvfError),
    /// MRTD cannot be computed from the metadata.
    #[error("MRTD cannot be computed from the firmware file")]
    Mrtd(#[from] MrtdError),
    /// The memory map cannot be computed.
    #[error("the TD HOB cannot be computed")]
    Hob(#[from] HobError),
    /// The kernel is not a PE image.
    #[error("the kernel file is not a PE image that the firmware would start; use a bzImage with an EFI stub")]
    Kernel(#[from] PeError),
    /// QEMU would change the kernel, and could not.
    #[error("the kernel file cannot be patched as this QEMU does it")]
    Patch(#[from] PatchError),
    /// The rules are for a variable store without keys.
    #[error(
        "expected a firmware whose secure boot keys were deleted, found the variable {0}: what it measures then is not known; \
         use the firmware of `coffer-image build`"
    )]
    Key(&'static str),
    /// The rules measure a configuration volume and the firmware has none.
    #[error("expected exactly one configuration volume (CFV) in the firmware metadata, found {found}")]
    Configuration {
        /// How many there are.
        found: usize,
    },
    /// Not what QEMU and the firmware turn into load options one to one.
    #[error(
        "expected a command line of 1 to {MAX_COMMAND_LINE_BYTES} printable ASCII bytes without newline, found {0}"
    )]
    CommandLine(&'static str),
    /// A boot without initial file system is not one of ours.
    #[error("the initrd file is empty")]
    EmptyInitrd,
}

/// Computes the registers.
///
/// # Errors
/// [`MeasureError`] names the file that cannot be measured and why. Hostile files never panic.
pub fn measure(inputs: &Inputs<'_>) -> Result<Registers, MeasureError> {
    let tdvf = Tdvf::parse(inputs.firmware)?;
    if inputs.initrd.is_empty() {
        return Err(MeasureError::EmptyInitrd);
    }
    if let Some(name) = store::live_key(configuration_volume(&tdvf)?) {
        return Err(MeasureError::Key(name));
    }
    let kernel = match inputs.rules.kernel_bytes {
        KernelBytes::AsGiven => authenticode_sha384(inputs.kernel)?,
        KernelBytes::PatchedByQemu => {
            let memory = inputs.shape.memory_bytes();
            authenticode_sha384(&as_patched_by_qemu(inputs.kernel, inputs.initrd.len(), memory)?)?
        }
    };
    let events = EventDigests {
        hob: sha384(&td_hob(&tdvf, inputs.shape.memory_bytes())?),
        configuration: sha384(configuration_volume(&tdvf)?),
        kernel,
        command_line: sha384(&load_options(inputs.command_line, inputs.rules.initrd_argument)?),
        initrd: sha384(inputs.initrd),
        acpi: inputs.acpi.digests(),
    };
    let register = |list: &[Event]| replay(list.iter().map(|event| events.of(event)));
    Ok(Registers {
        mrtd: mrtd(&tdvf, inputs.rules.page_order)?,
        rtmr0: register(inputs.rules.rtmr0),
        rtmr1: register(inputs.rules.rtmr1),
        rtmr2: register(inputs.rules.rtmr2),
    })
}

/// The digests that depend on the inputs; the others are in the rules.
struct EventDigests {
    hob: Register,
    configuration: Register,
    kernel: Register,
    command_line: Register,
    initrd: Register,
    acpi: AcpiDigests,
}

impl EventDigests {
    fn of(&self, event: &Event) -> Register {
        match event {
            Event::TdHob => self.hob,
            Event::ConfigurationVolume => self.configuration,
            Event::Variable { guid, name, data } => variable_digest(guid, name, data),
            Event::BootVariable { data } | Event::FirmwareConfiguration { data } => sha384(data),
            Event::BootOption { attributes, description, path } => sha384(&load_option(*attributes, description, path)),
            Event::Separator => sha384(&[0; 4]),
            Event::AcpiLoader => self.acpi.loader,
            Event::AcpiRsdp => self.acpi.rsdp,
            Event::AcpiTables => self.acpi.tables,
            Event::Kernel => self.kernel,
            Event::Action(text) => sha384(text.as_bytes()),
            Event::CommandLine => self.command_line,
            Event::Initrd => self.initrd,
        }
    }
}

fn configuration_volume<'a>(tdvf: &Tdvf<'a>) -> Result<&'a [u8], MeasureError> {
    let mut volumes = tdvf.sections().iter().filter(|section| section.kind == SectionKind::ConfigurationVolume);
    match (volumes.next(), volumes.count()) {
        (Some(volume), 0) => Ok(volume.data),
        (first, more) => Err(MeasureError::Configuration { found: usize::from(first.is_some()) + more }),
    }
}

/// What the firmware hands to the kernel as load options: the command line with `initrd=initrd`, UTF-16LE, terminated.
fn load_options(command_line: &[u8], initrd: InitrdArgument) -> Result<Vec<u8>, MeasureError> {
    let refuse = |found| Err(MeasureError::CommandLine(found));
    match command_line {
        [] => return refuse("none"),
        long if long.len() > MAX_COMMAND_LINE_BYTES => return refuse("a longer one"),
        other if !other.iter().all(|byte| (0x20..0x7f).contains(byte)) => return refuse("another byte"),
        _ => {}
    }
    let text = match initrd {
        InitrdArgument::First => [b"initrd=initrd ", command_line].concat(),
        InitrdArgument::Last => [command_line, b" initrd=initrd"].concat(),
    };
    Ok(text.iter().chain(b"\0").flat_map(|byte| [*byte, 0]).collect())
}

#[cfg(test)]
mod tests;
