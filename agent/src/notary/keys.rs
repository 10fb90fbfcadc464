//! The keys of one instance, made after the config is known, zeroised when dropped, written nowhere.

use super::live::NotaryError;
use coffer_evidence::ids::Digest256;
use coffer_evidence::sign::PublicKey;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// DER of an Ed25519 SubjectPublicKeyInfo (RFC 8410) up to the key itself.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What signs, and what only its public half is known of.
#[derive(Debug)]
pub struct Keys {
    /// Signs notes and the statement.
    pub log: SigningKey,
    /// Signs commits.
    pub git: SigningKey,
    /// SHA-256 of the channel's public key. This build has no channel, so nobody holds its private half.
    pub tls_spki: Digest256,
}

impl Keys {
    /// Fresh keys.
    pub fn make() -> Result<Self, NotaryError> {
        let tls = PublicKey::of(&key()?);
        let spki = [SPKI_PREFIX.as_slice(), tls.as_bytes()].concat();
        Ok(Self { log: key()?, git: key()?, tls_spki: Digest256::of(&spki) })
    }
}

/// 32 random bytes of the kernel.
pub fn random() -> Result<[u8; 32], NotaryError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| NotaryError::new("randomness", error))?;
    Ok(bytes)
}

fn key() -> Result<SigningKey, NotaryError> {
    let seed = Zeroizing::new(random()?);
    Ok(SigningKey::from_bytes(&seed))
}
