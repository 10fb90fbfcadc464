//! What is right by the language, but probably not what was meant.

use crate::action::Action;
use crate::parse::Policy;
use crate::paths::AbsolutePath;
use crate::problem::{Place, Problem};
use crate::rules::{Condition, Effect, Region, Rule};

pub(crate) fn of(policy: &Policy) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let permits = || policy.rules().iter().filter(|rule| rule.effect == Effect::Permit);
    if permits().next().is_none() {
        let place = policy.rules().first().map_or(Place { line: 1, column: 1 }, |rule| rule.place);
        warnings.push(Problem::new(place, "no rule permits anything: every call is denied"));
        return warnings;
    }
    for (identity, place) in policy.identities() {
        if !permits().any(|rule| rule.principal.is(identity) && rule.reach().next().is_some()) {
            warnings.push(Problem::new(
                *place,
                &format!("no rule permits `{identity}` anything: its calls are all denied"),
            ));
        }
    }
    for rule in permits() {
        if let Some(forbid) = policy.rules().iter().find(|other| always_beats(other, rule)) {
            let (id, by) = (&rule.id, &forbid.id);
            warnings.push(Problem::new(
                rule.place,
                &format!("rule `{id}` never allows anything: `{by}` forbids all of it"),
            ));
        }
        if widely_executes(rule) {
            let id = &rule.id;
            let message = format!(
                "rule `{id}` lets the kernel execute every file: its condition binds the call's own program and nothing that \
                 this runs; name paths in its scope"
            );
            warnings.push(Problem::new(rule.place, &message));
        }
    }
    warnings
}

/// Whether the forbid stands against everything that the permit could allow.
fn always_beats(forbid: &Rule, permit: &Rule) -> bool {
    let covers = |action: Action| {
        let (kind, includes) = (action.kind(), forbid.actions.includes(action));
        let all = match (forbid.resource.region(kind), permit.resource.region(kind)) {
            (Some(forbidden), Some(permitted)) => forbidden.covers(&permitted),
            _ => forbid.resource == permit.resource || forbid.resource == crate::rules::Scope::Any,
        };
        includes && all
    };
    forbid.effect == Effect::Forbid
        && forbid.condition == Condition::None
        && forbid.principal.covers(&permit.principal)
        && permit.reach().next().is_some()
        && permit.reach().all(covers)
}

/// Whether a conditional permit gives the whole tree to execute.
fn widely_executes(rule: &Rule) -> bool {
    let everything = Region::Beneath(AbsolutePath::root());
    rule.condition == Condition::Some
        && rule.actions.includes(Action::Exec)
        && rule.resource.region(Action::Exec.kind()) == Some(everything)
}
