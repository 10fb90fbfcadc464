//! Exec: one program, its three streams, and how it ended.
//!
//! ```text
//!  client ── stdin ──> pump ──> program ──> pump ── stdout, stderr ──> client
//!     │                            │
//!     └ cancel, or gone ─> init ───┴──> exited ─> drain what is left ─> outcome leaf ─> `exited` to the client
//! ```

use super::call::{self, Call, Header};
use super::errors::{self, Reason};
use super::limits;
use super::pump::{self, Budget, Counter};
use super::session::Session;
use super::starter::{NotStarted, Process};
use crate::frames::start::{Cause, Exit};
use crate::init::command;
use bytes::Bytes;
use coffer_evidence::call::{OutcomePrivate, Request, StreamDigest};
use coffer_proto::guest::v1 as pb;
use pb::exec_request::Request as Inbound;
use pb::exec_response::Response as Outbound;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// How long a client may take to fetch what is left when its program has ended.
const REST: Duration = Duration::from_secs(30);

type Reply = mpsc::Sender<Result<pb::ExecResponse, Status>>;

/// Carries one exec. Errors go to the client as the end of its stream.
pub(super) async fn run(session: Arc<Session>, mut inbound: Streaming<pb::ExecRequest>, reply: Reply) {
    if let Err(status) = exec(&session, &mut inbound, &reply).await {
        // A client that is gone has no use for it.
        drop(reply.send(Err(status)).await);
    }
}

async fn exec(session: &Arc<Session>, inbound: &mut Streaming<pb::ExecRequest>, reply: &Reply) -> Result<(), Status> {
    let first = inbound.message().await.map_err(errors::of_transport)?.and_then(|message| message.request);
    let Some(Inbound::Start(start)) = first else {
        return Err(Reason::InvalidArgument.status("expected `start` as the first message of an exec"));
    };
    let (header, request, output_max) = parse(start)?;
    let Request::Exec { argv, cwd, .. } = &request else {
        return Err(Reason::Internal.status("an exec that is none"));
    };
    // What init will execute: resolved by the same rule, from the same fixed path.
    let program = command::resolve(&argv[0]).ok();
    let paths = vec![cwd.clone()];
    let mut call = Call::begin(session, header, &request, program, paths).await?;
    let process = match call.start().await? {
        Ok(process) => process,
        Err(error) => return finish_unstarted(call, error, reply).await,
    };
    let intent_index = call.intent;
    send(reply, Outbound::Started(pb::Started { intent_index })).await;
    let (exit, fed, streams) = carry(&call, process, inbound, reply, output_max).await?;
    finish(call, exit, fed, streams, reply).await
}

fn parse(start: pb::ExecStart) -> Result<(Header, Request, u64), Status> {
    let header = call::header(start.header)?;
    // Sorted, so that the same request gives the same bytes.
    let mut env: Vec<(String, String)> = start.env.into_iter().collect();
    env.sort_unstable();
    limits::arguments(&start.argv, &env)?;
    let cwd = limits::path(&start.cwd)?;
    let timeout_ms =
        limits::bounded("timeout_ms", start.timeout_ms, limits::TIMEOUT_DEFAULT_MS, limits::TIMEOUT_MAX_MS)?;
    let grace_ms = limits::bounded("grace_ms", start.grace_ms, limits::GRACE_DEFAULT_MS, limits::GRACE_MAX_MS)?;
    let output_bytes_max =
        limits::bounded("output_bytes_max", start.output_bytes_max, limits::OUTPUT_MAX, limits::OUTPUT_MAX)?;
    let request =
        Request::Exec { argv: start.argv, cwd, env: env.into_iter().collect(), timeout_ms, grace_ms, output_bytes_max };
    Ok((header, request, output_bytes_max))
}

/// The three digests of a call.
struct Streams {
    stdin: StreamDigest,
    stdout: StreamDigest,
    stderr: StreamDigest,
}

async fn carry(
    call: &Call,
    process: Process,
    inbound: &mut Streaming<pb::ExecRequest>,
    reply: &Reply,
    output_max: u64,
) -> Result<(Exit, Result<(), Status>, Streams), Status> {
    let budget = Budget::new(output_max);
    let (over, abandon) = (CancellationToken::new(), CancellationToken::new());
    let Process { stdin, stdout, stderr, exit } = process;
    let out = pump::drain(stdout, &budget, &abandon, |offset, data| output(reply, Outbound::Stdout, offset, data));
    let err = pump::drain(stderr, &budget, &abandon, |offset, data| output(reply, Outbound::Stderr, offset, data));
    let input = input(call, inbound, stdin, &over);
    let watch_client = async {
        tokio::select! {
            () = reply.closed() => call.cancel().await,
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
            () = reply.closed() => {}
        }
        abandon.cancel();
    };
    let streams = async {
        let both = async { tokio::join!(out, err) };
        tokio::pin!(both, patience);
        tokio::select! {
            both = &mut both => both,
            () = &mut patience => both.await,
        }
    };
    let (exit, (stdout, stderr), (fed, stdin), ()) = tokio::join!(end, streams, input, watch_client);
    let exit = exit.map_err(|_| Reason::OutcomeUnknown.status("the guest ended before the program did"))?;
    Ok((exit, fed, Streams { stdin, stdout, stderr }))
}

