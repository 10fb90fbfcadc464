//! SHA-384, and the extend operation of measurement registers.

use std::fmt;

use sha2::{Digest as _, Sha384};

/// A 48-byte measurement register, or a digest that goes into one; memory order.
pub type Register = [u8; 48];

/// A register before its first extend.
pub const ZERO_REGISTER: Register = [0; 48];

/// SHA-384.
#[must_use]
pub fn sha384(bytes: &[u8]) -> Register {
    Sha384::digest(bytes).into()
}

/// `SHA-384(register ‖ digest)`: what TDG.MR.RTMR.EXTEND does.
#[must_use]
pub fn extend(register: Register, digest: &Register) -> Register {
    let mut hash = Sha384::new();
    hash.update(register);
    hash.update(digest);
    hash.finalize().into()
}

/// A register after a list of digests, from zero.
#[must_use]
pub fn replay(digests: impl IntoIterator<Item = Register>) -> Register {
    digests.into_iter().fold(ZERO_REGISTER, |register, digest| extend(register, &digest))
}

/// Shows bytes as lower-case hex in `Debug`.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
