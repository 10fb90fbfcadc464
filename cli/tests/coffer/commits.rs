//! `coffer evidence verify-commit` on commits and bundles made here, and `coffer session git` against a `cofferd` that is acted.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coffer_evidence::bundle::{self, Parts};
use coffer_evidence::call::{IntentPrivate, OutcomePrivate, Request};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::git::{Commit, GitOrder, ObjectId, Person, SignedCommit, Stamp};
use coffer_evidence::leaf::{CauseClass, Leaf, Method, Opened, Public};
use ed25519_dalek::SigningKey;

use crate::evidence::write;
use crate::fake::Cofferd;
use crate::session::{AT, Ending, Recipe, key, parts};
use crate::{code, json, output, stderr, stdout};

fn author() -> Person {
    Person::new("Ada L.", "ada@example.org").expect("a person")
}

/// The commit of the session, of a tree with nothing in it.
fn made() -> Commit {
    let tree: ObjectId = "4b825dc642cb6eb9a060e54bf8d69288fbee4904".parse().expect("an id");
    let stamp = Stamp { person: author(), seconds: 1_790_000_000, zone: 0 };
    Commit { tree, parents: Vec::new(), author: stamp.clone(), committer: stamp, message: "Say hello\n".to_owned() }
}

/// The git key of the fixtures.
fn git_key() -> SigningKey {
    key(4)
}

fn private_intent() -> Opened {
    let order = GitOrder::Commit { message: "Say hello".to_owned(), author: author() };
    let request = Request::Git { path: "repo".to_owned(), order }.to_bytes();
    let private = IntentPrivate { client_salt: [1; 32], request, program: None, paths: vec!["repo".to_owned()] };
    Opened { salt: [2; 32], bytes: private.to_bytes() }
}

fn private_outcome() -> Opened {
    let commit = Some(made().sign(&git_key()).id());
    let private = OutcomePrivate { commit, ..OutcomePrivate::new(CauseClass::Completed) };
    Opened { salt: [3; 32], bytes: private.to_bytes() }
}

/// The first call of the fixtures becomes the one that committed.
fn with_commit(leaves: &mut [Leaf]) {
    for (leaf, private) in leaves.iter_mut().skip(1).zip([private_intent(), private_outcome()]) {
        match &mut leaf.public {
            Public::Intent { method, .. } | Public::Outcome { method, .. } => *method = Method::Git,
            other => panic!("expected the leaves of a call, found {other:?}"),
        }
        leaf.commitment = Some(private.commitment());
    }
}

fn session(ending: Ending) -> Parts {
    let mut parts = parts(&Recipe { leaves: |leaves| with_commit(leaves), ..Recipe::default() }, ending);
    for (part, private) in parts.disclosed.iter_mut().flatten().zip([private_intent(), private_outcome()]) {
        (part.salt, part.bytes) = (private.salt, private.bytes);
    }
    parts
}

fn git(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    use std::io::Write as _;
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").arg("-C").arg(directory);
    command.args(arguments).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("run git");
    child.stdin.take().expect("a pipe").write_all(input).expect("write to git");
    let done = child.wait_with_output().expect("wait for git");
    assert!(done.status.success(), "{arguments:?}");
    String::from_utf8(done.stdout).expect("text").trim_end().to_owned()
}

/// A home with a repository and a bundle in it.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new(parts: &Parts) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        write(home.path(), "a.evidence", &bundle::write(parts));
        git(home.path(), &["init", "--quiet", "repo"], b"");
        Self { home }
    }

    fn commit(&self, object: &[u8]) -> String {
        git(&self.home.path().join("repo"), &["hash-object", "-t", "commit", "-w", "--stdin"], object)
    }

    fn verify(&self, commit: &str, more: &[&str]) -> (Option<i32>, serde_json::Value) {
        let at = AT.to_string();
        let now: &[&str] = if more.contains(&"--at") { &[] } else { &["--at", &at] };
        let arguments = ["evidence", "verify-commit", "--json", "repo", commit, "a.evidence"];
        let answer = output(self.home.path(), &[&arguments[..], now, more].concat());
        let text = stdout(&answer);
        (code(&answer), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", stderr(&answer))))
    }

    /// Status, what is shown, and all words.
    fn told(&self, object: &SignedCommit, more: &[&str]) -> (Option<i32>, String, String) {
        let (status, answer) = self.verify(&self.commit(&object.to_bytes()), more);
        let words: Vec<&str> = answer["words"].as_array().expect("words").iter().filter_map(|w| w.as_str()).collect();
        (status, answer["shown"].as_str().expect("a word").to_owned(), words.join("\n"))
    }
}

const SIMULATED: &[&str] = &["--accept-simulated"];

