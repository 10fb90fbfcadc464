//! A simulated platform in memory: signs v4 quotes and collateral with the simulator's published keys (`tdx-sim/pki`), with a
//! choice of dates and statuses that the simulator proper does not offer. Signatures are RFC 6979: the same bytes every time.

use coffer_evidence::collateral::Collateral;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey as _;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, Issuer, KeyIdMethod,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use sha2::{Digest as _, Sha256};

pub(crate) const ROOT_DER: &[u8] = include_bytes!("../../../tdx-sim/pki/root.der");
const PCK_CA_DER: &[u8] = include_bytes!("../../../tdx-sim/pki/pck-ca.der");
pub(crate) const PCK_DER: &[u8] = include_bytes!("../../../tdx-sim/pki/pck.der");
const TCB_SIGNING_DER: &[u8] = include_bytes!("../../../tdx-sim/pki/tcb-signing.der");
const ROOT_KEY: &str = include_str!("../../../tdx-sim/pki/root.key");
pub(crate) const PCK_CA_KEY: &str = include_str!("../../../tdx-sim/pki/pck-ca.key");
const PCK_KEY: &str = include_str!("../../../tdx-sim/pki/pck.key");
const TCB_SIGNING_KEY: &str = include_str!("../../../tdx-sim/pki/tcb-signing.key");
const ATTESTATION_KEY: &str = include_str!("../../../tdx-sim/pki/attestation.key");

/// `PPID` and the platform instance id in the published PCK certificate.
pub(crate) const PPID: [u8; 16] = *b"SIMULATED PPID\0\0";
pub(crate) const PLATFORM_INSTANCE: [u8; 16] = *b"SIMULATED PIID\0\0";

/// TDX module version 1, security version 3.
const TEE_TCB_SVN: [u8; 16] = [3, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const QE_MRSIGNER: &str = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5";
const QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// 2026-11-01T00:00:00Z: what [`Dates::NOVEMBER`] says was issued.
pub(crate) const NOVEMBER: u64 = 1_793_491_200;
/// 2026-11-15T00:00:00Z: inside the validity of [`Dates::NOVEMBER`].
pub(crate) const MID_NOVEMBER: u64 = NOVEMBER + 14 * 86_400;
/// 2026-12-01T00:00:00Z: when [`Dates::NOVEMBER`] ends.
pub(crate) const DECEMBER: u64 = NOVEMBER + 30 * 86_400;

/// When a collateral set was issued and when it ends: the first of a month, both.
#[derive(Clone, Copy)]
pub(crate) struct Dates {
    pub(crate) issued: (i32, u8),
    pub(crate) ends: (i32, u8),
}

impl Dates {
    pub(crate) const NOVEMBER: Dates = Dates { issued: (2026, 11), ends: (2026, 12) };
    pub(crate) const OCTOBER: Dates = Dates { issued: (2026, 10), ends: (2026, 12) };
}

/// What the collateral says about the platform.
#[derive(Clone, Copy)]
pub(crate) struct Tcb {
    pub(crate) status: &'static str,
    pub(crate) evaluation_data_number: u32,
    /// An advisory of Intel that applies.
    pub(crate) advisory: Option<&'static str>,
}

impl Tcb {
    pub(crate) const UP_TO_DATE: Tcb = Tcb { status: "UpToDate", evaluation_data_number: 17, advisory: None };
}

/// The measured state of a TD.
#[derive(Clone)]
pub(crate) struct Td {
    pub(crate) mr_seam: [u8; 48],
    pub(crate) td_attributes: u64,
    pub(crate) xfam: u64,
    pub(crate) mrtd: [u8; 48],
    pub(crate) mr_config_id: [u8; 48],
    pub(crate) mr_owner: [u8; 48],
    pub(crate) mr_owner_config: [u8; 48],
    pub(crate) rtmr: [[u8; 48]; 4],
}

impl Default for Td {
    fn default() -> Self {
        Td {
            mr_seam: [0x5e; 48],
            td_attributes: 0x1000_0000,
            xfam: 0x0602e7,
            mrtd: [0xd0; 48],
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmr: [[0xa0; 48], [0xa1; 48], [0xa2; 48], [0; 48]],
        }
    }
}

fn key(pem: &str) -> SigningKey {
    SigningKey::from_pkcs8_pem(pem).expect("a published key")
}

fn raw(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: Signature = key.sign(message);
    signature.to_bytes().into()
}

fn point(key: &SigningKey) -> [u8; 64] {
    key.verifying_key().to_sec1_point(false).as_bytes()[1..].try_into().expect("an uncompressed point")
}

/// A certificate in canonical PEM.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ascii")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn body(td: &Td, report_data: &[u8; 64]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(TEE_TCB_SVN);
    body.extend(td.mr_seam);
    body.extend([0; 48]); // MRSIGNERSEAM
    body.extend([0; 8]); // SEAMATTRIBUTES
    body.extend(td.td_attributes.to_le_bytes());
    body.extend(td.xfam.to_le_bytes());
    body.extend(td.mrtd);
    body.extend(td.mr_config_id);
    body.extend(td.mr_owner);
    body.extend(td.mr_owner_config);
    body.extend(td.rtmr.concat());
    body.extend(report_data);
    assert_eq!(body.len(), 584);
    body
}

