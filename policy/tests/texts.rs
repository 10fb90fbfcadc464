//! The policies that people start from: who may do what by them, and which rules say so.

use coffer_policy::{Action, Ask, Decision, Policy, Resource, Usage, Why, texts};

/// Identity, action, resource, arguments, counters; then what is decided and by which rules.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str], Usage, Said, &'static [&'static str]);

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Said {
    Yes,
    No(Why),
}

use Said::{No, Yes};
use Why::{Forbidden, NoRule};

const NEW: Usage = Usage { calls: 0, running: 0, seconds: 0, input_bytes: 0, output_bytes: 0 };

fn hold(text: &str, rows: &[Row]) {
    let policy = Policy::parse(text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(policy.warnings(), [], "a text to start from warns of nothing");
    for (identity, action, resource, argv, usage, said, rules) in rows {
        let action: Action = action.parse().unwrap();
        let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
        let resource = Resource::parse(action, resource, argv).unwrap();
        let ask = Ask::new(identity.parse().unwrap(), action, resource, *usage).unwrap();
        let (found, by) = match policy.decide(&ask) {
            Decision::Allowed { rules } => (Yes, rules),
            Decision::Denied { rules, why } => (No(why), rules),
        };
        let by: Vec<&str> = by.iter().map(|rule| rule.as_str()).collect();
        assert_eq!((found, by.as_slice()), (*said, *rules), "{ask:?}");
    }
}

#[test]
fn the_default_policy_lets_an_agent_work_in_the_workspace_and_nowhere_else() {
    hold(
        texts::DEFAULT,
        &[
            ("default", "exec", "/usr/bin/git", &["git", "status"], NEW, Yes, &["run-installed"]),
            ("default", "exec", "/usr/local/bin/x", &["x"], NEW, Yes, &["run-installed"]),
            ("default", "exec", "/workspace/run", &["./run"], NEW, Yes, &["run-own"]),
            ("default", "exec", "/opt/x", &["x"], NEW, No(NoRule), &[]),
            ("default", "file.read", "/workspace/a/b", &[], NEW, Yes, &["work-on-files"]),
            ("default", "file.write", "/workspace", &[], NEW, Yes, &["work-on-files"]),
            ("default", "file.delete", "/workspace/a", &[], NEW, Yes, &["work-on-files"]),
            ("default", "file.read", "/workspaces", &[], NEW, No(NoRule), &[]),
            ("default", "file.read", "/etc/passwd", &[], NEW, No(NoRule), &[]),
            ("default", "git.commit", "/workspace/repo", &[], NEW, Yes, &["use-git"]),
            ("default", "git.push", "origin", &[], NEW, No(NoRule), &[]),
            ("default", "net.connect", "example.org", &[], NEW, No(NoRule), &[]),
            ("default", "model.invoke", "m", &[], NEW, No(NoRule), &[]),
            ("default", "secret.use", "s", &[], NEW, No(NoRule), &[]),
            ("other", "file.read", "/workspace/a", &[], NEW, No(NoRule), &[]),
        ],
    );
}

#[test]
fn the_reader_looks_within_its_budgets() {
    let calls = |calls| Usage { calls, ..NEW };
    let output = |output_bytes| Usage { output_bytes, ..NEW };
    hold(
        texts::READER,
        &[
            ("reader", "file.read", "/workspace/a", &[], calls(499), Yes, &["reader-reads"]),
            ("reader", "file.read", "/workspace/a", &[], calls(500), No(Forbidden), &["reader-calls"]),
            ("reader", "file.read", "/workspace/a", &[], output(67_108_863), Yes, &["reader-reads"]),
            ("reader", "file.read", "/workspace/a", &[], output(67_108_864), No(Forbidden), &["reader-output"]),
            (
                "reader",
                "git.log",
                "/workspace",
                &[],
                Usage { calls: u64::MAX, ..output(u64::MAX) },
                No(Forbidden),
                &["reader-calls", "reader-output"],
            ),
            ("reader", "git.log", "/workspace", &[], NEW, Yes, &["reader-looks-at-history"]),
            ("reader", "git.add", "/workspace", &[], NEW, No(NoRule), &[]),
            ("reader", "file.write", "/workspace/a", &[], NEW, No(NoRule), &[]),
            ("reader", "exec", "/usr/bin/cat", &["cat"], NEW, No(NoRule), &[]),
        ],
    );
}

#[test]
fn the_coder_writes_and_runs_and_does_not_push_by_its_own_command() {
    let at = |calls, running, seconds| Usage { calls, running, seconds, ..NEW };
    hold(
        texts::CODER,
        &[
            ("coder", "file.write", "/workspace/src/a", &[], NEW, Yes, &["coder-edits"]),
            ("coder", "exec", "/usr/bin/cargo", &["cargo", "test"], at(1999, 7, 3599), Yes, &["coder-runs-installed"]),
            ("coder", "exec", "/workspace/target/app", &["app"], NEW, Yes, &["coder-runs-built"]),
            ("coder", "exec", "/workspace/src/app", &["app"], NEW, No(NoRule), &[]),
            (
                "coder",
                "exec",
                "/usr/bin/git",
                &["git", "push", "origin"],
                NEW,
                No(Forbidden),
                &["coder-leaves-pushing-to-others"],
            ),
            ("coder", "exec", "/usr/bin/git", &["git", "commit"], NEW, Yes, &["coder-runs-installed"]),
            // What the text says of it: the command line of the call, and not what that runs.
            ("coder", "exec", "/usr/bin/dash", &["sh", "-c", "git push"], NEW, Yes, &["coder-runs-installed"]),
            ("coder", "file.read", "/workspace/a", &[], at(2000, 0, 0), No(Forbidden), &["coder-calls"]),
            ("coder", "file.read", "/workspace/a", &[], at(0, 8, 0), No(Forbidden), &["coder-at-once"]),
            ("coder", "file.read", "/workspace/a", &[], at(0, 0, 3600), No(Forbidden), &["coder-time"]),
            ("coder", "git.branch", "/workspace", &[], NEW, Yes, &["coder-commits"]),
            ("coder", "git.fetch", "origin", &[], NEW, No(NoRule), &[]),
        ],
    );
}

#[test]
fn the_tester_writes_where_builds_go() {
    let seconds = |seconds| Usage { seconds, ..NEW };
    hold(
        texts::TESTER,
        &[
            ("tester", "file.read", "/workspace/src/a", &[], NEW, Yes, &["tester-reads"]),
            ("tester", "file.write", "/workspace/target/a", &[], NEW, Yes, &["tester-writes-builds"]),
            ("tester", "file.write", "/workspace/src/a", &[], NEW, No(NoRule), &[]),
            ("tester", "file.delete", "/workspace/src/a", &[], NEW, No(NoRule), &[]),
            ("tester", "exec", "/usr/bin/make", &["make"], seconds(7199), Yes, &["tester-runs-installed"]),
            ("tester", "exec", "/workspace/target/t", &["t"], seconds(7200), No(Forbidden), &["tester-time"]),
            ("tester", "git.diff", "/workspace", &[], NEW, Yes, &["tester-sees-changes"]),
            ("tester", "git.commit", "/workspace", &[], NEW, No(NoRule), &[]),
        ],
    );
}

#[test]
fn the_releaser_has_one_of_each() {
    hold(
        texts::RELEASER,
        &[
            ("releaser", "exec", "/usr/bin/git", &["git", "log"], NEW, Yes, &["releaser-runs-git"]),
            ("releaser", "exec", "/usr/bin/git", &["git", "push"], NEW, No(NoRule), &[]),
            ("releaser", "exec", "/usr/bin/git", &["git", "log", "--exec-path"], NEW, No(NoRule), &[]),
            ("releaser", "exec", "/usr/bin/git", &["git"], NEW, No(NoRule), &[]),
            ("releaser", "exec", "/usr/bin/dash", &["sh", "log"], NEW, No(NoRule), &[]),
            ("releaser", "git.push", "origin", &[], NEW, Yes, &["releaser-pushes"]),
            ("releaser", "git.push", "elsewhere", &[], NEW, No(NoRule), &[]),
            ("releaser", "git.diff", "/workspace", &[], NEW, Yes, &["releaser-looks-at-history"]),
            ("releaser", "net.connect", "git.example.org", &[], NEW, Yes, &["releaser-connects"]),
            ("releaser", "net.connect", "example.org", &[], NEW, No(NoRule), &[]),
            ("releaser", "secret.use", "release-token", &[], NEW, Yes, &["releaser-uses-token"]),
            ("releaser", "file.read", "/workspace/a", &[], NEW, Yes, &["releaser-reads"]),
            ("releaser", "git.push", "origin", &[], Usage { calls: 50, ..NEW }, No(Forbidden), &["releaser-calls"]),
        ],
    );
}

#[test]
fn in_a_team_each_has_its_own() {
    let calls = |calls| Usage { calls, ..NEW };
    hold(
        texts::TEAM,
        &[
            ("reader", "file.read", "/workspace/a", &[], NEW, Yes, &["all-read"]),
            ("reader", "file.write", "/workspace/a", &[], NEW, No(NoRule), &[]),
            ("reader", "exec", "/usr/bin/cat", &["cat"], NEW, No(NoRule), &[]),
            ("reader", "file.read", "/workspace/a", &[], calls(500), No(Forbidden), &["reader-calls"]),
            ("coder", "file.read", "/workspace/a", &[], calls(500), Yes, &["all-read"]),
            ("coder", "file.write", "/workspace/a", &[], NEW, Yes, &["coder-edits"]),
            ("coder", "exec", "/usr/bin/cargo", &["cargo"], NEW, Yes, &["coder-runs-installed"]),
            ("coder", "git.commit", "/workspace", &[], NEW, Yes, &["coder-commits"]),
            ("coder", "git.push", "origin", &[], NEW, No(NoRule), &[]),
            ("tester", "exec", "/workspace/target/t", &["t"], NEW, Yes, &["tester-runs-built"]),
            ("tester", "file.write", "/workspace/target/t", &[], NEW, Yes, &["tester-writes-builds"]),
            ("tester", "file.write", "/workspace/src/a", &[], NEW, No(NoRule), &[]),
            ("tester", "git.commit", "/workspace", &[], NEW, No(NoRule), &[]),
            ("releaser", "git.push", "origin", &[], NEW, Yes, &["releaser-pushes"]),
            ("releaser", "exec", "/usr/bin/git", &["git", "tag"], NEW, Yes, &["releaser-runs-git"]),
            ("releaser", "exec", "/usr/bin/dash", &["sh"], NEW, No(NoRule), &[]),
            ("releaser", "secret.use", "release-token", &[], NEW, Yes, &["releaser-uses-token"]),
            ("releaser", "net.connect", "git.example.org", &[], NEW, Yes, &["releaser-connects"]),
            ("coder", "file.read", "/workspace/a", &[], Usage { running: 16, ..NEW }, No(Forbidden), &["all-at-once"]),
            ("stranger", "file.read", "/workspace/a", &[], NEW, Yes, &["all-read"]),
            ("stranger", "file.write", "/workspace/a", &[], NEW, No(NoRule), &[]),
        ],
    );
    let policy = Policy::parse(texts::TEAM).unwrap();
    let names: Vec<String> = policy.identities().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["coder", "reader", "releaser", "tester"]);
}
