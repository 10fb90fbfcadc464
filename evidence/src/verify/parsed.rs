//! Rules R1 and R2: from bytes to a bundle, and from its members to types. Nothing is believed yet.

use super::findings::{Claim, Ended, Findings};
use super::opening_rules::{Opening, OpeningBytes};
use super::record_rules::{Leaves, Record};
use super::report::Rule;
use super::seal_rules::Seal;
use crate::bundle::{BundleError, FrameError, ReadError, Scan, Source, scan};
use crate::call::{Disclosed, read_disclosed};
use crate::cbor::{Value, decode_list};
use crate::collateral::{COLLATERAL_MAX, Collateral, CollateralError};
use crate::dsse::Envelope;
use crate::fields::Canonical as _;
use crate::leaf::Leaf;
use crate::private::read_private;
use crate::receipt::{Receipt, open_receipt};
use crate::rtmr::{Rtmr, Rtmr3Event, event_digest, parse_event};
use crate::seal::SealMap;

/// A bundle whose framing, caps, order and index hold (R1). Small members are held; the leaves, and what no rule looks into,
/// stay where they are.
pub(super) struct Framed<'s> {
    scan: Scan,
    source: &'s dyn Source,
    held: Vec<(String, Vec<u8>)>,
}

/// R1.
pub(super) fn frame<'s>(source: &'s dyn Source, findings: &mut Findings) -> Result<Framed<'s>, Ended> {
    let scan = match scan(source) {
        Ok(scan) => scan,
        Err(BundleError::Unread(error)) => return Err(error.into()),
        Err(error) => return Err(findings.refuse(Rule::R1, Rule::R1.title(), with_source(&error)).into()),
    };
    findings.pass(Rule::R1, Rule::R1.title(), "");
    let mut held = Vec::new();
    for name in scan.names().filter(|name| *name != "leaves" && !name.starts_with("endpoint/")) {
        held.extend(scan.load(source, name)?.map(|bytes| (name.to_owned(), bytes)));
    }
    Ok(Framed { scan, source, held })
}

impl Framed<'_> {
    pub(super) fn scan(&self) -> &Scan {
        &self.scan
    }

    pub(super) fn claim(&self) -> Claim {
        if self.scan.is_sealed() { Claim::Sealed } else { Claim::Aborted }
    }

    /// What can be said of endpoint evidence.
    pub(super) fn endpoints(&self) -> &'static str {
        let any = self.scan.names().any(|name| name.starts_with("endpoint/"));
        if any { "not built yet" } else { "none is present" }
    }

    /// A member that is held.
    pub(super) fn member(&self, name: &str) -> Option<&[u8]> {
        self.held.iter().find(|(held, _)| held == name).map(|(_, bytes)| bytes.as_slice())
    }

    fn required(&self, name: &'static str) -> &[u8] {
        self.member(name).unwrap_or_default()
    }

    fn leaves(&self) -> Leaves<'_> {
        Leaves::new(&self.scan, self.source)
    }
}

/// Every member of a bundle as a type (R2), but for the quotes, which R4 parses.
pub(super) struct Parsed<'a> {
    pub(super) opening: Opening<'a>,
    pub(super) record: Record<'a>,
    pub(super) seal: Option<ParsedSeal<'a>>,
    pub(super) disclosed: Option<Vec<Disclosed>>,
    pub(super) receipt: Option<Receipt>,
    /// RTMR3 after all events.
    pub(super) rtmr3: Rtmr,
}

/// The members of a seal.
pub(super) struct ParsedSeal<'a> {
    pub(super) seal: Seal,
    pub(super) quote: &'a [u8],
    pub(super) collateral: Collateral,
}

/// R2.
pub(super) fn parse<'a>(framed: &'a Framed<'_>, findings: &mut Findings) -> Result<Parsed<'a>, Ended> {
    match parse_members(framed) {
        Ok(parsed) => {
            findings.pass(Rule::R2, Rule::R2.title(), "");
            Ok(parsed)
        }
        Err(Fault::Form(name, reason)) => Err(findings.refuse(Rule::R2, name, reason).into()),
        Err(Fault::Unread(error)) => Err(error.into()),
    }
}

