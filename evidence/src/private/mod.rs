//! Private parts that leave the TD only encrypted to the owner's recipients (EVIDENCE section 2): the container `private.bin`.
//! The cipher is behind feature `private`, the wrapping of its key in `private.age` behind feature `age`.

#[cfg(feature = "private")]
mod cipher;
#[cfg(feature = "age")]
mod wrapped;

use crate::cbor::{List, Value, decode_list, encode};
use crate::fields::{ParseError, bytes};

#[cfg(feature = "private")]
pub use cipher::{Access, PartError, Place, PrivateKey, SealError};
#[cfg(feature = "age")]
pub use wrapped::{
    IDENTITIES_MAX, IDENTITY_FILE_MAX, Identities, IdentityError, UnwrapError, WRAPPED_MAX, WrapError, access,
    unwrap_key, wrap_key,
};

/// The fewest bytes of a ciphertext: dCBOR of a salt and no private bytes, and the tag. It bounds the number of parts in a file.
pub const CIPHERTEXT_MIN: usize = 36 + 16;

/// One part of `private.bin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedPart {
    /// Index of its leaf.
    pub index: u64,
    /// ChaCha20-Poly1305 ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

/// `private.bin`: an array of [index, ciphertext], indices strictly rising.
#[must_use]
pub fn write_private(parts: &[EncryptedPart]) -> Vec<u8> {
    let items = parts.iter().map(|p| Value::Array(vec![Value::Unsigned(p.index), bytes(&p.ciphertext)])).collect();
    encode(&Value::Array(items))
}

/// Reads `private.bin` strictly, one part at a time: nobody needs to hold them all.
///
/// # Errors
/// [`ParseError`], from here or from the iterator.
pub fn read_private(input: &[u8]) -> Result<EncryptedParts<'_>, ParseError> {
    Ok(EncryptedParts { list: decode_list(input)?.ok_or_else(wrong)?, last: None })
}

/// The parts of [`read_private`].
pub struct EncryptedParts<'a> {
    list: List<'a>,
    last: Option<u64>,
}

impl Iterator for EncryptedParts<'_> {
    type Item = Result<EncryptedPart, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.list.next()? {
            Ok(value) => self.part(value),
            Err(error) => Err(error.into()),
        })
    }
}

impl EncryptedParts<'_> {
    fn part(&mut self, value: Value) -> Result<EncryptedPart, ParseError> {
        let Value::Array(pair) = value else { return Err(wrong()) };
        let Ok([Value::Unsigned(index), Value::Bytes(ciphertext)]) = <[Value; 2]>::try_from(pair) else {
            return Err(wrong());
        };
        if ciphertext.len() < CIPHERTEXT_MIN || self.last.is_some_and(|last| last >= index) {
            return Err(wrong());
        }
        self.last = Some(index);
        Ok(EncryptedPart { index, ciphertext })
    }
}

const fn wrong() -> ParseError {
    ParseError::Type {
        structure: "private parts",
        expected: "[[index, ciphertext of at least 52 bytes], ...] with rising indices",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(index: u64, length: usize) -> EncryptedPart {
        EncryptedPart { index, ciphertext: vec![7; length] }
    }

    fn reads(bytes: &[u8]) -> bool {
        read_private(bytes).is_ok_and(|mut parts| parts.all(|part| part.is_ok()))
    }

    #[test]
    fn a_container_reads_back_and_no_cut_order_or_addition_passes() {
        let parts = vec![part(1, CIPHERTEXT_MIN), part(2, 300), part(u64::MAX, 60)];
        let written = write_private(&parts);
        let read: Result<Vec<_>, _> = read_private(&written).expect("a list").collect();
        assert_eq!(read.expect("our own parts"), parts);
        assert!(reads(&write_private(&[])));
        for length in 0..written.len() {
            assert!(!reads(&written[..length]), "cut to {length}");
        }
        assert!(!reads(&[written.as_slice(), &[0]].concat()), "a byte more");
        assert!(!reads(&write_private(&[part(1, CIPHERTEXT_MIN - 1)])), "too short for a tag and a salt");
        assert!(!reads(&write_private(&[part(2, 60), part(1, 60)])), "falling");
        assert!(!reads(&write_private(&[part(2, 60), part(2, 60)])), "twice");
        assert!(!reads(&encode(&Value::Unsigned(1))), "no list");
    }
}
