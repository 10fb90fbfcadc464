//! Rule R16: private parts open the commitments of their own leaves. Those in plain text always, encrypted ones where the reader
//! has an identity: one part at a time, each dropped once it is judged.

use std::collections::BTreeMap;

use super::findings::{Ended, Findings, Refused};
use super::opening_rules::Opened;
use super::parsed::{Framed, with_source};
use super::record_rules::Rooted;
use super::report::Rule;
use crate::bundle::ReadError;
use crate::call::{Disclosed, IntentPrivate, OutcomePrivate, Request};
use crate::call_header::{ClientPrivate, Said};
use crate::fields::Canonical as _;
use crate::ids::{CallId, Identity};
use crate::leaf::{Leaf, Public};
use crate::private::{Access, Place, PrivateKey, read_private};

/// Parts that stand in the bundle in plain text.
pub(super) fn plain(
    disclosed: Option<&[Disclosed]>,
    rooted: &Rooted<'_>,
    findings: &mut Findings,
) -> Result<(), Ended> {
    const NAME: &str = "plain private parts open commitments";
    let Some(disclosed) = disclosed else {
        findings.not_evaluated(Rule::R16, NAME, "none are disclosed");
        return Ok(());
    };
    let mut opening = Opening::default();
    let mut parts = disclosed.iter();
    let judged =
        beside(rooted, || parts.next().map(|part| Ok((part.index, part))), |part, _, leaf| opening.see(part, leaf));
    judged?.map_err(|reason| findings.refuse(Rule::R16, NAME, reason))?;
    findings.pass(Rule::R16, NAME, format!("{} of {}", opening.count, rooted.committed()));
    // The TD committed to it, so the record is genuine; but it contradicts itself, and nobody should rely on it.
    if let Some(reason) = opening.contradiction {
        findings.reject(Rule::R16, "plain private parts agree with leaves", reason);
    }
    Ok(())
}

/// Parts in `private.bin`.
pub(super) fn encrypted(
    framed: &Framed<'_>,
    access: &Access,
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    findings: &mut Findings,
) -> Result<(), Ended> {
    const NAME: &str = "encrypted private parts open commitments";
    let key = key(framed, access, findings)?;
    let (Some(parts), Some(key)) = (framed.member("private.bin"), key) else {
        let none = framed.member("private.bin").is_none();
        findings.not_evaluated(Rule::R16, NAME, if none { "there are none" } else { "their key is not known" });
        return Ok(());
    };
    let mut opening = Opening::default();
    let mut parts = read_private(parts).map_err(|error| findings.refuse(Rule::R16, NAME, with_source(&error)))?;
    let next = || parts.next().map(|part| part.map(|part| (part.index, part)).map_err(|error| with_source(&error)));
    let judged = beside(rooted, next, |part, bytes, leaf| {
        let place = Place { instance: opened.instance(), index: part.index, leaf: bytes };
        let plain = key.open(&place, &part.ciphertext).map_err(|error| error.to_string())?;
        opening.see(&Disclosed { index: part.index, salt: plain.salt, bytes: plain.bytes }, leaf)
    });
    judged?.map_err(|reason| findings.refuse(Rule::R16, NAME, reason))?;
    findings.pass(Rule::R16, NAME, format!("{} of {}", opening.count, rooted.committed()));
    if let Some(reason) = opening.contradiction {
        findings.reject(Rule::R16, "encrypted private parts agree with leaves", reason);
    }
    Ok(())
}

/// Goes along parts and leaves, both in order of the index, and shows each part its leaf. A part that nothing committed to is
/// nobody's, whatever is in it.
fn beside<P>(
    rooted: &Rooted<'_>,
    mut next: impl FnMut() -> Option<Result<(u64, P), String>>,
    mut see: impl FnMut(P, &[u8], &Leaf) -> Result<(), String>,
) -> Result<Result<(), String>, ReadError> {
    let stray = |index: u64| format!("there is a part for leaf {index}, which has no commitment");
    let mut pending = match next().transpose() {
        Ok(pending) => pending,
        Err(reason) => return Ok(Err(reason)),
    };
    let judged = rooted.leaves().each(|bytes, leaf| {
        if let Some((index, part)) = pending.take_if(|(index, _)| *index == leaf.index) {
            if leaf.commitment.is_none() {
                return Err(stray(index));
            }
            see(part, bytes, &leaf)?;
            pending = next().transpose()?;
        }
        Ok(())
    })?;
    Ok(judged.and_then(|()| pending.map_or(Ok(()), |(index, _)| Err(stray(index)))))
}

