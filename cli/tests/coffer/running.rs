//! `coffer run`: everything in one line, and its one promise: the session is closed and its evidence judged on every path.

use std::time::{Duration, Instant};

use crate::fake::{Cofferd, Fault, signal};
use crate::{code, json, stderr, stdout};

fn closed(host: &Cofferd) -> bool {
    host.state().asked.contains(&"close".to_owned())
}

#[test]
fn run_uploads_runs_fetches_seals_and_verifies() {
    let host = Cofferd::start();
    let input = host.home().join("in");
    std::fs::create_dir(&input).expect("a directory");
    std::fs::write(input.join("question"), "?").expect("a file");
    let ran = host.run(&["run", "--in", "in", "--out", "out", "--", "echo", "--out", "42"]);
    assert_eq!(code(&ran), Some(0), "{}", stderr(&ran));
    assert_eq!(stdout(&ran), "--out 42\n", "the command's output and nothing else");
    let told = stderr(&ran);
    assert!(told.contains("SIMULATED evidence: sealed, accepted: yes"), "{told}");
    assert!(told.contains("coffer: session ") && !told.contains("evidence export"), "{told}");
    let asked = host.state().asked.clone();
    assert_eq!(asked, ["create", "upload ", "upload done", "exec echo --out 42", "download ", "close", "export"]);
    assert_eq!(std::fs::read_to_string(host.home().join("out/workspace/a/file")).expect("the file"), "content");

    // What it wrote stands on its own.
    let verify = ["evidence", "verify", "--json", "--policy", "out/appraisal.toml", "out/session.evidence"];
    let verified = host.run(&[&verify[..], &["--accept-simulated"]].concat());
    assert_eq!(code(&verified), Some(0), "{}", stdout(&verified));
    let owner = json(&host.run(&["key", "show", "--json"]))["owner"].as_str().expect("a key").to_owned();
    let policy = std::fs::read_to_string(host.home().join("out/appraisal.toml")).expect("the policy");
    assert!(policy.contains(&owner) && policy.contains("anchor = \"simulated\""), "{policy}");
    assert_eq!(code(&host.run(&verify)), Some(1), "simulated evidence is not accepted by a policy alone");
}

#[test]
fn the_commands_status_is_the_runs() {
    let host = Cofferd::start();
    for (argv, status) in [
        (&["exit", "3"][..], 3),
        (&["signal", "15"], 143),
        (&["slow"], 124),
        (&["/no/such/program"], 127),
        (&["gone"], 125),
    ] {
        host.state().asked.clear();
        let ran = host.run(&[&["run", "--"], argv].concat());
        assert_eq!(code(&ran), Some(status), "{argv:?}: {}", stderr(&ran));
        assert!(closed(&host), "{argv:?}");
        assert!(host.state().asked.contains(&"export".to_owned()), "evidence is judged without --out, too: {argv:?}");
    }
    let left: Vec<_> = std::fs::read_dir(host.home()).expect("the home").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("coffer-run-")), "{left:?}");
}

#[test]
fn a_fine_command_with_evidence_that_is_not_exits_125() {
    for (fault, told) in
        [(Fault::ChangedBundle, "accepted: no"), (Fault::OtherOwner, "owner"), (Fault::NoBundle, "NO_EVIDENCE")]
    {
        let host = Cofferd::start_with(fault);
        let ran = host.run(&["run", "--", "echo", "fine"]);
        assert_eq!(code(&ran), Some(125), "{fault:?}: {}", stderr(&ran));
        assert_eq!(stdout(&ran), "fine\n", "{fault:?}");
        assert!(stderr(&ran).contains(told), "{fault:?}: {}", stderr(&ran));
    }
}

#[test]
fn a_session_that_never_becomes_ready_exits_125_and_runs_nothing() {
    let host = Cofferd::start_with(Fault::NeverReady);
    let ran = host.run(&["run", "--", "echo", "x"]);
    assert_eq!(code(&ran), Some(125));
    assert!(stderr(&ran).contains("boot_timeout"), "{}", stderr(&ran));
    assert!(ran.stdout.is_empty() && !host.state().asked.iter().any(|asked| asked.starts_with("exec")));
}

#[test]
fn a_failed_upload_closes_the_session_and_exits_125() {
    let host = Cofferd::start();
    let input = host.home().join("in");
    std::fs::create_dir(&input).expect("a directory");
    std::fs::File::create(input.join("big")).and_then(|file| file.set_len(2 << 30)).expect("a sparse file");
    let ran = host.run(&["run", "--in", "in", "--", "echo", "x"]);
    assert_eq!(code(&ran), Some(125), "{}", stderr(&ran));
    assert!(closed(&host));
    assert!(!host.state().asked.iter().any(|asked| asked.starts_with("exec")), "{:?}", host.state().asked);
}

