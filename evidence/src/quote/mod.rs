//! A strict parser for TDX quotes, versions 4 and 5: bytes to types, and no judgement of them.
//!
//! ```text
//! header 48 │ [type u16, size u32: version 5] │ TD report 584, 648 or 885 │ length u32 │ signature data │ zeros
//! └──────────────────────── signed by the attestation key ────────────┘
//! ```
//! Lengths must add up exactly; only zeros may follow, and [`Quote::cut`] drops them. No signature is checked here: that is
//! `verify`, behind the feature `verifier`. Layout: Intel's `sgx_quote_4.h`, `sgx_quote_5.h`.

mod attributes;
mod body;
mod chain;
mod reader;

pub use attributes::{AttributeFault, TdAttributes};
pub use body::{BodyForm, TdReport, TdReport15, TdReport15Extended};
#[cfg(feature = "verifier")]
pub(crate) use chain::parse_certificates;
pub use chain::{PckChain, pem};

use reader::Reader;

/// A 48-byte measurement register, in memory order.
pub type Register = [u8; 48];

/// A quote longer than this, in bytes and with its padding, is refused unread. Real ones are at most 8,000.
pub const MAX_QUOTE_BYTES: usize = 64 * 1024;

const HEADER_BYTES: usize = 48;
const TEE_TYPE_TDX: u32 = 0x81;
const KEY_TYPE_ECDSA_P256: u16 = 2;
const CERTIFICATION_QE_REPORT: u16 = 6;
const CERTIFICATION_PCK_CHAIN: u16 = 5;
const INTEL_QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// Why bytes are not a quote.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuoteError {
    /// The bytes end inside a field.
    #[error("quote truncated: {what} needs {needed} bytes, {left} are left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Its length in bytes.
        needed: usize,
        /// What there was.
        left: usize,
    },
    /// A stated length is longer than what it holds.
    #[error("quote lengths do not add up: {surplus} bytes too many in {what}")]
    LengthMismatch {
        /// The enclosing structure.
        what: &'static str,
        /// Unaccounted bytes.
        surplus: usize,
    },
    /// Over [`MAX_QUOTE_BYTES`].
    #[error("quote of {found} bytes; at most {MAX_QUOTE_BYTES} are read")]
    TooLarge {
        /// Bytes given.
        found: usize,
    },
    /// Not version 4 or 5.
    #[error("quote version {0}; TDX quotes have version 4 or 5")]
    Version(u16),
    /// Not an ECDSA P-256 attestation key.
    #[error("attestation key type {0}; only 2 (ECDSA P-256) is known")]
    KeyType(u16),
    /// Not a TDX quote.
    #[error("TEE type {0:#x}; expected 0x81 (TDX)")]
    TeeType(u32),
    /// Made by a quoting enclave that is not Intel's.
    #[error("quoting enclave vendor id is not Intel's")]
    QeVendor,
    /// A version 5 body that is no TD report.
    #[error("quote body type {0}; expected 2, 3 or 4 (TD report 1.0, 1.5, 1.5 extended)")]
    BodyType(u16),
    /// The stated size of a version 5 body is not that of its type.
    #[error("quote body size {found}; its type has {expected} bytes")]
    BodySize {
        /// By the type.
        expected: usize,
        /// As stated.
        found: usize,
    },
    /// Certification data of a kind that no TDX quote carries.
    #[error("{what} certification data type {found}; expected {expected}")]
    CertificationType {
        /// `outer` or `inner`.
        what: &'static str,
        /// The one known type.
        expected: u16,
        /// As stated.
        found: u16,
    },
    /// The PCK chain is not canonical PEM.
    #[error("PCK certificate chain in the quote: {0}")]
    Chain(&'static str),
    /// Bytes that no signature covers follow the quote.
    #[error("byte {offset} after the quote's end at {used} is not zero")]
    Trailing {
        /// The used length.
        used: usize,
        /// Position of the byte.
        offset: usize,
    },
}

