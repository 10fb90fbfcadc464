//! TD attributes: which bits exist and which ones make a TD untrustworthy whatever else is true of it.
//! Source: Intel TDX Module ABI specification 348551-008, table 3.23.

use std::fmt;

/// The 64 attribute bits of a TD, as measured in its report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TdAttributes(u64);

/// One reason why a TD with these attributes is never believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttributeFault {
    /// Bit 0: the host can read and write the memory of the TD.
    Debug,
    /// Bits 4-6: the host can profile the TD.
    Profiling,
    /// A bit that the specification requires to be zero.
    Reserved,
    /// Bit 28 is clear: the host can inject page faults into the TD's private memory.
    SeptVeEnabled,
    /// Bit 29: a migration TD can move this TD elsewhere.
    Migratable,
    /// Bit 17: the report is extended by service TDs.
    ServiceTdExtended,
}

const DEBUG: u64 = 1;
const PROFILING: u64 = 0x70;
const SERVICE_TD_EXTENDED: u64 = 1 << 17;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const MIGRATABLE: u64 = 1 << 29;
/// Bits 1-3, 7-15, 23-26 and 32-61.
const RESERVED: u64 = 0x3fff_ffff_0780_ff8e;

impl TdAttributes {
    /// From the little-endian number in the report.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        TdAttributes(bits)
    }

    /// The bits as a number.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Every reason to refuse, in the order of this list; empty for a sound TD.
    #[must_use]
    pub fn faults(self) -> Vec<AttributeFault> {
        let set = |mask: u64| self.0 & mask != 0;
        [
            (set(DEBUG), AttributeFault::Debug),
            (set(PROFILING), AttributeFault::Profiling),
            (set(RESERVED), AttributeFault::Reserved),
            (!set(SEPT_VE_DISABLE), AttributeFault::SeptVeEnabled),
            (set(MIGRATABLE), AttributeFault::Migratable),
            (set(SERVICE_TD_EXTENDED), AttributeFault::ServiceTdExtended),
        ]
        .into_iter()
        .filter_map(|(present, fault)| present.then_some(fault))
        .collect()
    }
}

impl fmt::Debug for TdAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TdAttributes({:#018x})", self.0)
    }
}

impl fmt::Display for AttributeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttributeFault::Debug => "DEBUG (bit 0) is set: the host can read and write this TD's memory",
            AttributeFault::Profiling => "a profiling bit (4-6) is set",
            AttributeFault::Reserved => "a reserved attribute bit is set",
            AttributeFault::SeptVeEnabled => "SEPT_VE_DISABLE (bit 28) is clear",
            AttributeFault::Migratable => "MIGRATABLE (bit 29) is set",
            AttributeFault::ServiceTdExtended => "SERVTD_EXT (bit 17) is set: service TDs are bound",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: u64 = SEPT_VE_DISABLE;

    #[test]
    fn the_attributes_of_a_real_td_have_no_fault() {
        assert_eq!(TdAttributes::new(0x1000_0000).faults(), []);
    }

    #[test]
    fn each_dangerous_bit_is_named_and_no_other() {
        for bit in 0..64 {
            let expected = match bit {
                0 => Some(AttributeFault::Debug),
                4..=6 => Some(AttributeFault::Profiling),
                1..=3 | 7..=15 | 23..=26 | 32..=61 => Some(AttributeFault::Reserved),
                28 => Some(AttributeFault::SeptVeEnabled),
                29 => Some(AttributeFault::Migratable),
                17 => Some(AttributeFault::ServiceTdExtended),
                _ => None,
            };
            let faults = TdAttributes::new(SOUND ^ (1 << bit)).faults();
            assert_eq!(faults, expected.into_iter().collect::<Vec<_>>(), "bit {bit}");
        }
    }
}
