//! The keys of one instance, made after the config is known, in one place of memory each, zeroised when dropped, written nowhere.

use super::live::NotaryError;
use super::traces::without_traces;
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
    pub log: PrivateKey,
    /// Signs commits.
    pub git: PrivateKey,
    /// SHA-256 of the channel's public key. This build has no channel, so nobody holds its private half.
    pub tls_spki: Digest256,
}

impl Keys {
    /// Fresh keys.
    pub fn make() -> Result<Self, NotaryError> {
        let tls = PrivateKey::make()?.public();
        let spki = [SPKI_PREFIX.as_slice(), tls.as_bytes()].concat();
        Ok(Self { log: PrivateKey::make()?, git: PrivateKey::make()?, tls_spki: Digest256::of(&spki) })
    }
}

/// 32 random bytes of the kernel.
pub fn random() -> Result<[u8; 32], NotaryError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| NotaryError::new("randomness", error))?;
    Ok(bytes)
}

/// A key that signs. It lies in one place, whoever holds it: moving it would leave copies. Dropping it overwrites it.
pub struct PrivateKey(Box<SigningKey>);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.public()).finish()
    }
}

impl PrivateKey {
    /// A fresh one.
    pub fn make() -> Result<Self, NotaryError> {
        without_traces(|| {
            let seed = Zeroizing::new(random()?);
            Ok(Self::from_seed(&seed))
        })
    }

    /// One that is known: for tests.
    #[cfg(test)]
    pub(super) fn known(seed: &[u8; 32]) -> Self {
        Self::from_seed(seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Box::new(SigningKey::from_bytes(seed)))
    }

    /// What is known to all.
    pub fn public(&self) -> PublicKey {
        PublicKey::of(&self.0)
    }

    /// Has something signed. Nothing of the key is left of that but in its place.
    pub fn sign<T>(&self, work: impl FnOnce(&SigningKey) -> T) -> T {
        without_traces(|| work(&self.0))
    }
}
