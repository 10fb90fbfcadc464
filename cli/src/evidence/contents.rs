//! What a bundle holds for its readers: its leaves, and the private parts that are open to them. Nothing here is verified.

use std::collections::BTreeMap;

use coffer_evidence::bundle::Bundle;
use coffer_evidence::call::{Disclosed, read_disclosed};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::{Leaf, commitment};
use coffer_evidence::open::OpenMap;
use coffer_evidence::private::{Access, Place, PrivateKey, read_private};

use crate::exit::{Status, USAGE, failure};

/// A shorter beginning of an id says too little.
const PREFIX_MIN: usize = 4;

/// A leaf with what is open of it.
pub(super) type Told = (Leaf, Option<Disclosed>);

/// A bundle as its reader sees it.
pub(super) struct Contents {
    /// Leaves in order, with their open parts.
    pub(super) told: Vec<Told>,
    /// Leaves whose parts stand in the bundle encrypted and were not opened.
    pub(super) closed: Vec<u64>,
    /// Why encrypted parts were not opened though an identity was given.
    pub(super) why: Option<String>,
}

/// Reads it.
pub(super) fn contents(bundle: &Bundle, access: &Access) -> anyhow::Result<Contents> {
    let frames = frames(bundle.member("leaves").unwrap_or_default()).map_err(|error| error.context("leaves"))?;
    let mut open = BTreeMap::new();
    if let Some(member) = bundle.member("disclosed.cbor") {
        let parts = read_disclosed(member).map_err(|error| anyhow::Error::from(error).context("disclosed parts"))?;
        open.extend(parts.into_iter().map(|part| (part.index, part)));
    }
    let (mut closed, mut why) = (Vec::new(), None);
    if let Some(member) = bundle.member("private.bin") {
        let opened = match access {
            Access::Key(key) => opened(bundle, member, key, &frames),
            Access::Unreadable(reason) => Err(anyhow::anyhow!("private.age: {reason}")),
            Access::OtherRecipients => Err(anyhow::anyhow!("private.age is encrypted to other recipients")),
            Access::NoWrappedKey => Err(anyhow::anyhow!("there is no private.age")),
            Access::NoIdentity => Ok(Vec::new()),
        };
        match opened {
            Ok(parts) => {
                for part in parts {
                    open.entry(part.index).or_insert(part);
                }
            }
            Err(error) => why = Some(format!("{error:#}")),
        }
        let indices = read_private(member)?.map(|part| part.map(|part| part.index)).collect::<Result<Vec<_>, _>>()?;
        closed = indices.into_iter().filter(|index| !open.contains_key(index)).collect();
    }
    let mut told = Vec::new();
    for frame in frames {
        let leaf = Leaf::parse(frame).map_err(|error| anyhow::Error::from(error).context("leaves"))?;
        let part = open.remove(&leaf.index);
        told.push((leaf, part));
    }
    Ok(Contents { told, closed, why })
}

/// Every part of `private.bin`, or none.
fn opened(bundle: &Bundle, member: &[u8], key: &PrivateKey, leaves: &[&[u8]]) -> anyhow::Result<Vec<Disclosed>> {
    let instance = OpenMap::parse(bundle.member("open.cbor").unwrap_or_default())?.instance();
    let open = |part: coffer_evidence::private::EncryptedPart| {
        let leaf = usize::try_from(part.index).ok().and_then(|index| leaves.get(index));
        let leaf = leaf.ok_or_else(|| anyhow::anyhow!("there is a part for leaf {}, and no such leaf", part.index))?;
        let plain = key.open(&Place { instance, index: part.index, leaf }, &part.ciphertext)?;
        Ok(Disclosed { index: part.index, salt: plain.salt, bytes: plain.bytes })
    };
    read_private(member)?.map(|part| open(part?)).collect()
}

/// The frames of `leaves`: u32le length, leaf.
fn frames(mut member: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    let mut frames = Vec::new();
    while !member.is_empty() {
        let (length, rest) = member.split_first_chunk().ok_or_else(|| anyhow::anyhow!("a cut length"))?;
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let (leaf, rest) = rest.split_at_checked(length).ok_or_else(|| anyhow::anyhow!("a cut leaf"))?;
        frames.push(leaf);
        member = rest;
    }
    Ok(frames)
}

/// Whether what is open of a leaf is what it committed to.
pub(super) fn is_true(leaf: &Leaf, part: &Disclosed) -> bool {
    leaf.commitment == Some(commitment(&part.salt, &part.bytes))
}

/// The one call whose id begins so.
pub(super) fn call_named(told: &[Told], id: &str) -> anyhow::Result<String> {
    let wanted = id.to_ascii_lowercase();
    let mut ids: Vec<String> = told
        .iter()
        .filter_map(|(leaf, _)| leaf.call.map(|call| call.to_string()))
        .filter(|id| id.starts_with(&wanted))
        .collect();
    ids.sort();
    ids.dedup();
    match ids.as_slice() {
        _ if wanted.len() < PREFIX_MIN => {
            Err(failure(USAGE, format!("expected at least {PREFIX_MIN} characters of a call's id, found {id:?}")))
        }
        [call] => Ok(call.clone()),
        [] => Err(failure(Status::FAILED, format!("expected a call whose id begins with {id:?}, found none"))),
        several => {
            let message = format!(
                "expected one call whose id begins with {id:?}, found {}: {}",
                several.len(),
                several.join(", ")
            );
            Err(failure(USAGE, message))
        }
    }
}
