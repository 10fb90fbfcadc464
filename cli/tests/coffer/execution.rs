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
fn a_signal_goes_to_the_program_and_its_end_is_the_status() {
    let host = Cofferd::start();
    let id = host.session();
    for (name, number, status) in [("INT", 2, 130), ("TERM", 15, 143), ("HUP", 1, 129)] {
        host.state().asked.clear();
        let child = host.spawn(&["session", "exec", &id, "--", "sleep"]);
        host.until_asked("exec sleep");
        signal(&child, name);
        let ended = child.wait_with_output().expect("wait");
        assert_eq!(code(&ended), Some(status), "{name}: {}", stderr(&ended));
        assert!(host.state().asked.contains(&format!("signal {number}")), "{:?}", host.state().asked);
    }
}

#[test]
fn a_second_signal_soon_after_the_first_cancels_the_call() {
    let host = Cofferd::start();
    let id = host.session();
    let child = host.spawn(&["session", "exec", &id, "--", "stubborn"]);
    host.until_asked("exec stubborn");
    signal(&child, "INT");
    host.until_asked("signal 2");
    signal(&child, "INT");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(130), "{}", stderr(&ended));
    assert!(host.state().asked.contains(&"cancelled".to_owned()), "{:?}", host.state().asked);
}

#[test]
fn a_third_signal_leaves_at_once_and_says_how_to_come_back() {
    let host = Cofferd::start();
    let id = host.session();
    let mut command = host.command(&["session", "exec", &id, "--", "deaf"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run coffer");
    // More input than anything on the way holds.
    let mut stdin = child.stdin.take().expect("stdin");
    std::thread::spawn(move || while stdin.write_all(&[0; 65_536]).is_ok() {});
    host.until_asked("exec deaf");
    let started = Instant::now();
    // Those that come at once may be taken for fewer.
    while child.try_wait().expect("wait").is_none() && started.elapsed() < Duration::from_secs(5) {
        signal(&child, "INT");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = child.wait_with_output().expect("wait");
    assert_eq!(code(&ended), Some(130), "{}", stderr(&ended));
    assert!(stderr(&ended).contains(&format!("coffer session attach {id} --call ")), "{}", stderr(&ended));
    host.until_asked("dropped");
}

#[test]
fn a_connection_that_is_lost_is_made_again_and_goes_on_where_it_was() {
    let host = Cofferd::start();
    let id = host.session();
    let ended = exec(&host, &id, &["flaky"]);
    assert_eq!((code(&ended), stdout(&ended).as_str()), (Some(0), "one\ntwo\n"), "{}", stderr(&ended));
    assert!(host.state().asked.contains(&"resumed at 4 0".to_owned()), "{:?}", host.state().asked);
    let told = stderr(&ended);
    let (lost, back) = (told.find("the connection is lost"), told.find("the connection is back"));
    assert!(lost.is_some() && lost < back, "{told}");
    assert_eq!(tickets(&host), 0, "a call that is over needs no ticket");
}

#[test]
fn output_that_the_guest_has_no_more_is_said_to_be_missing() {
    let host = Cofferd::start();
    let id = host.session();
    let ended = exec(&host, &id, &["forgetful"]);
    assert_eq!((code(&ended), stdout(&ended).as_str()), (Some(0), "one\ntwo\n"), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("96 bytes of output are kept no longer"), "{}", stderr(&ended));
}

/// Tickets of calls that may still run.
fn tickets(host: &Cofferd) -> usize {
    let sessions = std::fs::read_dir(host.home().join("state/coffer/calls")).into_iter().flatten().flatten();
    sessions.map(|session| std::fs::read_dir(session.path()).into_iter().flatten().count()).sum()
}

#[test]
fn a_call_that_was_left_is_come_back_to_by_its_id_and_one_that_is_unknown_is_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Cofferd::start();
    let id = host.session();
    // Somebody else took it over: it runs on.
    let ended = exec(&host, &id, &["elsewhere"]);
    assert_eq!(code(&ended), Some(125), "{}", stderr(&ended));
    assert!(stderr(&ended).contains("ATTACHED_ELSEWHERE"), "{}", stderr(&ended));
    assert_eq!(tickets(&host), 1);
    let directory = host.home().join("state/coffer/calls").join(&id);
    let ticket = std::fs::read_dir(&directory).expect("tickets").next().expect("one").expect("a ticket");
    assert_eq!(ticket.metadata().expect("metadata").permissions().mode() & 0o777, 0o600);
    let call = ticket.file_name().into_string().expect("an id");
    let again = host.run(&["session", "attach", &id, "--call", &call]);
    assert!(stderr(&again).contains("ATTACHED_ELSEWHERE"), "{}", stderr(&again));
    assert_eq!(host.state().asked.iter().filter(|asked| *asked == "exec elsewhere").count(), 2);
    let other = host.run(&["session", "attach", &id, "--call", "01234567-89ab-4cde-8f01-23456789abcd"]);
    assert_eq!(code(&other), Some(64), "{}", stderr(&other));
    assert!(stderr(&other).contains(&call), "it says which there are: {}", stderr(&other));
}

#[test]
fn a_terminal_is_asked_for_and_attaching_needs_one_here() {
    let host = Cofferd::start();
    let id = host.session();
    let mut command = host.command(&["session", "exec", "-t", &id, "--", "terminal"]);
    let mut child =
        command.env("TERM", "vt100").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run coffer");
    child.stdin.as_mut().expect("stdin").write_all(b"q").expect("typed");
    let ended = child.wait_with_output().expect("wait");
    assert_eq!((code(&ended), stdout(&ended).as_str()), (Some(0), "ready\r\n"));
    assert!(host.state().asked.contains(&"terminal 24 80 vt100".to_owned()), "{:?}", host.state().asked);
    let refused = host.run(&["session", "attach", &id]);
    assert_eq!(code(&refused), Some(64), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("expected a terminal"), "{}", stderr(&refused));
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