#[test]
fn an_interrupt_cancels_closes_and_exits_130() {
    let host = Cofferd::start();
    let child = host.spawn(&["run", "--out", "out", "--", "sleep"]);
    host.until_asked("exec sleep");
    signal(&child, "INT");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(130), "{}", stderr(&ended));
    assert!(closed(&host) && host.state().asked.contains(&"cancelled".to_owned()), "{:?}", host.state().asked);
    assert!(host.home().join("out/session.evidence").exists(), "what was done is on record");
    assert!(!host.home().join("out/workspace").exists(), "an interrupted run fetches nothing");
}

#[test]
fn an_interrupt_is_the_status_however_the_call_ends() {
    let host = Cofferd::start();
    let child = host.spawn(&["run", "--", "sleep-gone"]);
    host.until_asked("exec sleep-gone");
    signal(&child, "INT");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(130), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("OUTCOME_UNKNOWN") && closed(&host), "{}", stderr(&ended));
}

#[test]
fn an_interrupt_before_ready_closes_the_session_and_runs_nothing() {
    let host = Cofferd::start_with(Fault::SlowBoot);
    let child = host.spawn(&["run", "--", "echo", "x"]);
    host.until_asked("create");
    signal(&child, "INT");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(130), "{}", stderr(&ended));
    assert!(closed(&host) && ended.stdout.is_empty());
}

#[test]
fn an_interrupt_while_closing_does_not_pass_bad_evidence() {
    let host = Cofferd::start_with(Fault::ClosedLate);
    let child = host.spawn(&["run", "--", "echo", "fine"]);
    host.until_asked("close");
    signal(&child, "INT");
    host.finish();
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(125), "{}", stderr(&ended));
}

#[test]
fn a_second_interrupt_does_not_wait_for_the_end() {
    let host = Cofferd::start_with(Fault::NeverClosed);
    let child = host.spawn(&["run", "--", "sleep"]);
    host.until_asked("exec sleep");
    signal(&child, "INT");
    host.until_asked("close");
    signal(&child, "INT");
    let started = Instant::now();
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(130), "{}", stderr(&ended));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(stderr(&ended).contains("left session"), "{}", stderr(&ended));
}

#[test]
fn a_run_never_mixes_with_an_earlier_one() {
    let host = Cofferd::start();
    assert_eq!(code(&host.run(&["run", "--out", "out", "--", "echo", "x"])), Some(0));
    let asked = host.state().asked.len();
    let again = host.run(&["run", "--out", "out", "--", "echo", "x"]);
    assert_eq!(code(&again), Some(64), "{}", stderr(&again));
    assert_eq!(host.state().asked.len(), asked, "nothing was made");
}

#[test]
fn the_summary_is_the_last_line_on_stderr() {
    let host = Cofferd::start();
    let ran = host.run(&["run", "--json", "--", "exit", "3"]);
    assert_eq!((code(&ran), stdout(&ran)), (Some(3), String::new()));
    let told = stderr(&ran);
    let summary: serde_json::Value = serde_json::from_str(told.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&summary["status"], &summary["verdict"]["accepted"]), (&3.into(), &"yes".into()), "{summary}");
    assert_eq!(summary["command"]["code"], 3);
    let id = summary["session"].as_str().expect("an id");
    assert!(told.contains(&format!("coffer: session {id}\n")), "{told}");
    assert!(told.contains(&format!("coffer evidence export {id} FILE\n")), "{told}");
}

#[test]
fn an_exported_bundle_comes_with_pins_when_asked() {
    let host = Cofferd::start();
    let id = host.session();
    let early = host.run(&["evidence", "export", &id, "e.evidence"]);
    assert_eq!(code(&early), Some(1), "it is open: {}", stderr(&early));
    assert!(!host.home().join("e.evidence").exists() && !host.home().join("e.evidence.partial").exists());
    assert_eq!(code(&host.run(&["session", "close", &id])), Some(0));
    let exported = host.run(&["evidence", "export", "--json", &id, "e.evidence", "--appraisal", "a.toml"]);
    assert_eq!(code(&exported), Some(0), "{}", stderr(&exported));
    let size = host.home().join("e.evidence").metadata().expect("the bundle").len();
    assert_eq!(json(&exported)["bytes"], size);
    let arguments = ["evidence", "verify", "--accept-simulated", "--policy", "a.toml", "e.evidence"];
    assert_eq!(code(&host.run(&arguments)), Some(0));
}
