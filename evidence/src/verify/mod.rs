//! The verifier: the numbered rules of EVIDENCE §4 over one bundle, and the same rules for a host over an opening.
//!
//! Pure: bytes, policy and a time go in, a [`Report`] comes out; no clock, no file, no network, and for the same input the same
//! output bytes. A later rule never reads bytes that an earlier one refused: each stage has a type that only the stage before it
//! makes.
//! ```text
//! bytes ─R1─> Framed ─R2─> Parsed ─R3─> ImageStated ─R4,R5,R6─> Attested ─R7─> Booted ─R8─> Configured ─R9─> Opened
//!       ─R10─> Rooted ─R11,R12,R13─> the record holds ─R14─> the seal holds ─R15─> acks ─R16,R17─> claims ─R18,R19─> acceptance
//! ```
//! What each rule checks today is in `docs/verifier-rules.md`.

mod ack_rules;
mod anchor;
mod appraisal;
mod call_rules;
mod chain_rules;
mod claim_rules;
mod covering;
mod dates;
mod endorsed;
mod event_log_rule;
mod findings;
mod opening;
mod opening_rules;
mod parsed;
mod platform_policy;
mod policy;
mod pool_rules;
mod private_rules;
mod record_rules;
mod registers;
mod report;
mod seal_rules;
mod stated_platform;
#[cfg(test)]
mod under_intels_root;
mod words;

pub use anchor::{INTEL_ROOT_DER, Platform, SIMULATED_ROOT_DER, TrustAnchor};
pub use endorsed::{Moment, Padding, QuoteRefusal, VerifiedQuote, judge_attributes, verify_quote};
pub use opening::{OpeningError, VerifiedOpening, verify_opening};
pub use platform_policy::{Allowed, Answer, PlatformConfiguration, PlatformPolicy, Stated, TcbStatus};
pub use policy::{AppraisalPolicy, Expectations, KnownPlatform, MAX_POLICY_BYTES, PolicyError};
pub use registers::{ExpectedRegister, RegisterName};
pub use report::{Accepted, Check, CheckResult, Concerns, Report, ReportedImage, Rule, SCHEMA, Verdict, printable};
pub use stated_platform::{PckAuthority, StatedPlatform};

use appraisal::Appraised;
use call_rules::Calls;
use claim_rules::Receipted;
use findings::{Claim, Ended, Findings, Refused};
use opening_rules::Opened;
use parsed::{Framed, Parsed, ParsedSeal};
use record_rules::Rooted;
use seal_rules::Sealing;

use crate::bundle::{ReadError, Source};
use crate::chain::Summary;
use crate::ids::Digest256;
use crate::private::Access;

/// Whether evidence that anyone can forge may be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AcceptSimulated {
    /// `--accept-simulated`.
    Yes,
    /// The default.
    #[default]
    No,
}

/// Whether a prefix may be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AcceptPrefix {
    /// `--accept-prefix`.
    Yes,
    /// The default.
    #[default]
    No,
}

/// Whether an owner that no policy names may be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AnyOwner {
    /// `--any-owner`.
    Yes,
    /// The default.
    #[default]
    No,
}

/// Whether every signature of a call chain is verified, or the last of each channel, which covers those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EverySignature {
    /// `--every-signature`.
    Yes,
    /// The default.
    #[default]
    No,
}

/// What the user of the verifier asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// The time that collateral must also be current at, unix seconds.
    pub at: u64,
    /// Simulated evidence.
    pub accept_simulated: AcceptSimulated,
    /// Prefixes.
    pub accept_prefix: AcceptPrefix,
    /// Owners.
    pub any_owner: AnyOwner,
    /// Signatures of call chains.
    pub every_signature: EverySignature,
    /// Expectations of this bundle.
    pub expect: Expectations,
    /// What the reader's identity gets at: the key of the encrypted private parts.
    pub access: Access,
    /// Everything pinned. Without one the two published roots are tried, and nothing else is known.
    pub policy: Option<AppraisalPolicy>,
}

/// Verifies a bundle in memory. Never fails: what is wrong is in the report.
#[must_use]
pub fn verify_bundle(bytes: &[u8], options: &Options) -> Report {
    verify_source(&bytes, options).unwrap_or_else(|error| {
        // Memory can be read, so this is not reached; what cannot be read is in any case not true.
        let mut findings = Findings::default();
        let Refused = findings.refuse(Rule::R1, Rule::R1.title(), error.to_string());
        reported(empty_report(options), findings, None)
    })
}

