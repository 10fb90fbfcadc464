//! What a git call may ask for: from the message to the typed request that is logged. Nothing that comes out of here can be taken
//! for an option of git.

use super::errors::Reason;
use super::limits;
use crate::tool::GIT_REQUEST_MAX;
use coffer_evidence::call::Request;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{Branch, GitOrder, MESSAGE_MAX, Person, Side};
use coffer_proto::guest::v1 as pb;
use pb::git_branch::Change;
use pb::git_request::Operation;
use tonic::Status;

/// Paths of one call.
const PATHS_MAX: usize = 1024;
/// Bytes of a revision.
const REVISION_MAX: usize = 256;
/// Bytes of the name of a branch.
const BRANCH_MAX: usize = 200;

fn invalid(text: impl Into<String>) -> Status {
    Reason::InvalidArgument.status(text)
}

/// The request, and the paths that it names.
pub(super) fn request(path: &str, operation: Option<Operation>) -> Result<(Request, Vec<String>), Status> {
    let path = limits::path(path)?;
    let order = order(operation.ok_or_else(|| invalid("expected one of the operations of git, found none"))?)?;
    let mut named = vec![path.clone()];
    if let GitOrder::Fetch { remote, .. } | GitOrder::Push { remote, .. } = &order {
        named.push(remote.clone());
    }
    let request = Request::Git { path, order };
    let bytes = request.to_bytes().len();
    if bytes > GIT_REQUEST_MAX {
        return Err(Reason::LimitExceeded.status(format!(
            "expected a git call of at most {GIT_REQUEST_MAX} bytes, found {bytes}; name fewer paths at once"
        )));
    }
    Ok((request, named))
}

fn order(operation: Operation) -> Result<GitOrder, Status> {
    Ok(match operation {
        Operation::Status(pb::GitStatus {}) => GitOrder::Status,
        Operation::Diff(pb::GitDiff { staged, revision, paths: named }) => GitOrder::Diff {
            side: if staged { Side::Staged } else { Side::WorkTree },
            revision: optional_revision(revision)?,
            paths: paths(&named)?,
        },
        Operation::Log(pb::GitLog { revision, count, paths: named }) => GitOrder::Log {
            revision: optional_revision(revision)?,
            count: (count > 0).then_some(count),
            paths: paths(&named)?,
        },
        Operation::Add(pb::GitAdd { paths: named }) if named.is_empty() => {
            return Err(invalid("expected at least one path to add, found none; `.` is all"));
        }
        Operation::Add(pb::GitAdd { paths: named }) => GitOrder::Add { paths: paths(&named)? },
        Operation::Commit(pb::GitCommit { message, author_name, author_email }) => {
            let author = Person::new(author_name, author_email).map_err(|error| invalid(error.to_string()))?;
            GitOrder::Commit { message: checked_message(message)?, author }
        }
        Operation::Branch(pb::GitBranch { change: None }) => GitOrder::Branch(Branch::List),
        Operation::Branch(pb::GitBranch { change: Some(change) }) => GitOrder::Branch(match change {
            Change::Create(pb::GitBranchCreate { name, revision }) => {
                Branch::Create { name: branch(name)?, at: optional_revision(revision)? }
            }
            Change::Switch(name) => Branch::Switch { name: branch(name)? },
            Change::Delete(name) => Branch::Delete { name: branch(name)? },
        }),
        Operation::Fetch(pb::GitFetch { remote, branch: name }) => GitOrder::Fetch {
            remote: limits::file_path(&remote)?,
            branch: if name.is_empty() { None } else { Some(branch(name)?) },
        },
        Operation::Push(pb::GitPush { remote, branch: name }) => {
            GitOrder::Push { remote: limits::file_path(&remote)?, branch: branch(name)? }
        }
    })
}

fn checked_message(message: String) -> Result<String, Status> {
    // With the line feed that may be added.
    if message.len() >= MESSAGE_MAX {
        let found = message.len();
        return Err(Reason::LimitExceeded
            .status(format!("expected a message of less than {MESSAGE_MAX} bytes, found {found}; shorten it")));
    }
    if message.trim().is_empty() || message.contains('\0') {
        return Err(invalid("expected a message that says something, without NUL, found another"));
    }
    Ok(message)
}

/// Relative to the repository; the whole of it is `.`.
fn paths(named: &[String]) -> Result<Vec<String>, Status> {
    if named.len() > PATHS_MAX {
        let found = named.len();
        return Err(Reason::LimitExceeded
            .status(format!("expected at most {PATHS_MAX} paths, found {found}; name fewer at once")));
    }
    let one = |named: &String| match limits::path(named)? {
        path if path.starts_with('/') => {
            Err(invalid("expected paths relative to the repository, found an absolute one"))
        }
        path if path.is_empty() => Ok(".".to_owned()),
        path => Ok(path),
    };
    named.iter().map(one).collect()
}

