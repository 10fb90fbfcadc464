//! The dates of a collateral set: when the newest part of it was issued.
//!
//! A quote holds no time. It is judged at the latest issue date of the collateral that came with it (`as_of`), which is inside
//! the validity of every part or the set is worthless, and then again at the time the verifier is asked about.

use serde::Deserialize;
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{DateTime, Decode as _};

use super::endorsed::QuoteRefusal;

#[derive(Deserialize)]
struct SignedBody {
    #[serde(rename = "issueDate")]
    issue_date: String,
}

/// Issue date of a TCB info or QE identity text, unix seconds.
pub(super) fn body_issued(what: &'static str, json: &[u8]) -> Result<u64, QuoteRefusal> {
    let refused = || QuoteRefusal::Collateral { what, fault: "its issueDate is missing or malformed" };
    let body: SignedBody = serde_json::from_slice(json).map_err(|_| refused())?;
    let date: DateTime = body.issue_date.parse().map_err(|_| refused())?;
    Ok(date.unix_duration().as_secs())
}

/// `notBefore` of a certificate, unix seconds.
pub(super) fn certificate_issued(what: &'static str, der: &[u8]) -> Result<u64, QuoteRefusal> {
    let certificate = Certificate::from_der(der)
        .map_err(|_| QuoteRefusal::Collateral { what, fault: "it is not an X.509 certificate" })?;
    Ok(certificate.tbs_certificate().validity().not_before.to_unix_duration().as_secs())
}

/// `thisUpdate` of a certificate revocation list, unix seconds.
pub(super) fn crl_issued(what: &'static str, der: &[u8]) -> Result<u64, QuoteRefusal> {
    let list = CertificateList::<Rfc5280>::from_der(der)
        .map_err(|_| QuoteRefusal::Collateral { what, fault: "it is not an X.509 revocation list" })?;
    Ok(list.tbs_cert_list.this_update.to_unix_duration().as_secs())
}
