//! Exec as a client sees it: the real service of the agent over a real socket, real programs, and a notary and an init that
//! are a thread each and say only what the frames allow. What `init` does with a process is in `calls.rs`.

#[path = "exec/guest.rs"]
mod guest;

use coffer_agent::agent::exec::window::WINDOW;
use coffer_evidence::leaf::CauseClass;
use coffer_proto::guest::v1 as pb;
use guest::{Attached, Guest, Told, file, start};
use pb::exec_request::Request;
use std::time::Duration;

const BRIEF: i64 = 300;

#[tokio::test]
async fn a_start_that_comes_again_runs_nothing_and_gets_the_same_end() {
    let guest = Guest::new().await;
    let script = format!("echo ran >>{0}; echo out; echo err >&2; exit 7", file(&guest, "ran"));
    let start = start(&["sh", "-c", &script]);
    let (first, told) = guest.attach(&start).await.exits().await;
    assert_eq!((first.code, told.out.as_slice(), told.err.as_slice()), (7, &b"out\n"[..], &b"err\n"[..]));
    for _ in 0..2 {
        let (again, told) = guest.attach(&start).await.exits().await;
        assert_eq!((again, told.out, told.err), (first.clone(), b"out\n".to_vec(), b"err\n".to_vec()));
    }
    // Who has some of it gets the rest.
    let resumed = guest::resuming(&start, 2, 4);
    let (_, told) = guest.attach(&resumed).await.exits().await;
    assert_eq!((told.out.as_slice(), told.err.as_slice()), (&b"t\n"[..], &b""[..]));
    assert_eq!(std::fs::read_to_string(file(&guest, "ran")).unwrap(), "ran\n");
    assert_eq!(guest.intents(), 1);
    assert_eq!(guest.outcomes(), [CauseClass::Failed]);
}

#[tokio::test]
async fn starts_that_come_at_once_are_one_call() {
    let guest = Guest::new().await;
    let script = format!("echo ran >>{}; sleep 0.2", file(&guest, "ran"));
    let start = start(&["sh", "-c", &script]);
    let attached = futures_util::future::join_all((0..8).map(|_| guest.attach(&start))).await;
    let mut ended = 0;
    for attached in attached {
        match attached.ends().await {
            (Ok(exited), _) => ended += u32::from(exited.code == 0),
            (Err(status), _) => assert_eq!(guest::word(&status), "ATTACHED_ELSEWHERE"),
        }
    }
    assert!(ended >= 1, "somebody sees the end");
    assert_eq!((std::fs::read_to_string(file(&guest, "ran")).unwrap().as_str(), guest.intents()), ("ran\n", 1));
}

#[tokio::test]
async fn another_request_or_salt_under_the_same_id_is_refused_and_changes_nothing() {
    let guest = Guest::new().await;
    let start = start(&["cat"]);
    let mut running = guest.attach(&start).await;
    running.started().await;
    let mut other = start.clone();
    other.argv.push("x".into());
    let mut salted = start.clone();
    salted.header.as_mut().unwrap().salt = vec![8; 32].into();
    let mut sized = start.clone();
    sized.terminal = Some(pb::TerminalSize { rows: 1, columns: 1 });
    for other in [&other, &salted, &sized] {
        let (status, _) = guest.attach(other).await.ends().await;
        assert_eq!(guest::word(&status.unwrap_err()), "CALL_ID_REUSED");
    }
    running.say(Request::Stdin("here\n".into())).await;
    running.say(Request::StdinEof(pb::StdinEof {})).await;
    let (exited, told) = running.exits().await;
    assert_eq!((exited.code, told.out.as_slice()), (0, &b"here\n"[..]));
    let (status, _) = guest.attach(&other).await.ends().await;
    assert_eq!(guest::word(&status.unwrap_err()), "CALL_ID_REUSED");
    assert_eq!(guest.intents(), 1);
}

#[tokio::test]
async fn a_lost_connection_ends_nothing_and_input_and_output_go_on_where_they_were() {
    let guest = Guest::new().await;
    let start = start(&["sh", "-c", "echo one; while read line; do echo got $line; done; echo end"]);
    let mut first = guest.attach(&start).await;
    first.say(Request::Stdin("a\nb".into())).await;
    let told = first.until(|told| told.out.ends_with(b"got a\n")).await;
    drop(first);
    let mut second = guest.attach(&guest::resuming(&start, told.out.len() as u64, 0)).await;
    let started = second.started().await;
    assert_eq!(started.stdin_offset, 3, "`b` has come, and waits for the rest of its line");
    second.say(Request::Stdin("c\n".into())).await;
    second.say(Request::StdinEof(pb::StdinEof {})).await;
    let (exited, rest) = second.exits().await;
    assert_eq!(exited.cause(), pb::ExitCause::Exited);
    assert_eq!([told.out, rest.out].concat(), b"one\ngot a\ngot bc\nend\n");
    assert_eq!(exited.stdout.unwrap().bytes_total, 4 + 6 + 7 + 4);
}