/// Feeds stdin until it ends, the client asks for the end, or the program is over. A message that breaks the protocol ends
/// the call, too, and its client hears why.
async fn input(
    call: &Call,
    inbound: &mut Streaming<pb::ExecRequest>,
    stdin: tokio::net::unix::pipe::Sender,
    over: &CancellationToken,
) -> (Result<(), Status>, StreamDigest) {
    let mut counter = Counter::default();
    // Dropping it is the end of input: at the client's word, and when the client has nothing more to say. A call that is
    // cancelled sees none: what it has of its input is not all of it.
    let mut stdin = Some(stdin);
    let feed = async {
        while let Some(message) = inbound.message().await.map_err(errors::of_transport)? {
            match message.request {
                Some(Inbound::Stdin(bytes)) => {
                    limits::chunk(&bytes)?;
                    match &mut stdin {
                        Some(pipe) => {
                            if !pump::feed(pipe, &mut counter, &bytes).await {
                                stdin = None;
                            }
                        }
                        // The program closed its stdin: what still comes is nobody's.
                        None => counter.came(&bytes),
                    }
                }
                Some(Inbound::StdinEof(_)) => stdin = None,
                Some(Inbound::Cancel(_)) => {
                    call.cancel().await;
                    over.cancelled().await;
                }
                Some(Inbound::Start(_)) | None => {
                    let text = "expected `stdin`, `stdin_eof` or `cancel` after `start`, found something else";
                    return Err(Reason::InvalidArgument.status(text));
                }
            }
        }
        stdin = None;
        Ok(())
    };
    let fed = call.feeding(feed, over).await;
    drop(stdin);
    (fed, counter.finish())
}

async fn output(reply: &Reply, of: fn(pb::Output) -> Outbound, offset: u64, data: Bytes) -> bool {
    send(reply, of(pb::Output { offset, data })).await
}

async fn send(reply: &Reply, response: Outbound) -> bool {
    reply.send(Ok(pb::ExecResponse { response: Some(response) })).await.is_ok()
}

async fn finish_unstarted(call: Call, error: NotStarted, reply: &Reply) -> Result<(), Status> {
    let outcome = call::not_started(&error);
    let outcome_index = call.outcome(&outcome, 0, 0).await?;
    let exited = pb::Exited {
        cause: pb::ExitCause::FailedToStart.into(),
        errno: error.errno,
        stage: error.stage,
        outcome_index,
        ..pb::Exited::default()
    };
    send(reply, Outbound::Exited(exited)).await;
    Ok(())
}

async fn finish(
    call: Call,
    exit: Exit,
    fed: Result<(), Status>,
    streams: Streams,
    reply: &Reply,
) -> Result<(), Status> {
    let mut exited = exited(&exit);
    exited.stdout = Some(stream(&streams.stdout));
    exited.stderr = Some(stream(&streams.stderr));
    let (output, input) = (streams.stdout.total + streams.stderr.total, streams.stdin.total);
    let outcome = OutcomePrivate {
        stdin: Some(streams.stdin),
        stdout: Some(streams.stdout),
        stderr: Some(streams.stderr),
        ..call::ended(&exit)
    };
    exited.outcome_index = call.outcome(&outcome, output, input).await?;
    // The client's own stream was at fault; that is what it hears.
    fed?;
    send(reply, Outbound::Exited(exited)).await;
    Ok(())
}

fn exited(exit: &Exit) -> pb::Exited {
    let cause = match (exit.cause, exit.code) {
        (Cause::Ended, Some(_)) => pb::ExitCause::Exited,
        (Cause::Ended, None) => pb::ExitCause::Signalled,
        (Cause::TimedOut, _) => pb::ExitCause::TimedOut,
        (Cause::Cancelled, _) => pb::ExitCause::Cancelled,
        (Cause::OutOfMemory, _) => pb::ExitCause::OutOfMemory,
        (Cause::SessionClosing, _) => pb::ExitCause::SessionClosing,
    };
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let small = |number: Option<u64>| number.and_then(|number| i32::try_from(number).ok()).unwrap_or(0);
    pb::Exited {
        cause: cause.into(),
        code: small(exit.code),
        signal: small(exit.signal),
        usage: Some(pb::ResourceUsage {
            wall_ms: signed(exit.wall_ms),
            user_us: signed(exit.user_us),
            system_us: signed(exit.system_us),
            max_rss_kib: signed(exit.max_rss_kib),
        }),
        ..pb::Exited::default()
    }
}

fn stream(digest: &StreamDigest) -> pb::Stream {
    pb::Stream {
        bytes_total: digest.total,
        bytes_delivered: digest.delivered,
        sha256: Bytes::copy_from_slice(digest.sha256.as_bytes()),
    }
}
