//! Runs the built-in tool of a logged file request and gathers what it did: reports, digests, exit.

use super::call::{self, Call};
use super::errors::{self, Reason};
use super::limits;
use super::pump::{self, Budget, Counter};
use super::starter::{Process, Wires};
use crate::frames::start::{Cause, Exit};
use crate::frames::tool::{Entry, Report};
use crate::frames::{FRAME_MAX, Frame as _};
use bytes::Bytes;
use coffer_evidence::call::{OutcomePrivate, StreamDigest};
use coffer_evidence::leaf::CauseClass;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Bytes of reports that are read: a full listing, with room for its framing.
const REPORTS_MAX: u64 = 6 << 20;
/// How long a client may take to fetch what is left when the tool has ended.
const REST: Duration = Duration::from_secs(30);

/// A tool's input: chunks that were checked, or the error that ended them.
pub(super) type Input = BoxStream<'static, Result<Bytes, Status>>;

/// What a tool did.
#[derive(Debug)]
pub(super) struct Ran {
    /// Index of the intent leaf.
    pub(super) intent: u64,
    /// Index of the outcome leaf.
    pub(super) outcome: u64,
    /// What it found.
    pub(super) entries: Vec<Entry>,
    /// How many.
    pub(super) files: u64,
    /// How many were there beside them.
    pub(super) left_out: u64,
    /// The bytes that came in.
    pub(super) input: StreamDigest,
    /// The bytes that went out.
    pub(super) output: StreamDigest,
}

/// Starts the tool, carries its streams, logs the outcome. Reports go to `entry` as they come when they are wanted
/// before the end; chunks of stdout to `deliver`.
pub(super) async fn run<E, D>(
    mut call: Call,
    input: Option<Input>,
    gone: &CancellationToken,
    entry: impl FnMut(Entry) -> E,
    deliver: impl FnMut(Bytes) -> D,
) -> Result<Ran, Status>
where
    E: Future<Output = Option<Entry>>,
    D: Future<Output = bool>,
{
    let intent = call.intent;
    let process = match call.start().await? {
        Ok(process) => process,
        Err(error) => {
            call.outcome(&call::not_started(&error), 0, 0).await?;
            let text = std::io::Error::from_raw_os_error(error.errno);
            return Err(Reason::NotStarted.status(format!("the tool did not start at `{}`: {text}", error.stage)));
        }
    };
    let Carried { exit, told, fed, input, output } = carry(&call, process, input, gone, entry, deliver).await?;
    let verdict = verdict(&exit, &told, fed);
    let outcome = OutcomePrivate { usage: call::ended(&exit).usage, ..outcome(&verdict, &told, &input, &output) };
    let outcome = call.outcome(&outcome, output.total, input.total).await?;
    verdict.map_err(|failure| failure.status)?;
    Ok(Ran { intent, outcome, entries: told.entries, files: told.files, left_out: told.left_out, input, output })
}

struct Carried {
    exit: Exit,
    told: Told,
    fed: Result<(), Status>,
    input: StreamDigest,
    output: StreamDigest,
}

/// What the tool's reports say.
struct Told {
    entries: Vec<Entry>,
    files: u64,
    left_out: u64,
    end: End,
}

enum End {
    Done,
    Failed { stage: String, errno: i32 },
    Silent,
}

/// A call that did not do what it should: what to log, what to tell.
struct Failure {
    cause: CauseClass,
    errno: Option<u64>,
    stage: Option<String>,
    status: Status,
}

async fn carry<E, D>(
    call: &Call,
    process: Process,
    input: Option<Input>,
    gone: &CancellationToken,
    entry: impl FnMut(Entry) -> E,
    mut deliver: impl FnMut(Bytes) -> D,
) -> Result<Carried, Status>
where
    E: Future<Output = Option<Entry>>,
    D: Future<Output = bool>,
{
    let (over, abandon) = (CancellationToken::new(), CancellationToken::new());
    let Process { wires, exit } = process;
    let Wires::Pipes { stdin, stdout, stderr } = wires else {
        return Err(Reason::Internal.status("a built-in tool on a terminal"));
    };
    let budget = Budget::new(u64::MAX);
    let output = pump::drain(stdout, &budget, &abandon, |_, chunk| deliver(chunk));
    let reports = reports(stderr, entry, &abandon);
    let feed = feed(call, stdin, input, &over);
    let watch_client = async {
        tokio::select! {
            () = gone.cancelled() => call.cancel().await,
            () = over.cancelled() => {}
        }
    };
    let end = async {
        let exit = exit.await;
        over.cancel();
        exit
    };
    let patience = async {
        over.cancelled().await;
        let closing = call.closing();
        tokio::select! {
            () = tokio::time::sleep(REST) => {}
            () = closing.cancelled() => {}
            () = gone.cancelled() => {}
        }
        abandon.cancel();
    };
    let streams = async {
        let both = async { tokio::join!(output, reports) };
        tokio::pin!(both, patience);
        tokio::select! {
            both = &mut both => both,
            () = &mut patience => both.await,
        }
    };
    let (exit, (output, told), (fed, input), ()) = tokio::join!(end, streams, feed, watch_client);
    let exit = exit.map_err(|_| Reason::OutcomeUnknown.status("the guest ended before the tool did"))?;
    Ok(Carried { exit, told, fed, input, output })
}

