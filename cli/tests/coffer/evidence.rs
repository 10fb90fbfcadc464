//! `coffer evidence verify` and `show` on bundles made here.

use std::path::{Path, PathBuf};

use coffer_evidence::bundle;
use coffer_evidence::call_header::{Said, Speaker};
use coffer_evidence::leaf::Rejection;
use coffer_evidence::sign::PublicKey;

use crate::session::talk::{Talk, asked, end_to_end, usual, witness_key};
use crate::session::{AT, Ending, Recipe, owner, parts, publisher, sealed};
use crate::{code, json, output, stderr, stdout};

pub(crate) fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).expect("write");
    path
}

fn verify(directory: &Path, more: &[&str], file: &Path) -> std::process::Output {
    let mut arguments = vec!["evidence", "verify"];
    let at = AT.to_string();
    if !more.contains(&"--at") {
        arguments.extend(["--at", &at]);
    }
    arguments.extend(more);
    arguments.push(file.to_str().expect("text"));
    output(directory, &arguments)
}

#[test]
fn a_sealed_simulated_bundle_is_accepted_only_by_name() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &sealed(&Recipe::default()));
    let refused = verify(home.path(), &["--json"], &file);
    assert_eq!(code(&refused), Some(1));
    let verdict = json(&refused);
    assert_eq!((&verdict["verdict"], &verdict["accepted"]), (&"sealed".into(), &"no".into()), "{verdict}");
    assert!(stderr(&refused).contains("no policy was given, so no owner and no publisher was checked"));
    let people = stdout(&verify(home.path(), &[], &file));
    assert!(people.contains("simulated") && people.contains("Anyone can forge this."), "{people}");

    let accepted = verify(home.path(), &["--json", "--accept-simulated"], &file);
    assert_eq!(code(&accepted), Some(0), "{}", stdout(&accepted));
    let again = verify(home.path(), &["--json", "--accept-simulated", "--at", "2026-11-15T00:00:00Z"], &file);
    assert_eq!(accepted.stdout, again.stdout, "both forms of the time, the same bytes");
}

#[test]
fn pins_and_expectations_decide_and_a_policy_may_name_them() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &sealed(&Recipe::default()));
    let (owner, publisher) = (PublicKey::of(&owner()).to_string(), PublicKey::of(&publisher()).to_string());
    let policy = |owner: &str| {
        let text = format!("anchor = \"simulated\"\npublishers = [\"{publisher}\"]\nowners = [\"{owner}\"]\n");
        write(home.path(), "policy.toml", text.as_bytes()).to_str().expect("text").to_owned()
    };
    let with = |more: &[&str]| code(&verify(home.path(), &[&["--accept-simulated"], more].concat(), &file));
    let pinned = verify(home.path(), &["--accept-simulated", "--policy", &policy(&owner)], &file);
    assert_eq!((code(&pinned), stderr(&pinned)), (Some(0), String::new()));
    assert_eq!(with(&["--policy", &policy(&publisher)]), Some(1), "another owner is pinned");
    assert_eq!(with(&["--owner", &owner]), Some(0));
    assert_eq!(with(&["--owner", &publisher]), Some(1));
    assert_eq!(with(&["--session", "5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e"]), Some(0));
    assert_eq!(with(&["--session", "01234567-89ab-4cde-8f01-23456789abcd"]), Some(1));
    assert_eq!(with(&["--instance", &"00".repeat(32)]), Some(1));
    let note = bundle::read(&std::fs::read(&file).expect("read")).expect("a bundle");
    let note = write(home.path(), "note", note.member("checkpoint").expect("a note"));
    assert_eq!(with(&["--seen", note.to_str().expect("text")]), Some(0));
    // A certificate is looked for beside the policy that names it.
    write(home.path(), "root.der", crate::platform::ROOT_DER);
    let text = write(home.path(), "anchor.toml", b"anchor = \"root.der\"\n");
    assert_eq!(with(&["--policy", text.to_str().expect("text")]), Some(0));
}

/// A session in which a signature before the last of its channel is not the client's.
fn half_signed() -> Vec<u8> {
    let talk = |talk: &mut Talk<'_>| {
        let (_, mut caller) = talk.owner_and_identity();
        let mut header = caller.sign(asked(1));
        header.signature[0] ^= 1;
        talk.intent(1, Some(header));
        talk.completed(1);
        talk.say(&mut caller, Said::Close);
    };
    bundle::write(&parts(&Recipe { intent: end_to_end, talk: Some(talk), ..Recipe::default() }, Ending::Sealed))
}

