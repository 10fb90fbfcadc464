//! What the kernel is told, held against what the engine decides.

use std::collections::BTreeSet;

use coffer_policy::{AbsolutePath, Access, Action, Ask, Decision, Grant, IdentityName, Policy, Reach, Resource, Usage};
use proptest::prelude::*;

fn parse(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn identity(name: &str) -> IdentityName {
    name.parse().unwrap()
}

/// Grants as words: path, `/**` after it when what is beneath is meant, access.
fn grants(policy: &Policy, name: &str) -> Vec<String> {
    policy.grants(&identity(name)).iter().map(shown).collect()
}

fn shown(grant: &Grant) -> String {
    let beneath = if grant.reach == Reach::Beneath { "/**" } else { "" };
    let access: Vec<&str> = grant.access.iter().map(|access| access.as_str()).collect();
    format!("{}{beneath} {}", grant.path.as_str().trim_end_matches('/'), access.join(" "))
}

#[test]
fn grants_come_from_the_scopes_of_permits() {
    let one = |scope: &str| grants(&parse(&format!("@id(\"a\") permit ({scope});")), "a");
    assert_eq!(one("principal, action, resource"), ["/** read write delete execute"]);
    assert_eq!(one("principal is Identity, action, resource is Path"), ["/** read write delete"]);
    assert_eq!(one("principal, action, resource is Program"), ["/** execute"]);
    let me = "principal == Identity::\"a\"";
    assert_eq!(one(&format!("{me}, action, resource in Path::\"/w\"")), ["/w/** read write delete execute"]);
    assert_eq!(
        one(&format!("{me}, action in Action::\"file\", resource in Path::\"/w\"")),
        ["/w/** read write delete"]
    );
    assert_eq!(one(&format!("{me}, action == Action::\"file.read\", resource == Path::\"/w/a\"")), ["/w/a read"]);
    assert_eq!(one(&format!("{me}, action, resource is Path in Path::\"/w\"")), ["/w/** read write delete"]);
    assert_eq!(one(&format!("{me}, action, resource is Program in Path::\"/w\"")), ["/w/** execute"]);
    assert_eq!(one(&format!("{me}, action, resource == Program::\"/usr/bin/git\"")), ["/usr/bin/git execute"]);
    let two = "action in [Action::\"exec\", Action::\"file.delete\", Action::\"git\"]";
    assert_eq!(
        one(&format!("principal in Identity::\"a\", {two}, resource in Path::\"/w\"")),
        ["/w/** delete execute"]
    );
    for nothing in [
        "principal == Identity::\"b\", action, resource",
        "principal, action in Action::\"git\", resource in Path::\"/w\"",
        "principal, action == Action::\"file\", resource in Path::\"/w\"",
        "principal, action, resource == Host::\"x\"",
        "principal, action == Action::\"exec\", resource is Path",
        "principal == Path::\"/a\", action, resource",
    ] {
        assert_eq!(one(nothing), [""; 0], "{nothing}");
    }
}

#[test]
fn a_condition_keeps_file_grants_from_the_kernel_and_leaves_it_execution() {
    let text = "@id(\"a\") permit (principal, action, resource in Path::\"/w\") when { context.calls < 9 };\n\
        @id(\"b\") permit (principal, action == Action::\"exec\", resource == Program::\"/usr/bin/git\")\n\
        unless { context.argv.contains(\"push\") };";
    assert_eq!(grants(&parse(text), "a"), ["/usr/bin/git execute", "/w/** execute"]);
}

#[test]
fn grants_of_one_place_are_one_and_a_forbid_drops_what_it_covers() {
    let permits = "@id(\"a\") permit (principal, action == Action::\"file.read\", resource in Path::\"/w\");\n\
        @id(\"b\") permit (principal == Identity::\"a\", action == Action::\"file.write\", resource in Path::\"/w\");\n\
        @id(\"c\") permit (principal, action == Action::\"file.read\", resource == Path::\"/w\");\n\
        @id(\"d\") permit (principal, action == Action::\"exec\", resource in Path::\"/usr/bin\") when { context.first == \"x\" };\n";
    let with = |rule: &str| parse(&format!("{permits}{rule}"));
    assert_eq!(grants(&with(""), "a"), ["/usr/bin/** execute", "/w read", "/w/** read write"]);
    assert_eq!(grants(&with(""), "b"), ["/usr/bin/** execute", "/w read", "/w/** read"]);
    let less =
        with("@id(\"f\") forbid (principal == Identity::\"b\", action in Action::\"file\", resource in Path::\"/w\");");
    assert_eq!(grants(&less, "a"), ["/usr/bin/** execute", "/w read", "/w/** read write"]);
    assert_eq!(grants(&less, "b"), ["/usr/bin/** execute"]);
    let no_exec = with("@id(\"f\") forbid (principal, action == Action::\"exec\", resource in Path::\"/usr\");");
    assert_eq!(grants(&no_exec, "b"), ["/w read", "/w/** read"]);
    assert_eq!(grants(&with("@id(\"f\") forbid (principal, action, resource);"), "a"), [""; 0]);
    // A budget leaves the kernel as it is.
    let budget = with("@id(\"f\") forbid (principal, action, resource) when { context.calls >= 1 };");
    assert_eq!(grants(&budget, "b"), grants(&with(""), "b"));
}

#[test]
fn the_texts_to_start_from_grant_what_they_say() {
    use coffer_policy::texts;
    assert_eq!(
        grants(&parse(texts::DEFAULT), "default"),
        ["/usr/** execute", "/workspace/** read write delete execute"]
    );
    let team = parse(texts::TEAM);
    assert_eq!(grants(&team, "reader"), ["/workspace/** read"]);
    assert_eq!(
        grants(&team, "coder"),
        ["/usr/** execute", "/workspace/** read write delete", "/workspace/target/** execute"]
    );
    assert_eq!(
        grants(&team, "tester"),
        ["/usr/** execute", "/workspace/** read", "/workspace/target/** write delete execute"]
    );
    assert_eq!(grants(&team, "releaser"), ["/usr/bin/git execute", "/workspace/** read"]);
}

/// Paths of a small tree, so that rules meet.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![Just("a"), Just("b")];
    prop::collection::vec(part, 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn scope_of_resources() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("resource".to_owned()),
        1 => Just("resource is Path".to_owned()),
        1 => Just("resource is Program".to_owned()),
        8 => path().prop_map(|path| format!("resource in Path::\"{path}\"")),
        2 => path().prop_map(|path| format!("resource == Path::\"{path}\"")),
        2 => path().prop_map(|path| format!("resource == Program::\"{path}\"")),
        2 => path().prop_map(|path| format!("resource is Path in Path::\"{path}\"")),
    ]
}

