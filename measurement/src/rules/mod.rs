//! Which events a generation of QEMU and firmware measures, in which order: data, one constant per generation. Which builds
//! belong to which generation is in `builds.rs`.

mod builds;

pub use builds::{STACKS, Stack, UnknownBuild, Versions, known};

use crate::variable::{EfiGuid, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE};

/// One measured event. What its digest covers is in `lib.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The memory map.
    TdHob,
    /// The variable store of the firmware file.
    ConfigurationVolume,
    /// A secure boot variable.
    Variable {
        /// Vendor.
        guid: EfiGuid,
        /// Name.
        name: &'static str,
        /// Content; empty when the variable does not exist.
        data: &'static [u8],
    },
    /// A boot variable, measured over its data alone.
    BootVariable {
        /// Content.
        data: &'static [u8],
    },
    /// A boot option variable (`Boot####`), measured over its data alone.
    BootOption {
        /// Load option attributes.
        attributes: u32,
        /// What a menu would show.
        description: &'static str,
        /// Its device path.
        path: &'static [u8],
    },
    /// An item of QEMU's firmware configuration device, measured over its data alone. Items that do not exist are not measured.
    FirmwareConfiguration {
        /// Content.
        data: &'static [u8],
    },
    /// Four zero bytes.
    Separator,
    /// `etc/table-loader`.
    AcpiLoader,
    /// `etc/acpi/rsdp`.
    AcpiRsdp,
    /// `etc/acpi/tables`.
    AcpiTables,
    /// The kernel, by its Authenticode digest.
    Kernel,
    /// A text that names a step.
    Action(&'static str),
    /// The load options of the kernel.
    CommandLine,
    /// The initial file system.
    Initrd,
}

/// Where the firmware puts `initrd=initrd` when it makes load options of the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitrdArgument {
    /// `initrd=initrd <command line>`: edk2 since 2025.
    First,
    /// `<command line> initrd=initrd`: before.
    Last,
}

/// In which order QEMU and KVM build the initial memory of a TD, on which MRTD depends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageOrder {
    /// Each page is added and extended before the next one: KVM 6.16 and later.
    PageByPage,
    /// All pages of a section are added, then all are extended: the kernels before TDX was in Linux.
    SectionBySection,
}

/// Which bytes of the kernel the firmware loads and measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelBytes {
    /// The file as given: QEMU 10.0 and later offer it as `etc/boot/kernel`, and edk2 2025.05 and later take that.
    AsGiven,
    /// With the fields of the setup header that QEMU fills in for a boot loader's sake.
    PatchedByQemu,
}

/// The events of a boot, by register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Which QEMU and firmware these hold for.
    pub name: &'static str,
    /// How load options are made.
    pub initrd_argument: InitrdArgument,
    /// How MRTD is made.
    pub page_order: PageOrder,
    /// What the digest of the kernel covers.
    pub kernel_bytes: KernelBytes,
    /// Into RTMR0.
    pub rtmr0: &'static [Event],
    /// Into RTMR1.
    pub rtmr1: &'static [Event],
    /// Into RTMR2.
    pub rtmr2: &'static [Event],
}

/// `Fv(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(eec25bdc-67f2-4d95-b1d5-f81b2039d11d)`: the boot manager menu.
const BOOT_MANAGER_MENU: &[u8] = &[
    0x04, 0x07, 0x14, 0x00, 0xc9, 0xbd, 0xb8, 0x7c, 0xeb, 0xf8, 0x34, 0x4f, 0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16,
    0xa1, 0x04, 0x06, 0x14, 0x00, 0xdc, 0x5b, 0xc2, 0xee, 0xf2, 0x67, 0x95, 0x4d, 0xb1, 0xd5, 0xf8, 0x1b, 0x20, 0x39,
    0xd1, 0x1d, 0x7f, 0xff, 0x04, 0x00,
];

/// Firmware configuration item 14, a 16-bit number: no boot menu.
const BOOT_MENU_OFF: &[u8] = &[0, 0];

/// `bootorder`: with `-kernel` QEMU adds an option ROM that starts the kernel, with the first boot index. No other device may
/// have one, or this text would be longer.
const BOOT_ORDER: &[u8] = b"/rom@genroms/linuxboot_dma.bin\0";

/// Active, hidden, an application.
const MENU_ATTRIBUTES: u32 = 0x109;

