//! Why a call is allowed or not: each rule, and the first thing in it that did not fit.

use cedar_policy::{self as cedar, Authorizer, Entities, PolicySet, Request};

use crate::ask::Ask;
use crate::decide::Decision;
use crate::names::RuleId;
use crate::parse::Policy;
use crate::problem::{Lines, Place, one_line};
use crate::rules::{Effect, Rule};
use crate::scan::parts;

/// A decision with every rule that was looked at, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was decided.
    pub decision: Decision,
    /// Each rule.
    pub rules: Vec<Explained>,
}

/// One rule, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Which.
    pub rule: RuleId,
    /// What it does when it matches.
    pub effect: Effect,
    /// Where it begins.
    pub place: Place,
    /// Whether it did.
    pub found: Match,
}

/// Whether a rule matched, else the first part of it that did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It did.
    Matched,
    /// It is about another identity.
    Principal,
    /// It is about another action.
    Action,
    /// It is about another resource.
    Resource,
    /// This condition did not hold; those before it did.
    Condition(Clause),
    /// This condition could not be judged: everything is denied.
    Failed(Clause, String),
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// `when` or `unless`.
    pub kind: String,
    /// What stands between its braces, on one line.
    pub text: String,
    /// Where it begins.
    pub place: Place,
}

impl Policy {
    /// Why [`Policy::decide`] decides as it does.
    #[must_use]
    pub fn explain(&self, ask: &Ask) -> Explanation {
        let decision = self.decide(ask);
        let Some(question) = ask.question(self.paths()) else { return Explanation { decision, rules: Vec::new() } };
        let lines = Lines::new(self.text());
        let explained = |rule: &Rule| Explained {
            rule: rule.id.clone(),
            effect: rule.effect,
            place: rule.place,
            found: found(rule, &question, &lines),
        };
        Explanation { decision, rules: self.rules().iter().map(explained).collect() }
    }
}

fn found(rule: &Rule, question: &(Request, Entities), lines: &Lines<'_>) -> Match {
    let parts = parts(&rule.text);
    let text = |range: &std::ops::Range<usize>| rule.text.get(range.clone()).unwrap_or_default();
    let scope = |at: usize| parts.scope.get(at).map_or("", text);
    let heads = [
        (format!("permit ({}, action, resource);", scope(0)), Match::Principal),
        (format!("permit (principal, {}, resource);", scope(1)), Match::Action),
        (format!("permit (principal, action, {});", scope(2)), Match::Resource),
    ];
    for (head, otherwise) in heads {
        if judge(&head, question) != Judged::Holds {
            return otherwise;
        }
    }
    for (kind, body) in &parts.clauses {
        let clause = || Clause {
            kind: text(kind).to_owned(),
            text: one_line(&text(body).split_whitespace().collect::<Vec<_>>().join(" ")),
            place: lines.place(rule.offset.saturating_add(kind.start)),
        };
        match judge(&format!("permit (principal, action, resource) {} {{ {}\n }};", text(kind), text(body)), question) {
            Judged::Holds => {}
            Judged::Not => return Match::Condition(clause()),
            Judged::Failed(why) => return Match::Failed(clause(), one_line(&why)),
        }
    }
    Match::Matched
}

#[derive(PartialEq, Eq)]
enum Judged {
    Holds,
    Not,
    Failed(String),
}

/// Judges a part of a rule by making a rule of it.
fn judge(part: &str, (request, entities): &(Request, Entities)) -> Judged {
    let policy = match cedar::Policy::parse(None, part) {
        Ok(policy) => policy,
        Err(errors) => return Judged::Failed(errors.to_string()),
    };
    let mut set = PolicySet::new();
    if let Err(error) = set.add(policy) {
        return Judged::Failed(error.to_string());
    }
    let response = Authorizer::new().is_authorized(request, &set, entities);
    if let Some(cedar::AuthorizationError::PolicyEvaluationError(error)) = response.diagnostics().errors().next() {
        return Judged::Failed(error.inner().to_string());
    }
    match response.decision() {
        cedar::Decision::Allow => Judged::Holds,
        cedar::Decision::Deny => Judged::Not,
    }
}