#[test]
fn a_commit_of_the_session_is_shown_with_its_call_and_only_as_far_as_the_bundle_is_accepted() {
    let place = Place::new(&session(Ending::Sealed));
    let signed = made().sign(&git_key());
    let id = place.commit(&signed.to_bytes());
    assert_eq!(id, signed.id().to_string());
    let (status, answer) = place.verify(&id, SIMULATED);
    assert_eq!((status, &answer["shown"], &answer["signed"]), (Some(0), &"yes".into(), &true.into()), "{answer}");
    assert_eq!(
        (&answer["made_by"]["leaf"], &answer["made_by"]["identity"]),
        (&2.into(), &"default".into()),
        "{answer}"
    );
    assert_eq!(answer["report"]["verdict"], "sealed");
    let (status, shown, words) = place.told(&signed, SIMULATED);
    assert!(
        words.contains("was signed by the git key of instance")
            && words.contains("Outcome leaf 2 (completed) names it"),
        "{words}"
    );
    assert_eq!((status, shown.as_str()), (Some(0), "yes"));
    // The same truth, and nobody accepts the bundle.
    let (status, shown, _) = place.told(&signed, &[]);
    assert_eq!((status, shown.as_str()), (Some(1), "no"));
    let (status, shown, _) = place.told(&signed, &["--accept-simulated", "--at", "2030-01-01T00:00:00Z"]);
    assert_eq!((status, shown.as_str()), (Some(2), "cannot_tell"));
    // A name that git knows, and the page for people.
    git(&place.home.path().join("repo"), &["update-ref", "refs/heads/topic", &id], b"");
    let at = AT.to_string();
    let page = ["evidence", "verify-commit", "--at", &at, "--accept-simulated", "repo", "topic", "a.evidence"];
    let people = output(place.home.path(), &page);
    let text = stdout(&people);
    assert_eq!(code(&people), Some(0), "{text}");
    assert!(text.starts_with(&format!("commit     {id}: made in this session\ngit key    ")), "{text}");
    assert!(text.contains("Anyone can forge this."), "{text}");
}

#[test]
fn a_commit_that_the_session_did_not_sign_is_told_by_what_it_is() {
    let place = Place::new(&session(Ending::Sealed));
    let no = |signed: &SignedCommit, word: &str| {
        let (status, shown, words) = place.told(signed, SIMULATED);
        assert_eq!((status, shown.as_str()), (Some(1), "no"), "{words}");
        assert!(words.contains(word), "{words}");
    };
    no(&made().sign(&key(9)), "Signed by another key");
    let signature = made().sign(&git_key()).signature().clone();
    let altered = Commit { message: "Say bye\n".to_owned(), ..made() };
    no(&altered.with(signature), "the commit was altered");
    let unsigned = place.commit(&made().to_bytes());
    let (status, answer) = place.verify(&unsigned, SIMULATED);
    assert!(status == Some(1) && answer["words"][0].as_str().is_some_and(|w| w.contains("found none")), "{answer}");
    // A signature for files: another namespace, by the right key.
    let armor = made().sign(&git_key()).signature().to_armor();
    let lines: Vec<&str> = armor.lines().collect();
    let blob = STANDARD.decode(lines[1..lines.len() - 1].concat()).expect("base64");
    let at = blob.windows(7).position(|part| part == b"\0\0\0\x03git").expect("the namespace");
    let other = STANDARD.encode([&blob[..at], b"\0\0\0\x04file", &blob[at + 7..]].concat());
    let object = String::from_utf8(made().sign(&git_key()).to_bytes()).expect("text");
    let head = object.split("gpgsig").next().expect("a head");
    let object =
        format!("{head}gpgsig -----BEGIN SSH SIGNATURE-----\n {other}\n -----END SSH SIGNATURE-----\n\nSay hello\n");
    let (status, answer) = place.verify(&place.commit(object.as_bytes()), SIMULATED);
    assert_eq!((status, &answer["signed"]), (Some(1), &false.into()), "{answer}");
    assert!(answer["words"].to_string().contains("found one in another"), "{answer}");
    // Headers that no session writes.
    let odd = String::from_utf8(made().to_bytes()).expect("text").replacen("\n\n", "\nencoding UTF-8\n\n", 1);
    let (status, answer) = place.verify(&place.commit(odd.as_bytes()), SIMULATED);
    assert!(status == Some(1) && answer["words"].to_string().contains("in the form that a session writes"), "{answer}");
}