/// Feeds the tool. Its stdin ends only when the client's stream ended as it should: a tool that sees the end may
/// trust that it has everything. Otherwise the call is cancelled and the pipe stays open until the tool is gone.
async fn feed(
    call: &Call,
    stdin: pipe::Sender,
    input: Option<Input>,
    over: &CancellationToken,
) -> (Result<(), Status>, StreamDigest) {
    let mut counter = Counter::default();
    let mut stdin = Some(stdin);
    let Some(mut input) = input else {
        drop(stdin);
        return (Ok(()), counter.finish());
    };
    let pumping = async {
        while let Some(chunk) = input.next().await {
            let chunk = chunk?;
            limits::transfer(counter.total(), chunk.len())?;
            let Some(pipe) = &mut stdin else { break };
            if !pump::feed(pipe, &mut counter, &chunk).await {
                // The tool has ended, or will not take more; it says itself why.
                return Ok(());
            }
        }
        stdin = None;
        Ok(())
    };
    let fed = call.feeding(pumping, over).await;
    drop(stdin);
    (fed, counter.finish())
}

/// Reads reports to their end.
async fn reports<E>(
    stderr: impl AsyncRead + Unpin,
    mut entry: impl FnMut(Entry) -> E,
    abandon: &CancellationToken,
) -> Told
where
    E: Future<Output = Option<Entry>>,
{
    let mut stderr = stderr.take(REPORTS_MAX);
    let mut told = Told { entries: Vec::new(), files: 0, left_out: 0, end: End::Silent };
    while let Some(report) = report(&mut stderr).await {
        match report {
            Report::Entry(found) => {
                let kept = tokio::select! {
                    kept = entry(found) => kept,
                    () = abandon.cancelled() => None,
                };
                told.entries.extend(kept);
            }
            Report::Done { files, left_out, .. } => {
                (told.files, told.left_out, told.end) = (files, left_out, End::Done);
            }
            Report::Failed { stage, errno } => {
                told.end = End::Failed { stage, errno: i32::try_from(errno).unwrap_or(libc::EIO) };
            }
        }
    }
    // Whatever else it writes there, it must not wait for us.
    drop(tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await);
    told
}

/// The next report; nothing at the end or when the bytes are no report.
async fn report(from: &mut (impl AsyncRead + Unpin)) -> Option<Report> {
    let length = usize::try_from(from.read_u32_le().await.ok()?).ok().filter(|length| *length <= FRAME_MAX)?;
    let mut packet = vec![0; 4 + length];
    packet[..4].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    from.read_exact(&mut packet[4..]).await.ok()?;
    Report::decode(&packet).ok()
}

/// What became of the call, taken together.
fn verdict(exit: &Exit, told: &Told, fed: Result<(), Status>) -> Result<(), Failure> {
    let cause = call::cause(exit);
    let failure = |cause, status| Failure { cause, errno: None, stage: None, status };
    if let Err(status) = fed {
        // The client's own stream was at fault; that is what it hears.
        return Err(failure(CauseClass::Cancelled, errors::of_transport(status)));
    }
    match (exit.cause, &told.end) {
        (Cause::Ended, End::Done) if cause == CauseClass::Completed => Ok(()),
        (Cause::Ended, End::Failed { stage, errno }) => {
            let status = errors::of_tool(stage, *errno);
            let (errno, stage) = (Some(u64::from(errno.unsigned_abs())), Some(call::stage(stage)));
            Err(Failure { cause: CauseClass::Failed, errno, stage, status })
        }
        (Cause::Ended, _) => Err(failure(
            if cause == CauseClass::Completed { CauseClass::Failed } else { cause },
            Reason::Internal.status("the tool ended without saying what it did"),
        )),
        (Cause::SessionClosing, _) => Err(failure(cause, Reason::SessionClosing.status("the session is closing"))),
        (why, _) => Err(failure(cause, Reason::Ended.status(format!("the call was ended: {why:?}")))),
    }
}

/// The private part of the outcome, without the usage.
fn outcome(verdict: &Result<(), Failure>, told: &Told, input: &StreamDigest, output: &StreamDigest) -> OutcomePrivate {
    let moved = if input.total > 0 { input } else { output };
    let content = OutcomePrivate {
        digest: Some(moved.sha256),
        size: Some(moved.total),
        ..OutcomePrivate::new(CauseClass::Completed)
    };
    match verdict {
        Ok(()) => OutcomePrivate { files: Some(told.files), ..content },
        Err(failure) => {
            OutcomePrivate { cause: failure.cause, errno: failure.errno, stage: failure.stage.clone(), ..content }
        }
    }
}
