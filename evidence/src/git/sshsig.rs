//! SSHSIG (OpenSSH, PROTOCOL.sshsig) as far as commits need it: Ed25519, namespace `git`, SHA-512. One form is written and the
//! same form is read; what OpenSSH takes beside it (other keys, other namespaces, other line lengths) is refused by name.
//!
//! ```text
//! blob:   "SSHSIG" u32 version  string key  string namespace  string reserved  string hash  string signature
//! signed: "SSHSIG"              string namespace  string reserved  string hash  string SHA-512(message)
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha512};
use thiserror::Error;

use crate::sign::PublicKey;

/// What signatures of commits are for, and nothing else.
pub const NAMESPACE: &str = "git";
/// Bytes of an armored signature: ours have 294.
pub const ARMOR_MAX: usize = 1024;

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const HASH: &str = "sha512";
const KEY: &str = "ssh-ed25519";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "-----END SSH SIGNATURE-----\n";
/// Characters of a line, as OpenSSH writes it.
const LINE: usize = 70;

/// Why a text is not a signature of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SshSignatureError {
    /// Not between its two lines, or not base64 in lines of 70 characters.
    #[error("expected an SSH signature in its armor, in lines of {LINE} characters as ssh-keygen writes it")]
    Armor,
    /// The blob in it.
    #[error("expected {expected} in the SSH signature")]
    Blob {
        /// What was expected.
        expected: &'static str,
    },
    /// It is for something else.
    #[error("expected an SSH signature in the namespace {NAMESPACE}, found one in another: {found:?}")]
    Namespace {
        /// Its namespace.
        found: String,
    },
}

/// A signature and the key that it names. Not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSignature {
    /// Whose it says it is.
    pub key: PublicKey,
    /// Ed25519.
    pub signature: [u8; 64],
}

impl SshSignature {
    /// Signs a message in the namespace `git`.
    #[must_use]
    pub fn sign(key: &SigningKey, message: &[u8]) -> Self {
        Self { key: PublicKey::of(key), signature: key.sign(&signed(message)).to_bytes() }
    }

    /// Whether the key that it names made it, over exactly this message.
    #[must_use]
    pub fn verifies(&self, message: &[u8]) -> bool {
        self.key.verifies(&signed(message), &self.signature)
    }

    /// Its text.
    #[must_use]
    pub fn to_armor(&self) -> String {
        let blob = [
            MAGIC,
            &VERSION.to_be_bytes(),
            &string(&[string(KEY.as_bytes()), string(self.key.as_bytes())].concat()),
            &string(NAMESPACE.as_bytes()),
            &string(b""),
            &string(HASH.as_bytes()),
            &string(&[string(KEY.as_bytes()), string(&self.signature)].concat()),
        ]
        .concat();
        let mut text = BEGIN.to_owned();
        for (at, character) in STANDARD.encode(blob).chars().enumerate() {
            if at > 0 && at.is_multiple_of(LINE) {
                text.push('\n');
            }
            text.push(character);
        }
        text.push('\n');
        text.push_str(END);
        text
    }

    /// Reads the text; only the form that [`Self::to_armor`] writes.
    ///
    /// # Errors
    /// [`SshSignatureError`].
    pub fn parse(text: &str) -> Result<Self, SshSignatureError> {
        let body = Some(text).filter(|text| text.len() <= ARMOR_MAX);
        let body = body.and_then(|text| text.strip_prefix(BEGIN)?.strip_suffix(END));
        let body = body.ok_or(SshSignatureError::Armor)?.replace('\n', "");
        let blob = STANDARD.decode(body).map_err(|_| SshSignatureError::Armor)?;
        let found = read(&blob)?;
        if found.to_armor() == text { Ok(found) } else { Err(SshSignatureError::Armor) }
    }
}

fn read(blob: &[u8]) -> Result<SshSignature, SshSignatureError> {
    let wrong = |expected| SshSignatureError::Blob { expected };
    let rest = blob.strip_prefix(MAGIC).ok_or(wrong("its magic, SSHSIG"))?;
    let rest = rest.strip_prefix(&VERSION.to_be_bytes()).ok_or(wrong("version 1"))?;
    let (key, rest) = take(rest).ok_or(wrong("a key"))?;
    let (namespace, rest) = take(rest).ok_or(wrong("a namespace"))?;
    let (reserved, rest) = take(rest).ok_or(wrong("a reserved field"))?;
    let (hash, rest) = take(rest).ok_or(wrong("a hash"))?;
    let (signature, rest) = take(rest).ok_or(wrong("a signature"))?;
    if !rest.is_empty() || !reserved.is_empty() {
        return Err(wrong("nothing beside its fields"));
    }
    if namespace != NAMESPACE.as_bytes() {
        return Err(SshSignatureError::Namespace { found: String::from_utf8_lossy(namespace).into_owned() });
    }
    if hash != HASH.as_bytes() {
        return Err(wrong("the hash sha512"));
    }
    let key = of_ed25519(key).and_then(|key| PublicKey::from_bytes(key).ok());
    let signature = of_ed25519(signature).and_then(|signature| signature.try_into().ok());
    let key = key.ok_or(wrong("an Ed25519 key of full order"))?;
    Ok(SshSignature { key, signature: signature.ok_or(wrong("an Ed25519 signature of 64 bytes"))? })
}