#[tokio::test]
async fn the_end_of_the_requests_is_not_the_end_of_input() {
    let guest = Guest::new().await;
    let start = start(&["cat"]);
    let mut first = guest.attach(&start).await;
    first.started().await;
    first.say(Request::Stdin("x".into())).await;
    first.say_no_more();
    first.until(|told| told.out == b"x").await;
    drop(first);
    let mut second = guest.attach(&start).await;
    second.started().await;
    second.say(Request::StdinEof(pb::StdinEof {})).await;
    let (exited, told) = second.exits().await;
    assert_eq!((exited.code, told.out.as_slice()), (0, &b"x"[..]));
}

#[tokio::test]
async fn a_client_that_attaches_takes_over_and_the_one_before_is_told() {
    let guest = Guest::new().await;
    let start = start(&["cat"]);
    let mut first = guest.attach(&start).await;
    first.say(Request::Stdin("1".into())).await;
    first.until(|told| told.out == b"1").await;
    let mut second = guest.attach(&guest::resuming(&start, 1, 0)).await;
    second.started().await;
    let (status, _) = first.ends().await;
    let status = status.unwrap_err();
    assert_eq!((guest::word(&status), status.code()), ("ATTACHED_ELSEWHERE", tonic::Code::Aborted));
    second.say(Request::Stdin("2".into())).await;
    second.say(Request::StdinEof(pb::StdinEof {})).await;
    assert_eq!(second.exits().await.1.out, b"2");
}

#[tokio::test]
async fn a_call_to_which_nobody_comes_back_in_time_is_cancelled_and_its_end_is_kept() {
    let guest = Guest::new().await;
    let mut start = start(&["sh", "-c", "echo up; exec sleep 1000"]);
    start.reattach_ms = BRIEF;
    let mut first = guest.attach(&start).await;
    first.until(|told| told.out == b"up\n").await;
    drop(first);
    guest.until_outcomes(1).await;
    assert_eq!(guest.outcomes(), [CauseClass::Cancelled]);
    let (exited, told) = guest.attach(&start).await.exits().await;
    assert_eq!((exited.cause(), exited.signal, told.out.as_slice()), (pb::ExitCause::Cancelled, 15, &b"up\n"[..]));
}

#[tokio::test]
async fn a_client_that_comes_back_in_time_keeps_the_call_alive() {
    let guest = Guest::new().await;
    let mut start = start(&["cat"]);
    start.reattach_ms = BRIEF;
    guest.attach(&start).await.started().await;
    let mut second = guest.attach(&start).await;
    second.started().await;
    // Longer than the call would wait for nobody.
    tokio::time::sleep(Duration::from_millis(2 * BRIEF as u64)).await;
    second.say(Request::StdinEof(pb::StdinEof {})).await;
    assert_eq!(second.exits().await.0.cause(), pb::ExitCause::Exited);
}

#[tokio::test]
async fn a_program_without_a_client_fills_the_window_and_waits() {
    let guest = Guest::new().await;
    let total = 3 * WINDOW as u64;
    let done = file(&guest, "done");
    let mut start = start(&["sh", "-c", &format!("head -c {total} /dev/zero; echo x >{done}")]);
    start.acknowledges = true;
    guest.attach(&start).await.started().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!std::path::Path::new(&done).exists(), "the program waits");
    let (exited, told) = guest.attach(&start).await.acknowledging().exits().await;
    assert_eq!((exited.code, told.out.len() as u64), (0, total));
    let stdout = exited.stdout.unwrap();
    assert_eq!((stdout.bytes_total, stdout.bytes_delivered), (total, total));
}

