//! What is refused, where, and in which words; and what is only warned of.

use coffer_policy::{DEPTH_MAX, POLICY_MAX, Policy, Problem, RULE_WORDS_MAX, RULES_MAX};

fn problems(text: &str) -> Vec<String> {
    Policy::parse(text).expect_err("refused").iter().map(ToString::to_string).collect()
}

fn warnings(text: &str) -> Vec<String> {
    let policy = Policy::parse(text).unwrap_or_else(|problems| panic!("{problems}"));
    policy.warnings().iter().map(Problem::to_string).collect()
}

/// One problem, whose place and words begin like this.
fn refused(text: &str, begins: &str) {
    let found = problems(text);
    assert!(found.len() == 1 && found[0].starts_with(begins), "expected {begins}, found {found:#?}");
}

#[test]
fn every_rule_has_an_id_of_its_own_and_no_other_annotation() {
    refused("permit (principal, action, resource);", "1:1: expected `@id(\"…\")` before the rule");
    refused("@id(\"A\") permit (principal, action, resource);", "1:5: expected the id of a rule");
    refused("@id permit (principal, action, resource);", "1:1: expected the id of a rule");
    refused(
        "@id(\"a\")\n@note(\"b\")\npermit (principal, action, resource);",
        "1:1: expected `@id` as the only annotation",
    );
    let twice = "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);";
    refused(twice, "2:5: expected an id of its own for each rule, found `a` again (first at 1:1)");
    refused("@id(\"a\") @id(\"b\") permit (principal, action, resource);", "1:10: duplicate annotation: @id");
}

#[test]
fn what_the_domain_does_not_know_is_refused() {
    let rule = |scope: &str| format!("@id(\"a\")\npermit ({scope});");
    refused(&rule("principal, action == Action::\"file.reed\", resource"), "2:30: rule `a`: unrecognized action");
    refused(&rule("principal == User::\"x\", action, resource"), "2:22: rule `a`: unrecognized entity type `User`");
    refused(&rule("principal, action, resource == File::\"/x\""), "2:40: rule `a`: unrecognized entity type `File`");
    refused(&rule("principal == ?principal, action, resource"), "2:22: expected a static policy, got a template");
    let when = |condition: &str| {
        format!(
            "@id(\"a\") permit (principal, action == Action::\"file.read\", resource in Path::\"/w\")\nwhen {{ {condition} }};"
        )
    };
    refused(&when("context.argv.contains(\"x\")"), "2:8: rule `a`: attribute `argv` in context");
    refused(&when("context.tokens > 3"), "2:8: rule `a`: attribute `tokens` in context");
    refused(&when("principal.name == \"x\""), "2:8: rule `a`: attribute `name` on entity type `Identity` not found");
    refused(&when("context.calls == \"x\""), "2:8: rule `a`: the types Long and String are not compatible");
    refused(&when("context.calls"), "2:8: rule `a`: unexpected type: expected Bool but saw Long");
    refused(&when("context.calls <"), "2:24: unexpected token `}`");
}

#[test]
fn paths_and_names_have_one_form_wherever_they_stand() {
    let scope = |path: &str| {
        format!("@id(\"a\")\npermit (principal, action == Action::\"file.read\", resource in Path::\"{path}\");")
    };
    refused(&scope("/a/"), "2:69: expected a path without `//` and without `/` at its end: write `/a`; found `/a/`");
    refused(&scope("/a/../b"), "2:69: expected a path without `.` and `..`: write `/b`");
    refused(&scope("a"), "2:69: expected an absolute path");
    refused(&scope("/\\0"), "1:1: expected a path without NUL");
    refused(&scope(&format!("/{}", "x".repeat(4095))), "2:69: expected a path of at most 4095 bytes, found 4096");
    assert!(Policy::parse(&scope(&format!("/{}", "x".repeat(4094)))).is_ok());
    let program = "@id(\"a\") permit (principal, action == Action::\"exec\", resource == Program::\"git\");";
    refused(program, "1:76: expected an absolute path");
    let inside = "@id(\"a\") permit (principal, action == Action::\"exec\", resource in Path::\"/usr\")\nwhen { resource in Path::\"/usr/./bin\" };";
    refused(inside, "2:26: expected a path without `.` and `..`: write `/usr/bin`");
    let identity = "@id(\"a\") permit (principal == Identity::\"Coder\", action, resource);";
    refused(identity, "1:41: expected the name of an identity");
    let host = "@id(\"a\") permit (principal, action == Action::\"net.connect\", resource == Host::\"a b\");";
    refused(host, "1:80: expected a name of 1 to 255 bytes");
}