#[test]
fn every_signature_is_verified_on_request() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &half_signed());
    assert_eq!(code(&verify(home.path(), &["--accept-simulated"], &file)), Some(0));
    let every = verify(home.path(), &["--accept-simulated", "--every-signature"], &file);
    assert_eq!(code(&every), Some(1));
    assert!(stdout(&every).contains("R12 header signatures: leaf 5"), "{}", stdout(&every));
}

#[test]
fn channels_and_what_clients_signed_are_shown() {
    let home = tempfile::tempdir().expect("a directory");
    let talk = |talk: &mut Talk<'_>| {
        usual(talk);
        let caller = talk.channel(&Speaker::Witness(0), &witness_key(), 9);
        talk.rejected(&caller, Rejection::OutOfOrder);
    };
    let recipe = Recipe { intent: end_to_end, talk: Some(talk), ..Recipe::default() };
    let file = write(home.path(), "a.evidence", &bundle::write(&parts(&recipe, Ending::Sealed)));
    let file = file.to_str().expect("text");
    let shown = stdout(&output(home.path(), &["evidence", "show", "--at", &AT.to_string(), file]));
    let lines = timeline(&shown);
    let line = |words: &[&str]| {
        let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}\n{shown}");
    };
    line(&["channel", "of @owner"]);
    line(&["client", "hello by @owner", "header 0 of channel"]);
    line(&["intent", "default", "exec", "header 1 of channel"]);
    line(&["client", "default", "input as far as byte 4096"]);
    line(&["rejected", "out_of_order, channel"]);
    let json = json(&output(home.path(), &["--json", "evidence", "show", "--at", &AT.to_string(), file]));
    let kinds: Vec<&str> =
        json["leaves"].as_array().expect("leaves").iter().filter_map(|l| l["kind"].as_str()).collect();
    assert_eq!(kinds[..5], ["open", "channel", "client", "channel", "client"]);
    let call = json["leaves"][5]["call"].as_str().expect("a call").to_owned();
    let whole = stdout(&output(home.path(), &["evidence", "show", "--at", &AT.to_string(), "--call", &call, file]));
    assert!(whole.contains("signed_by        default") && whole.contains("seq              1"), "{whole}");
}

#[test]
fn a_prefix_stale_collateral_and_other_bytes_have_their_status() {
    let home = tempfile::tempdir().expect("a directory");
    let recipe = Recipe::default();
    let prefix = write(home.path(), "prefix.evidence", &bundle::write(&parts(&recipe, Ending::Killed)));
    assert_eq!(code(&verify(home.path(), &["--accept-simulated"], &prefix)), Some(1));
    assert_eq!(code(&verify(home.path(), &["--accept-simulated", "--accept-prefix"], &prefix)), Some(0));

    let genuine = sealed(&recipe);
    let file = write(home.path(), "a.evidence", &genuine);
    let stale = verify(home.path(), &["--accept-simulated", "--at", "2030-01-01T00:00:00Z"], &file);
    assert_eq!(code(&stale), Some(2), "{}", stdout(&stale));

    let mut changed = genuine;
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let file = write(home.path(), "changed.evidence", &changed);
    assert_ne!(code(&verify(home.path(), &["--accept-simulated"], &file)), Some(0));
    let file = write(home.path(), "text", b"no bundle");
    assert_eq!(code(&verify(home.path(), &[], &file)), Some(1));
}

#[test]
fn files_that_cannot_be_read_exit_74_and_policies_that_are_none_64() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &sealed(&Recipe::default()));
    assert_eq!(code(&verify(home.path(), &[], Path::new("/no/such/file"))), Some(74));
    assert_eq!(code(&verify(home.path(), &["--policy", "/no/such/file"], &file)), Some(74));
    assert_eq!(code(&verify(home.path(), &["--seen", "/no/such/file"], &file)), Some(74));
    let policy = write(home.path(), "p.toml", b"anchor = \"simulated\"\nunknown = 1\n");
    assert_eq!(code(&verify(home.path(), &["--policy", policy.to_str().expect("text")], &file)), Some(64));
    let policy = write(home.path(), "q.toml", b"anchor = \"gone.der\"\n");
    assert_eq!(code(&verify(home.path(), &["--policy", policy.to_str().expect("text")], &file)), Some(74));
}

