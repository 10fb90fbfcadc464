//! The bundle `*.evidence`: one canonical ustar archive (EVIDENCE section 3). Writing, and reading strictly: framing,
//! order, caps and index (rule R1). What the members say is read elsewhere.

mod frames;
mod index;
mod scan;
mod source;
mod ustar;
mod walk;

use thiserror::Error;

use crate::call::{Disclosed, write_disclosed};
use crate::cbor::{Value, encode};
use crate::fields::bytes;
use crate::ids::Digest256;
use crate::private::{EncryptedPart, write_private};

pub use frames::{FrameError, Frames};
pub use index::IndexError;
pub use scan::{Scan, scan};
pub use source::{ReadError, Source};
pub use ustar::{BLOCK, UstarError};

/// The largest small member in bytes: every member but `leaves`.
pub const SMALL_FILE_MAX: u64 = 64 * 1024 * 1024;
/// The largest bundle in bytes: what can be framed in ustar's 33-bit sizes.
pub const BUNDLE_MAX: u64 = 8 * 1024 * 1024 * 1024;

/// The most members.
const MEMBERS_MAX: usize = 1024;

/// Endpoint evidence is named by this and the SHA-256 of its bytes, in hexadecimal.
const ENDPOINT: &str = "endpoint/";

/// Members in their order, `endpoint/*` between the statement and the receipt.
pub const ORDER: &[&str] = &[
    "index.cbor",
    "config.cbor",
    "policy",
    "image.dsse",
    "pool.cbor",
    "open.cbor",
    "open.quote",
    "open.collateral",
    "ccel",
    "events.cbor",
    "leaves",
    "checkpoint",
    "private.age",
    "private.bin",
    "disclosed.cbor",
    "seal.cbor",
    "seal.quote",
    "seal.collateral",
    "statement.dsse",
    "receipt.cbor",
];

/// Members that may be absent without touching the verdict; `core_id` leaves them out.
pub const OPTIONAL: &[&str] = &["private.age", "private.bin", "disclosed.cbor", "receipt.cbor"];

/// Members without which there is no bundle.
pub const REQUIRED: &[&str] = &[
    "config.cbor",
    "policy",
    "image.dsse",
    "open.cbor",
    "open.quote",
    "open.collateral",
    "events.cbor",
    "leaves",
    "checkpoint",
];

/// The four members of a seal: all or none.
pub const SEAL: &[&str] = &["seal.cbor", "seal.quote", "seal.collateral", "statement.dsse"];

/// What is gathered into a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// `config.cbor`.
    pub config: Vec<u8>,
    /// `policy`.
    pub policy: Vec<u8>,
    /// `image.dsse`.
    pub image_dsse: Vec<u8>,
    /// `open.cbor`.
    pub open_map: Vec<u8>,
    /// `open.quote`, cut to its used length.
    pub open_quote: Vec<u8>,
    /// `open.collateral`.
    pub open_collateral: Vec<u8>,
    /// `ccel`; may be absent only on the simulated platform.
    pub ccel: Option<Vec<u8>>,
    /// RTMR3 events in order.
    pub events: Vec<Vec<u8>>,
    /// Leaves in order.
    pub leaves: Vec<Vec<u8>>,
    /// The last note.
    pub checkpoint: String,
    /// Encrypted private parts.
    pub encrypted: Option<EncryptedMembers>,
    /// Opened private parts.
    pub disclosed: Option<Vec<Disclosed>>,
    /// The seal, where there is one.
    pub seal: Option<SealParts>,
    /// `receipt.cbor`.
    pub receipt: Option<Vec<u8>>,
}

/// Private parts as end-to-end sessions hand them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedMembers {
    /// `private.age`: their key, for the owner's recipients.
    pub key: Vec<u8>,
    /// What is in `private.bin`.
    pub parts: Vec<EncryptedPart>,
}

/// The members of a seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealParts {
    /// `seal.cbor`.
    pub map: Vec<u8>,
    /// `seal.quote`, cut to its used length.
    pub quote: Vec<u8>,
    /// `seal.collateral`.
    pub collateral: Vec<u8>,
    /// `statement.dsse`.
    pub statement: Vec<u8>,
}

