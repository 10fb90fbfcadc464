//! SIMULATED: endorsements for simulated quotes, in the form in which Intel's service gives them for real ones.
//!
//! Issued at a time that the caller gives and valid for 30 days, so the same time gives the same bytes. One TCB level exists, and
//! the simulated platform meets it.

mod civil;

use coffer_evidence::collateral::Collateral;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber, date_time_ymd};

use self::civil::rfc3339;
use crate::pki::{self, Key};
use crate::quote;

/// How long a set is valid, in seconds, as with Intel's.
pub const VALIDITY_SECONDS: u64 = 30 * 86_400;
/// First second at which a set can be issued: the certificates begin.
pub const EARLIEST: u64 = 1_577_836_800;
/// Last second at which a set can be issued: it must end before the certificates do.
pub const LATEST: u64 = 4_102_358_400 - VALIDITY_SECONDS;

/// Why there is no set.
#[derive(Debug, thiserror::Error)]
pub enum CollateralError {
    /// Outside the validity of the published certificates.
    #[error("expected a time from {EARLIEST} to {LATEST} (2020 to 2099), found {0}")]
    Time(u64),
    /// The certificate library refused a revocation list.
    #[error("a revocation list cannot be made")]
    RevocationList(#[from] rcgen::Error),
}

/// The set issued at `at` (unix seconds).
///
/// # Errors
/// [`CollateralError`].
pub fn collateral(at: u64) -> Result<Collateral, CollateralError> {
    if !(EARLIEST..=LATEST).contains(&at) {
        return Err(CollateralError::Time(at));
    }
    let root_list = revocation_list(at).signed_by(&pki::root_issuer())?;
    let pck_list = revocation_list(at).signed_by(&pki::pck_ca_issuer())?;
    let tcb_info = tcb_info(at);
    let qe_identity = qe_identity(at);
    let signer = Key::tcb_signing();
    let signer_chain = [pki::TCB_SIGNING_DER, pki::ROOT_DER].map(pki::pem).concat().into_bytes();
    Ok(Collateral {
        pck_crl_issuer_chain: [pki::PCK_CA_DER, pki::ROOT_DER].map(pki::pem).concat().into_bytes(),
        root_ca_crl: root_list.der().to_vec(),
        pck_crl: pck_list.der().to_vec(),
        tcb_info_issuer_chain: signer_chain.clone(),
        tcb_info_signature: signer.sign(tcb_info.as_bytes()).to_vec(),
        tcb_info: tcb_info.into_bytes(),
        qe_identity_issuer_chain: signer_chain,
        qe_identity_signature: signer.sign(qe_identity.as_bytes()).to_vec(),
        qe_identity: qe_identity.into_bytes(),
        pck_certificate_chain: None,
    })
}

/// An empty list: nothing simulated is ever revoked.
fn revocation_list(at: u64) -> CertificateRevocationListParams {
    let from = date_time_ymd(1970, 1, 1);
    CertificateRevocationListParams {
        this_update: from + std::time::Duration::from_secs(at),
        next_update: from + std::time::Duration::from_secs(at + VALIDITY_SECONDS),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

fn tcb_info(at: u64) -> String {
    let components = |values: &[u8]| {
        let list: Vec<String> = values.iter().map(|svn| format!(r#"{{"svn":{svn}}}"#)).collect();
        format!("[{}]", list.join(","))
    };
    let zeros = "00".repeat(48);
    format!(
        concat!(
            r#"{{"id":"TDX","version":3,"issueDate":"{issued}","nextUpdate":"{until}","fmspc":"{fmspc}","pceId":"{pce_id}","#,
            r#""tcbType":0,"tcbEvaluationDataNumber":1,"#,
            r#""tdxModule":{{"mrsigner":"{zeros}","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"}},"#,
            r#""tdxModuleIdentities":[{{"id":"TDX_{major:02X}","mrsigner":"{zeros}","attributes":"0000000000000000","#,
            r#""attributesMask":"FFFFFFFFFFFFFFFF","#,
            r#""tcbLevels":[{{"tcb":{{"isvsvn":{module}}},"tcbDate":"2020-01-01T00:00:00Z","tcbStatus":"UpToDate"}}]}}],"#,
            r#""tcbLevels":[{{"tcb":{{"sgxtcbcomponents":{sgx},"pcesvn":{pce_svn},"tdxtcbcomponents":{tdx}}},"#,
            r#""tcbDate":"2020-01-01T00:00:00Z","tcbStatus":"UpToDate"}}]}}"#,
        ),
        issued = rfc3339(at),
        until = rfc3339(at + VALIDITY_SECONDS),
        fmspc = hex::encode_upper(pki::FMSPC),
        pce_id = hex::encode(pki::PCE_ID),
        zeros = zeros,
        major = quote::TEE_TCB_SVN[1],
        module = quote::TEE_TCB_SVN[0],
        sgx = components(&pki::SGX_COMPONENTS),
        pce_svn = pki::PCE_SVN,
        tdx = components(&quote::TEE_TCB_SVN),
    )
}

fn qe_identity(at: u64) -> String {
    format!(
        concat!(
            r#"{{"id":"TD_QE","version":2,"issueDate":"{issued}","nextUpdate":"{until}","tcbEvaluationDataNumber":1,"#,
            r#""miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"{attributes}","#,
            r#""attributesMask":"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF","mrsigner":"{signer}","isvprodid":{product},"#,
            r#""tcbLevels":[{{"tcb":{{"isvsvn":{svn}}},"tcbDate":"2020-01-01T00:00:00Z","tcbStatus":"UpToDate"}}]}}"#,
        ),
        issued = rfc3339(at),
        until = rfc3339(at + VALIDITY_SECONDS),
        attributes = hex::encode_upper(quote::QE_ATTRIBUTES),
        signer = hex::encode_upper(quote::qe_signer()),
        product = quote::QE_PRODUCT,
        svn = quote::QE_SVN,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_depends_on_its_time_alone() {
        let at = 1_770_000_000;
        assert_eq!(collateral(at).expect("a set"), collateral(at).expect("a set"));
        assert_ne!(collateral(at).expect("a set").tcb_info, collateral(at + 1).expect("a set").tcb_info);
    }

    #[test]
    fn times_outside_the_certificates_are_refused() {
        for at in [0, EARLIEST - 1, LATEST + 1, u64::MAX] {
            assert!(matches!(collateral(at), Err(CollateralError::Time(_))), "{at}");
        }
        assert!(collateral(EARLIEST).is_ok());
        assert!(collateral(LATEST).is_ok());
    }
}
