//! The dates of a collateral set: when the newest part of it was issued.
//!
//! A quote holds no time. It is judged at the latest issue date of the collateral that came with it (`as_of`), which is inside
//! the validity of every part or the set is worthless, and then again at the time the verifier is asked about.

use std::time::Duration;

use serde::Deserialize;
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::{DateTime, Decode as _};

use super::endorsed::QuoteRefusal;
use crate::collateral::Collateral;

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

/// A date in RFC 3339 of a collateral set, unix seconds.
pub(super) fn seconds(what: &'static str, text: &str) -> Result<u64, QuoteRefusal> {
    let date: DateTime = text.parse().map_err(|_| QuoteRefusal::Collateral { what, fault: "its date is malformed" })?;
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

#[derive(Deserialize)]
struct BodyEnd {
    #[serde(rename = "nextUpdate")]
    next_update: String,
}

/// The part of a collateral set that ended first before `at`, and when: what a person needs to know of a set that is too old.
/// Nothing where no part says that it has ended; then another reason stands in the way.
pub(super) fn ended(collateral: &Collateral, at: u64) -> Option<(&'static str, u64)> {
    let body = |json: &[u8]| {
        let body: BodyEnd = serde_json::from_slice(json).ok()?;
        body.next_update.parse::<DateTime>().ok().map(|date| date.unix_duration().as_secs())
    };
    let list = |der: &[u8]| {
        let list = CertificateList::<Rfc5280>::from_der(der).ok()?;
        list.tbs_cert_list.next_update.map(|time| time.to_unix_duration().as_secs())
    };
    let parts = [
        ("TCB info", body(&collateral.tcb_info)),
        ("QE identity", body(&collateral.qe_identity)),
        ("root CRL", list(&collateral.root_ca_crl)),
        ("PCK CRL", list(&collateral.pck_crl)),
    ];
    parts
        .into_iter()
        .filter_map(|(what, end)| Some((what, end?)))
        .filter(|(_, end)| *end <= at)
        .min_by_key(|(_, end)| *end)
}

/// Unix seconds for people: RFC 3339 in UTC, or the number where that has no form.
pub(super) fn date(seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(seconds)).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_in_utc_and_far_ones_as_numbers() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_793_491_200), "2026-11-01T00:00:00Z");
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
    }

    /// They seldom decide: certificates are older than what they sign, and lists as old as the rest of their set.
    #[test]
    fn a_certificate_and_a_list_are_issued_when_they_say() {
        use crate::fixtures::platform::{Dates, NOVEMBER, PCK_DER, ROOT_DER, Tcb, collateral};
        let year = 1_577_836_800;
        assert_eq!(certificate_issued("root certificate", ROOT_DER), Ok(year));
        assert_eq!(certificate_issued("PCK certificate", PCK_DER), Ok(year));
        let set = collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE);
        assert_eq!(crl_issued("PCK CRL", &set.pck_crl), Ok(NOVEMBER));
        assert_eq!(crl_issued("root CA CRL", &set.root_ca_crl), Ok(NOVEMBER));
        assert!(certificate_issued("root certificate", &set.pck_crl).is_err());
        assert!(crl_issued("PCK CRL", ROOT_DER).is_err());
    }

    #[test]
    fn an_issue_date_in_another_form_is_refused() {
        let issued = |json: &str| body_issued("TCB info", json.as_bytes());
        assert_eq!(issued("{\"issueDate\":\"2026-11-01T00:00:00Z\",\"more\":1}"), Ok(1_793_491_200));
        for wrong in [
            "",
            "{}",
            "{\"issueDate\":1}",
            "{\"issueDate\":\"2026-11-01\"}",
            "{\"issueDate\":\"2026-13-01T00:00:00Z\"}",
        ] {
            assert!(issued(wrong).is_err(), "{wrong}");
        }
    }
}
