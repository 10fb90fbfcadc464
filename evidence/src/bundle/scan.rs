//! Rule R1 over bytes that nobody holds: one walk along the headers, each member hashed as it goes by. What is left is a table of
//! where each member stands and the digest it had, by which it can be read again.

use sha2::{Digest as _, Sha256};

use super::frames::Frames;
use super::index::{self, IndexError};
use super::source::{PIECE, ReadError, Source, Stretch};
use super::ustar::{BLOCK, UstarError};
use super::walk::{Step, Walk};
use super::{BundleError, ENDPOINT, REQUIRED, SEAL, is_core};
use crate::ids::Digest256;

/// The members of a bundle whose framing, order, caps and index hold, where they stand.
#[derive(Clone, Debug)]
pub struct Scan {
    /// SHA-256 of the index.
    index: Digest256,
    /// All others, in order.
    members: Vec<Stretch>,
}

/// Reads a bundle once, strictly and piece by piece: rule R1.
///
/// # Errors
/// [`BundleError`]; [`BundleError::Unread`] says nothing about the bundle.
pub fn scan<S: Source + ?Sized>(source: &S) -> Result<Scan, BundleError> {
    let mut found = stretches(source)?;
    let absent = |name: &&&str| found.iter().all(|member| member.name != ***name);
    if let Some(name) = [index::NAME].iter().chain(REQUIRED).find(absent) {
        return Err(BundleError::Missing(name));
    }
    let sealed = SEAL.iter().filter(|name| !absent(name)).count();
    if sealed != 0 && sealed != SEAL.len() {
        return Err(BundleError::HalfSeal { found: sealed });
    }
    // The walk has found the members in their order, of which the index is the first.
    let index = found.remove(0);
    let expected = index::write(found.iter().map(|member| (member.name.as_str(), member.size, member.digest)));
    if Digest256::of(&expected) != index.digest {
        return Err(IndexError.into());
    }
    Ok(Scan { index: index.digest, members: found })
}

fn stretches<S: Source + ?Sized>(source: &S) -> Result<Vec<Stretch>, BundleError> {
    let mut members = Vec::new();
    let mut walk = Walk::default();
    let mut piece = vec![0; PIECE];
    loop {
        let at = walk.position();
        let block: [u8; BLOCK] = block(source, at)?;
        let after = at.saturating_add(BLOCK as u64);
        match walk.next(&block)? {
            Step::Member { name, size, padded } => {
                let digest = hashed(source, after, size, &mut piece)?;
                let end = after.saturating_add(size);
                let mut zeros = Zeros { at: end, left: padded.saturating_sub(size) };
                zeros.judge(source, &mut piece, at)?;
                if let Some(named) = name.strip_prefix(ENDPOINT)
                    && named != digest.to_string()
                {
                    return Err(BundleError::EndpointName { name, found: digest });
                }
                members.push(Stretch { name, at: after, size, digest });
            }
            Step::End => {
                // The second block of zeros, and not a byte after it.
                let mut last = [0; BLOCK + 1];
                let count = source.read_at(after, &mut last)?;
                let ends = count == BLOCK && last.iter().all(|byte| *byte == 0);
                return if ends { Ok(members) } else { Err(UstarError::End(at).into()) };
            }
        }
    }
}

fn block<S: Source + ?Sized>(source: &S, at: u64) -> Result<[u8; BLOCK], BundleError> {
    let mut block = [0; BLOCK];
    let count = source.read_at(at, &mut block)?;
    if count == BLOCK { Ok(block) } else { Err(truncated(at, count)) }
}

fn truncated(at: u64, count: usize) -> BundleError {
    UstarError::Truncated(at.saturating_add(count as u64)).into()
}

/// Goes through `size` bytes from `at` on, a piece at a time.
fn through<S: Source + ?Sized>(
    source: &S,
    mut at: u64,
    mut left: u64,
    piece: &mut [u8],
    mut see: impl FnMut(&[u8]),
) -> Result<(), BundleError> {
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let Some(part) = piece.get_mut(..wanted) else { return Ok(()) };
        let count = source.read_at(at, part)?;
        if count < part.len() {
            return Err(truncated(at, count));
        }
        see(part);
        at = at.saturating_add(count as u64);
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

fn hashed<S: Source + ?Sized>(source: &S, at: u64, size: u64, piece: &mut [u8]) -> Result<Digest256, BundleError> {
    let mut hash = Sha256::new();
    through(source, at, size, piece, |part| hash.update(part))?;
    Ok(Digest256::new(hash.finalize().into()))
}

struct Zeros {
    at: u64,
    left: u64,
}

impl Zeros {
    fn judge<S: Source + ?Sized>(&mut self, source: &S, piece: &mut [u8], member: u64) -> Result<(), BundleError> {
        let mut clean = true;
        through(source, self.at, self.left, piece, |part| clean &= part.iter().all(|byte| *byte == 0))?;
        if clean { Ok(()) } else { Err(UstarError::Padding(member).into()) }
    }
}

impl Scan {
    fn stretch(&self, name: &str) -> Option<&Stretch> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether there is such a member.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.stretch(name).is_some()
    }

    /// Names in order, without the index.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// SHA-256 of a member.
    #[must_use]
    pub fn digest(&self, name: &str) -> Option<Digest256> {
        self.stretch(name).map(|member| member.digest)
    }

    /// A member, as it was when it was scanned.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn load<S: Source + ?Sized>(&self, source: &S, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        self.stretch(name).map(|member| member.load(source)).transpose()
    }

    /// The leaves from the first on, as they were when they were scanned.
    pub fn leaves<'s, S: Source + ?Sized>(&'s self, source: &'s S) -> Frames<'s, S> {
        // A scan without leaves was refused: of nothing there are none.
        let none = (0, 0, Digest256::of(b""));
        let (at, size, digest) = self.stretch("leaves").map_or(none, |m| (m.at, m.size, m.digest));
        Frames::new(source, at, size, digest)
    }

    /// SHA-256 of the index: the identity of exactly these bytes.
    #[must_use]
    pub const fn bundle_id(&self) -> Digest256 {
        self.index
    }

    /// `index.cbor`, which is the one for these members.
    pub(super) fn index(&self) -> Vec<u8> {
        index::write(self.rows(|_| true))
    }

    fn rows(&self, stays: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, u64, Digest256)> {
        let members = self.members.iter().filter(move |member| stays(&member.name));
        members.map(|member| (member.name.as_str(), member.size, member.digest))
    }

    /// SHA-256 of the index without the optional members: the same before and after redaction and receipt.
    #[must_use]
    pub fn core_id(&self) -> Digest256 {
        Digest256::of(&index::write(self.rows(is_core)))
    }

    /// Whether the seal's members are there.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.has("seal.cbor")
    }

    /// Every member of the bytes that were scanned, which nobody else can have changed.
    pub(super) fn gather(&self, input: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        let gathered = |member: &Stretch| {
            let bytes = member.within(input).ok_or_else(|| member.changed())?;
            Ok((member.name.clone(), bytes.to_vec()))
        };
        self.members.iter().map(gathered).collect()
    }
}
