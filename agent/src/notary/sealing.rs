//! Quotes that may be used, and the end of the log in the order of EVIDENCE §2.

use super::admission::Admitted;
use super::keys::PrivateKey;
use super::live::NotaryError;
use super::quotes::QuoteSource;
use super::recorder::Recorder;
use super::registers::{Registers, Snapshot};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, Digest384};
use coffer_evidence::open::OpenMap;
use coffer_evidence::quote::Quote;
use coffer_evidence::rtmr::Rtmr;
use coffer_evidence::seal::{ClosedBy, Reason, SealMap};
use coffer_evidence::statement::{Subjects, sign_statement};

/// What the whole session is bound to.
#[derive(Debug)]
pub struct Bound {
    /// Config, policy, intent.
    pub admitted: Admitted,
    /// The instance.
    pub open_map: OpenMap,
    /// SHA-256 of the opening quote.
    pub opening_quote: Digest256,
}

/// A closed log, ready to leave the TD.
#[derive(Debug)]
pub struct SealedLog {
    /// Seal map bytes.
    pub seal_map: Vec<u8>,
    /// Final quote.
    pub quote: Vec<u8>,
    /// DSSE envelope.
    pub statement: Vec<u8>,
}

/// Asks for a quote and compares it with the registers before anybody uses it. Answers its used bytes.
pub fn quote(
    source: &mut impl QuoteSource,
    report_data: &[u8; 64],
    registers: &impl Registers,
    rtmr3: Rtmr,
) -> Result<Vec<u8>, NotaryError> {
    let bytes = source.quote(report_data).map_err(|error| NotaryError::chain("quote", &error))?;
    let used = Quote::cut(&bytes).map_err(|error| NotaryError::chain("quote", &error))?;
    let quote = Quote::parse(used).map_err(|error| NotaryError::chain("quote", &error))?;
    let snapshot: Snapshot = registers.snapshot().map_err(|error| NotaryError::chain("registers", &error))?;
    let differs = [
        ("report data", quote.report_data() != report_data),
        ("MRTD", *quote.mrtd() != snapshot.mr_td),
        ("MRCONFIGID", *quote.mr_config_id() != snapshot.mr_config_id),
        ("MROWNER", *quote.mr_owner() != snapshot.mr_owner),
        ("MROWNERCONFIG", *quote.mr_owner_config() != snapshot.mr_owner_config),
        ("RTMR0-2", quote.rtmrs()[..3] != snapshot.rtmr),
        ("RTMR3", quote.rtmrs()[3] != *rtmr3.as_bytes()),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((name, _)) => Err(NotaryError::new("quote", format!("its {name} is not that of this TD"))),
        None => Ok(used.to_vec()),
    }
}

/// The scrub and seal leaves are in the log and covered, the sealed event is extended: binds them, destroys the key,
/// and asks for the final quote. `key` is taken, so that nobody can sign after this.
pub fn seal<R: Registers>(
    recorder: &Recorder<R>,
    bound: &Bound,
    key: PrivateKey,
    source: &mut impl QuoteSource,
    (reason, closed_by): (Reason, ClosedBy),
) -> Result<SealedLog, NotaryError> {
    let writer = &recorder.writer;
    let scrub_leaf = writer.scrub_leaf().ok_or_else(|| NotaryError::new("seal", "there is no scrub leaf"))?;
    let mut seal_map = SealMap {
        session: bound.open_map.session,
        instance: bound.open_map.instance(),
        config_digest: bound.admitted.config_digest,
        opening_quote: bound.opening_quote,
        size: writer.size(),
        root: writer.root(),
        events: writer.events(),
        rtmr3: writer.expected_rtmr3(),
        scrub_leaf,
        closed_by,
        reason,
        // No collateral set is held in the guest, and there is no channel to say hello on, in this build.
        collateral: Vec::new(),
        statement: Digest256::new([0; 32]),
        pre_hello: Vec::new(),
    };
    let subjects = Subjects {
        policy: Digest384::of(&bound.admitted.policy),
        open_map: Digest256::of(&bound.open_map.to_bytes()),
        leaves: Digest256::new(recorder.leaves_digest()),
    };
    let statement = key.sign(|key| sign_statement(key, &mut seal_map, &subjects).to_bytes());
    // Dropping it overwrites it.
    drop(key);
    let quote = quote(source, &seal_map.report_data(), &recorder.registers, writer.expected_rtmr3())?;
    Ok(SealedLog { seal_map: seal_map.to_bytes(), quote, statement })
}
