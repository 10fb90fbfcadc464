//! Domain-separated hashes: `Hn(tag, x)` = SHA-n(dCBOR([tag, x])) (EVIDENCE section 1). Nothing is ever `tag ‖ bytes`.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::cbor::{Value, encode};
use crate::ids::{Digest256, Digest384};

/// The bytes that a tagged hash or signature covers.
#[must_use]
pub fn tagged(tag: &str, x: Value) -> Vec<u8> {
    encode(&Value::Array(vec![Value::Text(tag.to_owned()), x]))
}

/// H256.
#[must_use]
pub fn h256(tag: &str, x: Value) -> Digest256 {
    Digest256::new(Sha256::digest(tagged(tag, x)).into())
}

/// H384.
#[must_use]
pub fn h384(tag: &str, x: Value) -> Digest384 {
    Digest384::new(Sha384::digest(tagged(tag, x)).into())
}

/// H512: the size of report data.
#[must_use]
pub fn h512(tag: &str, x: Value) -> [u8; 64] {
    Sha512::digest(tagged(tag, x)).into()
}
