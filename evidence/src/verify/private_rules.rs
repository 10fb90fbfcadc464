//! Rule R16: private parts open the commitments of their own leaves. Those in plain text always, encrypted ones where the reader
//! has an identity: one part at a time, each dropped once it is judged.

use super::findings::{Findings, Refused};
use super::opening_rules::Opened;
use super::parsed::{Framed, with_source};
use super::record_rules::Rooted;
use super::report::Rule;
use crate::call::{Disclosed, IntentPrivate, OutcomePrivate, Request};
use crate::call_header::ClientPrivate;
use crate::fields::Canonical as _;
use crate::leaf::{Leaf, Public, commitment};
use crate::private::{Access, Place, PrivateKey, read_private};

/// Parts that stand in the bundle in plain text.
pub(super) fn plain(
    disclosed: Option<&[Disclosed]>,
    rooted: &Rooted<'_>,
    findings: &mut Findings,
) -> Result<(), Refused> {
    const NAME: &str = "plain private parts open commitments";
    let Some(disclosed) = disclosed else {
        findings.not_evaluated(Rule::R16, NAME, "none are disclosed");
        return Ok(());
    };
    let mut contradiction = None;
    for part in disclosed {
        let Some(leaf) = leaf_of(part.index, rooted).map(|(_, leaf)| leaf).filter(|leaf| opens(part, leaf)) else {
            return Err(findings.refuse(Rule::R16, NAME, unopened(part.index)));
        };
        note_contradiction(part, leaf, &mut contradiction);
    }
    findings.pass(Rule::R16, NAME, opened_of(disclosed.len(), rooted));
    // The TD committed to it, so the record is genuine; but it contradicts itself, and nobody should rely on it.
    if let Some(reason) = contradiction {
        findings.reject(Rule::R16, "plain private parts agree with leaves", reason);
    }
    Ok(())
}

/// Parts in `private.bin`.
pub(super) fn encrypted(
    framed: &Framed,
    access: &Access,
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    findings: &mut Findings,
) -> Result<(), Refused> {
    const NAME: &str = "encrypted private parts open commitments";
    let key = key(framed, access, findings)?;
    let (Some(parts), Some(key)) = (framed.bundle().member("private.bin"), key) else {
        let none = framed.bundle().member("private.bin").is_none();
        findings.not_evaluated(Rule::R16, NAME, if none { "there are none" } else { "their key is not known" });
        return Ok(());
    };
    let mut contradiction = None;
    let mut count = 0_usize;
    let parts = read_private(parts).map_err(|error| findings.refuse(Rule::R16, NAME, with_source(&error)))?;
    for part in parts {
        let part = part.map_err(|error| findings.refuse(Rule::R16, NAME, with_source(&error)))?;
        // A part that nothing committed to is nobody's, whatever is in it.
        let Some((bytes, leaf)) = leaf_of(part.index, rooted).filter(|(_, leaf)| leaf.commitment.is_some()) else {
            let reason = format!("there is a part for leaf {}, which has no commitment", part.index);
            return Err(findings.refuse(Rule::R16, NAME, reason));
        };
        let place = Place { instance: opened.instance(), index: part.index, leaf: bytes };
        let plain = key.open(&place, &part.ciphertext);
        let plain = plain.map_err(|error| findings.refuse(Rule::R16, NAME, error.to_string()))?;
        let part = Disclosed { index: part.index, salt: plain.salt, bytes: plain.bytes };
        if !opens(&part, leaf) {
            return Err(findings.refuse(Rule::R16, NAME, unopened(part.index)));
        }
        note_contradiction(&part, leaf, &mut contradiction);
        count = count.saturating_add(1);
    }
    findings.pass(Rule::R16, NAME, opened_of(count, rooted));
    if let Some(reason) = contradiction {
        findings.reject(Rule::R16, "encrypted private parts agree with leaves", reason);
    }
    Ok(())
}

/// K, where an identity gets at it.
fn key<'a>(framed: &Framed, access: &'a Access, findings: &mut Findings) -> Result<Option<&'a PrivateKey>, Refused> {
    const NAME: &str = "key of encrypted private parts";
    match access {
        Access::Key(key) => {
            findings.pass(Rule::R16, NAME, "");
            return Ok(Some(key));
        }
        Access::NoIdentity => {
            let any = ["private.age", "private.bin"].iter().any(|name| framed.bundle().member(name).is_some());
            let reason = if any { "no identity was given: --identity opens them" } else { "there are none" };
            findings.not_evaluated(Rule::R16, NAME, reason);
        }
        Access::NoWrappedKey => findings.not_evaluated(Rule::R16, NAME, "there is no private.age"),
        Access::OtherRecipients => {
            let reason = "private.age is encrypted to other recipients: expected one of the identities that were given";
            findings.unsettled(Rule::R16, NAME, reason);
        }
        Access::Unreadable(why) => return Err(findings.refuse(Rule::R16, NAME, format!("private.age: {why}"))),
    }
    Ok(None)
}

fn leaf_of<'a>(index: u64, rooted: &'a Rooted<'_>) -> Option<(&'a [u8], &'a Leaf)> {
    let (bytes, leaf) = rooted.leaves().get(usize::try_from(index).ok()?)?;
    Some((bytes, leaf))
}

fn unopened(index: u64) -> String {
    format!("the part for leaf {index} does not open a commitment of that leaf")
}

fn opened_of(count: usize, rooted: &Rooted<'_>) -> String {
    let committed = rooted.leaves().iter().filter(|(_, leaf)| leaf.commitment.is_some()).count();
    format!("{count} of {committed}")
}

fn note_contradiction(part: &Disclosed, leaf: &Leaf, contradiction: &mut Option<String>) {
    if let (None, Err(why)) = (&contradiction, agrees(part, leaf)) {
        *contradiction = Some(format!("leaf {}: {why}", part.index));
    }
}

fn opens(part: &Disclosed, leaf: &Leaf) -> bool {
    leaf.commitment == Some(commitment(&part.salt, &part.bytes))
}

/// What the private part says is what the public fields of its leaf say.
fn agrees(part: &Disclosed, leaf: &Leaf) -> Result<(), &'static str> {
    match &leaf.public {
        Public::Intent { method, .. } | Public::Denied { method, .. } => {
            let private = IntentPrivate::parse(&part.bytes).map_err(|_| "the private part is not that of an intent")?;
            let request = Request::parse(&private.request).map_err(|_| "the request in it is not canonical")?;
            if request.method() != *method {
                return Err("the request in it is for another method");
            }
            opens_header(leaf, &private.client_salt, &private.request)
        }
        Public::Client { .. } => {
            let private = ClientPrivate::parse(&part.bytes).map_err(|_| "the private part is not that of a header")?;
            opens_header(leaf, &private.client_salt, &private.committed)
        }
        Public::Outcome { cause, .. } => {
            let private =
                OutcomePrivate::parse(&part.bytes).map_err(|_| "the private part is not that of an outcome")?;
            if private.cause == *cause { Ok(()) } else { Err("the outcome in it has another cause") }
        }
        _ => Ok(()),
    }
}

/// What was done is what the client signed: the header in the leaf, where it commits to something, commits to this.
fn opens_header(leaf: &Leaf, client_salt: &[u8; 32], bytes: &[u8]) -> Result<(), &'static str> {
    match leaf.public.header().and_then(|signed| signed.header.said.commitment()) {
        Some(signed) if signed != commitment(client_salt, bytes) => {
            Err("it does not open the commitment that the client signed")
        }
        _ => Ok(()),
    }
}
