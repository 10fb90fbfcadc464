//! The one published simulator PKI: a root, a PCK CA, a platform's PCK certificate, a TCB signer, an attestation key.
//!
//! ```text
//! root ─┬─ PCK platform CA ── PCK certificate ── signs the quoting enclave's report ── attestation key signs quotes
//!       └─ TCB signing ────── signs TCB info and quoting enclave identity
//! ```
//! Its private keys are public on purpose (`tdx-sim/pki/README.md`). Shapes follow Intel's PKI, so that one verifier serves both.

mod der;
mod key;
mod make;

pub use key::Key;
pub use make::{Files, make};
pub(crate) use make::{pck_ca_issuer, root_issuer};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// FMSPC of the simulated platform: `SIM` and zeros. No Intel platform has it.
pub const FMSPC: [u8; 6] = *b"SIM\0\0\0";
/// Provisioning id of the simulated platform.
pub const PPID: [u8; 16] = *b"SIMULATED PPID\0\0";
/// Instance id of the simulated platform.
pub const PLATFORM_INSTANCE: [u8; 16] = *b"SIMULATED PIID\0\0";
/// PCE id.
pub const PCE_ID: [u8; 2] = [0, 0];
/// PCE security version.
pub const PCE_SVN: u16 = 11;
/// The sixteen SGX TCB components, which are also the CPUSVN.
pub const SGX_COMPONENTS: [u8; 16] = [2, 2, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];

/// The root certificate, DER. The same bytes are the simulated trust anchor of `coffer-evidence`.
pub const ROOT_DER: &[u8] = include_bytes!("../../pki/root.der");
/// The PCK CA certificate, DER.
pub const PCK_CA_DER: &[u8] = include_bytes!("../../pki/pck-ca.der");
/// The PCK certificate, DER.
pub const PCK_DER: &[u8] = include_bytes!("../../pki/pck.der");
/// The TCB signing certificate, DER.
pub const TCB_SIGNING_DER: &[u8] = include_bytes!("../../pki/tcb-signing.der");

/// A certificate in the one PEM form that quotes and collateral carry: lines of 64, a line feed after each.
#[must_use]
pub fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (position, character) in STANDARD.encode(der).chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_checked_in_pki_is_what_the_maker_makes() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("pki");
        for (name, bytes) in make().expect("make the PKI").entries() {
            let found = std::fs::read(directory.join(name)).unwrap_or_else(|e| panic!("read {name}: {e}"));
            assert_eq!(&found, bytes, "{name} differs: run `coffer-tdx-sim make-pki --out tdx-sim/pki`");
        }
    }

    #[test]
    fn the_anchor_of_the_verifier_is_the_root_of_the_simulator() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../evidence/src/verify/simulated_root.der");
        assert_eq!(std::fs::read(path).expect("read the verifier's anchor"), ROOT_DER);
    }

    #[test]
    fn every_certificate_says_in_its_subject_that_it_is_simulated() {
        for der in [ROOT_DER, PCK_CA_DER, PCK_DER, TCB_SIGNING_DER] {
            let text = String::from_utf8_lossy(der);
            assert_eq!(text.matches("SIMULATED - NOT INTEL").count(), 2, "once in the issuer, once in the subject");
        }
    }
}