fn optional_revision(text: String) -> Result<Option<String>, Status> {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    match text.len() {
        0 => Ok(None),
        1..=REVISION_MAX if !text.starts_with('-') && !text.contains(odd) => Ok(Some(text)),
        _ => Err(invalid(format!(
            "expected a revision of at most {REVISION_MAX} bytes without spaces that does not begin with `-`, found another"
        ))),
    }
}

/// As git itself names branches.
fn branch(name: String) -> Result<String, Status> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let fits = name.len() <= BRANCH_MAX
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !name.contains(odd)
        && !name.contains("..")
        && !name.contains("@{")
        && !matches!(name.as_str(), "@" | "HEAD")
        && name.split('/').all(part);
    if fits {
        return Ok(name);
    }
    Err(invalid(format!(
        "expected the name of a branch as git takes it, of at most {BRANCH_MAX} bytes, like `main` or `topic/one`, found another"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_git_could_take_for_something_else_is_refused() {
        for name in [
            "",
            "-f",
            "--upload-pack=x",
            "a b",
            "a..b",
            "a~1",
            "a:b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "@",
            "HEAD",
            "a@{1}",
            "a\0",
            "a\n",
            "*",
        ] {
            assert!(branch(name.to_owned()).is_err(), "{name:?}");
        }
        for name in ["main", "topic/one", "v1.0", "ä", &"a".repeat(BRANCH_MAX)] {
            assert!(branch(name.to_owned()).is_ok(), "{name:?}");
        }
        assert!(branch("a".repeat(BRANCH_MAX + 1)).is_err());
        for text in ["-x", "--all", "a b", "a\tb", &"a".repeat(REVISION_MAX + 1)] {
            assert!(optional_revision(text.to_owned()).is_err(), "{text:?}");
        }
        for text in ["HEAD~2", "main..topic", "v1^{tree}", ":1:a", &"a".repeat(REVISION_MAX)] {
            assert_eq!(optional_revision(text.to_owned()).unwrap().as_deref(), Some(text));
        }
        for path in ["/etc", "../a", "a/../../b", "a\0"] {
            assert!(paths(&[path.to_owned()]).is_err(), "{path:?}");
        }
        assert_eq!(paths(&[".".into(), "-a".into(), "./a//b".into()]).unwrap(), [".", "-a", "a/b"]);
        assert!(paths(&vec!["a".into(); PATHS_MAX]).is_ok() && paths(&vec!["a".into(); PATHS_MAX + 1]).is_err());
    }

    #[test]
    fn a_call_has_one_operation_and_a_size() {
        assert!(request("repo", None).is_err());
        let fetch = pb::GitFetch { remote: "./up.git".into(), branch: String::new() };
        let (asked, named) = request("./repo/", Some(Operation::Fetch(fetch))).unwrap();
        let order = GitOrder::Fetch { remote: "up.git".into(), branch: None };
        assert_eq!((asked, named), (Request::Git { path: "repo".into(), order }, vec!["repo".into(), "up.git".into()]));
        let add = |paths| Some(Operation::Add(pb::GitAdd { paths }));
        assert!(request("", add(Vec::new())).is_err());
        let large = request("", add(vec!["a".repeat(4000); 16])).unwrap_err();
        assert!(large.message().starts_with("LIMIT_EXCEEDED: "), "{large:?}");
        let commit = |message: &str, name: &str| {
            let (message, author_name, author_email) = (message.to_owned(), name.to_owned(), "a@b".to_owned());
            request("", Some(Operation::Commit(pb::GitCommit { message, author_name, author_email })))
        };
        assert!(commit("hello", "Ada").is_ok() && commit(&"a".repeat(MESSAGE_MAX - 1), "Ada").is_ok());
        for (message, name) in [("", "Ada"), (" \n", "Ada"), ("a\0", "Ada"), ("hello", ""), ("hello", "A <b>")] {
            assert!(commit(message, name).is_err(), "{message:?} {name:?}");
        }
        assert!(commit(&"a".repeat(MESSAGE_MAX), "Ada").is_err());
    }

    proptest! {
        #[test]
        fn nothing_that_is_taken_begins_like_an_option(text: String) {
            if let Ok(name) = branch(text.clone()) {
                prop_assert!(!name.starts_with('-') && !name.contains(' '));
            }
            if let Ok(Some(revision)) = optional_revision(text) {
                prop_assert!(!revision.starts_with('-'));
            }
        }
    }
}
