//! What a service answers, put into the one form that collateral has here. Nothing is believed: chains, lists and signed texts are
//! taken apart as far as their form goes, and the verifier judges the set.

use bytes::Bytes;
use coffer_evidence::collateral::{COLLATERAL_MAX, Collateral};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::quote::pem;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::address::Part;
use super::https::Answer;

/// The most certificates of a chain.
const CHAIN_MAX: usize = 4;
/// The most members beside each other in a signed answer. There are two.
const MEMBERS_MAX: usize = 8;
/// An ECDSA signature over P-256: r and s.
const SIGNATURE_BYTES: usize = 64;

/// Headers with the chain over an answer, by the names that Intel's service and older caching services have for them.
const PCK_LIST_CHAIN: &[&str] = &["SGX-PCK-CRL-Issuer-Chain"];
const TCB_INFO_CHAIN: &[&str] = &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"];
const QE_IDENTITY_CHAIN: &[&str] = &["SGX-Enclave-Identity-Issuer-Chain"];

/// Why answers are no set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("expected {what} with the header {header}, found none: is vmm.pccs_url a collateral service of version 4?")]
    NoChain { what: &'static str, header: &'static str },
    #[error("expected 1 to {CHAIN_MAX} certificates as PEM in the header {header} of {what}, found another form")]
    Chain { what: &'static str, header: &'static str },
    #[error("expected {what} as DER or its hex digits, found another form")]
    List { what: &'static str },
    #[error(
        "expected {what} as a JSON object of {member:?} and a signature of {SIGNATURE_BYTES} bytes in hex, found another form"
    )]
    Signed { what: &'static str, member: &'static str },
    #[error("expected a collateral set of at most {COLLATERAL_MAX} bytes, found {0}")]
    TooLarge(usize),
}

/// The answers to all questions.
pub(super) struct Answers {
    pub(super) pck_list: Answer,
    pub(super) root_list: Answer,
    pub(super) tcb_info: Answer,
    pub(super) qe_identity: Answer,
}

impl Answers {
    /// The set.
    pub(super) fn into_set(self) -> Result<Collateral, AnswerError> {
        let (tcb_info, tcb_info_signature) = signed(Part::TcbInfo, "tcbInfo", &self.tcb_info.body)?;
        let (qe_identity, qe_identity_signature) = signed(Part::QeIdentity, "enclaveIdentity", &self.qe_identity.body)?;
        let set = Collateral {
            pck_crl_issuer_chain: issuers(Part::PckList, PCK_LIST_CHAIN, &self.pck_list)?,
            root_ca_crl: list(Part::RootList, &self.root_list.body)?,
            pck_crl: list(Part::PckList, &self.pck_list.body)?,
            tcb_info_issuer_chain: issuers(Part::TcbInfo, TCB_INFO_CHAIN, &self.tcb_info)?,
            tcb_info,
            tcb_info_signature,
            qe_identity_issuer_chain: issuers(Part::QeIdentity, QE_IDENTITY_CHAIN, &self.qe_identity)?,
            qe_identity,
            qe_identity_signature,
            pck_certificate_chain: None,
        };
        let size = set.to_bytes().len();
        if size > COLLATERAL_MAX { Err(AnswerError::TooLarge(size)) } else { Ok(set) }
    }
}

/// A chain: PEM, percent-encoded into a header, in canonical PEM.
fn issuers(part: Part, names: &[&'static str], answer: &Answer) -> Result<Vec<u8>, AnswerError> {
    let (what, first) = (part.name(), names.first().copied().unwrap_or_default());
    let found = names.iter().find_map(|name| Some((*name, answer.headers.get(*name)?)));
    let (header, value) = found.ok_or(AnswerError::NoChain { what, header: first })?;
    let text: Vec<u8> = percent_encoding::percent_decode(value.as_bytes()).collect();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).take(CHAIN_MAX + 1).collect();
    match certificates {
        Ok(chain) if (1..=CHAIN_MAX).contains(&chain.len()) => {
            Ok(chain.iter().map(|certificate| pem(certificate)).collect::<String>().into_bytes())
        }
        Ok(_) | Err(_) => Err(AnswerError::Chain { what, header }),
    }
}

/// A list in DER. Caching services have hex digits of it in some answers, whatever was asked for. DER begins with the byte 0x30, its
/// digits with another.
fn list(part: Part, body: &Bytes) -> Result<Vec<u8>, AnswerError> {
    const SEQUENCE: u8 = 0x30;
    let other = || AnswerError::List { what: part.name() };
    let der = match body.first() {
        Some(&SEQUENCE) => body.to_vec(),
        _ => hex::decode(body.trim_ascii()).map_err(|_| other())?,
    };
    if der.first() == Some(&SEQUENCE) { Ok(der) } else { Err(other()) }
}

/// The text of the named member, to the byte, and the signature over exactly that.
fn signed(part: Part, member: &'static str, body: &Bytes) -> Result<(Vec<u8>, Vec<u8>), AnswerError> {
    let other = || AnswerError::Signed { what: part.name(), member };
    let text = std::str::from_utf8(body).map_err(|_| other())?;
    let members = members(text).ok_or_else(other)?;
    let one = |name: &str| {
        let mut found = members.iter().filter(|(key, _)| key == name);
        // Of two with one name readers take different ones.
        found.next().filter(|_| found.next().is_none()).map(|(_, text)| *text)
    };
    let value = one(member).filter(|text| text.starts_with('{')).ok_or_else(other)?;
    let signature: String = one("signature").and_then(|text| serde_json::from_str(text).ok()).ok_or_else(other)?;
    let signature = hex::decode(signature).map_err(|_| other())?;
    if signature.len() == SIGNATURE_BYTES { Ok((value.as_bytes().to_vec(), signature)) } else { Err(other()) }
}