/// Direct boot by QEMU 10.1 or later with an IntelTdx secure boot build of edk2 2025.05 or later whose PK, KEK, db and dbx were
/// deleted: the combination that Coffer ships (Debian's `ovmf-inteltdx` 2026.08).
///
/// Sources: edk2 (`TdTcg2Dxe.c`, `QemuFwCfgCacheInit.c`: of the items that it lists QEMU offers the boot menu and the boot order)
/// for the order; that firmware's own code for the register of the separator; variables and load options as read inside a guest
/// that booted it; the boot order as that QEMU offers it. The kernel is the file as given: QEMU hands it over unpatched since
/// 10.0. Not yet compared with a TD on hardware.
pub const DIRECT_BOOT: Rules = Rules {
    name: "direct boot: QEMU 10.1 or later, edk2 2025.05 or later, secure boot keys cleared",
    initrd_argument: InitrdArgument::First,
    page_order: PageOrder::PageByPage,
    kernel_bytes: KernelBytes::AsGiven,
    rtmr0: &[
        Event::TdHob,
        Event::ConfigurationVolume,
        Event::FirmwareConfiguration { data: BOOT_MENU_OFF },
        Event::FirmwareConfiguration { data: BOOT_ORDER },
        Event::Variable { guid: GLOBAL_VARIABLE, name: "SecureBoot", data: &[0] },
        Event::Variable { guid: GLOBAL_VARIABLE, name: "PK", data: &[] },
        Event::Variable { guid: GLOBAL_VARIABLE, name: "KEK", data: &[] },
        Event::Variable { guid: IMAGE_SECURITY_DATABASE, name: "db", data: &[] },
        Event::Variable { guid: IMAGE_SECURITY_DATABASE, name: "dbx", data: &[] },
        Event::Separator,
        Event::AcpiLoader,
        Event::AcpiRsdp,
        Event::AcpiTables,
        Event::BootVariable { data: &[0, 0] },
        Event::BootOption { attributes: MENU_ATTRIBUTES, description: "BootManagerMenuApp", path: BOOT_MANAGER_MENU },
    ],
    rtmr1: &[
        Event::Kernel,
        Event::Action("Calling EFI Application from Boot Option"),
        Event::Separator,
        Event::Action("Exit Boot Services Invocation"),
        Event::Action("Exit Boot Services Returned with Success"),
    ],
    rtmr2: &[Event::CommandLine, Event::Initrd],
};

/// `Fv(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)`: the menu of older edk2.
const UI_APP: &[u8] = &[
    0x04, 0x07, 0x14, 0x00, 0xc9, 0xbd, 0xb8, 0x7c, 0xeb, 0xf8, 0x34, 0x4f, 0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16,
    0xa1, 0x04, 0x06, 0x14, 0x00, 0x21, 0xaa, 0x2c, 0x46, 0x14, 0x76, 0x03, 0x45, 0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66,
    0x23, 0x31, 0x7f, 0xff, 0x04, 0x00,
];

/// Direct boot before edk2 2025.05, without secure boot, single pass.
///
/// Source: the event log of `quote-report.json` (dstack; QEMU 9.2.1, an Intel-signed quote), event by event; which bytes of the
/// kernel are measured, and the passes: dstack-mr's `kernel.rs` and `machine.rs`.
pub const DIRECT_BOOT_2024: Rules = Rules {
    name: "direct boot: QEMU 9, edk2 before 2025.05, no secure boot",
    initrd_argument: InitrdArgument::Last,
    page_order: PageOrder::PageByPage,
    kernel_bytes: KernelBytes::PatchedByQemu,
    rtmr0: &[
        Event::TdHob,
        Event::ConfigurationVolume,
        Event::Variable { guid: GLOBAL_VARIABLE, name: "SecureBoot", data: &[] },
        Event::Variable { guid: GLOBAL_VARIABLE, name: "PK", data: &[] },
        Event::Variable { guid: GLOBAL_VARIABLE, name: "KEK", data: &[] },
        Event::Variable { guid: IMAGE_SECURITY_DATABASE, name: "db", data: &[] },
        Event::Variable { guid: IMAGE_SECURITY_DATABASE, name: "dbx", data: &[] },
        Event::Separator,
        Event::AcpiLoader,
        Event::AcpiRsdp,
        Event::AcpiTables,
        Event::BootVariable { data: &[0, 0] },
        Event::BootOption { attributes: MENU_ATTRIBUTES, description: "UiApp", path: UI_APP },
    ],
    rtmr1: DIRECT_BOOT.rtmr1,
    rtmr2: DIRECT_BOOT.rtmr2,
};

/// The same on the kernels and QEMUs from before TDX was in Linux: two passes.
///
/// Source: dstack-mr's `machine.rs` for the passes of QEMU 8; the rest as [`DIRECT_BOOT_2024`].
pub const DIRECT_BOOT_TWO_PASSES: Rules = Rules {
    name: "direct boot: QEMU 8 of the time before upstream TDX, edk2 before 2025.05, no secure boot",
    page_order: PageOrder::SectionBySection,
    ..DIRECT_BOOT_2024
};