#[test]
fn all_problems_are_told_in_their_order() {
    let text = "permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);\n\
        @id(\"b\") permit (principal, action == Action::\"x\", resource);\n@id(\"c\") permit (;\n@id(\"a\") permit (principal, action, resource)";
    let lines: Vec<String> = problems(text).iter().map(|p| p.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["1", "3", "4", "5"]);
}

#[test]
fn a_forbid_that_programs_could_get_around_is_refused() {
    let given = "@id(\"p\") permit (principal == Identity::\"a\", action in Action::\"file\", resource in Path::\"/w\");\n\
        @id(\"x\") permit (principal, action == Action::\"exec\", resource in Path::\"/usr\") when { context.first == \"y\" };\n";
    let with = |rule: &str| format!("{given}@id(\"f\") forbid {rule};");
    let around = "3:1: rule `f`: programs could still do it";
    for bad in [
        // A part of a grant.
        "(principal, action == Action::\"file.write\", resource in Path::\"/w/secret\")",
        "(principal == Identity::\"a\", action in Action::\"file\", resource == Path::\"/w/secret\")",
        "(principal, action == Action::\"file.read\", resource == Path::\"/w\")",
        "(principal, action, resource in Path::\"/w/secret\")",
        "(principal, action == Action::\"exec\", resource == Program::\"/usr/bin/curl\")",
        "(principal, action, resource == Program::\"/usr/bin/curl\")",
        // A condition that the kernel does not judge.
        "(principal, action == Action::\"file.write\", resource in Path::\"/w\") when { context.calls > 5 }",
        "(principal, action in Action::\"file\", resource) when { context.calls > 5 }",
        "(principal, action, resource is Path) when { context.calls > 5 }",
        "(principal, action == Action::\"exec\", resource == Program::\"/usr/bin/git\") when { context.first == \"push\" }",
        "(principal, action in [Action::\"exec\", Action::\"file.read\"], resource) when { context.calls > 5 }",
        // The same in the clothes of a budget.
        "(principal, action, resource) when { resource == Path::\"/w/secret\" }",
        "(principal, action, resource) unless { action == Action::\"exec\" }",
        "(principal, action == Action::\"exec\", resource) when { resource == Program::\"/usr/bin/curl\" }",
    ] {
        refused(&with(bad), around);
    }
    assert!(
        problems(&with("(principal, action == Action::\"file.write\", resource in Path::\"/w/secret\")"))[0]
            .ends_with("grant narrower paths instead")
    );
    for good in [
        // Budgets, and conditions on the command of a call.
        "(principal, action, resource) when { context.calls > 5 }",
        "(principal == Identity::\"a\", action, resource) unless { context.running < 3 && principal == Identity::\"a\" }",
        "(principal, action == Action::\"exec\", resource) when { context.argv.contains(\"--force\") }",
        "(principal, action, resource is Program) when { context.command like \"rm *\" }",
        "(principal, action in [Action::\"exec\", Action::\"git.push\"], resource) when { context.calls > 3 }",
        // All of a grant, or of several.
        "(principal, action, resource)",
        "(principal, action == Action::\"file.write\", resource in Path::\"/w\")",
        "(principal, action in Action::\"file\", resource)",
        "(principal == Identity::\"a\", action == Action::\"exec\", resource)",
        // What meets no grant.
        "(principal == Identity::\"b\", action == Action::\"file.write\", resource in Path::\"/w/secret\")",
        "(principal, action == Action::\"file.write\", resource in Path::\"/v\") when { context.calls > 5 }",
        "(principal, action in Action::\"git\", resource in Path::\"/w/repo\")",
        "(principal, action == Action::\"net.connect\", resource == Host::\"x\") when { context.calls > 1 }",
    ] {
        Policy::parse(&with(good)).unwrap_or_else(|problems| panic!("{good}: {problems}"));
    }
}

#[test]
fn rules_words_depth_and_bytes_end_at_their_limits() {
    let rules = |n: usize| -> String {
        (0..n)
            .map(|n| {
                format!(
                    "@id(\"r{n}\") permit (principal, action == Action::\"file.read\", resource in Path::\"/{n}\");\n"
                )
            })
            .collect()
    };
    assert_eq!(Policy::parse(&rules(RULES_MAX)).unwrap().rules().len(), RULES_MAX);
    refused(&rules(RULES_MAX + 1), "257:1: expected at most 256 rules");

    // 30 words, and two for each element but the last.
    let words = |elements: usize| {
        let set = vec!["1"; elements].join(",");
        format!(
            "@id(\"a\") permit (principal, action, resource in Path::\"/w\") when {{ [{set}].contains(context.calls) }};"
        )
    };
    let fit = (RULE_WORDS_MAX - 30) / 2;
    Policy::parse(&words(fit)).unwrap();
    refused(&words(fit + 1), "1:1: expected a rule of at most 4096 words, found 4");
    let many: String = (0..9).map(|n| words(fit - 9).replacen("\"a\"", &format!("\"a{n}\""), 1)).collect();
    assert!(problems(&many)[0].contains("expected at most 32768 words in all rules"));

    let space = " ".repeat(POLICY_MAX - rules(1).len());
    Policy::parse(&(rules(1) + &space)).unwrap();
    refused(&(rules(1) + &space + " "), "1:1: expected a policy of at most 131072 bytes, found 131073");
}

