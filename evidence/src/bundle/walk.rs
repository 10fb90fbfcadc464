//! From header to header: what may come next, judged before a byte of it is read, so that nothing is fetched or kept for a header
//! that is refused.

use super::ustar::{self, BLOCK, UstarError};
use super::{BUNDLE_MAX, BundleError, MEMBERS_MAX, SMALL_FILE_MAX, place};

/// What ends an archive, in bytes.
const END: u64 = 2 * BLOCK as u64;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A member's content follows, and zeros up to the next block.
    Member {
        /// Its name.
        name: String,
        /// The bytes of its content.
        size: u64,
        /// The same with its zeros: where the next header stands.
        padded: u64,
    },
    /// The first of the two blocks that end the archive: one block of zeros follows, and nothing after it.
    End,
}

/// A walk along the headers of one archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    at: u64,
    members: usize,
    last: Option<(usize, String, String)>,
}

impl Walk {
    /// Where the next header stands, in bytes.
    #[must_use]
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Judges the next header: its form, name, place and size.
    ///
    /// # Errors
    /// [`BundleError`]; the walk is over.
    pub(super) fn next(&mut self, block: &[u8; BLOCK]) -> Result<Step, BundleError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        if self.members >= MEMBERS_MAX {
            return Err(BundleError::TooMany);
        }
        let (name, size) = ustar::parse_header(block).map_err(|field| UstarError::Header { at: self.at, field })?;
        let (at, within) = place(&name).ok_or_else(|| BundleError::Unknown { name: name.clone() })?;
        let after = self.last.as_ref().map_or("the start", |(_, _, name)| name);
        if self.last.as_ref().is_some_and(|(last, inside, _)| (*last, inside.as_str()) >= (at, within)) {
            return Err(BundleError::Order { found: name.clone(), after: after.to_owned() });
        }
        let limit = if name == "leaves" { BUNDLE_MAX } else { SMALL_FILE_MAX };
        if size > limit {
            return Err(BundleError::TooLarge { name, limit, found: size });
        }
        let padded = size.next_multiple_of(BLOCK as u64);
        let next = self.at.saturating_add(BLOCK as u64).saturating_add(padded);
        let whole = next.saturating_add(END);
        if whole > BUNDLE_MAX {
            return Err(BundleError::TooLarge { name: "the bundle".to_owned(), limit: BUNDLE_MAX, found: whole });
        }
        self.last = Some((at, within.to_owned(), name.clone()));
        self.members = self.members.saturating_add(1);
        self.at = next;
        Ok(Step::Member { name, size, padded })
    }
}
