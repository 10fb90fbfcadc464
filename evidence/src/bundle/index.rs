//! `index.cbor`: [[name, size, SHA-256]…] of all other members, unsigned: it finds corruption and names the bundle.

use thiserror::Error;

use crate::cbor::{Value, encode};
use crate::fields::bytes;
use crate::ids::Digest256;

/// The index's own name.
pub(super) const NAME: &str = "index.cbor";

/// The index is not that of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected the index of exactly these members, found another")]
pub struct IndexError;

/// The index of these members, in their order. Writing it anew is how one is checked: there is one for these members.
pub(super) fn write<'a>(members: impl Iterator<Item = (&'a str, u64, Digest256)>) -> Vec<u8> {
    let rows = members
        .map(|(name, size, digest)| {
            Value::Array(vec![Value::Text(name.to_owned()), Value::Unsigned(size), bytes(digest)])
        })
        .collect();
    encode(&Value::Array(rows))
}
