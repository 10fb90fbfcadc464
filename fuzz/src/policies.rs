//! The policy of a session: what is refused has its places, what is accepted keeps what the kernel and the engine say together.

use coffer_policy::{
    AbsolutePath, Access, Action, Ask, Condition, DECISION_RULES_MAX, Decision, Effect, IdentityName, Match, Policy,
    Problem, RULES_MAX, Resource, RuleId, Usage, Why,
};

/// The text of a session's policy.
pub fn session_policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.matches('\n').count() + 1;
    let told = |problem: &Problem| {
        assert!((1..=lines).contains(&problem.place.line) && problem.place.column >= 1, "{problem} is nowhere");
        assert!(!problem.message.is_empty() && !problem.message.contains(char::is_control), "{problem:?}");
    };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(problems) => {
            assert!(problems.iter().next().is_some(), "refused without a reason");
            problems.iter().for_each(told);
            return;
        }
    };
    policy.warnings().iter().for_each(told);
    assert!(policy.rules().len() <= RULES_MAX);
    let mut names: Vec<IdentityName> = policy.identities().keys().take(4).cloned().collect();
    names.push("nobody-else".parse().expect("a name"));
    for name in names {
        for grant in policy.grants(&name) {
            assert!(!grant.access.is_empty(), "an empty grant");
            grant.access.iter().for_each(|access| agreed(&policy, &name, *access, &grant.path));
        }
        for (action, path) in [(Action::FileRead, "/workspace/a"), (Action::Exec, "/usr/bin/git")] {
            let path = path.parse().expect("a path");
            explained(&policy, &ask(&name, action, path));
        }
    }
}

fn ask(name: &IdentityName, action: Action, path: AbsolutePath) -> Ask {
    let resource = match action {
        Action::Exec => Resource::Program(path, vec!["git".into(), "log".into()]),
        _ => Resource::Path(path),
    };
    Ask::new(name.clone(), action, resource, Usage::default()).expect("a resource of the action")
}

fn rule<'p>(policy: &'p Policy, id: &RuleId) -> &'p coffer_policy::Rule {
    policy.rules().iter().find(|rule| rule.id() == id).expect("a decision names rules of its policy")
}

/// What the kernel lets programs do to files, a call may do: but for what is judged when a call begins.
fn agreed(policy: &Policy, name: &IdentityName, access: Access, path: &AbsolutePath) {
    let decision = policy.decide(&ask(name, access.action(), path.clone()));
    match decision {
        Decision::Allowed { .. } => {}
        Decision::Denied { why: Why::NoRule, .. } => {
            assert_eq!(access, Access::Execute, "{path} is granted without a permit that matches");
        }
        Decision::Denied { rules, .. } => {
            let conditional = rules.iter().all(|id| rule(policy, id).condition() == Condition::Some);
            assert!(conditional, "{path} is granted against a forbid without a condition: {rules:?}");
        }
    }
}

/// The explanation is the decision's.
fn explained(policy: &Policy, ask: &Ask) {
    let explanation = policy.explain(ask);
    let decision = policy.decide(ask);
    assert_eq!(explanation.decision, decision);
    assert_eq!(explanation.rules.len(), policy.rules().len());
    let matched = |effect| -> Vec<RuleId> {
        let found = explanation.rules.iter().filter(|rule| rule.effect == effect && rule.found == Match::Matched);
        let mut ids: Vec<RuleId> = found.map(|rule| rule.rule.clone()).collect();
        ids.sort();
        ids.truncate(DECISION_RULES_MAX);
        ids
    };
    match decision {
        Decision::Allowed { rules } => assert!(!rules.is_empty() && rules == matched(Effect::Permit)),
        Decision::Denied { rules, why: Why::NoRule } => assert!(rules.is_empty() && matched(Effect::Permit).is_empty()),
        Decision::Denied { rules, why: Why::Forbidden } => {
            assert!(!rules.is_empty() && rules == matched(Effect::Forbid));
        }
        Decision::Denied { rules, why: Why::RuleFailed } => assert!(!rules.is_empty()),
    }
}