fn scope_of_actions() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("action"),
        Just("action in Action::\"file\""),
        Just("action == Action::\"file.read\""),
        Just("action == Action::\"file.write\""),
        Just("action == Action::\"exec\""),
        Just("action in [Action::\"file.delete\", Action::\"exec\", Action::\"git\"]"),
    ]
}

/// Conditions that every action has the context for, and that hold nowhere, everywhere, or over time.
fn condition() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => Just(""),
        1 => Just(" when { context.calls >= 3 }"),
        1 => Just(" unless { context.calls < 3 }"),
        1 => Just(" when { context.running < 1 }"),
    ]
}

/// One rule without its id. Budgets begin above zero: what a forbid stops from the first call on has no call, and no process.
fn rule() -> impl Strategy<Value = String> {
    let principal =
        prop_oneof![Just("principal"), Just("principal == Identity::\"x\""), Just("principal == Identity::\"y\"")];
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    (effect, principal, scope_of_actions(), scope_of_resources(), condition()).prop_map(
        |(effect, principal, action, resource, condition)| {
            let condition = if effect == "forbid" && condition.contains("running") { "" } else { condition };
            format!("{effect} ({principal}, {action}, {resource}){condition};")
        },
    )
}

fn text(rules: &[String]) -> String {
    rules.iter().enumerate().map(|(n, rule)| format!("@id(\"r{n}\") {rule}\n")).collect()
}

/// Rules that together are a policy: those that it would refuse are left out, one by one.
fn rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule(), 1..8).prop_map(|all| {
        let mut kept = Vec::new();
        for rule in all {
            kept.push(rule);
            if Policy::parse(&text(&kept)).is_err() {
                kept.pop();
            }
        }
        kept
    })
}

fn decide(policy: &Policy, name: &str, action: Action, path: &str) -> Decision {
    let path: AbsolutePath = path.parse().unwrap();
    let resource =
        if action == Action::Exec { Resource::Program(path, vec!["p".into()]) } else { Resource::Path(path) };
    policy.decide(&Ask::new(identity(name), action, resource, Usage::default()).unwrap())
}

