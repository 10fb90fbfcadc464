//! DSSE envelopes (secure-systems-lab/dsse, protocol 1.0) with one Ed25519 signature, in exactly one JSON form:
//! `{"payload":"…","payloadType":"…","signatures":[{"keyid":"…","sig":"…"}]}`, standard base64 with padding, key id =
//! hex of the public key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sign::PublicKey;

/// The largest envelope in bytes.
pub const ENVELOPE_MAX: usize = 64 * 1024 * 1024;

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DsseError {
    /// Not the one JSON form.
    #[error("expected a DSSE envelope in its one form, with one signature")]
    Form,
    /// Another kind of payload.
    #[error("expected payload type {expected}, found {found}")]
    PayloadType {
        /// Wanted.
        expected: &'static str,
        /// Found.
        found: String,
    },
    /// Signed by a key that is not the expected one.
    #[error("expected a signature by {expected}, found one by {found}")]
    Signer {
        /// Wanted.
        expected: PublicKey,
        /// Found.
        found: PublicKey,
    },
    /// Does not verify.
    #[error("expected a signature by {0}, found one that does not verify")]
    Signature(PublicKey),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<JsonSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSignature {
    keyid: String,
    sig: String,
}

/// A parsed envelope. Its payload is not trusted before [`Envelope::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    payload: Vec<u8>,
    payload_type: String,
    signer: PublicKey,
    signature: [u8; 64],
}

/// The pre-authentication encoding that is signed.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Signs a payload.
    #[must_use]
    pub fn sign(key: &SigningKey, payload_type: &str, payload: Vec<u8>) -> Self {
        let signature = key.sign(&pae(payload_type, &payload)).to_bytes();
        Self { payload, payload_type: payload_type.to_owned(), signer: PublicKey::of(key), signature }
    }

    /// The exact bytes of the envelope.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = Json {
            payload: STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: vec![JsonSignature { keyid: self.signer.to_string(), sig: STANDARD.encode(self.signature) }],
        };
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// Reads the one JSON form.
    ///
    /// # Errors
    /// [`DsseError::Form`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DsseError> {
        if bytes.len() > ENVELOPE_MAX {
            return Err(DsseError::Form);
        }
        let json: Json = serde_json::from_slice(bytes).map_err(|_| DsseError::Form)?;
        let [signature] = json.signatures.as_slice() else { return Err(DsseError::Form) };
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| DsseError::Form);
        let envelope = Self {
            payload: decode(&json.payload)?,
            signer: signature.keyid.parse().map_err(|_| DsseError::Form)?,
            signature: decode(&signature.sig)?.try_into().map_err(|_| DsseError::Form)?,
            payload_type: json.payload_type,
        };
        if envelope.to_bytes() != bytes {
            return Err(DsseError::Form);
        }
        Ok(envelope)
    }

    /// Who claims to have signed.
    #[must_use]
    pub const fn signer(&self) -> &PublicKey {
        &self.signer
    }

    /// The payload, not yet trusted: for digests and for looking.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, signed by exactly this key as exactly this type.
    ///
    /// # Errors
    /// [`DsseError`].
    pub fn verify(&self, key: &PublicKey, payload_type: &'static str) -> Result<&[u8], DsseError> {
        if self.payload_type != payload_type {
            return Err(DsseError::PayloadType { expected: payload_type, found: self.payload_type.clone() });
        }
        if self.signer != *key {
            return Err(DsseError::Signer { expected: *key, found: self.signer });
        }
        if !key.verifies(&pae(payload_type, &self.payload), &self.signature) {
            return Err(DsseError::Signature(*key));
        }
        Ok(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pre_authentication_encoding_is_that_of_the_specification() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn an_envelope_verifies_only_with_its_key_type_and_bytes() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let envelope = Envelope::sign(&key, "application/x", b"payload".to_vec());
        let bytes = envelope.to_bytes();
        let parsed = Envelope::parse(&bytes).expect("its own form");
        assert_eq!(parsed.verify(&PublicKey::of(&key), "application/x"), Ok(b"payload".as_slice()));
        assert!(matches!(parsed.verify(&PublicKey::of(&key), "application/y"), Err(DsseError::PayloadType { .. })));
        let other = PublicKey::of(&SigningKey::from_bytes(&[4; 32]));
        assert!(matches!(parsed.verify(&other, "application/x"), Err(DsseError::Signer { .. })));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let refused =
                Envelope::parse(&changed).map_or(true, |e| e.verify(&PublicKey::of(&key), "application/x").is_err());
            assert!(refused, "byte {at}");
        }
        assert_eq!(Envelope::parse(&[bytes.as_slice(), b"\n"].concat()), Err(DsseError::Form));
    }
}
