//! Calls and their clients through `cofferd`'s relay, with a real guest: a stream that is dropped, another that takes over, a
//! terminal, signals. The same without a guest, in more detail: `coffer-agent::exec`.

use anyhow::{Context as _, ensure};
use coffer_evidence::leaf::CauseClass;
use coffer_evidence::leaf::CauseClass::{Cancelled, Completed, Failed, Signalled};
use coffer_proto::guest::v1 as pb;
use pb::exec_request::Request;
use pb::exec_response::Response;
use tokio::sync::mpsc;
use tonic::Code::{Aborted, AlreadyExists, InvalidArgument, NotFound, OutOfRange, PermissionDenied};
use tonic::{Status, Streaming};

use crate::answers::{done, refused};
use crate::session::{Ended, Leaves, Session, of_start};

/// Bytes of output that the guest keeps.
const WINDOW: u64 = 1 << 20;

pub(crate) async fn calls(session: &Session) -> anyhow::Result<()> {
    dropped_and_resumed(session).await.context("a dropped stream")?;
    taken_over(session).await.context("taken over")?;
    given_up(session).await.context("given up")?;
    ended(session).await.context("ended")?;
    failed(session).await.context("failed")?;
    terminal(session).await.context("a terminal")?;
    signals(session).await.context("signals")
}

fn start(session: &Session, what: &str, leaves: Leaves, argv: &[&str]) -> pb::ExecStart {
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    pb::ExecStart { header: session.header(what, leaves), argv, ..pb::ExecStart::default() }
}

fn resuming(start: &pb::ExecStart, stdout: u64) -> pb::ExecStart {
    pb::ExecStart { resume: Some(pb::Offsets { stdout, stderr: 0 }), ..start.clone() }
}

/// One client's stream.
struct Attached {
    requests: mpsc::Sender<pb::ExecRequest>,
    responses: Streaming<pb::ExecResponse>,
    out: Vec<u8>,
    taken: u64,
}

impl Attached {
    async fn to(session: &Session, start: &pb::ExecStart) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let first = requests.send(of_start(start.clone())).await;
        first.map_err(|_| Status::unknown("the queue is closed"))?;
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let responses = session.tools().exec(receiver).await?.into_inner();
        Ok(Self { requests, responses, out: Vec::new(), taken: 0 })
    }

    async fn say(&self, request: Request) -> anyhow::Result<()> {
        Ok(self.requests.send(pb::ExecRequest { request: Some(request) }).await?)
    }

    async fn type_in(&self, text: &'static str) -> anyhow::Result<()> {
        self.say(Request::Stdin(text.into())).await
    }

    /// Reads until this much was put out.
    async fn until(&mut self, wanted: &str) -> anyhow::Result<()> {
        while !String::from_utf8_lossy(&self.out).contains(wanted) {
            let message = self.responses.message().await?.context("it ended too early")?;
            match message.response {
                Some(Response::Stdout(output)) => self.out.extend_from_slice(&output.data),
                Some(Response::Started(started)) => self.taken = started.stdin_offset,
                Some(Response::Exited(exited)) => anyhow::bail!("it ended too early: {exited:?}"),
                Some(Response::Stderr(_) | Response::StdinTaken(_)) | None => {}
            }
        }
        Ok(())
    }

    async fn ends(mut self) -> Result<Ended, Status> {
        let mut exited = None;
        while let Some(message) = self.responses.message().await? {
            match message.response {
                Some(Response::Stdout(output)) => self.out.extend_from_slice(&output.data),
                Some(Response::Exited(last)) => exited = Some(last),
                _ => {}
            }
        }
        let exited = exited.ok_or_else(|| Status::unknown("the stream ended without an exit"))?;
        Ok(Ended { exited, out: String::from_utf8_lossy(&self.out).into_owned() })
    }
}

