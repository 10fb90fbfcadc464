//! One encoding of each form of a request, and those that are older than some of their keys.

use coffer_evidence::call::{Above, IfMatch, Reach, Request, Taken};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{Branch, GitOrder, Person, Side};
use coffer_evidence::ids::Digest256;

use crate::samples::{Entry, reads, request_on_a_terminal};

fn path() -> String {
    "notes.txt".to_owned()
}

pub(crate) fn entries() -> Vec<Entry> {
    let if_match = Some(IfMatch::Content(Digest256::of(b"old")));
    let (page_token, page_size) = (Some("6e6f746573".to_owned()), Some(100));
    let git = |order| Request::Git { path: "repo".to_owned(), order };
    let text = |text: &str| text.to_owned();
    let (paths, revision) = (|| vec![text("src")], || Some(text("main")));
    let author = Person::new("Ada L.", "ada@example.org").expect("a person");
    [
        ("request-exec", request_on_a_terminal()),
        ("request-write", Request::WriteFile { path: path(), mode: 0o644, if_match }),
        ("request-read", Request::ReadFile { path: path(), offset: 0, length: 9 }),
        ("request-list", Request::ListDirectory { path: "src".to_owned(), depth: Some(64), page_token, page_size }),
        ("request-path", Request::Stat { path: path() }),
        ("request-remove", Request::Remove { path: path(), reach: Reach::Tree }),
        ("request-move", Request::Move { path: path(), destination: "old.txt".to_owned(), taken: Taken::Replace }),
        ("request-make", Request::MakeDirectory { path: "a/b".to_owned(), mode: 0o755, above: Above::Made }),
        ("request-watch", Request::Watch { path: "src".to_owned(), reach: Reach::Tree, timeout_ms: 60_000 }),
        ("request-git-status", git(GitOrder::Status)),
        ("request-git-diff", git(GitOrder::Diff { side: Side::Staged, revision: revision(), paths: paths() })),
        ("request-git-log", git(GitOrder::Log { revision: revision(), count: Some(10), paths: paths() })),
        ("request-git-add", git(GitOrder::Add { paths: paths() })),
        ("request-git-commit", git(GitOrder::Commit { message: text("Say hello\n"), author })),
        ("request-git-branches", git(GitOrder::Branch(Branch::List))),
        ("request-git-create", git(GitOrder::Branch(Branch::Create { name: text("topic"), at: revision() }))),
        ("request-git-branch", git(GitOrder::Branch(Branch::Switch { name: text("topic") }))),
        ("request-git-fetch", git(GitOrder::Fetch { remote: text("up.git"), branch: revision() })),
        ("request-git-push", git(GitOrder::Push { remote: text("up.git"), branch: text("main") })),
    ]
    .map(|(form, request)| {
        let reader: fn(&[u8]) -> bool = reads::<Request>;
        (form, "request", request.to_bytes(), Some(reader))
    })
    .to_vec()
}

#[test]
fn a_request_without_the_newer_keys_is_the_bytes_that_it_always_was() {
    let write = Request::WriteFile { path: path(), mode: 0o644, if_match: None };
    let list = Request::ListDirectory { path: path(), depth: None, page_token: None, page_size: None };
    for (request, bytes) in [(write, "a3010208696e6f7465732e747874091901a4"), (list, "a2010408696e6f7465732e747874")] {
        assert_eq!(hex::encode(request.to_bytes()), bytes);
        assert_eq!(Request::parse(&hex::decode(bytes).expect("hex")), Ok(request));
    }
}

#[test]
fn what_must_be_there_is_a_digest_or_nothing_and_a_flag_is_that_of_its_method() {
    let absent = Request::WriteFile { path: path(), mode: 0o644, if_match: Some(IfMatch::Nothing) };
    assert_eq!(hex::encode(absent.to_bytes()), "a4010208696e6f7465732e747874091901a40f00");
    assert_eq!(Request::parse(&absent.to_bytes()), Ok(absent));
    for (bytes, why) in [
        ("a4010208696e6f7465732e747874091901a40f01", "a number that is not 0"),
        ("a4010208696e6f7465732e747874091901a40f40", "an empty digest"),
        ("a3010808696e6f7465732e7478741102", "the flag of another method"),
        ("a3010808696e6f7465732e7478741100", "a flag that is none"),
        ("a3010508696e6f7465732e7478741101", "a flag where there is none"),
        ("a3010508696e6f7465732e7478740c02", "a depth where there is none"),
    ] {
        assert!(Request::parse(&hex::decode(bytes).expect("hex")).is_err(), "{why}");
    }
}
