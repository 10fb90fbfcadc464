//! Names in a policy: identities and rules. Newtypes, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name of an identity in bytes.
const IDENTITY_LENGTH_MAX: usize = 31;
/// The longest id of a rule in bytes.
const RULE_LENGTH_MAX: usize = 63;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Of an identity.
    #[error("expected the name of an identity: a letter a-z, then at most 30 of a-z, 0-9 and -")]
    Identity,
    /// Of a rule.
    #[error("expected the id of a rule: a letter a-z, then at most 62 of a-z, 0-9 and -")]
    Rule,
}

fn is_name(text: &str, longest: usize) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    first && rest && text.len() <= longest
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $longest:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_name(text, $longest) { Ok(Self(text.to_owned())) } else { Err($error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// An identity of the session, as the owner's intent names it.
    IdentityName,
    IDENTITY_LENGTH_MAX,
    NameError::Identity
);
name!(
    /// What the annotation `@id` calls a rule, and the action log a reason.
    RuleId,
    RULE_LENGTH_MAX,
    NameError::Rule
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_case_begins_with_a_letter_and_ends_at_its_limit() {
        for good in ["a", "a-", "a0", "coder", &"a".repeat(31)] {
            assert_eq!(good.parse::<IdentityName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "0a", "-a", "a_b", "a b", "ä", "a\0", &"a".repeat(32)] {
            assert_eq!(bad.parse::<IdentityName>(), Err(NameError::Identity), "{bad:?}");
        }
        assert!("a".repeat(63).parse::<RuleId>().is_ok());
        assert_eq!("a".repeat(64).parse::<RuleId>(), Err(NameError::Rule));
        assert_eq!("read_all".parse::<RuleId>(), Err(NameError::Rule));
    }
}