/// What the parts so far came to.
#[derive(Default)]
struct Opening {
    count: u64,
    contradiction: Option<String>,
    /// Of each running call the last input that its client signed and that was opened: how far, and SHA-256 of it.
    inputs: BTreeMap<(Identity, CallId), (u64, Vec<u8>)>,
}

impl Opening {
    fn see(&mut self, part: &Disclosed, leaf: &Leaf) -> Result<(), String> {
        if !part.opens(leaf) {
            return Err(format!("the part for leaf {} does not open a commitment of that leaf", part.index));
        }
        let agreed = agrees(part, leaf).and_then(|()| self.input(part, leaf));
        if let (None, Err(why)) = (&self.contradiction, agreed) {
            self.contradiction = Some(format!("leaf {}: {why}", part.index));
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

impl Opening {
    /// What a call was handed is what its client signed, as far as both are open.
    fn input(&mut self, part: &Disclosed, leaf: &Leaf) -> Result<(), &'static str> {
        let Some(call) = leaf.identity.clone().zip(leaf.call) else { return Ok(()) };
        match &leaf.public {
            Public::Client { header } => {
                if let (Said::Input { offset, .. }, Ok(private)) =
                    (&header.header.said, ClientPrivate::parse(&part.bytes))
                {
                    self.inputs.insert(call, (*offset, private.committed));
                }
                Ok(())
            }
            Public::Outcome { input_covered, .. } => {
                let signed = self.inputs.remove(&call);
                let Some(stdin) = OutcomePrivate::parse(&part.bytes).ok().and_then(|private| private.stdin) else {
                    return Ok(());
                };
                if input_covered.is_some_and(|covered| stdin.delivered > covered) {
                    return Err("it was handed more input than was signed");
                }
                match signed {
                    Some((offset, digest)) if offset == stdin.total && digest != stdin.sha256.as_bytes() => {
                        Err("it was handed other input than was signed")
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// K, where an identity gets at it.
fn key<'a>(
    framed: &Framed<'_>,
    access: &'a Access,
    findings: &mut Findings,
) -> Result<Option<&'a PrivateKey>, Refused> {
    const NAME: &str = "key of encrypted private parts";
    match access {
        Access::Key(key) => {
            findings.pass(Rule::R16, NAME, "");
            return Ok(Some(key));
        }
        Access::NoIdentity => {
            let any = ["private.age", "private.bin"].iter().any(|name| framed.member(name).is_some());
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

/// What the private part says is what the public fields of its leaf say.
fn agrees(part: &Disclosed, leaf: &Leaf) -> Result<(), &'static str> {
    match &leaf.public {
        Public::Intent { method, .. } | Public::Denied { method, .. } => {
            let private = IntentPrivate::parse(&part.bytes).map_err(|_| "the private part is not that of an intent")?;
            let request = Request::parse(&private.request).map_err(|_| "the request in it is not canonical")?;
            if request.method() != *method {
                return Err("the request in it is for another method");
            }
            signed(leaf, &private.client_salt, &private.request)
        }
        Public::Client { .. } => {
            let private = ClientPrivate::parse(&part.bytes).map_err(|_| "the private part is not that of a header")?;
            signed(leaf, &private.client_salt, &private.committed)
        }
        Public::Outcome { cause, .. } => {
            let private =
                OutcomePrivate::parse(&part.bytes).map_err(|_| "the private part is not that of an outcome")?;
            if private.cause == *cause { Ok(()) } else { Err("the outcome in it has another cause") }
        }
        _ => Ok(()),
    }
}

/// What was done is what the client signed.
fn signed(leaf: &Leaf, client_salt: &[u8; 32], bytes: &[u8]) -> Result<(), &'static str> {
    if leaf.public.is_signed(client_salt, bytes) {
        Ok(())
    } else {
        Err("it does not open the commitment that the client signed")
    }
}
