//! A call that runs: the one task that owns it, from its intent to its outcome. Clients come and go; whatever they do, the
//! task never waits for one of them alone.
//!
//! ```text
//!  arrivals ──┐               ┌──> input ──> program
//!  client ────┤               │
//!  program ───┼──> one loop ──┤
//!  exit ──────┤               └──> attachment (window) ──> client
//!  time ──────┘
//! ```

use super::super::call::{Call, Header};
use super::super::errors::{self, Reason};
use super::super::limits::{self, CHUNK_MAX};
use super::super::session::Session;
use super::super::starter::Wires;
use super::answers::Reply;
use super::attachment::{Attachment, Manner};
use super::ended;
use super::input::Input;
use super::known::{self, Claimed, End, Ending};
use super::outcome::{not_started, outcome};
use super::window::{Of, Offsets, Tail, WINDOW, Window};
use crate::frames::start::{Cause, Exit};
use crate::init::wires::winsize;
use coffer_evidence::call::Request;
use coffer_proto::guest::v1 as pb;
use pb::exec_request::Request as Inbound;
use pb::exec_response::Response as Outbound;
use std::error::Error as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// How long the clients of a program that has ended may take to make room for the rest of its output.
const REST: Duration = Duration::from_secs(30);
/// The same when the call was cancelled: a client that waits for the answer to that is told before it gives up.
const REST_CANCELLED: Duration = Duration::from_secs(2);
/// Bytes of stdin after which a client that acknowledges is told that they were taken.
const TELL: u64 = 64 * 1024;

/// A client that names a call.
#[derive(Debug)]
pub struct Arrival {
    /// It has all output before these.
    pub at: Offsets,
    /// Whether it tells what it has.
    pub manner: Manner,
    /// How long the call waits when it is gone.
    pub patience: Duration,
    /// What it says.
    pub inbound: Streaming<pb::ExecRequest>,
    /// What it hears.
    pub reply: Reply,
}

/// What was asked for.
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) request: Request,
    pub(super) program: Option<String>,
    pub(super) paths: Vec<String>,
    pub(super) output_max: u64,
}

/// Runs the call to its end, and serves the clients that are there then.
pub(super) async fn run(session: Arc<Session>, mut claimed: Claimed, asked: Asked, first: Arrival) {
    let begun = Call::begin(&session, asked.header, &asked.request, asked.program, asked.paths).await;
    let mut call = match begun {
        Ok(call) => call,
        // Nothing was logged: whoever came for the same call hears the same.
        Err(status) => return refuse(claimed, first, &status),
    };
    claimed.logged(call.intent);
    let intent = call.intent;
    let process = match call.start().await {
        Ok(Ok(process)) => process,
        Ok(Err(error)) => match not_started(call, &error).await {
            Ok(exited) => {
                let end = End { intent, stdin: 0, ending: Ending::Exited(Box::new(exited)), tail: Tail::default() };
                let (key, arrivals) = claimed.finish(end);
                return ended::serve_all(&session.execs, key, Some(first), arrivals).await;
            }
            Err(status) => return refuse(claimed, first, &status),
        },
        Err(status) => return refuse(claimed, first, &status),
    };
    let window = Window::new(WINDOW, asked.output_max);
    let live = Live {
        attachment: Attachment::new(window, first.manner, first.patience),
        client: None,
        intent,
        given: Given::new(process.wires),
        exit: None,
        rest: None,
    };
    let (live, client) = match live.carry(&call, &mut claimed, first, process.exit).await {
        Ok(ended) => ended,
        Err((client, status)) => {
            drop(claimed);
            return client.into_iter().for_each(|client| client.reply.end(status.clone()));
        }
    };
    let Live { attachment, given, exit, .. } = live;
    let (tail, at, streams) = attachment.finish();
    let stdin = given.input.came();
    let outcome = match exit {
        Some(exit) => outcome(call, &exit, given.input.finish(), streams).await,
        None => Err(known::unknown()),
    };
    let exited = match outcome {
        Ok(exited) => exited,
        Err(status) => {
            drop(claimed);
            return client.into_iter().for_each(|client| client.reply.end(status.clone()));
        }
    };
    let end = End { intent, stdin, ending: Ending::Exited(Box::new(exited)), tail };
    let (key, arrivals) = claimed.finish(end);
    let reader = client.map(|client| ended::Reader { reply: client.reply, at, fault: client.fault });
    ended::serve_rest(&session.execs, key, reader, arrivals).await;
}

