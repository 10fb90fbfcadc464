//! `coffer session` and `coffer image` against the fake.

use crate::fake::{Cofferd, Fault};
use crate::{code, json, stderr, stdout};

#[test]
fn a_session_is_created_listed_and_closed() {
    let host = Cofferd::start();
    let created = host.run(&["session", "create"]);
    assert_eq!(code(&created), Some(0), "{}", stderr(&created));
    assert!(stderr(&created).contains("SIMULATED"), "the user is told: {}", stderr(&created));
    let id = stdout(&created).trim().to_owned();
    assert_eq!(id.len(), 36, "the id and nothing else: {id:?}");
    let other = host.session();

    let got = json(&host.run(&["session", "get", "--json", &id]));
    assert_eq!(
        (&got["id"], &got["phase"], &got["platform"]),
        (&id.clone().into(), &"ready".into(), &"simulated".into())
    );
    assert_eq!(got["outcome"], serde_json::Value::Null);
    let people = stdout(&host.run(&["session", "get", &id]));
    assert!(people.contains("ready") && people.contains("2026-11-01T00:00:00Z"), "{people}");
    assert_eq!(code(&host.run(&["session", "wait", &id, "--for", "ready"])), Some(0));

    let closed = host.run(&["session", "close", &id]);
    assert_eq!((code(&closed), stdout(&closed)), (Some(0), String::new()), "{}", stderr(&closed));
    assert!(stderr(&closed).contains(&format!("session {id} is closed: sealed, user_closed")), "{}", stderr(&closed));
    assert_eq!(code(&host.run(&["session", "wait", "--phase", "closed", &id])), Some(0));
    assert_eq!(code(&host.run(&["session", "wait", "--for", "ready", &id])), Some(69));

    let ids = |listed: serde_json::Value| -> Vec<String> {
        let sessions = listed["sessions"].as_array().expect("sessions");
        sessions.iter().map(|s| s["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(json(&host.run(&["session", "list", "--json"]))), std::slice::from_ref(&other));
    assert_eq!(ids(json(&host.run(&["session", "list", "--all", "--json"]))), [id.clone(), other], "every page");
    assert!(stdout(&host.run(&["session", "list", "--all"])).contains("sealed, user_closed"));

    let watched = host.run(&["session", "watch", "--json", &id]);
    let lines: Vec<serde_json::Value> =
        stdout(&watched).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["session"]["phase"], "closed");
    assert_eq!(lines[1]["lagged"], 3);
}

#[test]
fn an_unknown_session_is_an_error_and_no_crash() {
    let host = Cofferd::start();
    let got = host.run(&["session", "get", "01234567-89ab-4cde-8f01-23456789abcd"]);
    assert_eq!(code(&got), Some(1));
    assert_eq!(stderr(&got).matches("SESSION_NOT_FOUND").count(), 1, "{}", stderr(&got));
}

#[test]
fn a_session_that_never_becomes_ready_is_told_with_its_reason() {
    let host = Cofferd::start_with(Fault::NeverReady);
    let created = host.run(&["session", "create", "--wait"]);
    assert_eq!(code(&created), Some(69));
    assert!(created.stdout.is_empty());
    let told = stderr(&created);
    assert!(
        told.contains("aborted") && told.contains("boot_timeout") && told.contains("the guest said nothing"),
        "{told}"
    );
    assert!(!told.contains('\x1b'), "the host's words never control the terminal: {told:?}");
    let asked = host.run(&["session", "create", "--no-wait"]);
    assert_eq!(code(&asked), Some(0), "asked for is all that was wanted");
    let closed = host.run(&["session", "close", stdout(&asked).trim()]);
    assert_eq!(code(&closed), Some(1), "closed, and not sealed");
    assert!(stderr(&closed).contains("aborted, boot_timeout"), "{}", stderr(&closed));
}

#[test]
fn the_image_is_chosen_by_default_digest_or_name() {
    let host = Cofferd::start();
    let images = json(&host.run(&["image", "list", "--json"]));
    let digest = images["images"][0]["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(images["images"][0]["default"], true);
    assert!(stdout(&host.run(&["image", "list"])).contains("(default)"));
    for name in [digest.as_str(), &digest[..8], "base", "other"] {
        let created = host.run(&["session", "create", "--image", name]);
        assert_eq!(code(&created), Some(0), "{name}: {}", stderr(&created));
    }
    for name in [&digest[..7], "unknown", ""] {
        assert_eq!(code(&host.run(&["session", "create", "--image", name])), Some(64), "{name}");
    }
    let refused = host.run(&["session", "create", "--require-tdx"]);
    assert_eq!(code(&refused), Some(69));
    assert_eq!(host.state().sessions.len(), 4, "nothing was made for what was refused");
}

#[test]
fn a_host_without_a_usable_image_says_what_to_do() {
    let host = Cofferd::start_with(Fault::NoImage);
    for arguments in [&["session", "create"][..], &["run", "--", "true"], &["image", "list"]] {
        let told = stderr(&host.run(arguments));
        let all = ["`scripts/build`", "`coffer-image build`", "`image.directory`"];
        assert!(all.iter().all(|word| told.contains(word)), "{arguments:?}: {told}");
    }
    let host = Cofferd::start_with(Fault::NoDefaultImage);
    let told = stderr(&host.run(&["session", "create"]));
    assert!(told.contains("--image") && told.contains("`image.default`"), "{told}");
}

#[test]
fn a_session_is_what_its_owner_signed() {
    use coffer_evidence::fields::Canonical as _;
    let host = Cofferd::start();
    let arguments = ["session", "create", "--ttl", "2h", "--idle", "90", "--tenant", "t1", "--audience", "lab"];
    assert_eq!(code(&host.run(&arguments)), Some(0));
    let keys = json(&host.run(&["key", "show", "--json"]));
    let intent = host.state().sessions[0].intent.clone();
    let intent = coffer_evidence::intent::Intent::parse(&intent).expect("an intent");
    assert_eq!((intent.limits.ttl_s, intent.limits.idle_s), (7200, 90));
    assert_eq!((intent.tenant.as_str(), intent.audience.as_str()), ("t1", "lab"));
    assert_eq!(intent.owner.to_string(), keys["owner"].as_str().expect("a key"));
    let identities: Vec<String> = intent.identities.values().map(ToString::to_string).collect();
    assert_eq!(identities, [keys["identity"].as_str().expect("a key")]);
    assert_eq!(intent.record, coffer_evidence::intent::RecordRequired::No);
}

#[test]
fn a_session_has_the_identities_that_it_is_given_or_its_policy_names_each_with_a_key_of_its_own() {
    use coffer_evidence::fields::Canonical as _;
    let host = Cofferd::start();
    let team = host.home().join("team.cedar").display().to_string();
    std::fs::write(&team, coffer_policy::texts::TEAM).expect("write");
    let mut keys = std::collections::BTreeMap::new();
    let rows: [(&[&str], &[&str]); 4] = [
        (&["--policy", &team], &["coder", "reader", "releaser", "tester"]),
        (
            &["--policy", &team, "--identities", "coder,more,reader,releaser,tester"],
            &["coder", "more", "reader", "releaser", "tester"],
        ),
        (&["--identities", "a,b", "--require-record"], &["a", "b"]),
        (&[], &["default"]),
    ];
    for (options, expected) in rows {
        let created = host.run(&[&["session", "create", "--no-wait"], options].concat());
        assert_eq!(code(&created), Some(0), "{options:?}: {}", stderr(&created));
        let intent = host.state().sessions.last().expect("a session").intent.clone();
        let intent = coffer_evidence::intent::Intent::parse(&intent).expect("an intent");
        let names: Vec<String> = intent.identities.keys().map(ToString::to_string).collect();
        assert_eq!(names, expected, "{options:?}");
        let required = options.contains(&"--require-record");
        assert_eq!(intent.record == coffer_evidence::intent::RecordRequired::Yes, required, "{options:?}");
        for (name, key) in intent.identities {
            // One name, one key, in every session.
            assert_eq!(*keys.entry(name).or_insert(key), key);
        }
    }
    let different: std::collections::BTreeSet<String> = keys.values().map(ToString::to_string).collect();
    assert_eq!(different.len(), keys.len());
}

#[test]
fn the_log_of_an_open_session_is_told_as_its_evidence_would_tell_it() {
    let host = Cofferd::start();
    let id = host.session();
    let logged = host.run(&["session", "log", &id]);
    assert_eq!(code(&logged), Some(0), "{}", stderr(&logged));
    let lines = host.run(&["session", "log", "--json", "-f", &id]);
    let lines: Vec<serde_json::Value> =
        stdout(&lines).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(host.state().asked.iter().filter(|asked| asked.starts_with("log")).count(), 2);
    assert!(host.state().asked.contains(&"log to the end".to_owned()));
    host.run(&["session", "close", &id]);
    let closed = host.run(&["session", "log", &id]);
    assert_eq!(code(&closed), Some(1), "{}", stderr(&closed));
    assert!(stderr(&closed).contains("the session is closed"), "{}", stderr(&closed));
    // The same lines, word for word, from what it leaves.
    let file = host.home().join("e").display().to_string();
    assert_eq!(code(&host.run(&["evidence", "export", &id, &file])), Some(0));
    let shown = stdout(&host.run(&["evidence", "show", &file]));
    let logged = stdout(&logged);
    assert!(logged.lines().count() > 5 && logged.lines().all(|line| shown.contains(line)), "{logged}\n---\n{shown}");
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!((kinds.len(), kinds[0], kinds[kinds.len() - 1]), (logged.lines().count(), "open", "seal"));
    let host = Cofferd::start_with(Fault::WrongLog);
    let id = host.session();
    let refused = host.run(&["session", "log", &id]);
    assert_eq!((code(&refused), stdout(&refused)), (Some(1), String::new()));
    assert!(
        stderr(&refused).contains("expected leaf 1 of the log from the host, found leaf 0"),
        "{}",
        stderr(&refused)
    );
}
