//! The name of an object in a repository: the digest of its kind, size and bytes, by the hash that the repository uses.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use thiserror::Error;

use crate::cbor::Value;
use crate::fields::bytes;

/// The id of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// Of a repository that names objects by SHA-1, as most do.
    Sha1([u8; 20]),
    /// Of one that names them by SHA-256.
    Sha256([u8; 32]),
}

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected an object id of 40 or 64 lower-case hex digits")]
pub struct ObjectIdError;

impl ObjectId {
    /// The id of the commit with these bytes, in a repository that names objects like this one.
    #[must_use]
    pub fn of_commit(self, object: &[u8]) -> Self {
        let head = format!("commit {}\0", object.len());
        match self {
            Self::Sha1(_) => {
                Self::Sha1(Sha1::new().chain_update(head.as_bytes()).chain_update(object).finalize().into())
            }
            Self::Sha256(_) => {
                Self::Sha256(Sha256::new().chain_update(head.as_bytes()).chain_update(object).finalize().into())
            }
        }
    }

    /// Whether both are of the same hash.
    #[must_use]
    pub const fn is_like(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Sha1(_), Self::Sha1(_)) | (Self::Sha256(_), Self::Sha256(_)))
    }

    /// The header that holds a commit's signature where objects are named like this.
    pub(super) const fn signature_header(&self) -> &'static str {
        match self {
            Self::Sha1(_) => "gpgsig",
            Self::Sha256(_) => "gpgsig-sha256",
        }
    }

    pub(crate) fn to_value(self) -> Value {
        bytes(self)
    }

    pub(crate) fn from_value(value: Value) -> Option<Self> {
        let Value::Bytes(id) = value else { return None };
        match id.len() {
            20 => id.try_into().ok().map(Self::Sha1),
            _ => id.try_into().ok().map(Self::Sha256),
        }
    }
}

impl AsRef<[u8]> for ObjectId {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Sha1(id) => id,
            Self::Sha256(id) => id,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

impl FromStr for ObjectId {
    type Err = ObjectIdError;

    fn from_str(text: &str) -> Result<Self, ObjectIdError> {
        if text.contains(|c: char| c.is_ascii_uppercase()) {
            return Err(ObjectIdError);
        }
        let id = hex::decode(text).map_err(|_| ObjectIdError)?;
        Self::from_value(Value::Bytes(id)).ok_or(ObjectIdError)
    }
}