async fn dropped_and_resumed(session: &Session) -> anyhow::Result<()> {
    let script = "echo one; while read line; do echo got $line; done; exit 3";
    let start = start(session, "dropped", Leaves::Ended(Failed), &["sh", "-c", script]);
    let mut first = Attached::to(session, &start).await?;
    first.type_in("a\nb").await?;
    first.until("got a\n").await?;
    let got = first.out.len() as u64;
    drop(first);
    // Another request under the same id, while it runs and later, changes nothing.
    let mut other = resuming(&start, got);
    other.cwd = "elsewhere".to_owned();
    refused("another", session.start(other.clone()).await, AlreadyExists, "CALL_ID_REUSED", "used before");
    let mut second = Attached::to(session, &resuming(&start, got)).await?;
    second.type_in("c\n").await?;
    second.until("got bc\n").await?;
    ensure!(second.taken == 3, "the guest has {} bytes of stdin", second.taken);
    second.say(Request::StdinEof(pb::StdinEof {})).await?;
    let ended = done("resumed", second.ends().await);
    ensure!((ended.exited.code, ended.out.as_str()) == (3, "got bc\n"), "{ended:?}");
    refused("another", session.start(other).await, AlreadyExists, "CALL_ID_REUSED", "used before");
    Ok(())
}

async fn taken_over(session: &Session) -> anyhow::Result<()> {
    let start = start(session, "taken over", Leaves::Ended(Completed), &["sh", "-c", "echo up; cat"]);
    let mut first = Attached::to(session, &start).await?;
    first.until("up\n").await?;
    let second = Attached::to(session, &resuming(&start, 3)).await?;
    refused("the first", first.ends().await, Aborted, "ATTACHED_ELSEWHERE", "another client attached");
    second.type_in("x").await?;
    second.say(Request::StdinEof(pb::StdinEof {})).await?;
    ensure!(done("the second", second.ends().await).out == "x");
    Ok(())
}

async fn given_up(session: &Session) -> anyhow::Result<()> {
    let mut start = start(session, "given up", Leaves::Ended(Cancelled), &["sh", "-c", "echo up; exec sleep 7531"]);
    start.reattach_ms = 500;
    let mut first = Attached::to(session, &start).await?;
    first.until("up\n").await?;
    drop(first);
    // No other call can see it end, and whoever attaches keeps it alive.
    session.sh("sleep 3").await?;
    let ended = done("given up", session.start(start).await);
    ensure!((ended.exited.cause(), ended.out.as_str()) == (pb::ExitCause::Cancelled, "up\n"), "{ended:?}");
    Ok(())
}

async fn ended(session: &Session) -> anyhow::Result<()> {
    let none = start(session, "never started", Leaves::None, &["true"]);
    let result = session.start(resuming(&none, 0)).await;
    refused("never started", result, NotFound, "CALL_UNKNOWN", "a call that was started before");
    let total = 2 * WINDOW;
    let start =
        start(session, "two windows", Leaves::Ended(Completed), &["head", "-c", &total.to_string(), "/dev/zero"]);
    let first = done("two windows", session.start(start.clone()).await).exited;
    let from = total - WINDOW;
    let gone = session.start(start.clone()).await;
    refused("from its beginning", gone, OutOfRange, "OUTPUT_GONE", &format!("stdout from {from} "));
    let again = done("the rest", session.start(resuming(&start, from)).await);
    ensure!(again.exited == first, "{:?} and {first:?}", again.exited);
    let beyond = session.start(resuming(&start, total + 1)).await;
    refused("beyond its end", beyond, InvalidArgument, "INVALID_ARGUMENT", "offsets within the output so far");
    Ok(())
}

/// What went wrong went wrong once: the same request again gets the same end, or the same refusal, and runs nothing.
async fn failed(session: &Session) -> anyhow::Result<()> {
    let unstarted = Leaves::Ended(CauseClass::FailedToStart);
    let start = start(session, "nothing to start", unstarted, &["no-such-program"]);
    let first = done("nothing to start", session.start(start.clone()).await).exited;
    ensure!((first.cause(), first.errno) == (pb::ExitCause::FailedToStart, 2), "{first:?}");
    // There is one by now: whoever ran it again would be told that it worked.
    session.sh("mkdir -p bin && cp /usr/bin/true bin/no-such-program").await?;
    let again = done("nothing to start", session.start(start.clone()).await).exited;
    ensure!(again == first, "{again:?} and {first:?}");
    let other = pb::ExecStart { argv: vec!["true".to_owned()], ..start };
    refused("another", session.start(other).await, AlreadyExists, "CALL_ID_REUSED", "used before");

    // A program that leaves a trace each time that it runs, whose client asked for more than is kept: an error of the agent's.
    let script = "echo ran >> ran; head -c 2097152 /dev/zero";
    let start = self::start(session, "an error afterwards", Leaves::Ended(Completed), &["sh", "-c", script]);
    done("an error afterwards", session.start(start.clone()).await);
    for _ in 0..3 {
        refused("what is gone", session.start(start.clone()).await, OutOfRange, "OUTPUT_GONE", "stdout from");
    }
    ensure!(session.sh("cat ran; rm -r ran bin").await? == "ran\n", "it ran more than once");

    // What was denied was decided: under its id nothing is decided, or runs, again.
    let denied = self::start(session, "denied", Leaves::Denied, &["/opt/program"]);
    refused("denied", session.start(denied.clone()).await, PermissionDenied, "POLICY_DENIED", "no rule");
    refused("denied again", session.start(denied.clone()).await, AlreadyExists, "CALL_ID_REUSED", "used before");
    let other = pb::ExecStart { argv: vec!["true".to_owned()], ..denied };
    refused("another", session.start(other).await, AlreadyExists, "CALL_ID_REUSED", "used before");
    Ok(())
}