/// Why bytes are not a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Archive.
    #[error("the archive is not canonical")]
    Archive(#[from] UstarError),
    /// Too many.
    #[error("expected at most {MEMBERS_MAX} members, found more")]
    TooMany,
    /// Name.
    #[error("expected members that a bundle has, found {name}")]
    Unknown {
        /// The member.
        name: String,
    },
    /// Order.
    #[error("expected members in their order and each once, found {found} after {after}")]
    Order {
        /// The member.
        found: String,
        /// The one before it.
        after: String,
    },
    /// Endpoint evidence under another name.
    #[error("expected {name} to be named by the SHA-256 of its bytes, which is {found}")]
    EndpointName {
        /// The member.
        name: String,
        /// Of its bytes.
        found: Digest256,
    },
    /// Missing.
    #[error("expected {0}, found none")]
    Missing(&'static str),
    /// Half a seal.
    #[error("expected all {} members of a seal or none, found {found}", SEAL.len())]
    HalfSeal {
        /// How many.
        found: usize,
    },
    /// Too large.
    #[error("{name}: expected at most {limit} bytes, found {found}")]
    TooLarge {
        /// The member.
        name: String,
        /// Allowed.
        limit: u64,
        /// Found.
        found: u64,
    },
    /// Index.
    #[error("the index does not fit the members")]
    Index(#[from] IndexError),
    /// Nothing is said of it.
    #[error("the bundle cannot be read")]
    Unread(#[from] ReadError),
}

/// A bundle whose framing, order, caps and index hold, in memory.
#[derive(Clone, Debug)]
pub struct Bundle {
    scan: Scan,
    members: Vec<(String, Vec<u8>)>,
}

impl Bundle {
    /// The bytes of a member.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&[u8]> {
        self.members.iter().find(|(n, _)| n == name).map(|(_, b)| b.as_slice())
    }

    /// Names and bytes in order, the index left out.
    pub fn members(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.members.iter().map(|(n, b)| (n.as_str(), b.as_slice()))
    }

    /// `index.cbor`.
    #[must_use]
    pub fn index(&self) -> Vec<u8> {
        self.scan.index()
    }

    /// SHA-256 of the index: the identity of exactly these bytes.
    #[must_use]
    pub fn bundle_id(&self) -> Digest256 {
        self.scan.bundle_id()
    }

    /// SHA-256 of the index without the optional members: the same before and after redaction and receipt.
    #[must_use]
    pub fn core_id(&self) -> Digest256 {
        self.scan.core_id()
    }

    /// The same bundle with another receipt (or its first).
    #[must_use]
    pub fn with_receipt(&self, receipt: Vec<u8>) -> Vec<u8> {
        let mut members: Vec<(String, Vec<u8>)> =
            self.members().filter(|(n, _)| *n != "receipt.cbor").map(|(n, b)| (n.to_owned(), b.to_vec())).collect();
        members.push(("receipt.cbor".to_owned(), receipt));
        assemble(members)
    }

    /// The same bundle with these parts opened and no others, in plain or encrypted form.
    #[must_use]
    pub fn redacted(&self, kept: &[Disclosed]) -> Vec<u8> {
        let stays = |name: &str| !matches!(name, "private.age" | "private.bin" | "disclosed.cbor");
        let mut members: Vec<(String, Vec<u8>)> =
            self.members().filter(|(n, _)| stays(n)).map(|(n, b)| (n.to_owned(), b.to_vec())).collect();
        if !kept.is_empty() {
            let before = members.iter().take_while(|(n, _)| place(n) < place("disclosed.cbor")).count();
            members.insert(before, ("disclosed.cbor".to_owned(), write_disclosed(kept)));
        }
        assemble(members)
    }

    /// Whether the seal's members are there.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.member("seal.cbor").is_some()
    }
}

fn is_core(name: &str) -> bool {
    !OPTIONAL.contains(&name) && !name.starts_with(ENDPOINT)
}

/// Where a member stands. `endpoint/<sha256>` sort among themselves, before the receipt.
fn place(name: &str) -> Option<(usize, &str)> {
    if let Some(digest) = name.strip_prefix(ENDPOINT) {
        let hex = digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let receipt = ORDER.len().checked_sub(1)?;
        return hex.then_some((receipt, digest));
    }
    let at = ORDER.iter().position(|n| *n == name)?;
    // The receipt stands after the endpoints.
    Some(if name == "receipt.cbor" { (ORDER.len(), "") } else { (at, "") })
}

/// u32le length ‖ leaf, one after the other.
#[must_use]
pub fn frame_leaves(leaves: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for leaf in leaves {
        out.extend_from_slice(&u32::try_from(leaf.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(leaf);
    }
    out
}

/// `events.cbor`: an array of byte strings.
#[must_use]
pub fn frame_events(events: &[Vec<u8>]) -> Vec<u8> {
    encode(&Value::Array(events.iter().map(bytes).collect()))
}

/// The bundle's bytes.
#[must_use]
pub fn write(parts: &Parts) -> Vec<u8> {
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    let mut put = |name: &str, bytes: Vec<u8>| members.push((name.to_owned(), bytes));
    put("config.cbor", parts.config.clone());
    put("policy", parts.policy.clone());
    put("image.dsse", parts.image_dsse.clone());
    put("open.cbor", parts.open_map.clone());
    put("open.quote", parts.open_quote.clone());
    put("open.collateral", parts.open_collateral.clone());
    if let Some(ccel) = &parts.ccel {
        put("ccel", ccel.clone());
    }
    put("events.cbor", frame_events(&parts.events));
    put("leaves", frame_leaves(&parts.leaves));
    put("checkpoint", parts.checkpoint.clone().into_bytes());
    if let Some(encrypted) = &parts.encrypted {
        put("private.age", encrypted.key.clone());
        put("private.bin", write_private(&encrypted.parts));
    }
    if let Some(disclosed) = &parts.disclosed {
        put("disclosed.cbor", write_disclosed(disclosed));
    }
    if let Some(seal) = &parts.seal {
        put("seal.cbor", seal.map.clone());
        put("seal.quote", seal.quote.clone());
        put("seal.collateral", seal.collateral.clone());
        put("statement.dsse", seal.statement.clone());
    }
    if let Some(receipt) = &parts.receipt {
        put("receipt.cbor", receipt.clone());
    }
    assemble(members)
}

/// Index first, then the members; the archive's end.
fn assemble(members: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let index = index::write(members.iter().map(|(n, b)| (n.as_str(), b.len() as u64, Digest256::of(b))));
    let mut all = vec![(index::NAME.to_owned(), index)];
    all.extend(members);
    ustar::write(&all)
}

/// Reads a bundle in memory strictly: rule R1.
///
/// # Errors
/// [`BundleError`].
pub fn read(input: &[u8]) -> Result<Bundle, BundleError> {
    let scan = scan(&input)?;
    let members = scan.gather(input)?;
    Ok(Bundle { scan, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            config: b"config".to_vec(),
            policy: b"policy".to_vec(),
            image_dsse: b"image".to_vec(),
            open_map: b"open".to_vec(),
            open_quote: vec![7; 600],
            open_collateral: b"collateral".to_vec(),
            ccel: None,
            events: vec![b"event".to_vec()],
            leaves: vec![b"leaf".to_vec(), vec![]],
            checkpoint: "note\n".to_owned(),
            encrypted: None,
            disclosed: Some(vec![Disclosed { index: 1, salt: [1; 32], bytes: vec![2] }]),
            seal: Some(SealParts {
                map: b"s".to_vec(),
                quote: b"q".to_vec(),
                collateral: b"c".to_vec(),
                statement: b"st".to_vec(),
            }),
            receipt: None,
        }
    }

    #[test]
    fn a_bundle_reads_back_and_every_flipped_byte_is_refused() {
        let bytes = write(&parts());
        let bundle = read(&bytes).expect("our own bundle");
        assert_eq!(bundle.member("open.quote"), Some([7_u8; 600].as_slice()));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "cut to {length}");
        }
        assert!(read(&[bytes.as_slice(), &[0; 512]].concat()).is_err(), "one more block");
    }

    #[test]
    fn a_receipt_and_redaction_leave_the_core_id_alone() {
        let bundle = read(&write(&parts())).expect("our own bundle");
        let with = read(&bundle.with_receipt(b"receipt".to_vec())).expect("with a receipt");
        assert_eq!(with.core_id(), bundle.core_id());
        assert_ne!(with.bundle_id(), bundle.bundle_id());
        let redacted = read(&write(&Parts { disclosed: None, ..parts() })).expect("redacted");
        assert_eq!(redacted.core_id(), bundle.core_id());
        let other = read(&write(&Parts { policy: b"other".to_vec(), ..parts() })).expect("another policy");
        assert_ne!(other.core_id(), bundle.core_id());
    }

    #[test]
    fn members_are_in_order_each_once_and_known() {
        let member = |name: &str| (name.to_owned(), b"x".to_vec());
        let names: Vec<&str> = REQUIRED.to_vec();
        let archive = |names: &[&str]| assemble(names.iter().map(|n| member(n)).collect());
        assert!(read(&archive(&names)).is_ok());
        let mut swapped = names.clone();
        swapped.swap(0, 1);
        assert!(matches!(read(&archive(&swapped)), Err(BundleError::Order { .. })));
        let twice = [&names[..1], &names[..]].concat();
        assert!(matches!(read(&archive(&twice)), Err(BundleError::Order { .. })));
        let unknown = [&names[..], &["zzz"]].concat();
        assert!(matches!(read(&archive(&unknown)), Err(BundleError::Unknown { .. })));
        let digest = Digest256::of(b"x").to_string();
        let (own, foreign) = (format!("endpoint/{digest}"), format!("endpoint/{}", digest.replace('2', "3")));
        assert!(read(&archive(&[&names[..], &[own.as_str()]].concat())).is_ok());
        let named = read(&archive(&[&names[..], &[foreign.as_str()]].concat()));
        assert!(matches!(named, Err(BundleError::EndpointName { .. })), "{named:?}");
        let half = [&names[..], &["seal.cbor"]].concat();
        assert_eq!(read(&archive(&half)).err(), Some(BundleError::HalfSeal { found: 1 }));
        for missing in REQUIRED {
            let some: Vec<&str> = names.iter().copied().filter(|n| n != missing).collect();
            assert_eq!(read(&archive(&some)).err(), Some(BundleError::Missing(missing)));
        }
    }
}
