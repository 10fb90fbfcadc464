//! The simulator's P-256 keys: made from published labels, so there is nothing secret to protect, and signing by RFC 6979, so
//! the same input gives the same bytes.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, Signature, SigningKey};
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use sha2::{Digest as _, Sha256};

/// One of the published keys.
pub struct Key {
    signing: SigningKey,
    /// SEC 1 uncompressed point, 65 bytes.
    point: Vec<u8>,
}

impl Key {
    fn published(label: &str) -> Self {
        let scalar = Sha256::digest(format!("SIMULATED - NOT INTEL: coffer-tdx-sim: {label}"));
        let signing = SigningKey::from_slice(&scalar).expect("a SHA-256 digest below the order of P-256");
        let point = signing.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        Key { signing, point }
    }

    /// Key of the simulator's root certificate.
    #[must_use]
    pub fn root() -> Self {
        Key::published("root")
    }

    /// Key of the PCK CA.
    #[must_use]
    pub fn pck_ca() -> Self {
        Key::published("PCK CA")
    }

    /// The platform's provisioning certification key: signs the quoting enclave's report.
    #[must_use]
    pub fn pck() -> Self {
        Key::published("PCK")
    }

    /// Signs TCB info and the quoting enclave's identity.
    #[must_use]
    pub fn tcb_signing() -> Self {
        Key::published("TCB signing")
    }

    /// The quoting enclave's attestation key: signs quotes.
    #[must_use]
    pub fn attestation() -> Self {
        Key::published("attestation key")
    }

    /// ECDSA with SHA-256: r ‖ s, big-endian.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature: Signature = self.signing.sign(message);
        signature.to_bytes().into()
    }

    /// The public key: X ‖ Y, big-endian.
    #[must_use]
    pub fn public(&self) -> [u8; 64] {
        self.point[1..].try_into().expect("an uncompressed point has 65 bytes")
    }

    /// PKCS#8, PEM.
    pub(super) fn to_pem(&self) -> String {
        self.signing.to_pkcs8_pem(LineEnding::LF).expect("a valid key has a PKCS#8 form").to_string()
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.signing.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}