/// What each grant allows, one by one.
fn single(policy: &Policy, name: &str) -> BTreeSet<(AbsolutePath, Reach, Access)> {
    let grants = policy.grants(&identity(name));
    grants.into_iter().flat_map(|g| g.access.into_iter().map(move |access| (g.path.clone(), g.reach, access))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_the_kernel_allows_to_files_the_engine_allows_to_calls(rules in rules(), below in path()) {
        let policy = parse(&text(&rules));
        for name in ["x", "y", "z"] {
            for (path, reach, access) in single(&policy, name) {
                if access == Access::Execute {
                    continue;
                }
                let mut places = vec![path.as_str().to_owned()];
                if reach == Reach::Beneath {
                    places.push(format!("{}{below}", path.as_str().trim_end_matches('/')).trim_end_matches('/').to_owned());
                }
                for place in places.iter().filter(|place| !place.is_empty()) {
                    let decision = decide(&policy, name, access.action(), place);
                    prop_assert!(matches!(decision, Decision::Allowed { .. }), "{name} {access:?} {place}: {decision:?}\n{}", text(&rules));
                }
            }
        }
    }

    #[test]
    fn what_the_kernel_executes_by_rules_without_conditions_the_engine_allows(rules in rules(), below in path()) {
        let rules: Vec<String> = rules.into_iter().filter(|rule| rule.starts_with("forbid") || rule.ends_with(");")).collect();
        let policy = parse(&text(&rules));
        for (path, reach, access) in single(&policy, "x") {
            let beneath = format!("{}{below}", path.as_str().trim_end_matches('/'));
            let place = if reach == Reach::Beneath { beneath.trim_end_matches('/') } else { path.as_str() };
            if access == Access::Execute && !place.is_empty() {
                let decision = decide(&policy, "x", Action::Exec, place);
                prop_assert!(matches!(decision, Decision::Allowed { .. }), "{place}: {decision:?}\n{}", text(&rules));
            }
        }
    }

    #[test]
    fn no_grant_is_without_a_permit_of_its_own(rules in rules()) {
        let policy = parse(&text(&rules));
        let permits: Vec<String> = rules.iter().filter(|rule| rule.starts_with("permit")).cloned().collect();
        let given: BTreeSet<_> = permits.iter().flat_map(|one| single(&parse(&text(std::slice::from_ref(one))), "x")).collect();
        prop_assert!(single(&policy, "x").is_subset(&given), "{}", text(&rules));
        // Without conditions, forbids take nothing but whole grants.
        prop_assert_eq!(single(&parse(&text(&permits)), "x"), given);
    }

    #[test]
    fn a_permit_less_is_no_grant_more_and_a_forbid_less_none_beyond_the_permits(rules in rules(), at in any::<prop::sample::Index>()) {
        let mut less = rules.clone();
        let gone = less.remove(at.index(rules.len()));
        let (before, after) = (single(&parse(&text(&rules)), "x"), single(&parse(&text(&less)), "x"));
        if gone.starts_with("permit") {
            prop_assert!(after.is_subset(&before), "{gone}\n{}", text(&rules));
        } else {
            let permits: Vec<String> = rules.iter().filter(|rule| rule.starts_with("permit")).cloned().collect();
            prop_assert!(before.is_subset(&after) && after.is_subset(&single(&parse(&text(&permits)), "x")), "{gone}");
        }
    }

    #[test]
    fn an_explanation_agrees_with_the_decision(rules in rules(), place in path(), calls in 0_u64..5) {
        use coffer_policy::{Effect, Match};
        let policy = parse(&text(&rules));
        for action in [Action::FileRead, Action::FileDelete, Action::Exec, Action::GitAdd] {
            let path: AbsolutePath = place.parse().unwrap();
            let resource = if action == Action::Exec { Resource::Program(path, vec![]) } else { Resource::Path(path) };
            let usage = Usage { calls, ..Usage::default() };
            let explained = policy.explain(&Ask::new(identity("x"), action, resource, usage).unwrap());
            let matched = |effect| -> Vec<_> {
                let rules = explained.rules.iter().filter(|rule| rule.effect == effect && rule.found == Match::Matched);
                rules.map(|rule| rule.rule.clone()).collect()
            };
            let (permits, forbids) = (matched(Effect::Permit), matched(Effect::Forbid));
            match &explained.decision {
                Decision::Allowed { rules } => prop_assert!(*rules == permits && forbids.is_empty()),
                Decision::Denied { rules, .. } => prop_assert!(*rules == forbids && (!forbids.is_empty() || permits.is_empty())),
            }
        }
    }
}