/// Nobody hears anything else of this call.
fn refuse(mut claimed: Claimed, first: Arrival, status: &Status) {
    first.reply.end(status.clone());
    claimed.arrivals.close();
    while let Ok(arrival) = claimed.arrivals.try_recv() {
        arrival.reply.end(status.clone());
    }
}

/// The client that is attached.
struct Client {
    inbound: Option<Streaming<pb::ExecRequest>>,
    reply: Reply,
    manner: Manner,
    /// Bytes of stdin that it knows to be taken; none before the first word.
    told: Option<u64>,
    /// What was wrong with its messages: it hears it when the call has ended for that.
    fault: Option<Status>,
}

/// The program's side.
struct Given {
    input: Input,
    stdout: Source,
    stderr: Source,
    master: Option<OwnedFd>,
}

/// A stream of the program.
struct Source {
    from: Option<pipe::Receiver>,
    state: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    /// A terminal that no process has open, for now.
    Hung,
}

impl Source {
    /// Resolves when there is something to read, or the end.
    async fn ready(&self) {
        match &self.from {
            Some(from) => drop(from.readable().await),
            None => std::future::pending().await,
        }
    }
}

impl Given {
    fn new(wires: Wires) -> Self {
        let source = |from| Source { from, state: Reading::On };
        match wires {
            Wires::Pipes { stdin, stdout, stderr } => Self {
                input: Input::new(stdin),
                stdout: source(Some(stdout)),
                stderr: source(Some(stderr)),
                master: None,
            },
            Wires::Terminal { input, output, master } => Self {
                input: Input::new(input),
                stdout: source(Some(output)),
                stderr: source(None),
                master: Some(master),
            },
        }
    }
}

/// What is the matter with a client's message.
enum Wrong {
    /// The call ends for it.
    Fault(Status),
    /// The client is sent away, and nothing has changed.
    Refused(Status),
}

struct Live {
    attachment: Attachment,
    client: Option<Client>,
    intent: u64,
    given: Given,
    exit: Option<Exit>,
    /// Until when the rest of the output of a program that has ended finds room.
    rest: Option<Instant>,
}

type Ended = (Live, Option<Client>);

