//! Who speaks on a channel (header field 3): an identity, the session's owner, or a witness of the intent. Owner and witnesses have
//! names that no identity can have, so no intent needs to be refused for a name.

use std::fmt;
use std::str::FromStr;

use crate::fields::{Fields, ParseError};
use crate::ids::{IdError, Identity};
use crate::intent::{Intent, PRINCIPALS_MAX};
use crate::sign::PublicKey;

const OWNER: &str = "@owner";
const WITNESS: &str = "@witness-";
/// The longest name of a speaker in bytes.
const LENGTH_MAX: usize = Identity::LENGTH_MAX;

/// Whose key signs a channel's headers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speaker {
    /// An identity of the intent, under its own name.
    Identity(Identity),
    /// `@owner`: the owner key, intent field 5.
    Owner,
    /// `@witness-N`: key number N of intent field 13, counted from zero.
    Witness(u8),
}

impl Speaker {
    /// The identity, where it is one.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Identity(identity) => Some(identity),
            Self::Owner | Self::Witness(_) => None,
        }
    }

    /// The key that this intent gives the speaker; none for one that it does not name.
    #[must_use]
    pub fn key(&self, intent: &Intent) -> Option<PublicKey> {
        match self {
            Self::Identity(identity) => intent.identities.get(identity).copied(),
            Self::Owner => Some(intent.owner),
            Self::Witness(number) => intent.witnesses.get(usize::from(*number)).copied(),
        }
    }

    /// The speaker in a field.
    pub(crate) fn read(f: &mut Fields, field: u64) -> Result<Self, ParseError> {
        let name = f.text(field, LENGTH_MAX)?;
        name.parse().map_err(|_| f.error(field, "an identity, @owner or @witness-0 to @witness-63"))
    }
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => identity.fmt(f),
            Self::Owner => f.write_str(OWNER),
            Self::Witness(number) => write!(f, "{WITNESS}{number}"),
        }
    }
}

impl FromStr for Speaker {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == OWNER {
            return Ok(Self::Owner);
        }
        let Some(digits) = text.strip_prefix(WITNESS) else { return Identity::new(text).map(Self::Identity) };
        let number: u8 = digits.parse().map_err(|_| IdError::NotAnIdentity)?;
        let speaker = Self::Witness(number);
        // One form of each number: no sign and no zeros before it.
        let known = usize::from(number) < PRINCIPALS_MAX && speaker.to_string() == text;
        if known { Ok(speaker) } else { Err(IdError::NotAnIdentity) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_witnesses_have_one_name_each_that_no_identity_can_have() {
        for name in ["default", "owner", "@owner", "@witness-0", "@witness-63"] {
            assert_eq!(name.parse::<Speaker>().expect("a speaker").to_string(), name);
        }
        for name in
            ["", "@", "@Owner", "@owner-1", "@witness", "@witness-", "@witness-+1", "@witness-01", "@witness-64"]
        {
            assert!(name.parse::<Speaker>().is_err(), "{name}");
        }
        assert!(Identity::new("@owner").is_err() && Identity::new("@witness-0").is_err());
    }
}
