//! Rules R1 and R2: from bytes to a bundle, and from its members to types. Nothing is believed yet.

use super::findings::{Claim, Findings, Refused};
use super::opening_rules::{Opening, OpeningBytes};
use super::record_rules::Record;
use super::report::Rule;
use super::seal_rules::Seal;
use crate::bundle::{self, Bundle};
use crate::call::{Disclosed, read_disclosed};
use crate::cbor::{Value, decode_list};
use crate::collateral::{COLLATERAL_MAX, Collateral, CollateralError};
use crate::dsse::Envelope;
use crate::fields::Canonical as _;
use crate::ids::Digest256;
use crate::leaf::{LEAF_MAX, Leaf};
use crate::private::read_private;
use crate::receipt::{Receipt, open_receipt};
use crate::rtmr::{Rtmr, Rtmr3Event, event_digest, parse_event};
use crate::seal::SealMap;

/// A bundle whose framing, caps, order and index hold (R1).
pub(super) struct Framed {
    bundle: Bundle,
}

/// R1.
pub(super) fn frame(bytes: &[u8], findings: &mut Findings) -> Result<Framed, Refused> {
    match bundle::read(bytes) {
        Ok(bundle) => {
            findings.pass(Rule::R1, Rule::R1.title(), "");
            Ok(Framed { bundle })
        }
        Err(error) => Err(findings.refuse(Rule::R1, Rule::R1.title(), with_source(&error))),
    }
}

impl Framed {
    pub(super) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(super) fn claim(&self) -> Claim {
        if self.bundle.is_sealed() { Claim::Sealed } else { Claim::Aborted }
    }

    /// What can be said of endpoint evidence.
    pub(super) fn endpoints(&self) -> &'static str {
        let any = self.bundle.members().any(|(name, _)| name.starts_with("endpoint/"));
        if any { "not built yet" } else { "none is present" }
    }

    fn member(&self, name: &'static str) -> &[u8] {
        self.bundle.member(name).unwrap_or_default()
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
    /// SHA-256 of the member `leaves`.
    pub(super) leaves_file: Digest256,
}

/// The members of a seal.
pub(super) struct ParsedSeal<'a> {
    pub(super) seal: Seal,
    pub(super) quote: &'a [u8],
    pub(super) collateral: Collateral,
}

/// R2.
pub(super) fn parse<'a>(framed: &'a Framed, findings: &mut Findings) -> Result<Parsed<'a>, Refused> {
    match parse_members(framed) {
        Ok(parsed) => {
            findings.pass(Rule::R2, Rule::R2.title(), "");
            Ok(parsed)
        }
        Err((name, reason)) => Err(findings.refuse(Rule::R2, name, reason)),
    }
}

type Fault = (&'static str, String);

fn at(name: &'static str) -> impl Fn(&dyn std::error::Error) -> Fault {
    move |error| (name, with_source(error))
}

fn parse_members(framed: &Framed) -> Result<Parsed<'_>, Fault> {
    let collateral = parse_collateral(framed.member("open.collateral")).map_err(|why| ("open.collateral", why))?;
    let opening = Opening::parse(OpeningBytes {
        config: framed.member("config.cbor"),
        policy: framed.member("policy"),
        image_dsse: framed.member("image.dsse"),
        pool: framed.bundle.member("pool.cbor"),
        open_map: framed.member("open.cbor"),
        quote: framed.member("open.quote"),
        collateral,
    })?;
    let (events, rtmr3) = parse_events(framed.member("events.cbor"))?;
    let leaves_bytes = framed.member("leaves");
    let note = std::str::from_utf8(framed.member("checkpoint")).map_err(|e| at("checkpoint")(&e))?;
    let record = Record { leaves: parse_leaves(leaves_bytes)?, events, note };
    let disclosed = framed.bundle.member("disclosed.cbor").map(read_disclosed).transpose();
    if let Some(encrypted) = framed.bundle.member("private.bin") {
        let read = read_private(encrypted).and_then(|mut parts| parts.try_for_each(|part| part.map(drop)));
        read.map_err(|e| at("private.bin")(&e))?;
    }
    let receipt = framed.bundle.member("receipt.cbor").map(|bytes| open_receipt(bytes, &opening.config.host.host_key));
    Ok(Parsed {
        disclosed: disclosed.map_err(|e| at("disclosed.cbor")(&e))?,
        receipt: receipt.transpose().map_err(|e| at("receipt.cbor")(&e))?,
        seal: if framed.bundle.is_sealed() { Some(parse_seal(framed)?) } else { None },
        leaves_file: Digest256::of(leaves_bytes),
        opening,
        record,
        rtmr3,
    })
}

fn parse_seal(framed: &Framed) -> Result<ParsedSeal<'_>, Fault> {
    let map = SealMap::parse(framed.member("seal.cbor")).map_err(|e| at("seal.cbor")(&e))?;
    let statement = Envelope::parse(framed.member("statement.dsse")).map_err(|e| at("statement.dsse")(&e))?;
    let collateral = parse_collateral(framed.member("seal.collateral")).map_err(|why| ("seal.collateral", why))?;
    Ok(ParsedSeal { seal: Seal { map, statement }, quote: framed.member("seal.quote"), collateral })
}

fn parse_collateral(bytes: &[u8]) -> Result<Collateral, String> {
    if bytes.len() > COLLATERAL_MAX {
        return Err(CollateralError::TooLarge(bytes.len()).to_string());
    }
    Collateral::parse(bytes).map_err(|error| with_source(&error))
}

fn parse_events(bytes: &[u8]) -> Result<(Vec<(u64, Rtmr3Event)>, Rtmr), Fault> {
    const NAME: &str = "events.cbor";
    let wrong = || (NAME, "expected an array of byte strings".to_owned());
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

fn parse_leaves(mut rest: &[u8]) -> Result<Vec<(&[u8], Leaf)>, Fault> {
    const NAME: &str = "leaves";
    let mut leaves = Vec::new();
    while !rest.is_empty() {
        let index = leaves.len();
        let cut = || (NAME, format!("leaf {index} is cut short"));
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
        if length > LEAF_MAX {
            return Err((NAME, format!("leaf {index} has {length} bytes; at most {LEAF_MAX} are allowed")));
        }
        let (bytes, after) = after.split_at_checked(length).ok_or_else(cut)?;
        let leaf = Leaf::parse(bytes).map_err(|e| (NAME, format!("leaf {index}: {}", with_source(&e))))?;
        leaves.push((bytes, leaf));
        rest = after;
    }
    Ok(leaves)
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