/// The first 48 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// 4 or 5.
    pub version: u16,
    /// Four bytes without a use in TDX; zero in real quotes.
    pub reserved: u32,
    /// The vendor's own data: the id of the quoting enclave.
    pub user_data: [u8; 20],
}

/// The signature data. Covered by signatures of its own, except for lengths and types, which are checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignatureData {
    /// ECDSA over header and body: r ‖ s, big-endian.
    pub signature: [u8; 64],
    /// The attestation key: X ‖ Y, big-endian.
    pub attestation_key: [u8; 64],
    /// The SGX report of the quoting enclave.
    pub qe_report: [u8; 384],
    /// The PCK's signature over it.
    pub qe_report_signature: [u8; 64],
    /// Hashed into the QE report together with the attestation key.
    pub qe_authentication_data: Vec<u8>,
    /// Type of the certification data: 5 is a PEM chain.
    pub certification_type: u16,
    /// The certification data.
    pub certification_data: Vec<u8>,
}

/// A parsed quote. It says what the bytes say; whether that is true is for a verifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quote {
    header: Header,
    form: BodyForm,
    report: TdReport,
    signature_data: SignatureData,
    used: usize,
}

impl Quote {
    /// Parses one quote, with any zero padding after it.
    ///
    /// # Errors
    /// [`QuoteError`] for everything that is not exactly a TDX quote of version 4 or 5.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE_BYTES {
            return Err(QuoteError::TooLarge { found: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let header = read_header(&mut reader)?;
        let form = read_body_form(header.version, &mut reader)?;
        let report = TdReport::parse(form, reader.bytes("TD report", form.length())?)?;
        let length = reader.length("length of the signature data")?;
        let signature_data = read_signature_data(reader.bytes("signature data", length)?)?;
        let used = reader.position();
        if let Some(position) = reader.rest().iter().position(|byte| *byte != 0) {
            return Err(QuoteError::Trailing { used, offset: used.saturating_add(position) });
        }
        Ok(Quote { header, form, report, signature_data, used })
    }

    /// The bytes of the quote without the padding.
    ///
    /// # Errors
    /// As [`Quote::parse`].
    pub fn cut(bytes: &[u8]) -> Result<&[u8], QuoteError> {
        let used = Quote::parse(bytes)?.used;
        bytes.get(..used).ok_or(QuoteError::Truncated { what: "quote", needed: used, left: bytes.len() })
    }

    /// Length of the quote in bytes, without padding.
    #[must_use]
    pub fn used_length(&self) -> usize {
        self.used
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which of the three TD reports this quote has.
    #[must_use]
    pub fn body_form(&self) -> BodyForm {
        self.form
    }

    /// The TD report.
    #[must_use]
    pub fn report(&self) -> &TdReport {
        &self.report
    }

    /// The signature data.
    #[must_use]
    pub fn signature_data(&self) -> &SignatureData {
        &self.signature_data
    }

    /// The embedded PCK chain.
    ///
    /// # Errors
    /// [`QuoteError::CertificationType`] when there is none, [`QuoteError::Chain`] when it is not canonical.
    pub fn pck_chain(&self) -> Result<PckChain, QuoteError> {
        let found = self.signature_data.certification_type;
        if found != CERTIFICATION_PCK_CHAIN {
            return Err(QuoteError::CertificationType { what: "inner", expected: CERTIFICATION_PCK_CHAIN, found });
        }
        PckChain::parse(&self.signature_data.certification_data)
    }

    /// REPORTDATA: what the code in the TD put there.
    #[must_use]
    pub fn report_data(&self) -> &[u8; 64] {
        &self.report.report_data
    }

    /// MRTD.
    #[must_use]
    pub fn mrtd(&self) -> &Register {
        &self.report.mr_td
    }

    /// RTMR0 to RTMR3.
    #[must_use]
    pub fn rtmrs(&self) -> &[Register; 4] {
        &self.report.rtmr
    }

    /// RTMR `index`, for 0 to 3.
    #[must_use]
    pub fn rtmr(&self, index: usize) -> Option<&Register> {
        self.report.rtmr.get(index)
    }

    /// MRCONFIGID.
    #[must_use]
    pub fn mr_config_id(&self) -> &Register {
        &self.report.mr_config_id
    }

    /// MROWNER.
    #[must_use]
    pub fn mr_owner(&self) -> &Register {
        &self.report.mr_owner
    }

    /// MROWNERCONFIG.
    #[must_use]
    pub fn mr_owner_config(&self) -> &Register {
        &self.report.mr_owner_config
    }

    /// TD attributes, as a number.
    #[must_use]
    pub fn td_attributes(&self) -> u64 {
        self.report.td_attributes.bits()
    }

    /// XFAM.
    #[must_use]
    pub fn xfam(&self) -> u64 {
        self.report.xfam
    }

    /// MRSEAM: the TDX module.
    #[must_use]
    pub fn mr_seam(&self) -> &Register {
        &self.report.mr_seam
    }

    /// MRSIGNERSEAM: zero for Intel's own module.
    #[must_use]
    pub fn mrsigner_seam(&self) -> &Register {
        &self.report.mrsigner_seam
    }

    /// `TEE_TCB_SVN` at launch.
    #[must_use]
    pub fn tee_tcb_svn(&self) -> &[u8; 16] {
        &self.report.tee_tcb_svn
    }

    /// The id of this launch of the TD, in extended reports only.
    #[must_use]
    pub fn td_id(&self) -> Option<&[u8; 32]> {
        self.report.v15.as_ref()?.extended.as_ref().map(|extended| &extended.td_id)
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<Header, QuoteError> {
    let mut header = Reader::new(reader.bytes("header", HEADER_BYTES)?);
    let version = header.u16("version")?;
    if version != 4 && version != 5 {
        return Err(QuoteError::Version(version));
    }
    let key_type = header.u16("attestation key type")?;
    if key_type != KEY_TYPE_ECDSA_P256 {
        return Err(QuoteError::KeyType(key_type));
    }
    let tee_type = header.u32("TEE type")?;
    if tee_type != TEE_TYPE_TDX {
        return Err(QuoteError::TeeType(tee_type));
    }
    let reserved = header.u32("reserved")?;
    if header.array::<16>("QE vendor id")? != INTEL_QE_VENDOR {
        return Err(QuoteError::QeVendor);
    }
    let user_data = header.array("user data")?;
    header.end("header")?;
    Ok(Header { version, reserved, user_data })
}

fn read_body_form(version: u16, reader: &mut Reader<'_>) -> Result<BodyForm, QuoteError> {
    if version == 4 {
        return Ok(BodyForm::V10);
    }
    let form = BodyForm::from_type(reader.u16("body type")?)?;
    let found = reader.length("body size")?;
    if found != form.length() {
        return Err(QuoteError::BodySize { expected: form.length(), found });
    }
    Ok(form)
}

fn read_signature_data(bytes: &[u8]) -> Result<SignatureData, QuoteError> {
    let mut outer = Reader::new(bytes);
    let signature = outer.array("quote signature")?;
    let attestation_key = outer.array("attestation key")?;
    let found = outer.u16("outer certification type")?;
    if found != CERTIFICATION_QE_REPORT {
        return Err(QuoteError::CertificationType { what: "outer", expected: CERTIFICATION_QE_REPORT, found });
    }
    let length = outer.length("length of the outer certification data")?;
    let mut inner = Reader::new(outer.bytes("outer certification data", length)?);
    outer.end("signature data")?;

    let qe_report = inner.array("QE report")?;
    let qe_report_signature = inner.array("QE report signature")?;
    let length = usize::from(inner.u16("length of the QE authentication data")?);
    let qe_authentication_data = inner.bytes("QE authentication data", length)?.to_vec();
    let certification_type = inner.u16("inner certification type")?;
    let length = inner.length("length of the inner certification data")?;
    let certification_data = inner.bytes("inner certification data", length)?.to_vec();
    inner.end("outer certification data")?;
    Ok(SignatureData {
        signature,
        attestation_key,
        qe_report,
        qe_report_signature,
        qe_authentication_data,
        certification_type,
        certification_data,
    })
}
