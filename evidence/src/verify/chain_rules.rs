//! Rule R12: the call chains. What holds of each leaf is `crate::chain`, which the writer runs too; here its faults become rows.

use super::EverySignature;
use super::findings::{Claim, Ended, Findings, Refused};
use super::opening_rules::Opened;
use super::record_rules::Rooted;
use super::report::Rule;
use crate::chain::{ChainFault, Chains, Concern, Signatures, Summary};
use crate::intent::Authority;

/// R12, in one pass over the leaves.
pub(super) fn chains(
    rooted: &Rooted<'_>,
    opened: &Opened<'_>,
    claim: Claim,
    every: EverySignature,
    findings: &mut Findings,
) -> Result<Summary, Ended> {
    let signatures = match every {
        EverySignature::Yes => Signatures::Every,
        EverySignature::No => Signatures::Last,
    };
    let intent = &opened.opening().intent;
    let mut chains = Chains::new(intent, opened.instance(), signatures);
    rooted.leaves().each(|_, leaf| chains.see(&leaf))?.map_err(|fault| refuse(&fault, findings))?;
    let summary = chains.finish().map_err(|fault| refuse(&fault, findings))?;
    if intent.authority == Authority::Delegated && summary.headers == 0 {
        findings.not_evaluated(Rule::R12, Rule::R12.title(), "no headers: the host ordered these calls");
        return Ok(summary);
    }
    findings.pass(Rule::R12, "call headers in their leaves", format!("{} headers", summary.headers));
    findings.pass(Rule::R12, "chains in order", format!("{} channels", summary.channels));
    judge_owner(&summary, intent.authority, claim, findings);
    findings.pass(Rule::R12, "input under headers", "");
    let verified = format!("{} of {} verified", summary.verified, summary.headers);
    findings.pass(Rule::R12, "header signatures", verified);
    Ok(summary)
}

/// Calls came after the owner's hello, or there are none. Without a hello nobody chose this instance among its twins.
fn judge_owner(summary: &Summary, authority: Authority, claim: Claim, findings: &mut Findings) {
    const NAME: &str = "owner's hello before the first call";
    match (authority, summary.owner_hello, claim) {
        (_, Some(leaf), _) => findings.pass(Rule::R12, NAME, format!("leaf {leaf}")),
        (Authority::Delegated, None, _) => findings.not_evaluated(Rule::R12, NAME, "delegated: none is asked for"),
        (Authority::EndToEnd, None, Claim::Aborted) => {
            findings.not_evaluated(Rule::R12, NAME, "nobody called before the prefix ends");
        }
        (Authority::EndToEnd, None, Claim::Sealed) => {
            findings.reject(
                Rule::R12,
                NAME,
                "the owner never named this instance: it may be a twin of the one that was used",
            );
        }
    }
}

fn refuse(fault: &ChainFault, findings: &mut Findings) -> Refused {
    let reason = fault.to_string();
    match fault.concern() {
        Concern::Place => findings.refuse(Rule::R12, "call headers in their leaves", reason),
        Concern::Order => findings.refuse(Rule::R12, "chains in order", reason),
        Concern::Owner => findings.refuse(Rule::R12, "owner's hello before the first call", reason),
        Concern::Input => findings.refuse(Rule::R12, "input under headers", reason),
        Concern::Signature => findings.refuse(Rule::R12, "header signatures", reason),
    }
}