#[tokio::test]
async fn output_goes_on_where_it_was_however_often_the_connection_is_lost() {
    let guest = Guest::new().await;
    let total = 6 * WINDOW;
    let input: Vec<u8> = (0..total as u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut start = start(&["cat"]);
    start.acknowledges = true;
    let (mut got, mut connections) = (Told::default(), 0);
    let exited = loop {
        let mut attached =
            guest.attach(&guest::resuming_if(&start, connections > 0, got.out.len() as u64)).await.acknowledging();
        connections += 1;
        // Each connection breaks somewhere in the middle of everything.
        let most = got.out.len() + total / 7 + connections * 1000;
        match attached.pump(&input, &mut got, most).await {
            Some(exited) => break exited,
            None => drop(attached),
        }
    };
    assert!(connections > 5 && got.out == input, "{connections} connections, {} bytes", got.out.len());
    let stdout = exited.stdout.unwrap();
    assert_eq!((stdout.bytes_total, stdout.bytes_delivered), (total as u64, total as u64));
    assert_eq!(guest.intents(), 1);
}

#[tokio::test]
async fn a_silent_client_is_told_what_is_gone_and_can_have_the_rest() {
    let guest = Guest::new().await;
    let total = 2 * WINDOW as u64;
    let start = start(&["head", "-c", &total.to_string(), "/dev/zero"]);
    let (_, told) = guest.attach(&start).await.exits().await;
    assert_eq!(told.out.len() as u64, total);
    let (status, _) = guest.attach(&start).await.ends().await;
    let status = status.unwrap_err();
    assert_eq!((guest::word(&status), status.code()), ("OUTPUT_GONE", tonic::Code::OutOfRange));
    let from = total - WINDOW as u64;
    assert!(status.message().contains(&format!("stdout from {from} ")), "{status:?}");
    let (exited, told) = guest.attach(&guest::resuming(&start, from, 0)).await.exits().await;
    assert_eq!((exited.code, told.out.len()), (0, WINDOW));
    let (status, _) = guest.attach(&guest::resuming(&start, total + 1, 0)).await.ends().await;
    assert_eq!(guest::word(&status.unwrap_err()), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn a_client_that_has_something_of_a_call_nobody_knows_starts_none() {
    let guest = Guest::new().await;
    let (status, _) = guest.attach(&guest::resuming(&start(&["true"]), 0, 0)).await.ends().await;
    let status = status.unwrap_err();
    assert_eq!((guest::word(&status), status.code()), ("CALL_UNKNOWN", tonic::Code::NotFound));
    assert_eq!(guest.intents(), 0);
}

#[tokio::test]
async fn a_terminal_has_its_size_is_resized_and_ends_input_when_asked() {
    let guest = Guest::new().await;
    let mut start = start(&["sh", "-c", "stty size; read go; stty size; cat; echo over"]);
    start.terminal = Some(pb::TerminalSize { rows: 11, columns: 22 });
    let mut attached = guest.attach(&start).await;
    attached.until(|told| told.out.ends_with(b"11 22\r\n")).await;
    attached.say(Request::Resize(pb::TerminalSize { rows: 33, columns: 44 })).await;
    attached.say(Request::Stdin("go\n".into())).await;
    attached.until(|told| told.out.ends_with(b"33 44\r\n")).await;
    attached.say(Request::StdinEof(pb::StdinEof {})).await;
    let (exited, told) = attached.exits().await;
    assert_eq!((exited.code, told.err.len()), (0, 0));
    assert!(told.out.ends_with(b"over\r\n"), "{}", String::from_utf8_lossy(&told.out));
}

#[tokio::test]
async fn a_signal_reaches_the_program_and_one_that_may_not_be_sent_changes_nothing() {
    let guest = Guest::new().await;
    let start = start(&["sh", "-c", "echo up; exec sleep 1000"]);
    let mut attached = guest.attach(&start).await;
    attached.until(|told| told.out == b"up\n").await;
    for request in [
        Request::Signal(pb::Signal { number: 11 }),
        Request::Signal(pb::Signal { number: 0 }),
        Request::Resize(pb::TerminalSize { rows: 1, columns: 1 }),
        Request::Resize(pb::TerminalSize { rows: 0, columns: 1 }),
    ] {
        attached.say(request).await;
        let (status, _) = attached.ends().await;
        assert_eq!(guest::word(&status.unwrap_err()), "INVALID_ARGUMENT");
        attached = guest.attach(&guest::resuming(&start, 3, 0)).await;
        attached.started().await;
    }
    // Not 2: a shell that is just becoming its last program catches that one.
    attached.say(Request::Signal(pb::Signal { number: 15 })).await;
    let (exited, _) = attached.exits().await;
    assert_eq!((exited.cause(), exited.signal), (pb::ExitCause::Signalled, 15));
    assert_eq!(guest.outcomes(), [CauseClass::Signalled]);
}

#[tokio::test]
async fn stdin_beyond_its_limit_and_receipts_beyond_what_was_sent_end_the_call() {
    let guest = Guest::new().await;
    let mut sleeping = start(&["sleep", "1000"]);
    sleeping.acknowledges = true;
    let attached = guest.attach(&sleeping).await;
    // The limit, and what the pipe takes; then one more.
    for _ in 0..9 {
        attached.say(Request::Stdin(vec![0; 65_536].into())).await;
    }
    let (status, _) = attached.ends().await;
    assert_eq!(guest::word(&status.unwrap_err()), "LIMIT_EXCEEDED");
    let mut sleeping = start(&["sleep", "1000"]);
    sleeping.acknowledges = true;
    let attached = guest.attach(&sleeping).await;
    attached.say(Request::Received(pb::Offsets { stdout: 1, stderr: 0 })).await;
    let (status, _) = attached.ends().await;
    assert_eq!(guest::word(&status.unwrap_err()), "INVALID_ARGUMENT");
    assert_eq!(guest.outcomes(), [CauseClass::Cancelled, CauseClass::Cancelled]);
}

#[tokio::test]
async fn a_cancel_gets_through_though_the_program_reads_nothing() {
    let guest = Guest::new().await;
    let mut start = start(&["sleep", "1000"]);
    start.acknowledges = true;
    let attached: Attached = guest.attach(&start).await;
    for _ in 0..4 {
        attached.say(Request::Stdin(vec![0; 65_536].into())).await;
    }
    attached.say(Request::Cancel(pb::Cancel {})).await;
    assert_eq!(attached.exits().await.0.cause(), pb::ExitCause::Cancelled);
}
