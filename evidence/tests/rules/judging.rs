//! How the tests of this binary ask the verifier, and what they insist on in its answer.

use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::verify::{
    AcceptSimulated, Accepted, AppraisalPolicy, CheckResult, Options, Report, Rule, Verdict, verify_bundle,
};

use crate::session::{AT, Ending, Recipe, parts, sealed};

pub(crate) fn options() -> Options {
    Options { at: AT, accept_simulated: AcceptSimulated::Yes, ..Options::default() }
}

pub(crate) fn with_policy(text: &str) -> Options {
    Options { policy: Some(AppraisalPolicy::parse(text).expect("a policy")), ..options() }
}

pub(crate) fn verify(recipe: &Recipe) -> Report {
    verify_bundle(&sealed(recipe), &options())
}

pub(crate) fn verify_parts(parts: &Parts) -> Report {
    verify_bundle(&bundle::write(parts), &options())
}

/// The one check that decided, by rule and name.
pub(crate) fn decided(report: &Report) -> Vec<(Rule, &'static str)> {
    report.obstacles().map(|check| (check.rule, check.name)).collect()
}

#[track_caller]
pub(crate) fn refused(report: &Report, rule: Rule, name: &str) {
    assert_eq!(report.verdict, Verdict::Invalid, "{}", report.human());
    assert_eq!(report.accepted, Accepted::No);
    assert_eq!(report.exit_code(), 1);
    let found = decided(report);
    assert!(
        matches!(found.as_slice(), [(r, n)] if *r == rule && *n == name),
        "expected {rule:?} {name}: {found:?}\n{}",
        report.human()
    );
    let later = report.checks.iter().filter(|check| check.rule > rule);
    assert!(
        later.into_iter().all(|check| check.result == CheckResult::NotEvaluated),
        "a rule after {rule:?} was evaluated"
    );
}

#[track_caller]
pub(crate) fn unaccepted(report: &Report, verdict: Verdict, accepted: Accepted, name: &str) {
    assert_eq!((report.verdict, report.accepted), (verdict, accepted), "{}", report.human());
    let found = decided(report);
    assert!(found.iter().any(|(_, found)| *found == name), "expected {name}: {found:?}");
}

pub(crate) fn sealed_parts() -> Parts {
    parts(&Recipe::default(), Ending::Sealed)
}
