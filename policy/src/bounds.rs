//! What the kernel could not enforce is refused when a policy is parsed.
//!
//! Landlock only adds: what is given beneath a directory cannot be taken away for a file in it. A forbid that takes a part
//! of a grant would bind the built-in calls and no program, and look as if it bound both.

use crate::action::Action;
use crate::grants::{Given, given, meeting};
use crate::parse::Policy;
use crate::paths::AbsolutePath;
use crate::problem::Problem;
use crate::rules::{Actions, Condition, Effect, Region, Rule, Scope};

/// The forbids that programs could get around.
pub(crate) fn check(policy: &Policy) -> Vec<Problem> {
    let forbids = policy.rules().iter().filter(|rule| rule.effect == Effect::Forbid);
    forbids.filter_map(|forbid| around(policy, forbid)).collect()
}

fn around(policy: &Policy, forbid: &Rule) -> Option<Problem> {
    if forbid.condition == Condition::Some && stops_calls(forbid) {
        return None;
    }
    let permits = policy.rules().iter().filter(|rule| rule.principal.meets(&forbid.principal));
    let mut met = permits.flat_map(|permit| given(permit).map(move |given| (permit, given)));
    let (permit, given) = met.find(|(_, given)| {
        meeting(forbid, given).is_some_and(|region| match forbid.condition {
            Condition::None => !region.covers(&given.region),
            Condition::Some => true,
        })
    })?;
    Some(Problem::new(forbid.place, &words(forbid, permit, &given)))
}

/// Whether a conditional forbid is one of those that are judged when a call begins and leave the kernel out of it: over
/// all actions (a budget) or over the command of an exec, and of no resource in particular.
fn stops_calls(forbid: &Rule) -> bool {
    let budget = forbid.actions == Actions::Any && forbid.resource == Scope::Any;
    let everywhere = Region::Beneath(AbsolutePath::root());
    let command = forbid.resource.region(Action::Exec.kind()) == Some(everywhere)
        && !forbid.reach().any(|action| action.group() == Action::FileRead.group());
    let whole = budget || command;
    whole && !forbid.conditions_name("resource") && !forbid.conditions_name("action")
}

fn words(forbid: &Rule, permit: &Rule, given: &Given) -> String {
    let (verb, path) = (given.access.as_str(), given.region.path());
    let beneath = match given.region {
        Region::Exact(_) => "",
        Region::Beneath(_) => " and all beneath it",
    };
    let why = match forbid.condition {
        Condition::None => "the kernel cannot take a part out of that",
        Condition::Some => "the kernel judges no condition",
    };
    format!(
        "rule `{id}`: programs could still do it: `{permit}` lets them {verb} {path}{beneath}, and {why}; grant narrower \
         paths instead",
        id = forbid.id,
        permit = permit.id,
    )
}
