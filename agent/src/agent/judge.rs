//! What a call is judged by: what its request means in the words of the policy, the decision, and what its client hears
//! of a denial.

use super::errors::Reason;
use super::session::{Allowed, Session};
use crate::fixed;
use crate::init::command;
use coffer_evidence::call::Request;
use coffer_evidence::git::{Branch, GitOrder};
use coffer_evidence::ids::Identity;
use coffer_evidence::leaf::RULES_MAX;
use coffer_policy::{AbsolutePath, Action, Ask, Decision, IdentityName, Policy, Resource, RuleId, Why};
use std::sync::Arc;
use tonic::Status;

/// Where a program would stand that is nowhere on the search path: a call for it is judged, too, before it fails.
const PROGRAMS: &str = "/usr/bin";
/// Rules and bytes of a resource that a denial tells; it travels in a header of bounded size.
const RULES_TOLD: usize = 8;
const RESOURCE_TOLD: usize = 256;

/// The session's policy, which the notary found to be the one that the intent names.
pub(super) fn policy(text: &[u8]) -> Result<Policy, String> {
    let text = str::from_utf8(text).map_err(|error| format!("expected a policy in UTF-8: {error}"))?;
    Policy::parse(text).map_err(|problems| {
        let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
        format!("expected a policy without problems (`coffer policy check` shows all), found at {first}")
    })
}

/// What a request asks for, and of what: one thing, but for a move, which is two.
pub(super) fn resources(request: &Request) -> Result<Vec<(Action, Resource)>, Status> {
    match request {
        Request::Move { path, destination, .. } => {
            Ok(vec![file(Action::FileDelete, path)?, file(Action::FileWrite, destination)?])
        }
        Request::Git { path, order } => git(path, order),
        _ => Ok(vec![resource(request)?]),
    }
}

/// A git call is its own action and one on the files that it reads or changes. The name of a remote is its absolute path: what a
/// repository calls it is for whoever writes the repository's configuration to say.
fn git(path: &str, order: &GitOrder) -> Result<Vec<(Action, Resource)>, Status> {
    let on = |action, access| Ok(vec![file(action, path)?, file(access, path)?]);
    let from = |action, remote: &str, reads, writes| {
        let name = beneath(fixed::WORKSPACE, remote)?;
        let remote_is = Resource::parse(action, name.as_str(), Vec::new()).map_err(|_| {
            let text = "expected the path of a remote of at most 255 bytes without spaces, found another";
            Reason::InvalidArgument.status(text)
        })?;
        Ok(vec![(action, remote_is), file(Action::FileRead, reads)?, file(Action::FileWrite, writes)?])
    };
    match order {
        GitOrder::Status => on(Action::GitStatus, Action::FileRead),
        GitOrder::Diff { .. } => on(Action::GitDiff, Action::FileRead),
        GitOrder::Log { .. } => on(Action::GitLog, Action::FileRead),
        GitOrder::Add { .. } => on(Action::GitAdd, Action::FileWrite),
        GitOrder::Commit { .. } => on(Action::GitCommit, Action::FileWrite),
        GitOrder::Branch(Branch::List) => on(Action::GitBranch, Action::FileRead),
        GitOrder::Branch(Branch::Create { .. } | Branch::Switch { .. } | Branch::Delete { .. }) => {
            on(Action::GitBranch, Action::FileWrite)
        }
        GitOrder::Fetch { remote, .. } => from(Action::GitFetch, remote, remote, path),
        GitOrder::Push { remote, .. } => from(Action::GitPush, remote, path, remote),
    }
}

