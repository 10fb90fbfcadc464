//! Checkpoints as C2SP signed notes (c2sp.org/tlog-checkpoint, c2sp.org/signed-note). One signature, by the log key.
//!
//! ```text
//! coffer/local/01234567-89ab-4cde-8f01-23456789abcd
//! 42
//! <base64 of the root>
//!
//! — coffer/local/01234567-... <base64 of key id (4 bytes) and Ed25519 signature (64 bytes)>
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::ids::Digest256;
use crate::sign::PublicKey;

/// The longest note in bytes.
pub const NOTE_MAX: usize = 4096;
/// The signature type byte of Ed25519 in C2SP key ids.
const ED25519: u8 = 1;

/// What a note says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// `coffer/<audience>/<session>`.
    pub origin: String,
    /// Leaves covered.
    pub size: u64,
    /// Root over them.
    pub root: Digest256,
}

/// Why a note is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Malformed or not canonical.
    #[error("expected a C2SP note: origin, size, root, empty line, one signature line")]
    Form,
    /// Another log's note.
    #[error("expected a note of {expected}, found one of {found}")]
    Origin {
        /// Wanted.
        expected: String,
        /// Found.
        found: String,
    },
    /// Signed by another key, or not at all.
    #[error("expected a signature by the log key {0}, found one that does not verify")]
    Signature(PublicKey),
}

impl Checkpoint {
    /// The signed text: three lines.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))
    }

    /// Reads the signed text; anything that [`Checkpoint::to_text`] would not have written is refused.
    ///
    /// # Errors
    /// [`NoteError::Form`].
    pub fn parse_text(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Form);
        };
        let size = size.parse().map_err(|_| NoteError::Form)?;
        let root = STANDARD.decode(root).map_err(|_| NoteError::Form)?;
        let root = Digest256::from_bytes(&root).map_err(|_| NoteError::Form)?;
        let checkpoint = Self { origin: origin.to_owned(), size, root };
        if origin.is_empty() || checkpoint.to_text() != text {
            return Err(NoteError::Form);
        }
        Ok(checkpoint)
    }
}

/// SHA-256(name ‖ LF ‖ type ‖ key), cut to 4 bytes.
fn key_id(name: &str, key: &PublicKey) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([b'\n', ED25519]);
    hash.update(key.as_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d]
}

/// The note of a checkpoint.
#[must_use]
pub fn sign_note(key: &SigningKey, checkpoint: &Checkpoint) -> String {
    let text = checkpoint.to_text();
    let mut blob = key_id(&checkpoint.origin, &PublicKey::of(key)).to_vec();
    blob.extend_from_slice(&key.sign(text.as_bytes()).to_bytes());
    format!("{text}\n\u{2014} {} {}\n", checkpoint.origin, STANDARD.encode(blob))
}

/// Reads a note and checks its one signature by `key` and its origin.
///
/// # Errors
/// [`NoteError`].
pub fn open_note(note: &str, key: &PublicKey, origin: &str) -> Result<Checkpoint, NoteError> {
    if note.len() > NOTE_MAX {
        return Err(NoteError::Form);
    }
    let (text, signature) = note.split_once("\n\n").ok_or(NoteError::Form)?;
    let text = format!("{text}\n");
    let checkpoint = Checkpoint::parse_text(&text)?;
    if checkpoint.origin != origin {
        return Err(NoteError::Origin { expected: origin.to_owned(), found: checkpoint.origin });
    }
    let line = signature.strip_prefix("\u{2014} ").and_then(|l| l.strip_suffix('\n')).ok_or(NoteError::Form)?;
    let (name, blob) = line.split_once(' ').ok_or(NoteError::Form)?;
    if name != origin || blob.contains([' ', '\n']) {
        return Err(NoteError::Form);
    }
    let blob = STANDARD.decode(blob).map_err(|_| NoteError::Form)?;
    let (id, signature) = blob.split_at_checked(4).ok_or(NoteError::Form)?;
    let signature: &[u8; 64] = signature.try_into().map_err(|_| NoteError::Form)?;
    if id != key_id(origin, key) || !key.verifies(text.as_bytes(), signature) {
        return Err(NoteError::Signature(*key));
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (SigningKey, Checkpoint) {
        let origin = "coffer/local/00000000-0000-4000-8000-000000000001".to_owned();
        (SigningKey::from_bytes(&[7; 32]), Checkpoint { origin, size: 42, root: Digest256::of(b"root") })
    }

    #[test]
    fn a_note_opens_only_with_its_key_and_origin() {
        let (key, checkpoint) = sample();
        let note = sign_note(&key, &checkpoint);
        let public = PublicKey::of(&key);
        assert_eq!(open_note(&note, &public, &checkpoint.origin), Ok(checkpoint.clone()));
        let other = PublicKey::of(&SigningKey::from_bytes(&[8; 32]));
        assert_eq!(open_note(&note, &other, &checkpoint.origin), Err(NoteError::Signature(other)));
        assert!(matches!(open_note(&note, &public, "coffer/x/y"), Err(NoteError::Origin { .. })));
    }

    #[test]
    fn a_note_changed_in_any_byte_does_not_open() {
        let (key, checkpoint) = sample();
        let note = sign_note(&key, &checkpoint);
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(open_note(&changed, &PublicKey::of(&key), &checkpoint.origin).is_err(), "byte {at}");
            }
        }
        for more in ["\n", " ", "\u{2014} x AAAA\n"] {
            assert!(open_note(&format!("{note}{more}"), &PublicKey::of(&key), &checkpoint.origin).is_err());
        }
    }

    #[test]
    fn numbers_have_one_form() {
        let (_, checkpoint) = sample();
        let text = checkpoint.to_text();
        assert!(Checkpoint::parse_text(&text.replace("\n42\n", "\n042\n")).is_err());
        assert!(Checkpoint::parse_text(&text.replace("\n42\n", "\n+42\n")).is_err());
        assert!(Checkpoint::parse_text(text.trim_end()).is_err());
    }
}