/// What is behind the name of the algorithm.
fn of_ed25519(bytes: &[u8]) -> Option<&[u8]> {
    let (name, rest) = take(bytes)?;
    let (value, rest) = take(rest)?;
    (name == KEY.as_bytes() && rest.is_empty()).then_some(value)
}

/// The next string, and what follows it.
fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn string(bytes: &[u8]) -> Vec<u8> {
    // Nothing here is longer than a few hundred bytes.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// What is signed for this message.
fn signed(message: &[u8]) -> Vec<u8> {
    let digest = Sha512::digest(message);
    [MAGIC, &string(NAMESPACE.as_bytes()), &string(b""), &string(HASH.as_bytes()), &string(&digest)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32])
    }

    #[test]
    fn a_signature_is_of_its_message_and_its_key() {
        let made = SshSignature::sign(&key(1), b"message");
        let read = SshSignature::parse(&made.to_armor()).unwrap();
        assert_eq!(read, made);
        assert!(read.verifies(b"message") && !read.verifies(b"massage"));
        let other = SshSignature { key: PublicKey::of(&key(2)), ..read };
        assert!(!other.verifies(b"message"));
    }

    #[test]
    fn what_openssh_would_take_beside_our_form_is_refused_by_name() {
        let armor = SshSignature::sign(&key(1), b"message").to_armor();
        let blob = STANDARD.decode(armor.replace(BEGIN, "").replace(END, "").replace('\n', "")).unwrap();
        let with = |from: &[u8], to: &[u8]| {
            let at = blob.windows(from.len()).position(|part| part == from).unwrap();
            read(&[&blob[..at], to, &blob[at + from.len()..]].concat()).unwrap_err()
        };
        let found = |found: &str| SshSignatureError::Namespace { found: found.into() };
        assert_eq!(with(b"\0\0\0\x03git", b"\0\0\0\x04file"), found("file"));
        assert_eq!(with(b"\0\0\0\x03git", b"\0\0\0\0"), found(""));
        let expected = |expected| SshSignatureError::Blob { expected };
        assert_eq!(with(b"sha512", b"sha256"), expected("the hash sha512"));
        assert_eq!(with(b"SSHSIG", b"SSHSIH"), expected("its magic, SSHSIG"));
        assert_eq!(with(&[0, 0, 0, 1], &[0, 0, 0, 2]), expected("version 1"));
        assert_eq!(with(KEY.as_bytes(), b"ssh-ed25518"), expected("an Ed25519 key of full order"));
        assert_eq!(with(PublicKey::of(&key(1)).as_bytes(), &[0; 32]), expected("an Ed25519 key of full order"));
        let more = [&blob[..], b"x"].concat();
        assert_eq!(read(&more), Err(expected("nothing beside its fields")));
        let joined = armor.replacen("\n", "", 2).replacen("-----U1N", "-----\nU1N", 1);
        for text in [
            "",
            armor.trim_end(),
            &format!("{armor}\n"),
            &format!("\n{armor}"),
            &armor.replace('\n', "\r\n"),
            &joined,
            &format!("{armor}{}", " ".repeat(ARMOR_MAX)),
        ] {
            assert_eq!(SshSignature::parse(text), Err(SshSignatureError::Armor), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(at in 0usize..294, byte in any::<u8>(), message: Vec<u8>) {
            let mut text = SshSignature::sign(&key(3), &message).to_armor().into_bytes();
            text[at] = byte;
            if let Ok(text) = String::from_utf8(text) && let Ok(read) = SshSignature::parse(&text) {
                prop_assert_eq!(read.to_armor(), text);
            }
        }

        #[test]
        fn no_blob_makes_it_panic(blob: Vec<u8>) {
            let _ = read(&blob);
            let _ = read(&[MAGIC, &blob].concat());
        }
    }
}