fn resource(request: &Request) -> Result<(Action, Resource), Status> {
    match request {
        Request::Exec { argv, cwd, .. } => {
            let name = argv.first().map_or("", String::as_str);
            Ok((Action::Exec, Resource::Program(program(name, cwd)?, argv.clone())))
        }
        Request::WriteFile { path, .. } | Request::Upload { path } | Request::MakeDirectory { path, .. } => {
            file(Action::FileWrite, path)
        }
        Request::ReadFile { path, .. }
        | Request::ListDirectory { path, .. }
        | Request::Stat { path }
        | Request::Download { path }
        | Request::Watch { path, .. } => file(Action::FileRead, path),
        Request::Remove { path, .. } | Request::Move { path, .. } => file(Action::FileDelete, path),
        // Never alone.
        Request::Git { path, .. } => file(Action::GitStatus, path),
    }
}

/// Links on the way are not followed here: the kernel's grants hold for the file that is reached.
fn file(action: Action, path: &str) -> Result<(Action, Resource), Status> {
    Ok((action, Resource::Path(beneath(fixed::WORKSPACE, path)?)))
}

/// The file that init will execute, by its own path where this process can find it, else by its text. What happens to links
/// between now and then, the kernel's grants judge again.
fn program(name: &str, cwd: &str) -> Result<AbsolutePath, Status> {
    let named = match command::resolve(name) {
        Ok(path) if path.contains('/') => beneath(beneath(fixed::WORKSPACE, cwd)?.as_str(), &path)?,
        Ok(_) | Err(_) => beneath(PROGRAMS, name)?,
    };
    // Followed as the kernel would follow it: `..` after a link is not what the text says.
    let found = match (name.starts_with('/'), name.contains('/')) {
        (true, _) => std::fs::canonicalize(name),
        (false, true) => std::fs::canonicalize(format!("{}/{cwd}/{name}", fixed::WORKSPACE)),
        (false, false) => std::fs::canonicalize(named.as_str()),
    };
    let found = found.ok().and_then(|path| path.to_str().map(str::to_owned));
    found.map_or(Ok(named), |path| beneath("/", &path))
}

fn beneath(base: &str, path: &str) -> Result<AbsolutePath, Status> {
    let joined = AbsolutePath::root().join(base).and_then(|base| base.join(path));
    joined.map_err(|error| Reason::InvalidArgument.status(format!("the path of the call: {error}")))
}

/// A call that the policy does not allow.
pub(super) struct Denied {
    /// The rules that deny it, for the log; none when it is only that nothing allows it.
    pub(super) rules: Vec<String>,
    /// For the client.
    pub(super) status: Status,
}

/// Decides by the counters of this moment, and counts what is allowed in the same moment: of two calls that would each be
/// the last one of a budget, one is.
pub(super) fn decide(
    session: &Arc<Session>,
    identity: &Identity,
    judged: Vec<(Action, Resource)>,
) -> Result<(Allowed, Vec<String>), Denied> {
    let inside = |error: String| Denied { rules: Vec::new(), status: Reason::Internal.status(error) };
    let name: IdentityName = identity.to_string().parse().map_err(|_| inside("an identity without a name".into()))?;
    let mut counters = session.counters();
    let mut allowing = Vec::new();
    for (action, resource) in judged {
        let ask =
            Ask::new(name.clone(), action, resource, counters.of(&name)).map_err(|error| inside(error.to_string()))?;
        match session.policy.decide(&ask) {
            Decision::Allowed { rules } => allowing.extend(texts(&rules)),
            Decision::Denied { rules, why } => return Err(denied(&name, &ask, &rules, why)),
        }
    }
    allowing.sort_unstable();
    allowing.dedup();
    allowing.truncate(RULES_MAX);
    counters.began(&name);
    drop(counters);
    Ok((Allowed::new(session.clone(), name), allowing))
}

fn texts(rules: &[RuleId]) -> Vec<String> {
    rules.iter().map(ToString::to_string).collect()
}

