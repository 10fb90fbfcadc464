//! Rules R17 and R18: the host's receipt, and what the user expected.

use super::endorsed::VerifiedQuote;
use super::findings::{Findings, Refused};
use super::opening_rules::Opened;
use super::policy::Expectations;
use super::record_rules::Rooted;
use super::report::Rule;
use crate::bundle::ReadError;
use crate::ids::Digest256;
use crate::note::open_note;
use crate::receipt::Receipt;

/// What the receipt must name.
pub(super) struct Receipted {
    pub(super) final_quote: Option<Digest256>,
    pub(super) core_id: Digest256,
}

/// R17, the first half.
pub(super) fn endpoints(words: &'static str, findings: &mut Findings) {
    findings.not_evaluated(Rule::R17, "endpoint evidence", words);
}

/// R17. A receipt is a claim of the host: it never raises a verdict, but a false one is not let pass.
pub(super) fn receipt(
    receipt: Option<&Receipt>,
    named: &Receipted,
    opened: &Opened<'_>,
    findings: &mut Findings,
) -> Result<(), Refused> {
    const NAME: &str = "host receipt (claim)";
    let Some(receipt) = receipt else {
        findings.not_evaluated(Rule::R17, NAME, "there is none");
        return Ok(());
    };
    let same = receipt.session == opened.opening().intent.session
        && receipt.instance == opened.instance()
        && receipt.final_quote == named.final_quote
        && receipt.core_id == named.core_id;
    if !same {
        let reason = "the receipt is for another session, instance, final quote or bundle";
        return Err(findings.refuse(Rule::R17, NAME, reason));
    }
    findings.pass(Rule::R17, NAME, format!("the host says it did {} steps", receipt.steps.len()));
    Ok(())
}

/// R18. Expectations of the command line and of the policy hold together.
pub(super) fn expectations(
    all: &[&Expectations],
    opened: &Opened<'_>,
    rooted: &Rooted<'_>,
    last: Option<&VerifiedQuote>,
    findings: &mut Findings,
) -> Result<(), ReadError> {
    let mut any = false;
    let mut judge = |name: &'static str, expected: String, found: String| {
        any = true;
        if expected == found {
            findings.pass(Rule::R18, name, "");
        } else {
            findings.reject(Rule::R18, name, format!("expected {expected}, found {found}"));
        }
    };
    let intent = &opened.opening().intent;
    for expect in all {
        if let Some(session) = &expect.session {
            judge("expected session", session.to_string(), intent.session.to_string());
        }
        if let Some(owner) = &expect.owner {
            judge("expected owner", owner.to_string(), intent.owner.to_string());
        }
        if let Some(instance) = &expect.instance {
            judge("expected instance", instance.to_string(), opened.instance().to_string());
        }
        if let Some(note) = &expect.seen_note {
            judge("seen note", "a log that extends it".to_owned(), seen(note, opened, rooted)?);
        }
    }
    // R6 has found all registers but RTMR3 the same in both quotes.
    let quote = last.unwrap_or_else(|| opened.quote()).quote();
    let registers: Vec<_> = all.iter().flat_map(|expect| &expect.registers).collect();
    if !registers.is_empty() {
        any = true;
        match registers.iter().find_map(|expected| expected.judge(quote).err()) {
            None => findings.pass(Rule::R18, "expected registers", ""),
            Some(why) => findings.reject(Rule::R18, "expected registers", why),
        }
    }
    if !any {
        findings.not_evaluated(Rule::R18, "expectations", "none were given");
    }
    Ok(())
}

fn seen(note: &str, opened: &Opened<'_>, rooted: &Rooted<'_>) -> Result<String, ReadError> {
    let opening = opened.opening();
    Ok(match open_note(note, &opening.open.log_key, &opening.intent.origin()) {
        Err(error) => format!("a note that is not this log's: {error}"),
        Ok(checkpoint) => match rooted.root_at(checkpoint.size)? {
            None => format!("{} leaves, the note covers {}", rooted.size(), checkpoint.size),
            Some(root) if root == checkpoint.root => "a log that extends it".to_owned(),
            Some(_) => format!("another history within the first {} leaves", checkpoint.size),
        },
    })
}
