//! SIMULATED: TDREPORT structures, as a TD gets them of the TDX module and the quoting enclave takes them. Layout: Intel's TDX module
//! ABI, TDREPORT_STRUCT; 1,024 bytes.
//!
//! ```text
//!   0 REPORTMACSTRUCT  256: type 4 | 0 12 | CPUSVN 16 | SHA-384 of TEE_TCB_INFO | SHA-384 of TDINFO | report data 64 | 0 32 | MAC 32
//! 256 TEE_TCB_INFO     239: valid 8 | TEE_TCB_SVN 16 | MRSEAM 48 | MRSIGNERSEAM 48 | attributes 8 | 0 111
//! 512 TDINFO           512: attributes 8 | XFAM 8 | eight registers of 48 | SERVTD_HASH 48 | 0 64
//! ```
//! The MAC of a real one can be checked on its own machine alone, by the CPU. This one anybody can make.

use coffer_evidence::qgs::REPORT_BYTES;
use sha2::{Digest as _, Sha256, Sha384};

use crate::protocol::Registers;
use crate::quote::{TD_ATTRIBUTES, TEE_TCB_SVN, XFAM, module};

const KIND: [u8; 4] = [0x81, 0, 0, 0];
const MAC_AT: usize = 224;
const REPORT_DATA_AT: usize = 128;
const TEE_TCB_INFO: std::ops::Range<usize> = 256..495;
const TD_INFO: std::ops::Range<usize> = 512..1024;
const REGISTERS: std::ops::Range<usize> = 528..912;

/// The report of a TD with these registers over `report_data`.
#[must_use]
pub fn report(registers: &Registers, report_data: &[u8; 64]) -> [u8; REPORT_BYTES] {
    let mut report = [0; REPORT_BYTES];
    let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &KIND);
    put(REPORT_DATA_AT, report_data);
    put(264, &TEE_TCB_SVN);
    put(280, &module());
    put(512, &TD_ATTRIBUTES.to_le_bytes());
    put(520, &XFAM.to_le_bytes());
    put(REGISTERS.start, &registers.to_bytes());
    let hashes = [Sha384::digest(&report[TEE_TCB_INFO]), Sha384::digest(&report[TD_INFO])].concat();
    report[32..32 + hashes.len()].copy_from_slice(&hashes);
    let mac = mac(&report);
    report[MAC_AT..MAC_AT + mac.len()].copy_from_slice(&mac);
    report
}

/// Registers and report data of a report of this module; `None` when it is of another, or was changed.
#[must_use]
pub fn read(report: &[u8; REPORT_BYTES]) -> Option<(Registers, [u8; 64])> {
    let registers = Registers::from_bytes(report.get(REGISTERS)?).ok()?;
    let report_data = report.get(REPORT_DATA_AT..MAC_AT - 32)?.try_into().ok()?;
    // One state has one report: whatever else is in these bytes is no report of ours.
    (self::report(&registers, &report_data) == *report).then_some((registers, report_data))
}

fn mac(report: &[u8]) -> [u8; 32] {
    Sha256::digest([b"SIMULATED TDX module report MAC", &report[..MAC_AT]].concat()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_made_and_never_when_it_was_changed() {
        let registers = Registers::from_bytes(&(1..=8).flat_map(|n| [n; 48]).collect::<Vec<_>>()).expect("registers");
        let report = report(&registers, &[7; 64]);
        assert_eq!(read(&report), Some((registers, [7; 64])));
        // Where the kernel's driver reads them (`tdx-guest.c`).
        assert_eq!((report[528], report[576], report[720], report[864], report[128]), (1, 2, 5, 8, 7));
        for at in 0..REPORT_BYTES {
            let mut changed = report;
            changed[at] ^= 1;
            assert_eq!(read(&changed), None, "byte {at}");
        }
    }
}