/// Verifies a bundle where it is, in passes over its leaves: of a log of any length only what R13 has to remember of each call is
/// held, beside the small members.
///
/// # Errors
/// [`ReadError`]: the bundle cannot be read, or somebody writes to it. Then nothing is said of it.
pub fn verify_source(source: &dyn Source, options: &Options) -> Result<Report, ReadError> {
    let mut findings = Findings::default();
    let mut report = empty_report(options);
    let claim = match parsed::frame(source, &mut findings) {
        Ok(framed) => {
            report.bundle_id = Some(framed.scan().bundle_id().to_string());
            report.core_id = Some(framed.scan().core_id().to_string());
            match judge(&framed, options, &mut findings, &mut report) {
                // What ended it is on record among the findings.
                Ok(()) | Err(Ended::Refused) => Some(framed.claim()),
                Err(Ended::Unread(error)) => return Err(error),
            }
        }
        Err(Ended::Refused) => None,
        Err(Ended::Unread(error)) => return Err(error),
    };
    Ok(reported(report, findings, claim))
}

/// Verdict and acceptance follow from the rows.
fn reported(mut report: Report, findings: Findings, claim: Option<Claim>) -> Report {
    report.verdict = findings.verdict(claim);
    report.accepted = findings.accepted(report.verdict);
    report.checks = findings.into_checks();
    report
}

fn empty_report(options: &Options) -> Report {
    Report {
        schema: SCHEMA,
        verdict: Verdict::Indeterminate,
        accepted: Accepted::CannotTell,
        platform: None,
        authority: None,
        outcome: None,
        reason: None,
        closed_by: None,
        session: None,
        instance: None,
        extent: None,
        image: None,
        policy_digest: options.policy.as_ref().map(|policy| policy.digest().to_string()),
        at: options.at,
        as_of: None,
        checks: Vec::new(),
        bundle_id: None,
        core_id: None,
        words: Vec::new(),
    }
}

/// R2 to R19. Fields of the report are filled in only once the rule that makes them true has passed.
fn judge(framed: &Framed<'_>, options: &Options, findings: &mut Findings, report: &mut Report) -> Result<(), Ended> {
    let claim = framed.claim();
    let Parsed { opening, record, seal, disclosed, receipt, rtmr3 } = parsed::parse(framed, findings)?;
    report.outcome = Some(match claim {
        Claim::Sealed => "sealed",
        Claim::Aborted => "aborted",
    });

    let publishers = options.policy.as_ref().map(|policy| policy.publishers.as_slice()).unwrap_or_default();
    let stated = opening_rules::image(opening, publishers, findings)?;
    let (first, last) = judge_quotes(stated.bytes(), seal.as_ref(), options, findings)?;
    let attested = opening_rules::platform(stated, first, findings)?;
    report.platform = Some(attested.platform().to_string());
    report.as_of = Some(last.as_ref().unwrap_or_else(|| attested.quote()).as_of());
    if let Some(last) = &last {
        seal_rules::same_td(&attested, last, findings)?;
    }
    judge_publisher(&attested, findings);
    currency(&attested, seal.as_ref().zip(last.as_ref()), options.at, findings);
    let booted = opening_rules::boot(attested, findings)?;
    let ccel = framed.member("ccel");
    event_log_rule::judge(ccel, booted.platform(), booted.rtmrs(), findings)?;
    let configured = opening_rules::configuration(booted, findings)?;
    let opened = opening_rules::open(configured, findings)?;
    report_opened(&opened, report);

    let rooted = record_rules::roots(record, &opened, findings)?;
    record_rules::note(&rooted, &opened, findings)?;
    let chained = chain_rules::chains(&rooted, &opened, claim, options.every_signature, findings)?;
    let Calls { .. } = call_rules::calls(&rooted, claim, findings)?;
    match (&seal, &last) {
        (Some(parsed), Some(quote)) => {
            let sealing = Sealing { seal: &parsed.seal, quote, rtmr3, client_close: chained.close };
            seal_rules::seal(&sealing, &opened, &rooted, findings)?;
            report.reason = Some(parsed.seal.map.reason.to_string());
            report.closed_by = Some(parsed.seal.map.closed_by.to_string());
            report.extent = Some(format!("whole({})", rooted.size()));
        }
        _ => {
            findings.not_evaluated(Rule::R14, "seal", "there is none");
            report.extent = Some(format!("prefix({})", rooted.size()));
        }
    }
    ack_rules::acks(&rooted, &opened, findings)?;
    private_rules::plain(disclosed.as_deref(), &rooted, findings)?;
    private_rules::encrypted(framed, &options.access, &opened, &rooted, findings)?;
    claim_rules::endpoints(framed.endpoints(), findings);
    let named = Receipted {
        final_quote: seal.as_ref().map(|seal| Digest256::of(seal.quote)),
        core_id: framed.scan().core_id(),
    };
    claim_rules::receipt(receipt.as_ref(), &named, &opened, findings)?;
    accept(&opened, &rooted, claim, last.as_ref(), options, findings)?;
    let told = Told { claim, last: last.as_ref(), chained: &chained };
    report.words = spoken(&opened, &rooted, &told, options, findings);
    Ok(())
}

