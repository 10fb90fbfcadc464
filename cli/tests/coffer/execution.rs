//! `coffer session exec`: streams, statuses, signals.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fake::{Cofferd, signal};
use crate::{code, stderr, stdout};

fn exec(host: &Cofferd, id: &str, argv: &[&str]) -> std::process::Output {
    host.run(&[&["session", "exec", id, "--"], argv].concat())
}

#[test]
fn the_commands_outputs_stay_apart_and_nothing_is_added() {
    let host = Cofferd::start();
    let id = host.session();
    let echoed = exec(&host, &id, &["echo", "--json", "a b"]);
    assert_eq!(code(&echoed), Some(0));
    assert_eq!((stdout(&echoed).as_str(), stderr(&echoed).as_str()), ("--json a b\n", "to stderr\n"));
    let summed = host.run(&["session", "exec", "--json", &id, "--", "exit", "3"]);
    assert_eq!(code(&summed), Some(3));
    assert!(summed.stdout.is_empty());
    let last: serde_json::Value = serde_json::from_str(stderr(&summed).lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["status"], &last["cause"]), (&3.into(), &"exited".into()));
}

#[test]
fn every_end_has_its_status() {
    let host = Cofferd::start();
    let id = host.session();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["exit", "0"], 0, ""),
        (&["exit", "125"], 125, ""),
        (&["signal", "9"], 137, ""),
        (&["slow"], 124, "time was up"),
        (&["closing"], 125, "session was closed"),
        (&["gone"], 125, "OUTCOME_UNKNOWN"),
        (&["broken"], 125, "OUTCOME_UNKNOWN"),
        (&["silent"], 125, "OUTCOME_UNKNOWN"),
        (&["/no/such/program"], 127, "at `program` (/no/such/program): No such file"),
        (&["/etc/passwd"], 126, "did not start"),
    ];
    for (argv, status, told) in cases {
        let ended = exec(&host, &id, argv);
        assert_eq!(code(&ended), Some(status), "{argv:?}: {}", stderr(&ended));
        assert!(stderr(&ended).contains(told), "{argv:?}: {}", stderr(&ended));
        assert!(!told.is_empty() || ended.stderr.is_empty(), "{argv:?}: {}", stderr(&ended));
    }
    let lost = host.run(&["session", "exec", "--cwd", "gone", &id, "--", "true"]);
    assert_eq!(code(&lost), Some(126));
    assert!(stderr(&lost).contains("at `cwd` (gone): No such file"), "{}", stderr(&lost));
    let unknown = exec(&host, "01234567-89ab-4cde-8f01-23456789abcd", &["gone"]);
    assert_eq!(code(&unknown), Some(125));
}

#[test]
fn directory_environment_and_timeout_are_passed_on() {
    let host = Cofferd::start();
    let id = host.session();
    let arguments = [
        "session",
        "exec",
        "--cwd",
        "/workspace/repo",
        "-e",
        "A=1",
        "--env",
        "B=x=y",
        "--timeout",
        "1500ms",
        &id,
        "--",
        "env",
    ];
    assert_eq!(stdout(&host.run(&arguments)), "A=1\nB=x=y\ncwd=repo timeout=1500\n");
}

#[test]
fn input_goes_through_whole_and_ends() {
    let host = Cofferd::start();
    let id = host.session();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut command = host.command(&["session", "exec", &id, "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run coffer");
    let mut stdin = child.stdin.take().expect("stdin");
    let writing = {
        let sent = sent.clone();
        std::thread::spawn(move || stdin.write_all(&sent))
    };
    let ended = child.wait_with_output().expect("wait");
    writing.join().expect("the writer").expect("written");
    assert_eq!(code(&ended), Some(0));
    assert!(ended.stdout == sent, "{} bytes came back", ended.stdout.len());
}

#[test]
fn input_that_never_ends_holds_nothing_up() {
    let host = Cofferd::start();
    let id = host.session();
    let mut command = host.command(&["session", "exec", &id, "--", "exit", "4"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("run coffer");
    // Held open until the command is over.
    let _stdin = child.stdin.take();
    let started = Instant::now();
    assert_eq!(child.wait().expect("wait").code(), Some(4));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn no_stdin_leaves_the_input_to_others() {
    let host = Cofferd::start();
    let id = host.session();
    let mut command = host.command(&["session", "exec", "-n", &id, "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run coffer");
    child.stdin.as_mut().expect("stdin").write_all(b"not for you").expect("written");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!((code(&ended), ended.stdout.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_signal_cancels_the_call_and_is_the_status() {
    let host = Cofferd::start();
    let id = host.session();
    for (name, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        host.state().asked.clear();
        let child = host.spawn(&["session", "exec", &id, "--", "sleep"]);
        host.until_asked("exec sleep");
        signal(&child, name);
        let ended = child.wait_with_output().expect("wait");
        assert_eq!(code(&ended), Some(status), "{name}: {}", stderr(&ended));
        assert!(host.state().asked.contains(&"cancelled".to_owned()), "{:?}", host.state().asked);
    }
}

#[test]
fn a_second_signal_leaves_at_once_and_the_guest_is_told_by_the_broken_stream() {
    let host = Cofferd::start();
    let id = host.session();
    let mut command = host.command(&["session", "exec", &id, "--", "deaf"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run coffer");
    // More input than anything on the way holds: a cancellation in the same queue would never arrive.
    let mut stdin = child.stdin.take().expect("stdin");
    std::thread::spawn(move || while stdin.write_all(&[0; 65_536]).is_ok() {});
    host.until_asked("exec deaf");
    // Two of a kind may be taken for one.
    signal(&child, "INT");
    signal(&child, "TERM");
    let started = Instant::now();
    let ended = child.wait_with_output().expect("wait");
    assert!(matches!(code(&ended), Some(130 | 143)), "{:?}: {}", code(&ended), stderr(&ended));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    host.until_asked("dropped");
}

#[test]
fn a_reader_that_leaves_ends_the_command_as_in_a_pipe() {
    let host = Cofferd::start();
    let id = host.session();
    let mut child = host.spawn(&["session", "exec", &id, "--", "yes"]);
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 10]).expect("some output");
    drop(stdout);
    let ended = child.wait_with_output().expect("wait");
    assert_eq!((code(&ended), stderr(&ended)), (Some(141), String::new()));
    host.until_asked("cancelled");
}
