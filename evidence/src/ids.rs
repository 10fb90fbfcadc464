//! The names of things: sessions, calls, instances, identities, digests. Newtypes, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha384};
use thiserror::Error;

/// Why text or bytes are not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// Wrong number of bytes.
    #[error("expected {expected} bytes, found {found}")]
    Length {
        /// What the id has.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// Not a UUID in its usual form.
    #[error("expected a UUID such as 01234567-89ab-4cde-8f01-23456789abcd")]
    NotAUuid,
    /// Not lower-case hex.
    #[error("expected {expected} hex digits")]
    NotHex {
        /// How many.
        expected: usize,
    },
    /// Not an identity.
    #[error("expected an identity: a letter a-z, then at most 30 of a-z, 0-9 and -")]
    NotAnIdentity,
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Takes the bytes as they are.
            #[must_use]
            pub const fn new(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// Takes a slice of exactly the right length.
            ///
            /// # Errors
            /// [`IdError::Length`].
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdError> {
                let found = bytes.len();
                bytes.try_into().map(Self).map_err(|_| IdError::Length { expected: $length, found })
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<[u8; $length]> for $name {
            fn from(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

macro_rules! hex_text {
    ($name:ident, $digits:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = hex::decode(text).map_err(|_| IdError::NotHex { expected: $digits })?;
                Self::from_bytes(&bytes).map_err(|_| IdError::NotHex { expected: $digits })
            }
        }
    };
}

macro_rules! uuid_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (at, byte) in self.0.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let dashes = [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
                let digits: String = text.chars().filter(|c| *c != '-').collect();
                if text.len() != 36 || !dashes || digits.len() != 32 {
                    return Err(IdError::NotAUuid);
                }
                let bytes = hex::decode(digits).map_err(|_| IdError::NotAUuid)?;
                Self::from_bytes(&bytes)
            }
        }
    };
}

fixed_bytes!(
    /// A session: 16 random bytes made by the client, shown as a UUID.
    SessionId,
    16
);
uuid_text!(SessionId);
fixed_bytes!(
    /// A call: a UUIDv4 made by the client, unique within (session, identity).
    CallId,
    16
);
uuid_text!(CallId);
fixed_bytes!(
    /// One TD that ran a session: the hash of its open map.
    InstanceId,
    32
);
hex_text!(InstanceId, 64);
fixed_bytes!(
    /// A SHA-256 digest.
    Digest256,
    32
);
hex_text!(Digest256, 64);
fixed_bytes!(
    /// A SHA-384 digest: what TDX registers hold.
    Digest384,
    48
);
hex_text!(Digest384, 96);

impl Digest256 {
    /// SHA-256 of the bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl Digest384 {
    /// SHA-384 of the bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha384::digest(bytes).into())
    }
}

/// A named least-privilege principal inside a session: `[a-z][a-z0-9-]{0,30}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(String);

impl Identity {
    /// The longest name in bytes.
    pub const LENGTH_MAX: usize = 31;

    /// Checks the name.
    ///
    /// # Errors
    /// [`IdError::NotAnIdentity`].
    pub fn new(name: &str) -> Result<Self, IdError> {
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if first && rest && name.len() <= Self::LENGTH_MAX {
            Ok(Self(name.to_owned()))
        } else {
            Err(IdError::NotAnIdentity)
        }
    }

    /// The identity of a session that names no other.
    #[must_use]
    pub fn default_name() -> Self {
        Self("default".to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