fn qe_report(attestation_key: &[u8; 64], authentication: &[u8; 32]) -> Vec<u8> {
    let mut report = vec![0u8; 384];
    report[48] = 0x11; // INIT and PROVISION_KEY, not DEBUG
    report[128..160].copy_from_slice(&hex::decode(QE_MRSIGNER).expect("hex"));
    report[256..258].copy_from_slice(&2u16.to_le_bytes());
    report[258..260].copy_from_slice(&6u16.to_le_bytes());
    let bound = Sha256::digest([&attestation_key[..], authentication].concat());
    report[320..352].copy_from_slice(&bound);
    report
}

/// A v4 quote with these certificates of the PCK key and of the root: the published ones, or others for a test of that.
pub(crate) fn quote_with_chain(td: &Td, report_data: &[u8; 64], pck: &[u8], root: &[u8]) -> Vec<u8> {
    let attestation = key(ATTESTATION_KEY);
    let public = point(&attestation);
    let authentication = [0xa5; 32];

    let mut signed = Vec::new();
    signed.extend(4u16.to_le_bytes());
    signed.extend(2u16.to_le_bytes());
    signed.extend(0x81u32.to_le_bytes());
    signed.extend([0; 4]);
    signed.extend(QE_VENDOR);
    signed.extend(*b"SIMULATED\0\0\0\0\0\0\0\0\0\0\0");
    signed.extend(body(td, report_data));

    let report = qe_report(&public, &authentication);
    let chain = [pem(pck), pem(PCK_CA_DER), pem(root)].concat();
    let mut certification = report.clone();
    certification.extend(raw(&key(PCK_KEY), &report));
    certification.extend(32u16.to_le_bytes());
    certification.extend(authentication);
    certification.extend(5u16.to_le_bytes());
    certification.extend(u32::try_from(chain.len()).expect("short").to_le_bytes());
    certification.extend(chain.as_bytes());

    let mut data = raw(&attestation, &signed).to_vec();
    data.extend(public);
    data.extend(6u16.to_le_bytes());
    data.extend(u32::try_from(certification.len()).expect("short").to_le_bytes());
    data.extend(certification);

    let mut quote = signed;
    quote.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
    quote.extend(data);
    quote
}

struct Authority(SigningKey, Vec<u8>);

impl rcgen::PublicKeyData for Authority {
    fn der_bytes(&self) -> &[u8] {
        &self.1
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Authority {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.0.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}

fn crl(name: &str, pem: &str, dates: Dates) -> Vec<u8> {
    let signing = key(pem);
    let point = signing.verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject.push(DnType::OrganizationName, "SIMULATED - NOT INTEL");
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = subject;
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(dates.issued.0, dates.issued.1, 1),
        next_update: date_time_ymd(dates.ends.0, dates.ends.1, 1),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&Issuer::new(parameters, Authority(signing, point))).expect("sign a revocation list").der().to_vec()
}

fn date((year, month): (i32, u8)) -> String {
    format!("{year}-{month:02}-01T00:00:00Z")
}

/// A collateral set for the simulated platform.
pub(crate) fn collateral(dates: Dates, tcb: Tcb) -> Collateral {
    let (issued, ends) = (date(dates.issued), date(dates.ends));
    let components = |svns: [u8; 16]| serde_json::json!(svns.map(|svn| serde_json::json!({ "svn": svn })));
    let number = tcb.evaluation_data_number;
    let tcb_info = serde_json::json!({
        "id": "TDX", "version": 3, "issueDate": issued, "nextUpdate": ends, "fmspc": "53494D000000", "pceId": "0000",
        "tcbType": 0, "tcbEvaluationDataNumber": number,
        "tdxModule": { "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8) },
        "tdxModuleIdentities": [{
            "id": "TDX_01", "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8),
            "tcbLevels": [{ "tcb": { "isvsvn": 2 }, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate" }],
        }],
        "tcbLevels": [{
            "tcb": { "sgxtcbcomponents": components([2, 2, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), "pcesvn": 11,
                     "tdxtcbcomponents": components([3, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) },
            "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": tcb.status,
            "advisoryIDs": tcb.advisory.into_iter().collect::<Vec<_>>(),
        }],
    })
    .to_string();
    let qe_identity = serde_json::json!({
        "id": "TD_QE", "version": 2, "issueDate": issued, "nextUpdate": ends, "tcbEvaluationDataNumber": number,
        "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MRSIGNER, "isvprodid": 2,
        "tcbLevels": [{ "tcb": { "isvsvn": 4 }, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate" }],
    })
    .to_string();
    let signer = key(TCB_SIGNING_KEY);
    let signer_chain = [pem(TCB_SIGNING_DER), pem(ROOT_DER)].concat().into_bytes();
    Collateral {
        pck_crl_issuer_chain: [pem(PCK_CA_DER), pem(ROOT_DER)].concat().into_bytes(),
        root_ca_crl: crl("Coffer TDX Simulator Root CA", ROOT_KEY, dates),
        pck_crl: crl("Coffer TDX Simulator PCK Platform CA", PCK_CA_KEY, dates),
        tcb_info_issuer_chain: signer_chain.clone(),
        tcb_info_signature: raw(&signer, tcb_info.as_bytes()).to_vec(),
        tcb_info: tcb_info.into_bytes(),
        qe_identity_issuer_chain: signer_chain,
        qe_identity_signature: raw(&signer, qe_identity.as_bytes()).to_vec(),
        qe_identity: qe_identity.into_bytes(),
        pck_certificate_chain: None,
    }
}