/// In a thread of its own, with the stack that [`DEPTH_MAX`] is made for.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(1024 * 1024).spawn(work).unwrap().join().unwrap();
}

#[test]
fn the_deepest_rule_is_still_judged_by_schema_and_engine_and_a_deeper_one_is_refused() {
    use coffer_policy::{Action, Ask, Decision, Resource, Usage};
    // Left, repeated, middle, repeated: all of type Bool, true where nothing is counted, but for the last three.
    let shapes: [(&str, &str, &str, Option<&str>); 7] = [
        ("true || ", "context.calls == 0", "", None),
        ("context.calls == 0 && ", "true", "", None),
        ("1 + ", "context.calls > 0", "", None),
        ("if true then true else ", "true", "", None),
        ("", "context", ".calls", Some("unexpected type")),
        ("", "context", "[\"a\"]", Some("attribute `a` in context")),
        ("[", "1", "]", Some("unexpected type: expected Bool")),
    ];
    for (left, middle, right, wrong) in shapes {
        on_a_small_stack(move || {
            let text = |n: usize| {
                let scope = "principal, action == Action::\"file.read\", resource in Path::\"/w\"";
                format!("@id(\"a\") permit ({scope}) when {{ {}{middle}{} }};", left.repeat(n), right.repeat(n))
            };
            let too_deep = |n: usize| {
                Policy::parse(&text(n)).is_err_and(|p| p.to_string().contains("deep (operators in a row and brackets"))
            };
            let most = (1..=DEPTH_MAX).rev().find(|n| !too_deep(*n)).unwrap();
            assert!(most >= DEPTH_MAX / 5 && too_deep(most + 1), "{left}{right}");
            match (Policy::parse(&text(most)), wrong) {
                (Ok(policy), None) => {
                    let path = Resource::Path("/w/a".parse().unwrap());
                    let ask = Ask::new("a".parse().unwrap(), Action::FileRead, path, Usage::default()).unwrap();
                    assert!(matches!(policy.decide(&ask), Decision::Allowed { .. }), "{left}");
                }
                (Err(problems), Some(wrong)) => assert!(problems.to_string().contains(wrong), "{problems}"),
                (found, _) => panic!("{left}{right}: {found:?}"),
            }
        });
    }
}

#[test]
fn garbage_is_refused_with_a_place() {
    for text in [
        "hello",
        ";",
        " ; ; ",
        "\"",
        "permit",
        "{{{{",
        "))))",
        "\u{feff}",
        "@",
        "@id(\"a\") permit (principal, action, resource)",
        "permit\0",
    ] {
        assert!(problems(text).iter().all(|problem| problem.starts_with("1:")), "{text}");
    }
    for hostile in ["(", "[", "{", "\"", "if ", "a.", "@id(", "\\", "//", "::"] {
        on_a_small_stack(move || drop(Policy::parse(&hostile.repeat(POLICY_MAX / hostile.len()))));
    }
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    assert_eq!(warnings(""), ["1:1: no rule permits anything: every call is denied"]);
    assert_eq!(
        warnings("@id(\"f\") forbid (principal, action, resource);"),
        ["1:1: no rule permits anything: every call is denied"]
    );
    let never = "@id(\"a\") permit (principal, action == Action::\"file\", resource);";
    assert!(warnings(never)[0].starts_with("1:1: rule `a` can never match"));
    let nobody = "@id(\"a\") permit (principal == Identity::\"a\", action, resource);\n\
        @id(\"b\") forbid (principal == Identity::\"b\", action, resource) when { context.calls > 1 };";
    assert_eq!(warnings(nobody), ["2:41: no rule permits `b` anything: its calls are all denied"]);
    let beaten = "@id(\"a\") permit (principal, action == Action::\"file.read\", resource in Path::\"/w/a\");\n\
        @id(\"b\") forbid (principal, action in Action::\"file\", resource in Path::\"/w\");";
    assert_eq!(warnings(beaten), ["1:1: rule `a` never allows anything: `b` forbids all of it"]);
    let wide = "@id(\"a\") permit (principal, action == Action::\"exec\", resource) when { context.first == \"x\" };";
    assert!(warnings(wide)[0].starts_with("1:1: rule `a` lets the kernel execute every file"));
}
