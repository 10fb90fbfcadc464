//! What needs nobody else: usage, keys, the doctor, completions, closed outputs.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::{code, coffer, json, output, stderr, stdout};

#[test]
fn wrong_usage_exits_64_and_help_0() {
    let home = tempfile::tempdir().expect("a directory");
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let wrong: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["run"],
        &["run", "--in", "/no/such/directory", "--", "true"],
        &["run", "--timeout", "soon", "--", "true"],
        &["run", "--unknown", "--", "true"],
        &["session", "get", "not-an-id"],
        &["session", "exec", id],
        &["session", "exec", id, "--env", "NO_VALUE", "--", "true"],
        &["session", "wait", id],
        &["session", "create", "--wait", "--no-wait"],
        &["session", "cp", "a", "b"],
        &["session", "cp", &format!("{id}:a"), &format!("{id}:b")],
        &["evidence", "verify"],
        &["evidence", "verify", "--at", "yesterday", "x"],
        &["evidence", "verify", "--owner", "00", "x"],
        &["completions", "cobol"],
    ];
    for arguments in wrong {
        let output = output(home.path(), arguments);
        assert_eq!(code(&output), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["session", "exec", "--help"], &["help", "run"]] {
        let output = output(home.path(), arguments);
        assert_eq!(code(&output), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn without_a_cofferd_the_error_says_where_it_looked_and_what_to_do() {
    let home = tempfile::tempdir().expect("a directory");
    let output = output(home.path(), &["session", "list"]);
    assert_eq!(code(&output), Some(69));
    let told = stderr(&output);
    assert!(told.contains("cofferd.sock") && told.contains("cofferd serve"), "{told}");
    assert_eq!(told.matches("No such file").count(), 1, "a cause is told once: {told}");
}

#[test]
fn keys_are_made_once_private_and_with_a_message() {
    let home = tempfile::tempdir().expect("a directory");
    let first = output(home.path(), &["key", "show", "--json"]);
    assert_eq!(code(&first), Some(0), "{}", stderr(&first));
    for made in ["made an owner key", "made a key of identity `default`"] {
        assert_eq!(stderr(&first).matches(made).count(), 1, "{}", stderr(&first));
    }
    let shown = json(&first);
    assert_eq!(shown["owner"].as_str().map(str::len), Some(64));
    assert_ne!(shown["owner"], shown["identity"]);
    for name in ["owner.key", "identity.key"] {
        let metadata = home.path().join("config/coffer").join(name).metadata().expect("the key");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(home.path().join("config/coffer").metadata().expect("the directory").permissions().mode() & 0o077, 0);
    let again = output(home.path(), &["key", "show", "--json"]);
    assert_eq!((json(&again), stderr(&again)), (shown, String::new()));
}

#[test]
fn a_key_that_others_can_read_is_refused_with_77() {
    let home = tempfile::tempdir().expect("a directory");
    output(home.path(), &["key", "show"]);
    let key = home.path().join("config/coffer/owner.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let refused = output(home.path(), &["key", "show"]);
    assert_eq!(code(&refused), Some(77));
    assert!(stderr(&refused).contains("chmod 600"), "{}", stderr(&refused));
}

#[test]
fn the_doctor_says_what_can_be_served_and_its_status_follows() {
    let home = tempfile::tempdir().expect("a directory");
    let state = home.path().join("state");
    let arguments = ["host", "doctor", "--json", "--state", state.to_str().expect("text")];
    let diagnosed = output(home.path(), &arguments);
    let diagnosis = json(&diagnosed);
    assert_eq!(diagnosis["schema"], "coffer.doctor.v1");
    let checks = diagnosis["checks"].as_array().expect("checks");
    assert!(checks.len() >= 12, "{diagnosis}");
    for check in checks {
        let result = check["result"].as_str().expect("a result");
        assert!(["ok", "missing", "failed"].contains(&result), "{check}");
        assert!(["both", "tdx", "simulated", "better"].contains(&check["need"].as_str().expect("a need")), "{check}");
        assert!(!check["name"].as_str().expect("a name").is_empty(), "{check}");
        assert_eq!(check["fix"].as_str().expect("a fix").is_empty(), result == "ok", "{check}");
    }
    // The home of this test holds no QEMU kit: nothing can be served from it.
    let kit = checks.iter().find(|check| check["name"] == "QEMU kit").expect("the kit");
    assert_eq!(kit["result"], "missing");
    assert_eq!(diagnosis["serves"], serde_json::json!({"tdx": false, "simulated": false}));
    assert_eq!(code(&diagnosed), Some(69));
    let people = stdout(&output(home.path(), &arguments[..2]));
    assert!(people.ends_with("this host can serve nothing\n"), "{people}");
    assert!(!state.exists(), "the doctor changes nothing");
}

#[test]
fn completions_name_the_commands() {
    let home = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&output(home.path(), &["completions", shell]));
        assert!(script.contains("evidence") && script.contains("doctor"), "{shell}");
    }
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let home = tempfile::tempdir().expect("a directory");
    for arguments in [&["completions", "bash"][..], &["key", "show"], &["host", "doctor"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = coffer(home.path());
        let ended = command.args(arguments).stdout(writer).stderr(Stdio::piped()).output().expect("run coffer");
        assert_eq!(code(&ended), Some(141), "{arguments:?}");
        assert!(!stderr(&ended).contains("panicked"), "{}", stderr(&ended));
        assert!(!stderr(&ended).contains("standard output"), "{}", stderr(&ended));
    }
}