/// The members of a JSON object, their values as they are written.
fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let mut rest = text.trim_start().strip_prefix('{')?;
    let mut members = Vec::new();
    loop {
        if members.len() == MEMBERS_MAX {
            return None;
        }
        let (key, _, after) = value::<String>(rest)?;
        let (IgnoredAny, written, after) = value(after.trim_start().strip_prefix(':')?)?;
        members.push((key, written));
        let after = after.trim_start();
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return after.strip_prefix('}').filter(|end| end.trim().is_empty()).map(|_| members),
        }
    }
}

/// The JSON value that a text begins with: read, as it is written, and what follows.
fn value<T: DeserializeOwned>(text: &str) -> Option<(T, &str, &str)> {
    let text = text.trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    let (written, rest) = text.split_at_checked(values.byte_offset())?;
    Some((value, written, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    fn body(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn tcb(text: &str) -> Result<(Vec<u8>, Vec<u8>), AnswerError> {
        signed(Part::TcbInfo, "tcbInfo", &body(text))
    }

    #[test]
    fn the_signed_text_is_taken_as_it_is_written() {
        let signature = "ab".repeat(64);
        let info = r#"{"b":[1, 2.50],"a":"x\u0041 }","c":{}}"#;
        for text in [
            format!(r#"{{"tcbInfo":{info},"signature":"{signature}"}}"#),
            format!("\n{{ \"signature\" : \"{signature}\" ,\t\"tcbInfo\" : {info} }}\n"),
            format!(r#"{{"version":3,"tcbInfo":{info},"signature":"{signature}","more":[{{"tcbInfo":1}}]}}"#),
        ] {
            let (found, by) = tcb(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((found.as_slice(), by.as_slice()), (info.as_bytes(), [0xab; 64].as_slice()), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_doubled_or_another_is_refused() {
        let signature = "ab".repeat(64);
        let whole = format!(r#"{{"tcbInfo":{{"a":1}},"signature":"{signature}"}}"#);
        for end in 0..whole.len() {
            assert!(tcb(&whole[..end]).is_err(), "{end} bytes");
        }
        for text in [
            format!("{whole}{whole}"),
            format!(r#"{{"tcbInfo":{{}},"tcbInfo":{{}},"signature":"{signature}"}}"#),
            format!(r#"{{"tcbInfo":[],"signature":"{signature}"}}"#),
            format!(r#"{{"enclaveIdentity":{{}},"signature":"{signature}"}}"#),
            r#"{"tcbInfo":{},"signature":"abab"}"#.to_owned(),
            r#"{"tcbInfo":{},"signature":1}"#.to_owned(),
            format!("[{whole}]"),
            format!(r#"{{"tcbInfo":{{}},"signature":"{signature}"{}}}"#, r#","x":1"#.repeat(MEMBERS_MAX - 1)),
        ] {
            assert_eq!(
                tcb(&text),
                Err(AnswerError::Signed { what: Part::TcbInfo.name(), member: "tcbInfo" }),
                "{text}"
            );
        }
    }

    #[test]
    fn a_list_is_der_or_its_digits() {
        let der = vec![0x30, 3, 2, 1, 5];
        for form in [der.clone(), hex::encode(&der).into_bytes(), format!("{}\n", hex::encode_upper(&der)).into_bytes()]
        {
            assert_eq!(list(Part::RootList, &Bytes::from(form)), Ok(der.clone()));
        }
        for form in ["", "310302", "-----BEGIN X509 CRL-----\n", "<html>"] {
            assert_eq!(list(Part::RootList, &body(form)), Err(AnswerError::List { what: Part::RootList.name() }));
        }
    }

    #[test]
    fn a_chain_comes_out_of_its_header_in_canonical_form() {
        let chain = [pem(&[1; 100]), pem(&[2; 48])].concat();
        let with = |name: &'static str, text: &str| {
            let encoded = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(&encoded).expect("a header"));
            issuers(Part::TcbInfo, TCB_INFO_CHAIN, &Answer { headers, body: Bytes::new() })
        };
        for name in ["tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"] {
            assert_eq!(with(name, &chain), Ok(chain.clone().into_bytes()));
        }
        assert_eq!(with("tcb-info-issuer-chain", &chain.replace('\n', "\r\n")), Ok(chain.clone().into_bytes()));
        assert_eq!(with("tcb-info-issuer-chain", chain.trim_end()), Ok(chain.clone().into_bytes()));
        let what = Part::TcbInfo.name();
        let missing = Err(AnswerError::NoChain { what, header: "TCB-Info-Issuer-Chain" });
        assert_eq!(with("sgx-pck-crl-issuer-chain", &chain), missing);
        for other in ["", "no certificate", &chain[..chain.len() - 8], &chain.repeat(3)] {
            let refused = Err(AnswerError::Chain { what, header: "TCB-Info-Issuer-Chain" });
            assert_eq!(with("tcb-info-issuer-chain", other), refused, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "[\\[\\]{}:,\"a-z0-9 \\\\-]{0,60}") {
            let bytes = Bytes::from(bytes);
            let _ = list(Part::PckList, &bytes);
            let _ = signed(Part::TcbInfo, "tcbInfo", &bytes);
            let _ = members(&text);
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.insert("tcb-info-issuer-chain", value);
            }
            let _ = issuers(Part::TcbInfo, TCB_INFO_CHAIN, &Answer { headers, body: bytes });
        }
    }
}
