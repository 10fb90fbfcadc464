//! Ed25519 over dCBOR([tag, x]), verified strictly: S < L, canonical A and R, no small order, cofactorless.
//! A public key is checked when it is taken in, so that a weak one never reaches a verification.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::cbor::Value;
use crate::hash::tagged;

/// Why bytes are not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Wrong number of bytes or not hex.
    #[error("expected an Ed25519 public key: 32 bytes, 64 hex digits")]
    Form,
    /// Not a point, not canonically encoded, or of small order.
    #[error("expected a canonical Ed25519 point of full order")]
    Weak,
}

/// A signature does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected a signature by key {key} over {tag}, found one that does not verify")]
pub struct SignatureError {
    /// Whose.
    pub key: PublicKey,
    /// Over what.
    pub tag: &'static str,
}

/// An Ed25519 public key that is canonical and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Checks and takes 32 bytes.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Form)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Weak)?;
        if key.is_weak() || !is_canonical(&bytes) {
            return Err(KeyError::Weak);
        }
        Ok(Self(bytes))
    }

    /// The public half of a signing key.
    #[must_use]
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` is this key's over exactly `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

/// The y coordinate is below the field prime 2^255 - 19.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = bytes;
    !(*last & 0x7f == 0x7f && middle.iter().all(|b| *b == 0xff) && *first >= 0xed)
}

impl AsRef<[u8]> for PublicKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&hex::decode(text).map_err(|_| KeyError::Form)?)
    }
}

/// `sig(k, tag, x)`.
#[must_use]
pub fn sign(key: &SigningKey, tag: &str, x: Value) -> [u8; 64] {
    key.sign(&tagged(tag, x)).to_bytes()
}

/// Checks `sig(k, tag, x)`.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(key: &PublicKey, tag: &'static str, x: Value, signature: &[u8; 64]) -> Result<(), SignatureError> {
    if key.verifies(&tagged(tag, x), signature) { Ok(()) } else { Err(SignatureError { key: *key, tag }) }
}