async fn terminal(session: &Session) -> anyhow::Result<()> {
    let script = "tty; echo $TERM; stty size; trap 'stty size; exit 5' WINCH; echo set; while :; do sleep 0.1; done";
    let mut start = start(session, "a terminal", Leaves::Ended(Failed), &["sh", "-c", script]);
    start.terminal = Some(pb::TerminalSize { rows: 21, columns: 43 });
    let mut attached = Attached::to(session, &start).await?;
    attached.until("set\r\n").await?;
    let shown = String::from_utf8_lossy(&attached.out).into_owned();
    ensure!(shown.starts_with("/dev/pts/") && shown.contains("\r\nxterm-256color\r\n21 43\r\n"), "{shown}");
    attached.say(Request::Resize(pb::TerminalSize { rows: 65, columns: 87 })).await?;
    let ended = done("resized", attached.ends().await);
    ensure!(ended.exited.code == 5 && ended.out.contains("65 87"), "{ended:?}");
    for (rows, columns) in [(0, 1), (1, 0), (65_536, 1)] {
        let mut start = self::start(session, "no size", Leaves::None, &["true"]);
        start.terminal = Some(pb::TerminalSize { rows, columns });
        let text = "rows and columns of a terminal from 1 to 65535";
        refused("no size", session.start(start).await, InvalidArgument, "INVALID_ARGUMENT", text);
    }
    // A key that interrupts, and one that ends the input.
    for (keys, cause, leaves) in [
        ("\u{3}", pb::ExitCause::Signalled, Leaves::Ended(Signalled)),
        ("x\n\u{4}", pb::ExitCause::Exited, Leaves::Ended(Completed)),
    ] {
        let mut start = self::start(session, "keys", leaves, &["sh", "-c", "echo up; exec cat"]);
        start.terminal = Some(pb::TerminalSize { rows: 1, columns: 80 });
        let mut attached = Attached::to(session, &start).await?;
        attached.until("up\r\n").await?;
        attached.say(Request::Stdin(keys.into())).await?;
        let ended = done("keys", attached.ends().await);
        ensure!(ended.exited.cause() == cause, "{keys:?}: {ended:?}");
    }
    Ok(())
}

async fn signals(session: &Session) -> anyhow::Result<()> {
    for number in [2, 9, 15] {
        let start = start(session, "a signal", Leaves::Ended(Signalled), &["sh", "-c", "echo up; exec sleep 600"]);
        let mut attached = Attached::to(session, &start).await?;
        attached.until("up\n").await?;
        attached.say(Request::Signal(pb::Signal { number })).await?;
        let ended = done("a signal", attached.ends().await).exited;
        ensure!((ended.cause(), ended.signal) == (pb::ExitCause::Signalled, number), "{number}: {ended:?}");
    }
    let start = start(session, "no signal", Leaves::Ended(Completed), &["sh", "-c", "echo up; cat"]);
    for number in [0, -1, 4, 11, 17, 64] {
        let mut attached = Attached::to(session, &start).await?;
        attached.until("up\n").await?;
        attached.say(Request::Signal(pb::Signal { number })).await?;
        let text = format!("found signal {number}");
        refused("no signal", attached.ends().await, InvalidArgument, "INVALID_ARGUMENT", &text);
    }
    let last = Attached::to(session, &resuming(&start, 3)).await?;
    last.say(Request::StdinEof(pb::StdinEof {})).await?;
    ensure!(done("no signal", last.ends().await).exited.code == 0);
    Ok(())
}
