//! `coffer policy check`, `explain` and `default`, and what `session create` says of a policy before it sends anything.

use coffer_policy::texts;

use crate::evidence::write;
use crate::fake::Cofferd;
use crate::{code, json, output, stderr, stdout};

#[test]
fn problems_of_a_policy_are_told_with_file_line_and_column() {
    let home = tempfile::tempdir().expect("a directory");
    let text = "permit (principal, action, resource);\n\n  @id(\"b\") permit (principal, action == Action::\"x\", resource);\n";
    let file = write(home.path(), "bad.cedar", text.as_bytes()).display().to_string();
    let refused = output(home.path(), &["policy", "check", &file]);
    assert_eq!((code(&refused), stdout(&refused)), (Some(64), String::new()));
    let lines: Vec<String> = stderr(&refused).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].starts_with(&format!("{file}:1:1: expected `@id")), "{lines:#?}");
    assert!(lines[1].starts_with(&format!("{file}:3:41: rule `b`: unrecognized action")), "{lines:#?}");
    assert!(lines[2].starts_with("coffer: expected a policy, found 2 problems in "), "{lines:#?}");
    let refused = output(home.path(), &["policy", "check", "--json", &file]);
    assert_eq!(code(&refused), Some(64));
    let told = json(&refused);
    assert_eq!((&told["problems"][1]["line"], &told["problems"][1]["column"]), (&3.into(), &41.into()));
    assert_eq!(code(&output(home.path(), &["policy", "check", "/no/such/file"])), Some(74));
    let hostile = write(home.path(), "hostile.cedar", "\u{1b}[2J\u{202e}".as_bytes()).display().to_string();
    let refused = output(home.path(), &["policy", "check", &hostile]);
    assert!(!stderr(&refused).contains(['\u{1b}', '\u{202e}']), "{:?}", stderr(&refused));
}

#[test]
fn a_good_policy_is_summed_up_with_what_it_grants() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "team.cedar", texts::TEAM.as_bytes()).display().to_string();
    let checked = output(home.path(), &["policy", "check", &file]);
    assert_eq!((code(&checked), stderr(&checked)), (Some(0), String::new()));
    let text = stdout(&checked);
    for line in [
        "rules: 13 permit, 4 forbid",
        "identity coder: the kernel lets its processes",
        "  read, write, delete /workspace and all beneath it",
        "  execute /usr/bin/git",
        "every other identity: the kernel lets its processes",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let told = json(&output(home.path(), &["policy", "check", "--json", &file]));
    assert_eq!(told["identities"][2]["name"], "releaser");
    assert_eq!(told["identities"][2]["grants"][0]["reach"], "exact");
    assert_eq!(told["any_other"][0]["access"], serde_json::json!(["read"]));
    assert_eq!(told["digest"].as_str().map(str::len), Some(96));

    let odd = "@id(\"a\") permit (principal == Identity::\"a\", action == Action::\"file\", resource);";
    let file = write(home.path(), "odd.cedar", odd.as_bytes()).display().to_string();
    let checked = output(home.path(), &["policy", "check", &file]);
    assert_eq!(code(&checked), Some(0));
    assert!(stderr(&checked).contains(":1:1: warning: rule `a` can never match"), "{}", stderr(&checked));
    assert!(stderr(&checked).contains("warning: no rule permits `a` anything"), "{}", stderr(&checked));
    assert!(stdout(&checked).contains("identity a: the kernel lets its processes use no file"), "{}", stdout(&checked));
}

#[test]
fn an_explanation_says_which_rule_decides_and_why_the_others_do_not() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "coder.cedar", texts::CODER.as_bytes()).display().to_string();
    let explain =
        |more: &[&str]| output(home.path(), &[&["policy", "explain", &file, "--identity", "coder"][..], more].concat());
    let git = ["--action", "exec", "--resource", "/usr/bin/git", "--argv", "git", "push", "--force"];
    let pushed = explain(&git);
    assert_eq!(code(&pushed), Some(1), "{}", stderr(&pushed));
    let text = stdout(&pushed);
    assert!(text.starts_with("denied: forbidden by `coder-leaves-pushing-to-others`\n"), "{text}");
    assert!(text.contains("permit `coder-runs-installed`, line 6: matches"), "{text}");
    assert!(text.contains("its condition does not hold: when { context.calls >= 2000 }, line "), "{text}");
    assert!(text.contains("permit `coder-edits`, line 3: is about another action"), "{text}");
    let allowed = explain(&["--action", "file.write", "--resource", "/workspace/a", "--calls", "1999"]);
    assert_eq!(code(&allowed), Some(0));
    assert!(stdout(&allowed).starts_with("allowed by `coder-edits`\n"), "{}", stdout(&allowed));
    let budget = explain(&["--json", "--action", "file.write", "--resource", "/workspace/a", "--calls", "2000"]);
    let told = json(&budget);
    assert_eq!((code(&budget), &told["decision"], &told["why"]), (Some(1), &"denied".into(), &"forbidden".into()));
    assert_eq!(told["rules"], serde_json::json!(["coder-calls"]));
    let nothing = explain(&["--action", "net.connect", "--resource", "example.org"]);
    assert!(stdout(&nothing).starts_with("denied: no rule permits it\n"), "{}", stdout(&nothing));
    for wrong in [
        &["--action", "file.reed", "--resource", "/a"][..],
        &["--action", "file.read", "--resource", "a"],
        &["--action", "file.read", "--resource", "/a", "--argv", "x"],
    ] {
        assert_eq!(code(&explain(wrong)), Some(64), "{wrong:?}");
    }
}

#[test]
fn the_default_policy_is_printed_as_it_is_and_is_one() {
    let home = tempfile::tempdir().expect("a directory");
    let printed = output(home.path(), &["policy", "default"]);
    assert_eq!((code(&printed), stdout(&printed).as_str()), (Some(0), texts::DEFAULT));
    let file = write(home.path(), "default.cedar", &printed.stdout).display().to_string();
    assert_eq!(code(&output(home.path(), &["policy", "check", &file])), Some(0));
}

#[test]
fn a_session_is_not_asked_for_with_a_policy_that_is_none_or_of_others() {
    let host = Cofferd::start();
    let bad = write(host.home(), "bad.cedar", b"permit (principal, action, resource);").display().to_string();
    let refused = host.run(&["session", "create", "--policy", &bad]);
    assert_eq!(code(&refused), Some(64), "{}", stderr(&refused));
    assert!(stderr(&refused).contains(&format!("{bad}:1:1: expected `@id")), "{}", stderr(&refused));
    let team = write(host.home(), "team.cedar", texts::TEAM.as_bytes()).display().to_string();
    let refused = host.run(&["session", "create", "--policy", &team, "--identities", "reviewer,default"]);
    assert_eq!(code(&refused), Some(64), "{}", stderr(&refused));
    let told = "expected an identity of this session, `default`, `reviewer`, found `coder`";
    assert!(stderr(&refused).contains(told), "{}", stderr(&refused));
    let refused = host.run(&["session", "create", "--identities", "Not a name"]);
    assert_eq!(code(&refused), Some(64), "{}", stderr(&refused));
    let listed = json(&host.run(&["session", "list", "--all", "--json"]));
    assert_eq!(listed["sessions"], serde_json::json!([]), "nothing was sent");
    let good = write(host.home(), "good.cedar", texts::DEFAULT.as_bytes()).display().to_string();
    assert_eq!(code(&host.run(&["session", "create", "--policy", &good])), Some(0));
}