impl Live {
    async fn carry(
        mut self,
        call: &Call,
        claimed: &mut Claimed,
        first: Arrival,
        mut exit: tokio::sync::oneshot::Receiver<Exit>,
    ) -> Result<Ended, (Option<Client>, Status)> {
        self.admit(first);
        let closing = call.closing();
        let mut buffer = vec![0; CHUNK_MAX];
        loop {
            if self.exit.is_some() && self.given.stdout.from.is_none() && self.given.stderr.from.is_none() {
                let client = self.client.take();
                return Ok((self, client));
            }
            let (rest, runs) = (self.rest, self.exit.is_none());
            let Self { attachment, client, given: Given { input, stdout, stderr, .. }, .. } = &mut self;
            let (room_out, room_err) = (attachment.room(Of::Stdout), attachment.room(Of::Stderr));
            let deadline = attachment.deadline().into_iter().chain(rest).min();
            let (manner, taken) = (client.as_ref().map(|client| client.manner), input.taken());
            let listens = client.as_ref().is_some_and(|client| client.inbound.is_some() && client.fault.is_none())
                && manner.is_some_and(|manner| input.is_ready(manner));
            let tells = client.as_ref().is_some_and(|client| client.has_news(taken));
            let speaks = client.is_some() && (tells || attachment.has_next());
            let waits = input.is_waiting();
            let (inbound, reply) = match client {
                Some(client) => (client.inbound.as_mut(), Some(&client.reply)),
                None => (None, None),
            };
            let event = tokio::select! {
                Some(arrival) = claimed.arrivals.recv() => Event::Arrival(Box::new(arrival)),
                message = heard(inbound), if listens => Event::Heard(message),
                () = input.feed(), if waits => Event::Nothing,
                () = stdout.ready(), if room_out > 0 && stdout.state == Reading::On => Event::Readable(Of::Stdout),
                () = stderr.ready(), if room_err > 0 && stderr.state == Reading::On => Event::Readable(Of::Stderr),
                () = roomy(reply), if speaks => Event::Roomy,
                () = gone(reply) => Event::Gone,
                exit = &mut exit, if runs => Event::Exit(exit.ok()),
                () = until(deadline), if deadline.is_some() => Event::Time,
                () = closing.cancelled(), if rest.is_some() => Event::Closing,
            };
            match event {
                Event::Nothing => {}
                Event::Arrival(arrival) => self.arrive(*arrival),
                Event::Heard(message) => match self.hear(call, message).await {
                    Ok(()) => {}
                    Err(Wrong::Fault(status)) => {
                        call.cancel().await;
                        self.client.iter_mut().for_each(|client| client.fault = Some(status.clone()));
                    }
                    Err(Wrong::Refused(status)) => {
                        self.client.take().into_iter().for_each(|client| client.reply.end(status.clone()));
                        self.attachment.detach(Instant::now());
                    }
                },
                Event::Readable(of) => self.read(of, &mut buffer),
                Event::Roomy => self.speak(),
                Event::Gone => {
                    self.client = None;
                    self.attachment.detach(Instant::now());
                }
                Event::Exit(Some(exit)) => {
                    let rest = if exit.cause == Cause::Cancelled { REST_CANCELLED } else { REST };
                    self.rest = Some(Instant::now() + rest);
                    self.exit = Some(exit);
                    // Nobody is left to open the terminal again: what it holds is the last of it.
                    self.given.stdout.state = Reading::On;
                }
                Event::Exit(None) => {
                    let status = Reason::OutcomeUnknown.status("the guest ended before the program did");
                    return Err((self.client.take(), status));
                }
                Event::Time => {
                    let now = Instant::now();
                    if self.attachment.is_given_up(now) && self.exit.is_none() {
                        call.cancel().await;
                    }
                    if self.rest.is_some_and(|rest| now >= rest) {
                        self.abandon();
                    }
                }
                Event::Closing => self.abandon(),
            }
        }
    }

    fn abandon(&mut self) {
        self.attachment.abandon();
        self.rest = None;
    }

    /// A client comes while the call runs.
    fn arrive(&mut self, arrival: Arrival) {
        match self.attachment.attach(arrival.at, arrival.manner, arrival.patience) {
            Err(refused) => arrival.reply.end(known::refused(refused)),
            Ok(()) => {
                if let Some(before) = self.client.take() {
                    let text = "another client attached to the call; the program runs on for it";
                    before.reply.end(Reason::AttachedElsewhere.status(text));
                }
                self.admit(arrival);
            }
        }
    }

    fn admit(&mut self, arrival: Arrival) {
        let Arrival { manner, inbound, reply, .. } = arrival;
        reply.greet(pb::Started { intent_index: self.intent, stdin_offset: self.given.input.came() });
        self.client = Some(Client { inbound: Some(inbound), reply, manner, told: None, fault: None });
    }

