//! K in `private.age`: age v1, X25519 recipients only. Unwrapping is pure; wrapping draws randomness inside the age library, and is
//! here so that whoever verifies can also make what is verified. The guest links neither: it has no use for them yet.

use std::io::{Read as _, Write as _};
use std::str::FromStr as _;

use age::x25519::{Identity, Recipient};
use age::{DecryptError, Decryptor, Encryptor};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Access, PrivateKey};

/// The largest `private.age` in bytes: 64 recipients take less than half.
pub const WRAPPED_MAX: usize = 16 * 1024;
/// The largest file of identities in bytes.
pub const IDENTITY_FILE_MAX: usize = 64 * 1024;
/// The most identities in it: each is tried at each recipient of a hostile file.
pub const IDENTITIES_MAX: usize = 64;

/// What decrypts: the keys of a file that `age-keygen` wrote.
pub struct Identities(Vec<Identity>);

/// Why a text has no identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// A line of something else.
    #[error("line {0}: expected an identity as age-keygen writes it, AGE-SECRET-KEY-1..., a comment or nothing")]
    Line(usize),
    /// Nothing in it.
    #[error("expected an identity (AGE-SECRET-KEY-1...), found none")]
    None,
    /// Too many.
    #[error("expected at most {IDENTITIES_MAX} identities, found more")]
    TooMany,
}

impl Identities {
    /// One a line; empty lines and comments are passed over.
    ///
    /// # Errors
    /// [`IdentityError`], which never repeats the line.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let mut identities = Vec::new();
        for (number, line) in (1_usize..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if identities.len() == IDENTITIES_MAX {
                return Err(IdentityError::TooMany);
            }
            identities.push(Identity::from_str(line).map_err(|_| IdentityError::Line(number))?);
        }
        if identities.is_empty() { Err(IdentityError::None) } else { Ok(Self(identities)) }
    }
}

/// Why there is no K.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// For others.
    #[error("expected a key that is encrypted to one of these identities, found other recipients")]
    OtherRecipients,
    /// Too large.
    #[error("expected at most {WRAPPED_MAX} bytes of age, found {0}")]
    TooLarge(usize),
    /// Not age, changed or cut.
    #[error("expected an age v1 file that holds a key of 32 bytes, found {0}")]
    Form(String),
}

/// K out of `private.age`.
///
/// # Errors
/// [`UnwrapError`].
pub fn unwrap_key(wrapped: &[u8], identities: &Identities) -> Result<PrivateKey, UnwrapError> {
    if wrapped.len() > WRAPPED_MAX {
        return Err(UnwrapError::TooLarge(wrapped.len()));
    }
    let told = |error: DecryptError| match error {
        DecryptError::NoMatchingKeys => UnwrapError::OtherRecipients,
        DecryptError::InvalidHeader | DecryptError::UnknownFormat => UnwrapError::Form("another header".to_owned()),
        other => UnwrapError::Form(other.to_string()),
    };
    let decryptor = Decryptor::new(wrapped).map_err(told)?;
    let identities = identities.0.iter().map(|identity| identity as &dyn age::Identity);
    let reader = decryptor.decrypt(identities).map_err(told)?;
    // One byte more shows that more follows, and reaching the end that nothing was cut.
    let mut plain = Zeroizing::new(Vec::with_capacity(64));
    let read = reader.take(33).read_to_end(&mut plain);
    read.map_err(|error| UnwrapError::Form(format!("a content that does not decrypt ({error})")))?;
    let key: Option<&[u8; 32]> = plain.as_slice().first_chunk().filter(|_| plain.len() == 32);
    let length =
        || UnwrapError::Form(format!("{}{} bytes", if plain.len() > 32 { "at least " } else { "" }, plain.len()));
    key.copied().map(PrivateKey::new).ok_or_else(length)
}

/// What these identities get at in a bundle whose `private.age` this is.
#[must_use]
pub fn access(wrapped: Option<&[u8]>, identities: &Identities) -> Access {
    match wrapped.map(|wrapped| unwrap_key(wrapped, identities)) {
        None => Access::NoWrappedKey,
        Some(Ok(key)) => Access::Key(key),
        Some(Err(UnwrapError::OtherRecipients)) => Access::OtherRecipients,
        Some(Err(error)) => Access::Unreadable(error.to_string()),
    }
}

/// Why K was not wrapped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WrapError {
    /// Not a recipient.
    #[error("expected recipients as age-keygen writes them, age1..., found something else at position {0}")]
    Recipient(usize),
    /// Nobody to wrap for, or no randomness.
    #[error("expected age to encrypt a key, found {0}")]
    Age(String),
}

/// `private.age` for these recipients, `age1...`.
///
/// # Errors
/// [`WrapError`].
pub fn wrap_key(key: &PrivateKey, recipients: &[&str]) -> Result<Vec<u8>, WrapError> {
    let parse = |(at, text): (usize, &&str)| Recipient::from_str(text).map_err(|_| WrapError::Recipient(at));
    let recipients = recipients.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let age = |error: &dyn std::fmt::Display| WrapError::Age(error.to_string());
    let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as &dyn age::Recipient));
    let mut wrapped = Vec::new();
    let mut writer = encryptor.map_err(|e| age(&e))?.wrap_output(&mut wrapped).map_err(|e| age(&e))?;
    writer.write_all(key.as_bytes()).map_err(|e| age(&e))?;
    writer.finish().map_err(|e| age(&e))?;
    Ok(wrapped)
}
