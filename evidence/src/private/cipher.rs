//! Sealing and opening one private part under K: a key of its own for each leaf, so that the nonce can be zero, and the leaf as
//! additional data, so that a part opens at its place in its log and nowhere else. Each part is sealed once.

use std::fmt;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::EncryptedPart;
use crate::cbor::{Value, decode, encode};
use crate::fields::bytes;
use crate::ids::InstanceId;
use crate::leaf::Opened;
use crate::tree::leaf_hash;

/// Begins the info of HKDF; the index follows, eight bytes, most significant first.
const INFO: &[u8] = b"coffer/private/v1";

/// K: the key of all private parts of one session.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Where a part belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Whose log.
    pub instance: InstanceId,
    /// Index of the leaf.
    pub index: u64,
    /// The leaf's bytes.
    pub leaf: &'a [u8],
}

/// A part that no cipher takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected a private part that ChaCha20-Poly1305 takes, found one that is too long")]
pub struct SealError;

/// Why a part does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PartError {
    /// The tag is wrong.
    #[error("the part for leaf {0} does not decrypt: expected this key, instance, index and leaf, and whole bytes")]
    Cipher(u64),
    /// What was inside.
    #[error("the part for leaf {0} decrypts to no salt and private bytes")]
    Form(u64),
}

/// What is known of K.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody said who reads.
    #[default]
    NoIdentity,
    /// An identity was given, and there is no `private.age`.
    NoWrappedKey,
    /// `private.age` is encrypted to none of the identities.
    OtherRecipients,
    /// `private.age` holds no key, and why.
    Unreadable(String),
    /// K.
    Key(PrivateKey),
}

impl PrivateKey {
    /// K's bytes.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The bytes, for whoever wraps them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The cipher of one leaf: HKDF-SHA256(K, salt = instance, info = tag and index).
    fn cipher(&self, place: &Place<'_>) -> Option<ChaCha20Poly1305> {
        let mut key = Zeroizing::new([0; 32]);
        let info = [INFO, &place.index.to_be_bytes()];
        Hkdf::<Sha256>::new(Some(place.instance.as_bytes()), &self.0).expand_multi_info(&info, key.as_mut()).ok()?;
        Some(ChaCha20Poly1305::new(<&Key>::from(&*key)))
    }

    /// Encrypts a part for its place. Once for each leaf: the nonce is zero.
    ///
    /// # Errors
    /// [`SealError`], beyond 256 GiB.
    pub fn seal(&self, place: &Place<'_>, opened: &Opened) -> Result<EncryptedPart, SealError> {
        let plain = Zeroizing::new(encode(&Value::Array(vec![bytes(opened.salt), bytes(&opened.bytes)])));
        let leaf = leaf_hash(place.leaf);
        let payload = Payload { msg: &plain, aad: leaf.as_bytes() };
        let cipher = self.cipher(place).ok_or(SealError)?;
        let ciphertext = cipher.encrypt(&Nonce::default(), payload).map_err(|_| SealError)?;
        Ok(EncryptedPart { index: place.index, ciphertext })
    }

    /// Decrypts a part at its place. Whether it opens the leaf's commitment is another question.
    ///
    /// # Errors
    /// [`PartError`].
    pub fn open(&self, place: &Place<'_>, ciphertext: &[u8]) -> Result<Opened, PartError> {
        let wrong = PartError::Cipher(place.index);
        let leaf = leaf_hash(place.leaf);
        let payload = Payload { msg: ciphertext, aad: leaf.as_bytes() };
        let plain = self.cipher(place).ok_or(wrong)?.decrypt(&Nonce::default(), payload).map_err(|_| wrong)?;
        let plain = Zeroizing::new(plain);
        let form = PartError::Form(place.index);
        let Ok(Value::Array(pair)) = decode(&plain) else { return Err(form) };
        let Ok([Value::Bytes(salt), Value::Bytes(bytes)]) = <[Value; 2]>::try_from(pair) else { return Err(form) };
        Ok(Opened { salt: salt.try_into().map_err(|_| form)?, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PrivateKey = PrivateKey::new([0x4b; 32]);
    const PLACE: Place<'static> = Place { instance: InstanceId::new([0x11; 32]), index: 258, leaf: b"leaf" };

    fn opened() -> Opened {
        Opened { salt: [0x5a; 32], bytes: b"private".to_vec() }
    }

    /// Made with another implementation (Python's `cryptography`) from the sentence in EVIDENCE section 2.
    #[test]
    fn a_part_is_sealed_byte_for_byte_as_the_specification_says() {
        let sealed = KEY.seal(&PLACE, &opened()).expect("a part");
        assert_eq!(
            hex::encode(&sealed.ciphertext),
            "40a3482f9818ff0d258487bd8e0d941cafd1f89df702ebfda1c449cc840185dc4057ab58\
             e25504b9d77475c68fc18a73a0c890cad763b09d7e4a1d"
        );
        assert_eq!(sealed.index, 258);
    }

    #[test]
    fn a_part_opens_at_its_own_place_under_its_own_key_and_nowhere_else() {
        let ciphertext = KEY.seal(&PLACE, &opened()).expect("a part").ciphertext;
        assert_eq!(KEY.open(&PLACE, &ciphertext), Ok(opened()));
        let wrong = |key: &PrivateKey, place: Place<'_>, ciphertext: &[u8], what: &str| {
            assert_eq!(key.open(&place, ciphertext), Err(PartError::Cipher(place.index)), "{what}");
        };
        wrong(&PrivateKey::new([0x4c; 32]), PLACE, &ciphertext, "another key");
        wrong(&KEY, Place { index: 259, ..PLACE }, &ciphertext, "another index");
        wrong(&KEY, Place { leaf: b"leaf ", ..PLACE }, &ciphertext, "another leaf");
        wrong(&KEY, Place { instance: InstanceId::new([0x12; 32]), ..PLACE }, &ciphertext, "another instance");
        for at in 0..ciphertext.len() {
            let mut changed = ciphertext.clone();
            changed[at] ^= 1;
            wrong(&KEY, PLACE, &changed, "a changed byte");
            wrong(&KEY, PLACE, &ciphertext[..at], "a cut");
        }
        wrong(&KEY, PLACE, &[ciphertext.as_slice(), &[0]].concat(), "a byte more");
    }

    #[test]
    fn what_decrypts_to_something_else_than_salt_and_bytes_is_refused() {
        let cipher = KEY.cipher(&PLACE).expect("a cipher");
        let leaf = leaf_hash(PLACE.leaf);
        let salt = || Value::Bytes(vec![1; 32]);
        let plains = [
            encode(&Value::Array(vec![Value::Bytes(vec![1; 31]), salt()])),
            encode(&Value::Array(vec![salt()])),
            encode(&Value::Array(vec![salt(), salt(), salt()])),
            encode(&Value::Array(vec![salt(), Value::Unsigned(1)])),
            encode(&salt()),
            [encode(&Value::Array(vec![salt(), salt()])), vec![0]].concat(),
            Vec::new(),
        ];
        for plain in plains {
            let payload = Payload { msg: &plain, aad: leaf.as_bytes() };
            let ciphertext = cipher.encrypt(&Nonce::default(), payload).expect("a ciphertext");
            assert_eq!(KEY.open(&PLACE, &ciphertext), Err(PartError::Form(258)), "{plain:02x?}");
        }
    }

    #[test]
    fn the_key_is_not_shown() {
        assert_eq!(format!("{:?}", Access::Key(KEY)), "Key(PrivateKey(..))");
    }
}
