//! ACPI tables: made by QEMU at start, measured by the firmware into RTMR0. They are not files, so no file predicts them.
//!
//! They depend on the QEMU build, on the shape and on every device. For the `tdx` profile their digests come from a QEMU of the
//! same build run with the same devices, and its tables read from inside a guest. The simulator cannot see what QEMU generated:
//! on that platform three fixed digests stand for them, and say so.

use crate::digest::{Register, sha384};

/// SHA-384 of the three blobs that QEMU offers through its firmware configuration device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcpiDigests {
    /// `etc/table-loader`.
    pub loader: Register,
    /// `etc/acpi/rsdp`.
    pub rsdp: Register,
    /// `etc/acpi/tables`.
    pub tables: Register,
}

impl AcpiDigests {
    /// From the blobs, read after the firmware has read them (QEMU completes them then).
    #[must_use]
    pub fn of(loader: &[u8], rsdp: &[u8], tables: &[u8]) -> Self {
        AcpiDigests { loader: sha384(loader), rsdp: sha384(rsdp), tables: sha384(tables) }
    }
}

/// Where the ACPI part of RTMR0 comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcpiTables {
    /// The simulated platform: ACPI is not measured there. The registers hold the digests of three fixed texts instead.
    Simulated,
    /// Real digests.
    Digests(AcpiDigests),
}

impl AcpiTables {
    pub(crate) fn digests(self) -> AcpiDigests {
        match self {
            AcpiTables::Simulated => AcpiDigests::of(
                b"SIMULATED: etc/table-loader is not measured",
                b"SIMULATED: etc/acpi/rsdp is not measured",
                b"SIMULATED: etc/acpi/tables is not measured",
            ),
            AcpiTables::Digests(digests) => digests,
        }
    }
}
