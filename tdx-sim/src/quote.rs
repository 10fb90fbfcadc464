//! SIMULATED: makes v4 quotes as Intel's quoting enclave would, signed under the published root.
//!
//! The header's user data, the platform's FMSPC and PPID and every certificate say that it is simulated; what makes a verifier say
//! so is the root alone. Layout: Intel's `sgx_quote_4.h`.

use sha2::{Digest as _, Sha256, Sha384};

use crate::pki::{self, Key};
use crate::protocol::Registers;

/// Where real quotes name their quoting enclave.
pub const USER_DATA: [u8; 20] = *b"SIMULATED-NOT-INTEL\0";
/// TEE_TCB_SVN: module security version 1 of major version 1.
pub const TEE_TCB_SVN: [u8; 16] = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// ISVSVN of the quoting enclave.
pub const QE_SVN: u16 = 8;
/// ISVPRODID of the quoting enclave: that of TD quoting enclaves.
pub const QE_PRODUCT: u16 = 2;
/// Attributes of the quoting enclave: initialised, 64-bit, provisioning key.
pub const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];

const INTEL_QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
/// SEPT_VE_DISABLE and nothing else.
pub(crate) const TD_ATTRIBUTES: u64 = 1 << 28;
/// x87, SSE, AVX, AVX-512, AMX.
pub(crate) const XFAM: u64 = 0x0006_00e7;
/// Zeros after the quote: real ones have them, so nobody may rely on their absence.
pub(crate) const PADDING_BYTES: usize = 64;

/// Signer of the simulated quoting enclave.
#[must_use]
pub fn qe_signer() -> [u8; 32] {
    Sha256::digest("SIMULATED quoting enclave signer").into()
}

/// The quote of a TD with these registers over `report_data`, with zero padding. Deterministic.
#[must_use]
pub fn quote(registers: &Registers, report_data: &[u8; 64]) -> Vec<u8> {
    let mut quote = header();
    quote.extend(td_report(registers, report_data));
    let signature = Key::attestation().sign(&quote);
    let data = signature_data(&signature);
    quote.extend((data.len() as u32).to_le_bytes());
    quote.extend(data);
    quote.extend([0; PADDING_BYTES]);
    quote
}

fn header() -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(4_u16.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(0x81_u32.to_le_bytes());
    header.extend([0; 4]);
    header.extend(INTEL_QE_VENDOR);
    header.extend(USER_DATA);
    header
}

/// MRSEAM: the digest of the TDX module.
pub(crate) fn module() -> [u8; 48] {
    Sha384::digest("SIMULATED TDX module").into()
}

/// TD report 1.0, 584 bytes.
fn td_report(registers: &Registers, report_data: &[u8; 64]) -> Vec<u8> {
    let mut report = TEE_TCB_SVN.to_vec();
    report.extend(module());
    // MRSIGNERSEAM and SEAMATTRIBUTES: zero, as for Intel's module.
    report.extend([0; 48 + 8]);
    report.extend(TD_ATTRIBUTES.to_le_bytes());
    report.extend(XFAM.to_le_bytes());
    report.extend(registers.to_bytes());
    report.extend(report_data);
    report
}

fn signature_data(signature: &[u8; 64]) -> Vec<u8> {
    let attestation = Key::attestation().public();
    let authentication = authentication_data();
    let binding = Sha256::digest([&attestation[..], &authentication].concat());
    let report = qe_report(&binding.into());

    let mut chain = [pki::PCK_DER, pki::PCK_CA_DER, pki::ROOT_DER].map(pki::pem).concat().into_bytes();
    // Real quoting enclaves end the text with a NUL.
    chain.push(0);
    let mut certification = report.clone();
    certification.extend(Key::pck().sign(&report));
    certification.extend((authentication.len() as u16).to_le_bytes());
    certification.extend(authentication);
    certification.extend(5_u16.to_le_bytes());
    certification.extend((chain.len() as u32).to_le_bytes());
    certification.extend(chain);

    let mut data = signature.to_vec();
    data.extend(attestation);
    data.extend(6_u16.to_le_bytes());
    data.extend((certification.len() as u32).to_le_bytes());
    data.extend(certification);
    data
}

/// 32 bytes, as in every real quote.
fn authentication_data() -> [u8; 32] {
    *b"SIMULATED QE AUTHENTICATION DATA"
}

/// SGX report of the quoting enclave, 384 bytes; its report data binds the attestation key.
fn qe_report(binding: &[u8; 32]) -> Vec<u8> {
    let enclave: [u8; 32] = Sha256::digest("SIMULATED quoting enclave").into();
    let mut report = pki::SGX_COMPONENTS.to_vec();
    report.extend([0; 4 + 28]);
    report.extend(QE_ATTRIBUTES);
    report.extend(enclave);
    report.extend([0; 32]);
    report.extend(qe_signer());
    report.extend([0; 96]);
    report.extend(QE_PRODUCT.to_le_bytes());
    report.extend(QE_SVN.to_le_bytes());
    report.extend([0; 60]);
    report.extend(binding);
    report.extend([0; 32]);
    report
}

#[cfg(test)]
mod tests {
    use coffer_evidence::quote::Quote;

    use super::*;

    fn registers() -> Registers {
        let bytes: Vec<u8> = (1..=8).flat_map(|n| [n; 48]).collect();
        Registers::from_bytes(&bytes).expect("eight registers")
    }

    #[test]
    fn the_strict_parser_reads_every_field_back() {
        let bytes = quote(&registers(), &[0x77; 64]);
        let parsed = Quote::parse(&bytes).expect("a quote");
        assert_eq!(parsed.used_length() + PADDING_BYTES, bytes.len());
        assert_eq!(parsed.header().user_data, USER_DATA);
        assert_eq!(parsed.report_data(), &[0x77; 64]);
        assert_eq!(parsed.mrtd(), &[1; 48]);
        assert_eq!(
            (parsed.mr_config_id(), parsed.mr_owner(), parsed.mr_owner_config()),
            (&[2; 48], &[3; 48], &[4; 48])
        );
        assert_eq!(parsed.rtmrs(), &[[5; 48], [6; 48], [7; 48], [8; 48]]);
        assert_eq!(parsed.td_attributes(), TD_ATTRIBUTES);
        let chain = parsed.pck_chain().expect("a chain");
        assert_eq!((&chain.leaf[..], &chain.root[..]), (pki::PCK_DER, pki::ROOT_DER));
    }

    #[test]
    fn one_state_has_one_quote() {
        assert_eq!(quote(&registers(), &[1; 64]), quote(&registers(), &[1; 64]));
    }
}