enum Fault {
    /// This member, and why.
    Form(&'static str, String),
    Unread(ReadError),
}

impl From<(&'static str, String)> for Fault {
    fn from((name, reason): (&'static str, String)) -> Self {
        Self::Form(name, reason)
    }
}

fn at(name: &'static str) -> impl Fn(&dyn std::error::Error) -> Fault {
    move |error| Fault::Form(name, with_source(error))
}

fn parse_members<'a>(framed: &'a Framed<'_>) -> Result<Parsed<'a>, Fault> {
    let collateral =
        parse_collateral(framed.required("open.collateral")).map_err(|why| Fault::Form("open.collateral", why))?;
    let opening = Opening::parse(OpeningBytes {
        config: framed.required("config.cbor"),
        policy: framed.required("policy"),
        image_dsse: framed.required("image.dsse"),
        pool: framed.member("pool.cbor"),
        open_map: framed.required("open.cbor"),
        quote: framed.required("open.quote"),
        collateral,
    })?;
    let (events, rtmr3) = parse_events(framed.required("events.cbor"))?;
    let note = std::str::from_utf8(framed.required("checkpoint")).map_err(|e| at("checkpoint")(&e))?;
    let leaves = framed.leaves();
    parse_leaves(&leaves)?;
    let record = Record { leaves, events, note };
    let disclosed = framed.member("disclosed.cbor").map(read_disclosed).transpose();
    if let Some(encrypted) = framed.member("private.bin") {
        let read = read_private(encrypted).and_then(|mut parts| parts.try_for_each(|part| part.map(drop)));
        read.map_err(|e| at("private.bin")(&e))?;
    }
    let receipt = framed.member("receipt.cbor").map(|bytes| open_receipt(bytes, &opening.config.host.host_key));
    Ok(Parsed {
        disclosed: disclosed.map_err(|e| at("disclosed.cbor")(&e))?,
        receipt: receipt.transpose().map_err(|e| at("receipt.cbor")(&e))?,
        seal: if framed.scan.is_sealed() { Some(parse_seal(framed)?) } else { None },
        opening,
        record,
        rtmr3,
    })
}

fn parse_seal<'a>(framed: &'a Framed<'_>) -> Result<ParsedSeal<'a>, Fault> {
    let map = SealMap::parse(framed.required("seal.cbor")).map_err(|e| at("seal.cbor")(&e))?;
    let statement = Envelope::parse(framed.required("statement.dsse")).map_err(|e| at("statement.dsse")(&e))?;
    let collateral =
        parse_collateral(framed.required("seal.collateral")).map_err(|why| Fault::Form("seal.collateral", why))?;
    Ok(ParsedSeal { seal: Seal { map, statement }, quote: framed.required("seal.quote"), collateral })
}

fn parse_collateral(bytes: &[u8]) -> Result<Collateral, String> {
    if bytes.len() > COLLATERAL_MAX {
        return Err(CollateralError::TooLarge(bytes.len()).to_string());
    }
    Collateral::parse(bytes).map_err(|error| with_source(&error))
}

fn parse_events(bytes: &[u8]) -> Result<(Vec<(u64, Rtmr3Event)>, Rtmr), Fault> {
    const NAME: &str = "events.cbor";
    let wrong = || Fault::Form(NAME, "expected an array of byte strings".to_owned());
    let items = decode_list(bytes).map_err(|e| at(NAME)(&e))?.ok_or_else(wrong)?;
    let mut rtmr3 = Rtmr::ZERO;
    let mut events = Vec::new();
    for item in items {
        let Value::Bytes(event) = item.map_err(|e| at(NAME)(&e))? else { return Err(wrong()) };
        rtmr3 = rtmr3.extend(&event_digest(&event));
        events.push(parse_event(&event).map_err(|e| at(NAME)(&e))?);
    }
    Ok((events, rtmr3))
}

/// Every leaf has its one form. None is kept.
fn parse_leaves(leaves: &Leaves<'_>) -> Result<(), Fault> {
    const NAME: &str = "leaves";
    let mut frames = leaves.frames();
    let wrong = loop {
        match frames.next_leaf() {
            Ok(None) => return Ok(()),
            Ok(Some((index, bytes))) => {
                if let Err(error) = Leaf::parse(bytes) {
                    break format!("leaf {index}: {}", with_source(&error));
                }
            }
            Err(FrameError::Unread(error)) => return Err(Fault::Unread(error)),
            Err(error) => break error.to_string(),
        }
    };
    // What is refused must be the bundle's own.
    frames.finish().map_err(Fault::Unread)?;
    Err(Fault::Form(NAME, wrong))
}

/// An error and what caused it, on one line.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
