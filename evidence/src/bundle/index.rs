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

/// The index of these members, in their order.
pub(super) fn write<'a>(members: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let rows = members
        .map(|(name, content)| {
            Value::Array(vec![
                Value::Text(name.to_owned()),
                Value::Unsigned(content.len() as u64),
                bytes(Digest256::of(content)),
            ])
        })
        .collect();
    encode(&Value::Array(rows))
}

/// Recomputing is the check: there is one index for these members.
pub(super) fn check<'a>(found: &[u8], members: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<(), IndexError> {
    if write(members) == found { Ok(()) } else { Err(IndexError) }
}
