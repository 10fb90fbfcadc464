//! Decisions at their edges: rules that cannot be judged, many rules, and what an explanation says.

use coffer_policy::{
    Action, Ask, Clause, DECISION_RULES_MAX, Decision, Explanation, Match, Policy, Resource, Usage, Why,
};

fn parse(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn ask(action: Action, resource: &str, argv: &[&str], usage: Usage) -> Ask {
    let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
    Ask::new("a".parse().unwrap(), action, Resource::parse(action, resource, argv).unwrap(), usage).unwrap()
}

fn ids(rules: &[coffer_policy::RuleId]) -> Vec<&str> {
    rules.iter().map(|rule| rule.as_str()).collect()
}

const READ: &str = "@id(\"read\") permit (principal, action == Action::\"file.read\", resource in Path::\"/w\");\n";

#[test]
fn a_rule_that_cannot_be_judged_denies_and_is_named() {
    let text = format!(
        "{READ}@id(\"sum\") forbid (principal, action, resource) when {{ context.input_bytes + context.output_bytes > 9 }};"
    );
    let policy = parse(&text);
    let decide = |usage| policy.decide(&ask(Action::FileRead, "/w/a", &[], usage));
    assert!(matches!(decide(Usage::default()), Decision::Allowed { rules } if ids(&rules) == ["read"]));
    // The sum is larger than a number can be: an engine that skipped the rule would allow.
    let most = Usage { input_bytes: u64::MAX, output_bytes: 1, ..Usage::default() };
    assert!(matches!(decide(most), Decision::Denied { rules, why: Why::RuleFailed } if ids(&rules) == ["sum"]));
    let explained = policy.explain(&ask(Action::FileRead, "/w/a", &[], most));
    assert!(
        matches!(&explained.rules[1].found, Match::Failed(clause, why) if clause.kind == "when" && why.contains("overflow"))
    );
    // A permit that fails denies, too: nobody can say what it would have done.
    let permit = format!(
        "{READ}@id(\"p\") permit (principal, action, resource in Path::\"/w\") when {{ context.calls * 2 > 0 }};"
    );
    let calls = Usage { calls: u64::MAX, ..Usage::default() };
    let decision = parse(&permit).decide(&ask(Action::FileRead, "/w/a", &[], calls));
    assert!(matches!(decision, Decision::Denied { rules, why: Why::RuleFailed } if ids(&rules) == ["p"]));
    // A forbid that matches is the better reason.
    let both = format!("{text}\n@id(\"stop\") forbid (principal, action, resource) when {{ context.calls > 0 }};");
    let decision = parse(&both).decide(&ask(Action::FileRead, "/w/a", &[], Usage { calls: 1, ..most }));
    assert!(matches!(decision, Decision::Denied { rules, why: Why::Forbidden } if ids(&rules) == ["stop"]));
}

#[test]
fn a_decision_names_its_rules_sorted_and_no_more_than_a_leaf_holds() {
    let rule = |n: usize| {
        format!("@id(\"r{n:03}\") permit (principal, action == Action::\"file.read\", resource in Path::\"/w\");\n")
    };
    let text = |n: usize| (0..n).rev().map(rule).collect::<String>();
    for (n, named) in [(1, 1), (DECISION_RULES_MAX, DECISION_RULES_MAX), (DECISION_RULES_MAX + 1, DECISION_RULES_MAX)] {
        let Decision::Allowed { rules } = parse(&text(n)).decide(&ask(Action::FileRead, "/w", &[], Usage::default()))
        else {
            panic!("denied");
        };
        assert!(rules.len() == named && rules.is_sorted() && rules[0].as_str() == "r000");
    }
}

#[test]
fn an_explanation_names_the_first_part_of_each_rule_that_did_not_fit() {
    let text = "@id(\"other\") permit (principal == Identity::\"b\", action, resource);\n\
        @id(\"write\") permit (principal, action in [Action::\"file.write\", Action::\"file.delete\"], resource);\n\
        @id(\"else\") permit (principal, action == Action::\"exec\", resource in Path::\"/opt\");\n\
        @id(\"git\") permit (principal, action == Action::\"exec\", resource == Program::\"/usr/bin/git\")\n\
        when { context.running < 3 } // a comment\n\
        unless { context.argv.contains(\"push\") ||\n   context.argv.contains(\"}\") }\n\
        when { context.first like \"lo*\" };\n\
        @id(\"calls\") forbid (principal, action, resource) when { context.calls >= 2 };";
    let policy = parse(text);
    let explain = |argv: &[&str], calls| -> Explanation {
        policy.explain(&ask(Action::Exec, "/usr/bin/git", argv, Usage { calls, ..Usage::default() }))
    };
    let found = explain(&["git", "log"], 0);
    assert!(matches!(&found.decision, Decision::Allowed { rules } if ids(rules) == ["git"]));
    let clause = |kind: &str, text: &str, line, column| Clause {
        kind: kind.into(),
        text: text.into(),
        place: coffer_policy::Place { line, column },
    };
    let budget = Match::Condition(clause("when", "context.calls >= 2", 9, 51));
    let of = |found: Explanation| found.rules.into_iter().map(|rule| rule.found).collect::<Vec<_>>();
    assert_eq!(of(found), [Match::Principal, Match::Action, Match::Resource, Match::Matched, budget.clone()]);
    let pushed =
        Match::Condition(clause("unless", "context.argv.contains(\"push\") || context.argv.contains(\"}\")", 6, 1));
    assert_eq!(of(explain(&["git", "push"], 0))[3], pushed);
    assert_eq!(
        of(explain(&["git", "tag"], 0))[3],
        Match::Condition(clause("when", "context.first like \"lo*\"", 8, 1))
    );
    let over = explain(&["git", "log"], 2);
    assert!(matches!(&over.decision, Decision::Denied { rules, why: Why::Forbidden } if ids(rules) == ["calls"]));
    assert_eq!(of(over)[4], Match::Matched);
}

#[test]
fn the_context_of_an_exec_is_its_command_line() {
    let policy = parse(
        "@id(\"a\") permit (principal, action == Action::\"exec\", resource in Path::\"/usr\")\n\
         when { context.first == \"b c\" && context.command == \"x b c d\" && context.argv == [\"x\", \"b c\", \"d\"] };",
    );
    let exec = |argv: &[&str]| policy.decide(&ask(Action::Exec, "/usr/bin/x", argv, Usage::default()));
    assert!(matches!(exec(&["x", "b c", "d"]), Decision::Allowed { .. }));
    // The same command as a line, other arguments: why `command` is for patterns and no shell.
    assert!(matches!(exec(&["x", "b", "c", "d"]), Decision::Denied { why: Why::NoRule, .. }));
    let bare =
        parse("@id(\"a\") permit (principal, action == Action::\"exec\", resource) when { context.first == \"\" };");
    for argv in [&["x"][..], &[]] {
        let decision = bare.decide(&ask(Action::Exec, "/usr/bin/x", argv, Usage::default()));
        assert!(matches!(decision, Decision::Allowed { .. }));
    }
}
