//! Puts a session's bundle together from what the guest told and what was kept at its start, and has the verifier judge
//! it before anybody is told that it exists. The same code for a sealed session and for the prefix of a broken one.

use std::io;

use coffer_evidence::bundle::{self, Parts, SealParts};
use coffer_evidence::collateral::Collateral;
use coffer_evidence::dsse::Envelope;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, InstanceId};
use coffer_evidence::manifest::Profile;
use coffer_evidence::note::Checkpoint;
use coffer_evidence::receipt::{Receipt, STEP_LENGTH_MAX, sign_receipt};
use coffer_evidence::rtmr::{Rtmr3Event, parse_event};
use coffer_evidence::seal::SealMap;
use coffer_evidence::verify::{
    AcceptPrefix, AcceptSimulated, AnyOwner, AppraisalPolicy, CheckResult, Options, PolicyError, Report, Verdict,
    verify_bundle,
};
use ed25519_dalek::SigningKey;

use super::mirror::Record;
use super::record::SessionRecord;
use super::signal::Opening;
use super::types::Ending;
use crate::host::scrub::Step;
use crate::host::session_dir::{Readers, SessionDir};

const IMAGE: &str = "image.dsse";
const OPEN_MAP: &str = "open.cbor";
const OPEN_QUOTE: &str = "open.quote";
const CCEL: &str = "ccel";
const OPEN_COLLATERAL: &str = "open.collateral";

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvidenceError {
    #[error("the host cannot read what it kept of the session")]
    Io(#[from] io::Error),
    #[error("the guest sent no checkpoint: nothing of its record can be shown to be genuine")]
    NoCheckpoint,
    #[error("the guest's seal map is malformed")]
    SealMap(#[source] coffer_evidence::fields::ParseError),
    #[error("the stored bundle is damaged")]
    Stored(#[from] coffer_evidence::bundle::BundleError),
    #[error("the appraisal policy of the host itself is refused")]
    Policy(#[from] PolicyError),
    #[error("expected a bundle that verifies as {expected}, found {found:?}: {why}")]
    Verdict { expected: &'static str, found: Verdict, why: String },
}

/// What the guest sends last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestSeal {
    pub(crate) map: Vec<u8>,
    pub(crate) quote: Vec<u8>,
    pub(crate) statement: Vec<u8>,
}

impl GuestSeal {
    /// Who closed the session and why, and how much the record must hold.
    pub(crate) fn parse(&self) -> Result<SealMap, EvidenceError> {
        SealMap::parse(&self.map).map_err(EvidenceError::SealMap)
    }
}

/// What an ending says, taken from a seal.
pub(crate) fn ending_of(seal: &SealMap) -> Ending {
    Ending { reason: seal.reason, closed_by: seal.closed_by }
}

/// Keeps the signed manifest, before the machine starts.
pub(crate) fn keep_image(dir: &SessionDir, envelope: &[u8]) -> io::Result<()> {
    dir.write_new(IMAGE, envelope, Readers::Host)
}

/// Keeps a verified opening; the quote is cut to its used length. After a restart it may be verified, and kept, again.
pub(crate) fn keep_opening(
    dir: &SessionDir,
    opening: &Opening,
    quote: &[u8],
    collateral: &Collateral,
) -> io::Result<()> {
    dir.write_anew(OPEN_MAP, &opening.open_map, Readers::Host)?;
    if let Some(ccel) = &opening.ccel {
        dir.write_anew(CCEL, ccel, Readers::Host)?;
    }
    dir.write_anew(OPEN_QUOTE, quote, Readers::Host)?;
    dir.write_anew(OPEN_COLLATERAL, &collateral.to_bytes(), Readers::Host)
}

fn parts(record: &SessionRecord, dir: &SessionDir, told: Record) -> Result<Parts, EvidenceError> {
    let file = |name: &str| std::fs::read(dir.join(name));
    Ok(Parts {
        config: record.config.clone(),
        policy: record.policy.clone(),
        image_dsse: file(IMAGE)?,
        open_map: file(OPEN_MAP)?,
        open_quote: file(OPEN_QUOTE)?,
        open_collateral: file(OPEN_COLLATERAL)?,
        ccel: match file(CCEL) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other?),
        },
        events: told.events,
        leaves: told.leaves,
        checkpoint: told.note.ok_or(EvidenceError::NoCheckpoint)?,
        encrypted: None,
        disclosed: Some(told.private),
        seal: None,
        receipt: None,
    })
}

/// The sealed bundle, verified. `at` is unix seconds.
pub(crate) fn sealed(
    record: &SessionRecord,
    dir: &SessionDir,
    seal: GuestSeal,
    collateral: &Collateral,
    at: u64,
) -> Result<(Vec<u8>, Ending), EvidenceError> {
    let map = seal.parse()?;
    let mut parts = parts(record, dir, Record::read(dir)?)?;
    let collateral = collateral.to_bytes();
    parts.seal = Some(SealParts { map: seal.map, quote: seal.quote, collateral, statement: seal.statement });
    let bundle = judged(&parts, record.profile, at, Verdict::Sealed, "sealed")?;
    Ok((bundle, ending_of(&map)))
}

/// The longest prefix that the last note covers, verified. `at` is unix seconds.
pub(crate) fn prefix(record: &SessionRecord, dir: &SessionDir, at: u64) -> Result<Vec<u8>, EvidenceError> {
    let told = cut_to_note(Record::read(dir)?)?;
    judged(&parts(record, dir, told)?, record.profile, at, Verdict::Aborted, "an aborted prefix")
}

/// Leaves and events that came after the last note are not covered by it.
fn cut_to_note(mut told: Record) -> Result<Record, EvidenceError> {
    let note = told.note.as_deref().ok_or(EvidenceError::NoCheckpoint)?;
    let text = note.split_once("\n\n").map(|(text, _)| format!("{text}\n"));
    let covered = text.and_then(|text| Checkpoint::parse_text(&text).ok()).ok_or(EvidenceError::NoCheckpoint)?;
    let last = told.events.iter().rposition(|event| match parse_event(event) {
        Ok((_, Rtmr3Event::Checkpoint { size, root })) => size == covered.size && root == covered.root,
        _ => false,
    });
    let last = last.ok_or(EvidenceError::NoCheckpoint)?;
    told.events.truncate(last.saturating_add(1));
    told.leaves.truncate(usize::try_from(covered.size).unwrap_or(usize::MAX));
    told.private.retain(|part| part.index < covered.size);
    Ok(told)
}

/// Writes the bundle and lets the verifier judge it with the image's own publisher pinned: what is judged here is truth,
/// whether to accept it is for others.
fn judged(
    parts: &Parts,
    profile: Profile,
    at: u64,
    wanted: Verdict,
    expected: &'static str,
) -> Result<Vec<u8>, EvidenceError> {
    let anchor = match profile {
        Profile::Tdx => "intel",
        Profile::Simulated => "simulated",
    };
    let publisher = Envelope::parse(&parts.image_dsse).map(|e| format!("\"{}\"", e.signer())).unwrap_or_default();
    let policy = AppraisalPolicy::parse(&format!("anchor = \"{anchor}\"\npublishers = [{publisher}]\n"))?;
    let options = Options {
        at,
        accept_simulated: AcceptSimulated::Yes,
        accept_prefix: AcceptPrefix::Yes,
        any_owner: AnyOwner::Yes,
        policy: Some(policy),
        ..Options::default()
    };
    let bytes = bundle::write(parts);
    let report = verify_bundle(&bytes, &options);
    if report.verdict == wanted {
        return Ok(bytes);
    }
    Err(EvidenceError::Verdict { expected, found: report.verdict, why: first_failure(&report) })
}

fn first_failure(report: &Report) -> String {
    let wrong = report.checks.iter().find(|c| matches!(c.result, CheckResult::Fail | CheckResult::CannotTell));
    wrong.map_or_else(|| "no check failed".to_owned(), |c| format!("{:?}, {}: {}", c.rule, c.name, c.reason))
}

/// What a stored bundle's seal says, if it is sealed.
pub(crate) fn stored_ending(bundle: &[u8]) -> Result<Option<Ending>, EvidenceError> {
    let bundle = bundle::read(bundle)?;
    let seal = bundle.member("seal.cbor").map(SealMap::parse).transpose().map_err(EvidenceError::SealMap)?;
    Ok(seal.as_ref().map(ending_of))
}

/// The stored bundle with the host's receipt for its clean-up.
pub(crate) fn with_receipt(
    stored: &[u8],
    record: &SessionRecord,
    instance: InstanceId,
    steps: &[Step],
    host: &SigningKey,
) -> Result<Vec<u8>, EvidenceError> {
    let bundle = bundle::read(stored)?;
    let line = |step: &Step| {
        let result = step.result.as_ref().map_or_else(|why| format!("failed: {why}"), |()| "done".to_owned());
        (step.name.to_owned(), cut(result))
    };
    let mut steps: Vec<(String, String)> = steps.iter().map(line).collect();
    steps.push(("memory of the guest's process".to_owned(), "freed by the kernel; not proven".to_owned()));
    let receipt = Receipt {
        session: record.id,
        instance,
        final_quote: bundle.member("seal.quote").map(Digest256::of),
        core_id: bundle.core_id(),
        steps,
    };
    Ok(bundle.with_receipt(sign_receipt(host, &receipt)))
}

fn cut(mut text: String) -> String {
    while text.len() > STEP_LENGTH_MAX {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::call::Disclosed;
    use coffer_evidence::rtmr::event_bytes;

    fn checkpoint(index: u64, size: u64, root: u8) -> Vec<u8> {
        event_bytes(index, &Rtmr3Event::Checkpoint { size, root: Digest256::new([root; 32]) })
    }

    fn note(size: u64, root: u8) -> String {
        let text = Checkpoint { origin: "coffer/local/x".into(), size, root: Digest256::new([root; 32]) }.to_text();
        format!("{text}\n— coffer/local/x c2ln\n")
    }

    fn told() -> Record {
        Record {
            leaves: (0..5).map(|i| vec![i]).collect(),
            private: (0..5).map(|index| Disclosed { index, salt: [0; 32], bytes: vec![] }).collect(),
            events: vec![b"open".to_vec(), checkpoint(1, 2, 1), checkpoint(2, 4, 2)],
            note: Some(note(2, 1)),
        }
    }

    #[test]
    fn a_prefix_ends_where_the_last_note_does() {
        let cut = cut_to_note(told()).expect("cut");
        assert_eq!((cut.events.len(), cut.leaves.len(), cut.private.len()), (2, 2, 2));
        let newest = cut_to_note(Record { note: Some(note(4, 2)), ..told() }).expect("cut");
        assert_eq!((newest.events.len(), newest.leaves.len(), newest.private.len()), (3, 4, 4));
    }

    #[test]
    fn a_record_without_a_fitting_note_has_no_prefix() {
        for note in [None, Some(note(3, 1)), Some(note(2, 9)), Some("nonsense".to_owned())] {
            let result = cut_to_note(Record { note, ..told() });
            assert!(matches!(result, Err(EvidenceError::NoCheckpoint)), "{result:?}");
        }
    }

    #[test]
    fn a_long_failure_fits_a_receipt() {
        assert!(cut("ä".repeat(500)).len() <= STEP_LENGTH_MAX);
    }
}