fn denied(identity: &IdentityName, ask: &Ask, rules: &[RuleId], why: Why) -> Denied {
    let resource = ask.resource();
    let cut = &resource[..resource.floor_char_boundary(RESOURCE_TOLD)];
    let more = if cut.len() < resource.len() { "…" } else { "" };
    let mut named: Vec<String> = rules.iter().take(RULES_TOLD).map(|rule| format!("`{rule}`")).collect();
    if rules.len() > RULES_TOLD {
        named.push("…".to_owned());
    }
    let by = named.join(", ");
    let said = match why {
        Why::NoRule => "no rule of the session's policy permits it".to_owned(),
        Why::Forbidden => format!("the session's policy forbids it by {by}"),
        Why::RuleFailed => format!("of the session's policy {by} cannot be judged, and then nothing is allowed"),
    };
    let text = format!(
        "expected a call that is permitted, found {} on {cut}{more} by {identity}: {said}; `coffer policy explain FILE --identity {identity} --action {} --resource …` \
         shows why",
        ask.action(),
        ask.action()
    );
    Denied { rules: texts(rules), status: Reason::PolicyDenied.status(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::call::{Above, Reach, Taken};
    use coffer_policy::Usage;
    use std::collections::BTreeMap;

    fn exec(argv: &[&str], cwd: &str) -> (Action, Resource) {
        let request = Request::Exec {
            argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
            cwd: cwd.into(),
            env: BTreeMap::new(),
            timeout_ms: 1,
            grace_ms: 1,
            output_bytes_max: 1,
            terminal: None,
        };
        resource(&request).unwrap()
    }

    fn program_of(argv: &[&str], cwd: &str) -> String {
        match exec(argv, cwd) {
            (Action::Exec, Resource::Program(path, arguments)) => {
                assert_eq!(arguments, argv);
                path.as_str().to_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_program_is_judged_by_the_file_that_links_lead_to() {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        for name in ["sh", "/bin/sh", "/usr/bin/../bin/sh", "../bin/sh", "../usr/bin/./sh"] {
            // Without a workspace on this machine, the text of a relative name stands for itself.
            let found = program_of(&[name, "-c", "true"], "");
            let text = ["/bin/sh", "/usr/bin/sh"].contains(&found.as_str());
            assert!(found == shell.to_str().unwrap() || (text && name.starts_with("..")), "{name}: {found}");
        }
        assert_eq!(program_of(&["no-such-program"], ""), "/usr/bin/no-such-program");
        assert_eq!(program_of(&["./no-such"], "a/b"), "/workspace/a/b/no-such");
        assert_eq!(program_of(&["/no/../such"], "a"), "/such");
    }

    fn listing(path: String) -> Request {
        Request::ListDirectory { path, depth: None, page_token: None, page_size: None }
    }

    #[test]
    fn a_file_operation_is_judged_by_its_path_beneath_the_workspace() {
        let path = || "a/b".to_owned();
        let read = Request::ReadFile { path: path(), offset: 0, length: 0 };
        let rows = [
            (Request::WriteFile { path: path(), mode: 0, if_match: None }, Action::FileWrite),
            (Request::Upload { path: path() }, Action::FileWrite),
            (read, Action::FileRead),
            (listing(path()), Action::FileRead),
            (Request::Remove { path: path(), reach: Reach::Tree }, Action::FileDelete),
            (Request::MakeDirectory { path: path(), mode: 0, above: Above::Made }, Action::FileWrite),
            (Request::Watch { path: path(), reach: Reach::One, timeout_ms: 1 }, Action::FileRead),
            (Request::Stat { path: path() }, Action::FileRead),
            (Request::Download { path: path() }, Action::FileRead),
        ];
        for (request, expected) in rows {
            let path = "/workspace/a/b".parse().unwrap();
            assert_eq!(resource(&request).unwrap(), (expected, Resource::Path(path)));
        }
        let workspace = Resource::Path("/workspace".parse().unwrap());
        assert_eq!(resource(&listing(String::new())).unwrap().1, workspace);
        let moved = Request::Move { path: path(), destination: "/c".into(), taken: Taken::Refuse };
        let both = resources(&moved).unwrap();
        assert_eq!(both[0], (Action::FileDelete, Resource::Path("/workspace/a/b".parse().unwrap())));
        assert_eq!(both[1], (Action::FileWrite, Resource::Path("/c".parse().unwrap())));
        // The longest path that the API takes is one that can be judged.
        let longest = "x".repeat(super::super::limits::PATH_MAX - 1);
        assert!(resource(&Request::Stat { path: longest }).is_ok());
    }

    #[test]
    fn a_git_call_is_judged_by_its_action_and_by_the_files_that_it_uses() {
        let judged = |order| -> Vec<String> {
            let found = resources(&Request::Git { path: "repo".into(), order }).unwrap();
            let told = |(action, resource)| match resource {
                Resource::Path(path) => format!("{action} {path}"),
                Resource::Named(name) => format!("{action} {name}"),
                Resource::Program(..) => unreachable!(),
            };
            found.into_iter().map(told).collect()
        };
        let (name, at) = (|| "main".to_owned(), None);
        let read = |action: &str| [format!("git.{action} /workspace/repo"), "file.read /workspace/repo".to_owned()];
        let write = |action: &str| [format!("git.{action} /workspace/repo"), "file.write /workspace/repo".to_owned()];
        assert_eq!(judged(GitOrder::Status), read("status"));
        assert_eq!(judged(GitOrder::Log { revision: None, count: None, paths: Vec::new() }), read("log"));
        assert_eq!(judged(GitOrder::Add { paths: Vec::new() }), write("add"));
        let author = coffer_evidence::git::Person::new("a", "b").unwrap();
        assert_eq!(judged(GitOrder::Commit { message: name(), author }), write("commit"));
        assert_eq!(judged(GitOrder::Branch(Branch::List)), read("branch"));
        assert_eq!(judged(GitOrder::Branch(Branch::Create { name: name(), at })), write("branch"));
        assert_eq!(
            judged(GitOrder::Fetch { remote: "up.git".into(), branch: None }),
            ["git.fetch /workspace/up.git", "file.read /workspace/up.git", "file.write /workspace/repo"]
        );
        assert_eq!(
            judged(GitOrder::Push { remote: "/up.git".into(), branch: name() }),
            ["git.push /up.git", "file.read /workspace/repo", "file.write /up.git"]
        );
        let spaced = GitOrder::Push { remote: "a b".into(), branch: name() };
        assert!(resources(&Request::Git { path: "repo".into(), order: spaced }).is_err());
    }

    #[test]
    fn a_denial_names_rules_and_the_way_to_find_out_and_stays_small() {
        let long = Resource::Path(AbsolutePath::root().join(&"ä".repeat(4000)).unwrap());
        let ask = Ask::new("coder".parse().unwrap(), Action::FileRead, long, Usage::default()).unwrap();
        let rules: Vec<RuleId> = (0..64).map(|n| format!("r{n}").parse().unwrap()).collect();
        let of = |rules: &[RuleId], why| denied(&"coder".parse().unwrap(), &ask, rules, why);
        let many = of(&rules, Why::Forbidden);
        assert_eq!(many.rules.len(), 64);
        assert_eq!(many.status.code(), tonic::Code::PermissionDenied);
        let text = many.status.message();
        assert!(
            text.contains("permitted, found file.read on /ää") && text.contains("by `r0`, `r1`") && text.len() < 1024
        );
        assert!(text.contains("coffer policy explain FILE --identity coder --action file.read"), "{text}");
        let none = of(&[], Why::NoRule);
        assert!(none.rules.is_empty() && none.status.message().contains("no rule of the session's policy permits it"));
        let failed = of(&rules[..1], Why::RuleFailed);
        assert!(failed.status.message().contains("`r0` cannot be judged"));
    }

    #[test]
    fn a_policy_that_is_none_is_told_by_its_first_problem() {
        assert!(policy(coffer_policy::texts::DEFAULT.as_bytes()).is_ok());
        assert!(policy(b"\xff").unwrap_err().starts_with("expected a policy in UTF-8"));
        assert!(
            policy(b"\n\npermit (principal, action, resource);").unwrap_err().contains("found at 3:1: expected `@id")
        );
    }
}