/// The lines between the headline and what the verifier says.
fn timeline(text: &str) -> Vec<&str> {
    let from = text.lines().skip_while(|line| !line.starts_with("what happened")).skip(1);
    from.take_while(|line| !line.is_empty()).collect()
}

#[test]
fn a_bundle_is_shown_with_its_verdict_its_timeline_and_every_check() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &sealed(&Recipe::default()));
    let file = file.to_str().expect("text");
    let at = ["--at", "2026-11-15T00:00:00Z"];
    let people = output(home.path(), &[&["evidence", "show", file][..], &at].concat());
    assert_eq!(code(&people), Some(0), "{}", stderr(&people));
    let text = stdout(&people);
    assert!(
        text.starts_with("SEALED: the whole record of one TD; not accepted; SIMULATED: anyone can forge this\n"),
        "{text}"
    );
    let lines = timeline(&text);
    assert_eq!(lines.len(), 9, "{text}");
    assert!(
        lines[0].contains("open") && lines[1].contains("exec  true 1  (in /workspace)") && lines[2].contains("exit 0"),
        "{text}"
    );
    assert!(lines[7].contains("scrub") && lines[8].contains("seal"), "{text}");
    assert!(text.contains("\nchecks:\n") && text.contains("R14 final report data binds the seal"), "{text}");
    assert!(!text.contains('\x1b'), "no colours where nobody sees them");
    let accepted = output(home.path(), &[&["evidence", "show", file, "--accept-simulated"][..], &at].concat());
    assert!(stdout(&accepted).starts_with("SEALED: the whole record of one TD; accepted;"), "{}", stdout(&accepted));
    let shown = json(&output(home.path(), &[&["evidence", "show", "--json", file][..], &at].concat()));
    assert_eq!((&shown["sealed"], &shown["report"]["verdict"]), (&true.into(), &"sealed".into()));
    assert_eq!(shown["leaves"][1]["argv"], serde_json::json!(["true", "1"]));
    assert_eq!(shown["leaves"][1]["private"], "opened");
    assert_eq!(shown["leaves"][2]["code"], 0);
}

#[test]
fn one_call_is_shown_whole() {
    let home = tempfile::tempdir().expect("a directory");
    let file = write(home.path(), "a.evidence", &sealed(&Recipe::default()));
    let file = file.to_str().expect("text");
    let shown = json(&output(home.path(), &["evidence", "show", "--json", file]));
    let id = shown["leaves"][1]["call"].as_str().expect("a call").to_owned();
    let whole = output(home.path(), &["evidence", "show", "--call", &id, file]);
    assert_eq!(code(&whole), Some(0), "{}", stderr(&whole));
    let text = stdout(&whole);
    for word in
        ["decision         allowed", "argv             true", "cwd", "rules", "exit_code        0", "commitment"]
    {
        assert!(text.contains(word), "expected {word:?} in {text}");
    }
    let one = json(&output(home.path(), &["evidence", "show", "--json", "--call", &id, file]));
    assert_eq!((&one["verdict"], one["leaves"].as_array().map(Vec::len)), (&"sealed".into(), Some(2)));
    for (call, status) in [("abc", 64), ("ffff", 1)] {
        let wrong = output(home.path(), &["evidence", "show", "--call", call, file]);
        assert_eq!(code(&wrong), Some(status), "{call}: {}", stderr(&wrong));
    }
}

#[test]
fn a_disclosed_part_that_was_not_committed_to_is_shown_as_false() {
    let home = tempfile::tempdir().expect("a directory");
    let mut parts = parts(&Recipe::default(), Ending::Killed);
    let disclosed = parts.disclosed.as_mut().expect("disclosed parts");
    disclosed[0].salt[0] ^= 1;
    disclosed.remove(1);
    let file = write(home.path(), "a.evidence", &bundle::write(&parts));
    let shown = output(home.path(), &["evidence", "show", file.to_str().expect("text")]);
    let text = stdout(&shown);
    assert!(text.starts_with("INVALID: what follows is what the file says"), "{text}");
    let lines = timeline(&text);
    assert!(lines[1].contains("FALSE") && !lines[1].contains("true"), "{text}");
    assert!(lines[2].contains("withheld"), "{text}");
    assert!(lines.last().is_some_and(|line| line.contains("no seal")), "{text}");
}