#[test]
fn a_prefix_withheld_parts_and_a_bundle_that_is_wrong_have_their_words() {
    let signed = made().sign(&git_key());
    let place = Place::new(&session(Ending::Killed));
    let (status, shown, _) = place.told(&signed, SIMULATED);
    assert_eq!((status, shown.as_str()), (Some(1), "no"));
    let prefix = ["--accept-simulated", "--accept-prefix"];
    assert_eq!(place.told(&signed, &prefix).0, Some(0));

    let withheld = Place::new(&Parts { disclosed: None, ..session(Ending::Sealed) });
    let (status, _, words) = withheld.told(&signed, SIMULATED);
    assert!(status == Some(0) && words.contains("Which call made it is not shown"), "{words}");

    // The key signed it, and the record, all of it open, knows nothing of it.
    let silent = Place::new(&parts(&Recipe::default(), Ending::Sealed));
    let (status, shown, words) = silent.told(&signed, SIMULATED);
    assert!(
        (status, shown.as_str()) == (Some(2), "cannot_tell") && words.contains("No outcome of the record"),
        "{words}"
    );

    let mut wrong = session(Ending::Sealed);
    wrong.policy = b"permit (principal, action, resource); \n".to_vec();
    let wrong = Place::new(&wrong);
    let (status, shown, words) = wrong.told(&signed, SIMULATED);
    assert!((status, shown.as_str()) == (Some(1), "no") && words.starts_with("Nothing is shown"), "{words}");
    let other = Place::new(&parts(
        &Recipe { open: |open| open.git_key = coffer_evidence::sign::PublicKey::of(&key(9)), ..Recipe::default() },
        Ending::Sealed,
    ));
    assert!(other.told(&signed, SIMULATED).2.contains("Signed by another key"));
}

#[test]
fn what_cannot_be_read_exits_74_and_says_what_git_said() {
    let place = Place::new(&session(Ending::Sealed));
    let id = place.commit(&made().sign(&git_key()).to_bytes());
    let run = |repository: &str, commit: &str, file: &str| {
        let answer = output(place.home.path(), &["evidence", "verify-commit", repository, commit, file]);
        (code(&answer), stderr(&answer))
    };
    for (repository, commit, file, words) in [
        ("missing", id.as_str(), "a.evidence", "expected a commit in missing"),
        ("repo", "missing", "a.evidence", "git says"),
        ("repo", "--all", "a.evidence", ""),
        ("repo", "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "a.evidence", "git says"),
        ("repo", id.as_str(), "missing.evidence", "read the bundle"),
    ] {
        let (status, told) = run(repository, commit, file);
        assert!(
            matches!(status, Some(74 | 64)) && told.contains(words),
            "{repository} {commit} {file}: {status:?} {told}"
        );
    }
    // An object that is not what its name says.
    let object = place.home.path().join("repo/.git/objects").join(&id[..2]).join(&id[2..]);
    let other = place.commit(&made().sign(&key(9)).to_bytes());
    let bytes =
        std::fs::read(place.home.path().join("repo/.git/objects").join(&other[..2]).join(&other[2..])).expect("read");
    std::fs::remove_file(&object).expect("remove");
    std::fs::write(&object, bytes).expect("write");
    let (status, told) = run("repo", &id, "a.evidence");
    assert_eq!(status, Some(74), "{told}");
}

#[test]
fn git_in_a_session_asks_for_what_it_says_and_tells_what_git_said() {
    let host = Cofferd::start();
    let id = host.session();
    let done = |arguments: &[&str], asked: &str| {
        let ran = host.run(&[&["session", "git", &id, "-C", "/workspace/repo"][..], arguments].concat());
        assert_eq!(code(&ran), Some(0), "{arguments:?}: {}", stderr(&ran));
        assert_eq!(host.state().asked.last().map(String::as_str), Some(asked));
        ran
    };
    let status = done(&["status"], "git repo status");
    assert_eq!(stdout(&status), "output of git\n");
    assert!(stderr(&status).contains("coffer: warning: \\u{1b}[2J"), "{}", stderr(&status));
    done(&["diff", "--staged", "--to", "main", "a"], "git repo diff true main a");
    done(&["log", "-n", "3", "--from", "topic"], "git repo log topic 3 ");
    done(&["add", "a", "b"], "git repo add a b");
    done(&["commit", "-m", "Say", "--author", "Ada <a@b>"], "git repo commit Say Ada a@b");
    done(&["branch"], "git repo branch list");
    done(&["branch", "topic", "main"], "git repo branch create topic main");
    done(&["branch", "-s", "topic"], "git repo branch switch topic");
    done(&["branch", "-d", "topic"], "git repo branch delete topic");
    done(&["fetch", "/workspace/up.git"], "git repo fetch up.git ");
    done(&["push", "up.git", "main"], "git repo push up.git main");
    let shown = json(&host.run(&["session", "git", "--json", &id, "status"]));
    assert_eq!((&shown["output"], &shown["left_out"]), (&"output of git\n".into(), &0.into()), "{shown}");
    let refused = host.run(&["session", "git", &id, "-C", "broken", "status"]);
    assert_eq!(code(&refused), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("GIT_FAILED") && stdout(&refused).is_empty(), "{}", stderr(&refused));
    let cut = host.run(&["session", "git", &id, "-C", "cut", "status"]);
    assert!(code(&cut) == Some(1) && stderr(&cut).contains("OUTCOME_UNKNOWN"), "{}", stderr(&cut));
    for wrong in
        [&["commit", "-m", "x"][..], &["commit", "-m", "x", "--author", "Ada"], &["add"], &["push", "up"], &["rebase"]]
    {
        assert_eq!(code(&host.run(&[&["session", "git", &id][..], wrong].concat())), Some(64), "{wrong:?}");
    }
}
