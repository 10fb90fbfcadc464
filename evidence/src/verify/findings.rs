//! The rows of the check table as they are made, and what follows from them: verdict and acceptance.
//!
//! A check on the truth that fails ends the verification: rules after it never read the bytes that it refused, and their rows
//! say so. Nothing else ends it.

use super::report::{Accepted, Check, CheckResult, Concerns, Rule, Verdict};
use crate::bundle::ReadError;

/// A check on the truth failed and is on record: no later rule runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused;

/// Why a rule that reads leaves did not come to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// By a check, which is on record.
    Refused,
    /// By the place that the bundle is read from: nothing is said of the bundle.
    Unread(ReadError),
}

impl From<Refused> for Ended {
    fn from(_: Refused) -> Self {
        Self::Refused
    }
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        Self::Unread(error)
    }
}

/// Whether the bundle claims to be whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    Sealed,
    Aborted,
}

/// The rows made so far.
#[derive(Default, Debug)]
pub(super) struct Findings {
    checks: Vec<Check>,
}

impl Findings {
    fn add(&mut self, rule: Rule, name: &'static str, result: CheckResult, concerns: Concerns, reason: String) {
        self.checks.push(Check { rule, name, result, reason, concerns });
    }

    pub(super) fn pass(&mut self, rule: Rule, name: &'static str, reason: impl Into<String>) {
        self.add(rule, name, CheckResult::Pass, Concerns::Truth, reason.into());
    }

    pub(super) fn not_evaluated(&mut self, rule: Rule, name: &'static str, reason: impl Into<String>) {
        self.add(rule, name, CheckResult::NotEvaluated, Concerns::Truth, reason.into());
    }

    /// Something present is wrong: the bundle is invalid.
    pub(super) fn refuse(&mut self, rule: Rule, name: &'static str, reason: impl Into<String>) -> Refused {
        self.add(rule, name, CheckResult::Fail, Concerns::Truth, reason.into());
        Refused
    }

    /// Something needed is missing: the verdict cannot be told.
    pub(super) fn missing(&mut self, rule: Rule, name: &'static str, reason: impl Into<String>) {
        self.add(rule, name, CheckResult::CannotTell, Concerns::Truth, reason.into());
    }

    /// The policy says no.
    pub(super) fn reject(&mut self, rule: Rule, name: &'static str, reason: impl Into<String>) {
        self.add(rule, name, CheckResult::Fail, Concerns::Policy, reason.into());
    }

    /// The policy cannot tell.
    pub(super) fn unsettled(&mut self, rule: Rule, name: &'static str, reason: impl Into<String>) {
        self.add(rule, name, CheckResult::CannotTell, Concerns::Policy, reason.into());
    }

    /// Records `condition` as a check on the truth.
    pub(super) fn require(
        &mut self,
        rule: Rule,
        name: &'static str,
        condition: Condition,
        reason: impl FnOnce() -> String,
    ) -> Result<(), Refused> {
        match condition {
            Condition::Holds => {
                self.pass(rule, name, "");
                Ok(())
            }
            Condition::Broken => Err(self.refuse(rule, name, reason())),
        }
    }

    /// The check that ended the verification, if one did.
    pub(super) fn refusal(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.result == CheckResult::Fail && check.concerns == Concerns::Truth)
    }

    /// The first check on the truth that lacked something.
    pub(super) fn obstacle(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.result == CheckResult::CannotTell && check.concerns == Concerns::Truth)
    }

    /// Whether a check of this rule found that a policy should say no.
    pub(super) fn has_rejected(&self, rule: Rule) -> bool {
        self.checks.iter().any(|check| check.rule == rule && check.result == CheckResult::Fail)
    }

    fn any(&self, result: CheckResult, concerns: Concerns) -> bool {
        self.checks.iter().any(|check| check.result == result && check.concerns == concerns)
    }

    /// The verdict that follows from the rows.
    pub(super) fn verdict(&self, claim: Option<Claim>) -> Verdict {
        if self.any(CheckResult::Fail, Concerns::Truth) {
            return Verdict::Invalid;
        }
        match claim {
            Some(_) if self.any(CheckResult::CannotTell, Concerns::Truth) => Verdict::Indeterminate,
            Some(Claim::Sealed) => Verdict::Sealed,
            Some(Claim::Aborted) => Verdict::Aborted,
            None => Verdict::Indeterminate,
        }
    }

    /// The acceptance that follows from the rows.
    pub(super) fn accepted(&self, verdict: Verdict) -> Accepted {
        if verdict == Verdict::Invalid || self.any(CheckResult::Fail, Concerns::Policy) {
            Accepted::No
        } else if verdict == Verdict::Indeterminate || self.any(CheckResult::CannotTell, Concerns::Policy) {
            Accepted::CannotTell
        } else {
            Accepted::Yes
        }
    }

    /// All rows in the order of the rules, with one for every rule that was not reached.
    pub(super) fn into_checks(mut self) -> Vec<Check> {
        let refused = self.refusal().map(|check| check.rule);
        for rule in Rule::ALL {
            if self.checks.iter().all(|check| check.rule != rule) {
                let reason = refused.map(|by| format!("{by:?} refused the bundle")).unwrap_or_default();
                self.not_evaluated(rule, rule.title(), reason);
            }
        }
        self.checks.sort_by_key(|check| check.rule);
        self.checks
    }
}

/// The outcome of a comparison, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Holds,
    Broken,
}

impl From<bool> for Condition {
    fn from(holds: bool) -> Self {
        if holds { Condition::Holds } else { Condition::Broken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_found_is_never_sealed() {
        let findings = Findings::default();
        assert_eq!(findings.verdict(None), Verdict::Indeterminate);
        assert_eq!(findings.accepted(Verdict::Indeterminate), Accepted::CannotTell);
    }

    #[test]
    fn truth_decides_the_verdict_and_policy_only_the_acceptance() {
        let mut findings = Findings::default();
        findings.pass(Rule::R1, "a", "");
        assert_eq!(findings.verdict(Some(Claim::Sealed)), Verdict::Sealed);
        assert_eq!(findings.accepted(Verdict::Sealed), Accepted::Yes);
        findings.unsettled(Rule::R19, "b", "");
        assert_eq!(findings.verdict(Some(Claim::Sealed)), Verdict::Sealed);
        assert_eq!(findings.accepted(Verdict::Sealed), Accepted::CannotTell);
        findings.reject(Rule::R19, "c", "");
        assert_eq!(findings.accepted(Verdict::Sealed), Accepted::No);
        findings.missing(Rule::R3, "d", "");
        assert_eq!(findings.verdict(Some(Claim::Sealed)), Verdict::Indeterminate);
        let _ = findings.refuse(Rule::R4, "e", "");
        assert_eq!(findings.verdict(Some(Claim::Sealed)), Verdict::Invalid);
        assert_eq!(findings.accepted(Verdict::Invalid), Accepted::No);
    }

    #[test]
    fn every_rule_has_a_row_and_they_stand_in_order() {
        let mut findings = Findings::default();
        findings.pass(Rule::R5, "late", "");
        let _ = findings.refuse(Rule::R2, "early", "broken");
        let checks = findings.into_checks();
        let rules: Vec<Rule> = checks.iter().map(|check| check.rule).collect();
        assert_eq!(rules, Rule::ALL);
        assert_eq!(checks.last().map(|check| check.reason.as_str()), Some("R2 refused the bundle"));
    }
}
