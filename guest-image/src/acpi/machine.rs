//! The machine whose ACPI tables are read: that of a session on a TDX host, as far as an emulated one can be. What differs
//! and why it does not show in the tables is said here, row by row; a test compares the rest with the session's own command line.

use coffer_measurement::Shape;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A TDX host's machine. `pic=off` is what QEMU chooses for a TD by itself; it shows in the MADT.
const MACHINE: &str = "q35,kernel-irqchip=split,smm=off,hpet=off,pic=off,memory-backend=mem0";
/// In the order of their PCI slots. For a TD QEMU switches the legacy interface of every virtio device off by itself.
const DISKS: [&str; 3] = ["coffer-root", "coffer-verity", "coffer-boot"];
/// In the slot of the vsock device, which only starts with a vhost behind it: another virtio device with the same two memory
/// regions. Of a device the tables show its slot, and where the firmware put its regions.
const IN_THE_SLOT_OF_VSOCK: &str = "virtio-rng-pci,disable-legacy=on";
/// No root and no initramfs: the kernel ends at once, by a reset, which `-no-reboot` makes the end of the run.
const COMMAND_LINE: &str = "panic=-1 quiet";

/// As a session's QEMU has it.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// What stands in the slot of the vsock device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vsock {
    /// Another device.
    StandIn,
    /// The device itself, served at this socket: to see that the other one makes the same tables.
    VhostUser(PathBuf),
}

/// How many bits a physical address has on the hosts: the firmware puts PCI regions below its end, and that shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysicalBits(u8);

impl PhysicalBits {
    /// Of every server processor with TDX that is known.
    pub const SERVER: Self = Self(52);

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// Not a number of bits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 36 to 52, as `address sizes` in /proc/cpuinfo of the host says")]
pub struct NoBits;

impl FromStr for PhysicalBits {
    type Err = NoBits;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().filter(|bits| (36..=52).contains(bits)).map(Self).ok_or(NoBits)
    }
}

/// QEMU's arguments but for its data directories and the sockets.
pub(super) fn arguments(
    shape: Shape,
    bits: PhysicalBits,
    vsock: &Vsock,
    firmware: &Path,
    kernel: &Path,
) -> Vec<OsString> {
    let memory = shape.memory_bytes() >> 20;
    let mut out: Vec<OsString> = Vec::new();
    let mut put = |option: &str, value: OsString| out.extend([option.into(), value]);
    put("-machine", MACHINE.into());
    put("-accel", "tcg,thread=multi".into());
    put("-cpu", format!("max,phys-bits={}", bits.get()).into());
    put("-smp", shape.processors().to_string().into());
    put("-m", format!("{memory}M").into());
    put("-object", format!("memory-backend-memfd,id=mem0,size={memory}M,share=on").into());
    put("-bios", firmware.into());
    put("-kernel", kernel.into());
    put("-append", COMMAND_LINE.into());
    for id in DISKS {
        put("-blockdev", format!("null-co,node-name={id},size=1048576,read-only=on").into());
        put("-device", format!("virtio-blk-pci,drive={id},serial={id},disable-legacy=on").into());
    }
    match vsock {
        Vsock::StandIn => put("-device", IN_THE_SLOT_OF_VSOCK.into()),
        Vsock::VhostUser(socket) => {
            let mut backend = OsString::from("socket,id=vsock0,path=");
            backend.push(socket);
            put("-chardev", backend);
            put("-device", "vhost-user-vsock-pci,chardev=vsock0".into());
        }
    }
    put("-serial", "none".into());
    // The firmware may be anybody's, as far as QEMU is concerned.
    put("-sandbox", SANDBOX.into());
    put("-display", "none".into());
    out.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown"].map(OsString::from));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The session's own command line, as its test has it.
    const SESSION: &str = include_str!("../../../orchestrator/src/vmm/qemu/golden/tdx.txt");

    fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = arguments.iter().zip(arguments.iter().skip(1));
        pairs.filter(|(found, _)| *found == option).map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn the_measured_machine_is_that_of_a_session_but_for_what_is_said() {
        let session: Vec<String> = SESSION.lines().map(str::to_owned).collect();
        let ours = arguments(Shape::S1, PhysicalBits::SERVER, &Vsock::StandIn, Path::new("f"), Path::new("k"));
        let ours: Vec<String> = ours.into_iter().map(|text| text.into_string().unwrap()).collect();
        let machine: Vec<&str> = values(&session, "-machine")[0].split(',').collect();
        let measured: Vec<&str> = values(&ours, "-machine")[0].split(',').collect();
        for word in &machine {
            assert!(measured.contains(word) || word.starts_with("confidential-guest-support="), "{word}");
        }
        assert!(measured.iter().all(|word| machine.contains(word) || *word == "pic=off"), "{measured:?}");
        assert_eq!(values(&session, "-smp"), values(&ours, "-smp"));
        // Written otherwise, the same size.
        assert_eq!((values(&session, "-m"), values(&ours, "-m")), (vec!["2G"], vec!["2048M"]));
        assert_eq!(values(&session, "-serial"), values(&ours, "-serial"));
        assert_eq!(values(&session, "-sandbox"), values(&ours, "-sandbox"));
        let (devices, measured) = (values(&session, "-device"), values(&ours, "-device"));
        assert_eq!(devices.len(), measured.len());
        for (device, ours) in devices.iter().zip(&measured) {
            if device.starts_with("vhost-vsock-pci") {
                assert_eq!(*ours, IN_THE_SLOT_OF_VSOCK);
            } else {
                assert_eq!(format!("{device},disable-legacy=on"), **ours);
            }
        }
        assert!(devices.iter().all(|device| !device.contains("bootindex")), "QEMU would offer another boot order");
        for option in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            assert!(
                session.iter().any(|found| found == option) && ours.iter().any(|found| found == option),
                "{option}"
            );
        }
        // What else a session has makes no table.
        let silent = ["-name", "-object", "-drive", "-qmp", "-display", "-bios", "-kernel", "-initrd", "-append"];
        let known = [
            "-machine",
            "-accel",
            "-cpu",
            "-smp",
            "-m",
            "-device",
            "-serial",
            "-sandbox",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ];
        let options = session.iter().filter(|text| text.starts_with('-'));
        for option in options {
            assert!(silent.iter().chain(&known).any(|found| found == option), "{option}: does it show in the tables?");
        }
    }

    #[test]
    fn physical_bits_are_those_of_a_processor() {
        assert_eq!("46".parse(), Ok(PhysicalBits(46)));
        assert_eq!("52".parse(), Ok(PhysicalBits::SERVER));
        for odd in ["35", "53", "", "x", "-1", "300"] {
            assert_eq!(odd.parse::<PhysicalBits>(), Err(NoBits), "{odd}");
        }
    }
}
