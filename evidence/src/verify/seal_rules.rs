//! Rules R5, R6 and R14 on the seal: the final quote is of the same TD, and it binds everything before it.

use super::endorsed::{VerifiedQuote, judge_attributes};
use super::findings::{Findings, Refused};
use super::opening_rules::{Attested, Opened, same_registers};
use super::record_rules::Rooted;
use super::report::Rule;
use crate::dsse::Envelope;
use crate::ids::{Digest256, Digest384};
use crate::rtmr::{Rtmr, Rtmr3Event};
use crate::seal::{ClosedBy, SealMap};
use crate::statement::{self, Subjects};

/// The seal's files, parsed (R2) and not believed.
pub(super) struct Seal {
    pub(super) map: SealMap,
    pub(super) statement: Envelope,
}

/// R5 and R6 for a second quote: one root, one TD, one platform.
pub(super) fn same_td(attested: &Attested<'_>, last: &VerifiedQuote, findings: &mut Findings) -> Result<(), Refused> {
    let first = attested.quote();
    let one_root = first.anchor().der() == last.anchor().der();
    findings.require(Rule::R5, "one root for all quotes", one_root.into(), || {
        "opening and final quote verify under different roots".to_owned()
    })?;
    if let Err(refusal) = judge_attributes(last.quote().report()) {
        return Err(findings.refuse(Rule::R6, "TD attributes at the seal", refusal.to_string()));
    }
    let (a, b) = (first.quote(), last.quote());
    let [a0, a1, a2, _] = a.rtmrs();
    let [b0, b1, b2, _] = b.rtmrs();
    let differing: Vec<&str> = [
        ("PPID", first.ppid() == last.ppid()),
        ("platform instance id", first.platform_instance_id() == last.platform_instance_id()),
        ("FMSPC", first.fmspc() == last.fmspc()),
        ("MRSIGNERSEAM", a.mrsigner_seam() == b.mrsigner_seam()),
        ("TD attributes", a.td_attributes() == b.td_attributes()),
        ("XFAM", a.xfam() == b.xfam()),
        ("MRTD", a.mrtd() == b.mrtd()),
        ("RTMR0", a0 == b0),
        ("RTMR1", a1 == b1),
        ("RTMR2", a2 == b2),
        ("MRCONFIGID", a.mr_config_id() == b.mr_config_id()),
        ("MROWNER", a.mr_owner() == b.mr_owner()),
        ("MROWNERCONFIG", a.mr_owner_config() == b.mr_owner_config()),
        ("TD id", a.td_id() == b.td_id()),
    ]
    .into_iter()
    .filter_map(|(field, same)| (!same).then_some(field))
    .collect();
    findings.require(Rule::R6, "same TD and platform", differing.is_empty().into(), || {
        format!("opening and final quote differ in {}", differing.join(", "))
    })
}

/// What R14 compares the seal with, beyond the opening and the record.
pub(super) struct Sealing<'a> {
    pub(super) seal: &'a Seal,
    pub(super) quote: &'a VerifiedQuote,
    /// Replay of all events.
    pub(super) rtmr3: Rtmr,
    /// The leaf with a close that a client signed (R12).
    pub(super) client_close: Option<u64>,
}

/// R14.
pub(super) fn seal(
    sealing: &Sealing<'_>,
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    findings: &mut Findings,
) -> Result<(), Refused> {
    let map = &sealing.seal.map;
    let bound = *sealing.quote.quote().report_data() == map.report_data();
    findings.require(Rule::R14, "final report data binds the seal", bound.into(), || {
        "REPORTDATA of the final quote is not H512 of seal.cbor".to_owned()
    })?;
    let differing = differing_fields(map, sealing, opened, rooted);
    findings.require(Rule::R14, "seal is the one recomputed", differing.is_empty().into(), || {
        format!("seal.cbor differs from what it seals in {}", differing.join(", "))
    })?;
    let [_, _, _, rtmr3] = sealing.quote.quote().rtmrs();
    let compared = [("RTMR3", sealing.rtmr3.as_bytes(), rtmr3)];
    same_registers(Rule::R14, "final RTMR3 is the replay of all events", &compared, findings)?;
    let ends = matches!(rooted.events(), [.., (_, Rtmr3Event::Checkpoint { .. }), (_, Rtmr3Event::Sealed { .. })]);
    findings.require(Rule::R14, "last events are checkpoint and sealed", ends.into(), || {
        "the last two events are not a checkpoint and the sealed event".to_owned()
    })?;
    let shown = map.closed_by != ClosedBy::Client || sealing.client_close.is_some();
    findings.require(Rule::R14, "who closed it is shown", shown.into(), || {
        "the seal says that a client closed the session, and the record holds no close that a client signed".to_owned()
    })?;
    judge_statement(sealing, opened, rooted, findings)
}

fn differing_fields(
    map: &SealMap,
    sealing: &Sealing<'_>,
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
) -> Vec<&'static str> {
    let opening = opened.opening();
    let scrub = rooted.scrub().map(|scrub| scrub.digest);
    let events = u64::try_from(rooted.events().len()).unwrap_or(u64::MAX);
    [
        ("session", map.session == opening.intent.session),
        ("instance", map.instance == opened.instance()),
        ("configuration digest", map.config_digest == Digest384::of(opening.bytes.config)),
        ("opening quote", map.opening_quote == Digest256::of(opening.bytes.quote)),
        ("size", map.size == rooted.size()),
        ("root", map.root == rooted.root()),
        ("number of events", map.events == events),
        ("RTMR3", map.rtmr3 == sealing.rtmr3),
        ("scrub leaf", Some(map.scrub_leaf) == scrub),
    ]
    .into_iter()
    .filter_map(|(field, same)| (!same).then_some(field))
    .collect()
}

fn judge_statement(
    sealing: &Sealing<'_>,
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    findings: &mut Findings,
) -> Result<(), Refused> {
    const NAME: &str = "statement";
    let opening = opened.opening();
    let payload = match sealing.seal.statement.verify(&opening.open.log_key, statement::PAYLOAD_TYPE) {
        Ok(payload) => payload,
        Err(error) => return Err(findings.refuse(Rule::R14, NAME, error.to_string())),
    };
    let subjects = Subjects {
        policy: Digest384::of(opening.bytes.policy),
        open_map: Digest256::of(opening.bytes.open_map),
        leaves: rooted.leaves().digest(),
    };
    let expected = statement::payload(&sealing.seal.map, &subjects);
    let same = payload == expected && sealing.seal.map.statement == Digest256::of(payload);
    findings.require(Rule::R14, NAME, same.into(), || {
        "the statement is not the one that the seal names and its fields give".to_owned()
    })
}
