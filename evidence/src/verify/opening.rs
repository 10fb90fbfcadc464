//! What a host checks before it calls a session ready: R3 to R9 on the opening, by the code that verifies bundles.

use super::anchor::{Platform, TrustAnchor};
use super::endorsed::Padding;
use super::event_log_rule;
use super::findings::{Findings, Refused};
use super::opening_rules::{self, Opened, Opening, OpeningBytes};
use super::platform_policy::TcbStatus;
use super::report::{Check, Rule};
use crate::collateral::Collateral;
use crate::ids::{Digest256, InstanceId};
use crate::quote::Register;
use crate::sign::PublicKey;

/// Why an opening is refused: the rule, what it looked at, and what it found.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("opening refused by {rule:?}, {name}: {reason}")]
pub struct OpeningError {
    /// The rule.
    pub rule: Rule,
    /// What it looked at.
    pub name: &'static str,
    /// What was expected and found.
    pub reason: String,
}

/// An opening that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedOpening {
    /// By the root that verified.
    pub platform: Platform,
    /// The TD instance.
    pub instance: InstanceId,
    /// The key that will sign the action log's notes.
    pub log_key: PublicKey,
    /// SHA-256 of the instance's TLS public key.
    pub tls_spki: Digest256,
    /// The pinned publisher that signed the image; none only on the simulated platform with no publisher pinned.
    pub publisher: Option<PublicKey>,
    /// The platform's TCB status.
    pub tcb_status: TcbStatus,
    /// Latest issue date of the collateral, unix seconds.
    pub as_of: u64,
    /// The quote without padding, as a bundle stores it.
    pub quote: Vec<u8>,
    rtmrs: [Register; 4],
}

impl VerifiedOpening {
    /// The rest of R7, for the event log that the guest handed over: without it a bundle under Intel's root stays indeterminate, and
    /// one that does not replay makes it invalid. A host asks before it calls the session ready.
    ///
    /// # Errors
    /// [`OpeningError`], of R7.
    pub fn judge_event_log(&self, ccel: Option<&[u8]>) -> Result<(), OpeningError> {
        let mut findings = Findings::default();
        let judged = event_log_rule::judge(ccel, self.platform, &self.rtmrs, &mut findings);
        match judged {
            Ok(()) if findings.obstacle().is_none() => Ok(()),
            Ok(()) | Err(Refused) => Err(refusal(&findings)),
        }
    }
}

/// Verifies the opening of a session at `at` (unix seconds). The quote may have zero padding, as a quoting service hands it out.
///
/// # Errors
/// [`OpeningError`], naming the rule.
#[expect(clippy::too_many_arguments, reason = "the files of an opening, and what the caller pins")]
pub fn verify_opening(
    open_map: &[u8],
    quote: &[u8],
    collateral: &Collateral,
    image_dsse: &[u8],
    publishers: &[PublicKey],
    config: &[u8],
    policy: &[u8],
    at: u64,
    anchor: &TrustAnchor,
) -> Result<VerifiedOpening, OpeningError> {
    let bytes =
        OpeningBytes { config, policy, image_dsse, pool: None, open_map, quote, collateral: collateral.clone() };
    let mut findings = Findings::default();
    let opened = run(bytes, publishers, anchor, &mut findings).map_err(|Refused| refusal(&findings))?;
    if findings.obstacle().is_some() {
        return Err(refusal(&findings));
    }
    unknown_publisher(&opened, publishers)?;
    if let Err(stale) = opened.quote().at(opened.opening().bytes.quote, collateral, at) {
        return Err(OpeningError { rule: Rule::R4, name: "collateral is current", reason: stale.to_string() });
    }
    let used = opened.quote().quote().used_length();
    Ok(VerifiedOpening {
        platform: opened.platform(),
        instance: opened.instance(),
        log_key: opened.opening().open.log_key,
        tls_spki: opened.opening().open.tls_spki,
        publisher: opened.publisher().copied(),
        tcb_status: opened.quote().tcb_status(),
        as_of: opened.quote().as_of(),
        quote: quote.get(..used).unwrap_or(quote).to_vec(),
        rtmrs: *opened.quote().quote().rtmrs(),
    })
}

fn run<'a>(
    bytes: OpeningBytes<'a>,
    publishers: &[PublicKey],
    anchor: &TrustAnchor,
    findings: &mut Findings,
) -> Result<Opened<'a>, Refused> {
    let opening = Opening::parse(bytes).map_err(|(name, reason)| findings.refuse(Rule::R2, name, reason))?;
    let stated = opening_rules::image(opening, publishers, findings)?;
    let quote = {
        let bytes = stated.bytes();
        let anchors = std::slice::from_ref(anchor);
        opening_rules::quote("opening quote", bytes.quote, &bytes.collateral, anchors, Padding::Zeros, findings)?
    };
    let attested = opening_rules::platform(stated, quote, findings)?;
    let booted = opening_rules::boot(attested, findings)?;
    let configured = opening_rules::configuration(booted, findings)?;
    opening_rules::open(configured, findings)
}

/// A publisher nobody pinned is tolerated only where anyone can forge everything anyway and none was asked for.
fn unknown_publisher(opened: &Opened<'_>, publishers: &[PublicKey]) -> Result<(), OpeningError> {
    let tolerated = opened.platform() == Platform::Simulated && publishers.is_empty();
    if opened.publisher().is_some() || tolerated {
        return Ok(());
    }
    let signer = opened.opening().envelope.signer();
    Err(OpeningError {
        rule: Rule::R3,
        name: "publisher",
        reason: format!("the manifest is signed by {signer}, which is not a pinned publisher"),
    })
}

fn refusal(findings: &Findings) -> OpeningError {
    match findings.refusal().or_else(|| findings.obstacle()) {
        Some(Check { rule, name, reason, .. }) => OpeningError { rule: *rule, name, reason: reason.clone() },
        None => OpeningError { rule: Rule::R1, name: "opening", reason: "refused without a reason".to_owned() },
    }
}
