//! Endorsements: Intel's (or the simulator's) collateral for one quote, as raw byte strings. Stored in the bundle as
//! dCBOR; exchanged with tools in the serde JSON form of dcap-qvl's `QuoteCollateralV3` (byte fields as hex).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cbor::Value;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::ids::Digest256;

/// The largest collateral set in bytes. Real ones have some 20 KiB; a revocation list takes eleven times its bytes in memory.
pub const COLLATERAL_MAX: usize = 1024 * 1024;

/// One set. Chains are PEM text, CRLs DER, TCB info and QE identity the exact signed JSON text, signatures r‖s.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in Intel's provisioning certification service")]
pub struct Collateral {
    pub pck_crl_issuer_chain: Vec<u8>,
    pub root_ca_crl: Vec<u8>,
    pub pck_crl: Vec<u8>,
    pub tcb_info_issuer_chain: Vec<u8>,
    pub tcb_info: Vec<u8>,
    pub tcb_info_signature: Vec<u8>,
    pub qe_identity_issuer_chain: Vec<u8>,
    pub qe_identity: Vec<u8>,
    pub qe_identity_signature: Vec<u8>,
    pub pck_certificate_chain: Option<Vec<u8>>,
}

/// Why JSON is not a collateral set.
#[derive(Debug, Error)]
pub enum CollateralError {
    /// Not the form.
    #[error("expected collateral as JSON with the fields of QuoteCollateralV3")]
    Json(#[from] serde_json::Error),
    /// A byte field that is not hex.
    #[error("expected hex in the field {0}")]
    Hex(&'static str),
    /// More than a verifier takes.
    #[error("expected a collateral set of at most {COLLATERAL_MAX} bytes, found {0}")]
    TooLarge(usize),
}

#[derive(Serialize, Deserialize)]
struct Json {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: String,
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pck_certificate_chain: Option<String>,
}

impl Collateral {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`CollateralError`].
    pub fn from_json(text: &[u8]) -> Result<Self, CollateralError> {
        let json: Json = serde_json::from_slice(text)?;
        let hex = |name, text: &str| hex::decode(text).map_err(|_| CollateralError::Hex(name));
        let collateral = Self {
            root_ca_crl: hex("root_ca_crl", &json.root_ca_crl)?,
            pck_crl: hex("pck_crl", &json.pck_crl)?,
            tcb_info_signature: hex("tcb_info_signature", &json.tcb_info_signature)?,
            qe_identity_signature: hex("qe_identity_signature", &json.qe_identity_signature)?,
            pck_crl_issuer_chain: json.pck_crl_issuer_chain.into_bytes(),
            tcb_info_issuer_chain: json.tcb_info_issuer_chain.into_bytes(),
            tcb_info: json.tcb_info.into_bytes(),
            qe_identity_issuer_chain: json.qe_identity_issuer_chain.into_bytes(),
            qe_identity: json.qe_identity.into_bytes(),
            pck_certificate_chain: json.pck_certificate_chain.map(String::into_bytes),
        };
        let size = collateral.to_bytes().len();
        if size > COLLATERAL_MAX { Err(CollateralError::TooLarge(size)) } else { Ok(collateral) }
    }

    /// The JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let json = Json {
            pck_crl_issuer_chain: text(&self.pck_crl_issuer_chain),
            root_ca_crl: hex::encode(&self.root_ca_crl),
            pck_crl: hex::encode(&self.pck_crl),
            tcb_info_issuer_chain: text(&self.tcb_info_issuer_chain),
            tcb_info: text(&self.tcb_info),
            tcb_info_signature: hex::encode(&self.tcb_info_signature),
            qe_identity_issuer_chain: text(&self.qe_identity_issuer_chain),
            qe_identity: text(&self.qe_identity),
            qe_identity_signature: hex::encode(&self.qe_identity_signature),
            pck_certificate_chain: self.pck_certificate_chain.as_deref().map(text),
        };
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// SHA-256 of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest256 {
        Digest256::of(&self.to_bytes())
    }
}

impl Canonical for Collateral {
    const NAME: &'static str = "collateral";

    fn to_value(&self) -> Value {
        MapBuilder::new()
            .bytes(1, &self.pck_crl_issuer_chain)
            .bytes(2, &self.root_ca_crl)
            .bytes(3, &self.pck_crl)
            .bytes(4, &self.tcb_info_issuer_chain)
            .bytes(5, &self.tcb_info)
            .bytes(6, &self.tcb_info_signature)
            .bytes(7, &self.qe_identity_issuer_chain)
            .bytes(8, &self.qe_identity)
            .bytes(9, &self.qe_identity_signature)
            .maybe(10, self.pck_certificate_chain.as_ref().map(bytes))
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        let collateral = Self {
            pck_crl_issuer_chain: f.bytes(1)?,
            root_ca_crl: f.bytes(2)?,
            pck_crl: f.bytes(3)?,
            tcb_info_issuer_chain: f.bytes(4)?,
            tcb_info: f.bytes(5)?,
            tcb_info_signature: f.bytes(6)?,
            qe_identity_issuer_chain: f.bytes(7)?,
            qe_identity: f.bytes(8)?,
            qe_identity_signature: f.bytes(9)?,
            pck_certificate_chain: f.optional_bytes(10)?,
        };
        f.finish()?;
        Ok(collateral)
    }
}