    /// Does what the client says.
    async fn hear(&mut self, call: &Call, message: Result<Option<pb::ExecRequest>, Status>) -> Result<(), Wrong> {
        let Some(client) = &mut self.client else { return Ok(()) };
        let message = match message {
            Ok(Some(message)) => message,
            Err(status) if is_no_message(&status) => return Err(Wrong::Fault(errors::of_transport(status))),
            // It says no more, or is gone: its answers tell which.
            Ok(None) | Err(_) => {
                client.inbound = None;
                return Ok(());
            }
        };
        let input = &mut self.given.input;
        match message.request {
            Some(Inbound::Stdin(bytes)) => input.push(bytes, client.manner).map_err(Wrong::Fault),
            Some(Inbound::StdinEof(_)) => {
                input.end(self.given.master.as_ref());
                Ok(())
            }
            Some(Inbound::Cancel(_)) => {
                call.cancel().await;
                Ok(())
            }
            Some(Inbound::Signal(pb::Signal { number })) => {
                call.signal(limits::signal(number).map_err(Wrong::Refused)?).await;
                Ok(())
            }
            Some(Inbound::Resize(size)) => {
                let size = limits::terminal(size).map_err(Wrong::Refused)?;
                let no_terminal =
                    || Reason::InvalidArgument.status("expected a call with a terminal to resize, found none");
                let master = self.given.master.as_ref().ok_or_else(|| Wrong::Refused(no_terminal()))?;
                // A terminal takes every size.
                let _ = rustix::termios::tcsetwinsize(master, winsize(size));
                Ok(())
            }
            Some(Inbound::Received(to)) => {
                let to = Offsets { stdout: to.stdout, stderr: to.stderr };
                self.attachment.received(to).map_err(|refused| Wrong::Fault(known::refused(refused)))
            }
            Some(Inbound::Start(_)) | None => Err(Wrong::Fault(Reason::InvalidArgument.status(
                "expected `stdin`, `stdin_eof` or `cancel`, `signal`, `resize` or `received` after `start`, \
                 found something else",
            ))),
        }
    }

    /// Reads once, as much as there is room for.
    fn read(&mut self, of: Of, buffer: &mut [u8]) {
        let room = self.attachment.room(of).min(buffer.len());
        let terminal = self.given.master.is_some();
        let source = match of {
            Of::Stdout => &mut self.given.stdout,
            Of::Stderr => &mut self.given.stderr,
        };
        let Some(from) = &source.from else { return };
        match from.try_read(&mut buffer[..room]) {
            Ok(count) if count > 0 => self.attachment.output(of, &buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            // A terminal that nobody has open can be opened again as long as somebody is there.
            Ok(_) | Err(_) if terminal && self.exit.is_none() => source.state = Reading::Hung,
            Ok(_) | Err(_) => source.from = None,
        }
    }

    /// Says the next thing: there is room for it.
    fn speak(&mut self) {
        let Some(client) = &mut self.client else { return };
        let taken = self.given.input.taken();
        let response = if client.has_news(taken) {
            client.told = Some(taken);
            Outbound::StdinTaken(pb::StdinTaken { offset: taken })
        } else {
            let Some(chunk) = self.attachment.next_chunk() else { return };
            ended::output(chunk)
        };
        client.reply.say(response);
    }
}

impl Client {
    /// Whether it should hear how much of its stdin is taken.
    fn has_news(&self, taken: u64) -> bool {
        self.manner == Manner::Acknowledges && self.told.is_none_or(|told| taken >= told + TELL)
    }
}

enum Event {
    Nothing,
    Arrival(Box<Arrival>),
    Heard(Result<Option<pb::ExecRequest>, Status>),
    Readable(Of),
    Roomy,
    Gone,
    Exit(Option<Exit>),
    Time,
    Closing,
}

async fn heard(inbound: Option<&mut Streaming<pb::ExecRequest>>) -> Result<Option<pb::ExecRequest>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => std::future::pending().await,
    }
}

async fn gone(reply: Option<&Reply>) {
    match reply {
        Some(reply) => reply.closed().await,
        None => std::future::pending().await,
    }
}

/// Resolves when there is room for a message, or when nobody reads any more.
async fn roomy(reply: Option<&Reply>) {
    match reply {
        Some(reply) => reply.room().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether bytes came that are no message; a connection that broke has a cause of its own.
fn is_no_message(status: &Status) -> bool {
    status.source().is_none() && matches!(status.code(), tonic::Code::Internal | tonic::Code::OutOfRange)
}