/// R4 for both quotes, each under whichever pinned root it embeds; that they are the same root is R5.
fn judge_quotes(
    opening: &opening_rules::OpeningBytes<'_>,
    seal: Option<&ParsedSeal<'_>>,
    options: &Options,
    findings: &mut Findings,
) -> Result<(VerifiedQuote, Option<VerifiedQuote>), Refused> {
    let anchors = options.policy.as_ref().map_or_else(TrustAnchor::pinned, AppraisalPolicy::anchors);
    let quote = opening_rules::quote;
    let first = quote("opening quote", opening.quote, &opening.collateral, &anchors, Padding::None, findings)?;
    let last = match seal {
        None => None,
        Some(seal) => Some(quote("final quote", seal.quote, &seal.collateral, &anchors, Padding::None, findings)?),
    };
    Ok((first, last))
}

/// The rest of R3, which needs the label: an unknown publisher leaves the truth open only under Intel's root.
fn judge_publisher(attested: &opening_rules::Attested<'_>, findings: &mut Findings) {
    const NAME: &str = "manifest signed by a pinned publisher";
    let signer = attested.opening().envelope.signer();
    match (attested.publisher(), attested.platform()) {
        (Some(publisher), _) => findings.pass(Rule::R3, NAME, publisher.to_string()),
        (None, Platform::Tdx) => findings.missing(Rule::R3, NAME, format!("{signer} is not a pinned publisher")),
        (None, Platform::Simulated) => {
            findings.not_evaluated(
                Rule::R3,
                NAME,
                format!("{signer} is not a pinned publisher; anyone can forge this anyway"),
            );
        }
    }
}

/// The rest of R4: the same quotes and collateral at `at`. Age makes nothing untrue, but nothing is known about now.
fn currency(
    attested: &opening_rules::Attested<'_>,
    last: Option<(&ParsedSeal<'_>, &VerifiedQuote)>,
    at: u64,
    findings: &mut Findings,
) {
    let opening = &attested.opening().bytes;
    let mut quotes = vec![(attested.quote(), opening.quote, &opening.collateral)];
    quotes.extend(last.map(|(seal, quote)| (quote, seal.quote, &seal.collateral)));
    let stale = quotes.into_iter().find_map(|(quote, bytes, collateral)| {
        let refusal = quote.at(bytes, collateral, at).err()?;
        Some(match dates::ended(collateral, at) {
            Some((what, end)) => {
                format!("the bundle's {what} ended {}; --at asks about another time", dates::date(end))
            }
            None => refusal.to_string(),
        })
    });
    let at = dates::date(at);
    match stale {
        None => findings.pass(Rule::R4, "collateral is current", format!("at {at}")),
        Some(why) => findings.unsettled(Rule::R4, "collateral is current", format!("at {at}: {why}")),
    }
}

fn report_opened(opened: &Opened<'_>, report: &mut Report) {
    let opening = opened.opening();
    report.authority = Some(opening.intent.authority.as_str());
    report.session = Some(opening.intent.session.to_string());
    report.instance = Some(opened.instance().to_string());
    report.image = Some(ReportedImage {
        name: format!("{} {}", opening.manifest.name, opening.manifest.version),
        digest: opening.image_digest().to_string(),
        publisher: opened.publisher().map(ToString::to_string),
    });
}

fn accept(
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    claim: Claim,
    last: Option<&VerifiedQuote>,
    options: &Options,
    findings: &mut Findings,
) -> Result<(), ReadError> {
    let expectations: Vec<&Expectations> =
        std::iter::once(&options.expect).chain(options.policy.as_ref().map(|policy| &policy.expect)).collect();
    claim_rules::expectations(&expectations, opened, rooted, last, findings)?;
    appraisal::appraise(&Appraised { opened, claim, last }, options, findings);
    Ok(())
}

/// What the words rest on, beside opening and record.
struct Told<'a> {
    claim: Claim,
    last: Option<&'a VerifiedQuote>,
    chained: &'a Summary,
}

fn spoken(
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    told: &Told<'_>,
    options: &Options,
    findings: &Findings,
) -> Vec<String> {
    let scrub = rooted.scrub().map(|scrub| &scrub.leaf);
    let subject = words::Subject {
        opened,
        last: told.last,
        size: rooted.size(),
        scrub,
        callers: (!findings.has_rejected(Rule::R16)).then_some(&told.chained.callers),
        owner: words::owner(opened, options),
        owner_hello: told.chained.owner_hello,
    };
    words::words(findings.verdict(Some(told.claim)), &subject)
}
