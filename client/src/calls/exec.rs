//! One call and this client's place in it: what it has of the output, what the guest has of the input. A connection that
//! breaks takes nothing away; [`Exec::reattach`] goes on with the same call.
//!
//! ```text
//!              start                    next: events             Exited
//!  (nothing) ────────> connected ──────────────────────────────────────────> over
//!                         │  ^
//!                    lost │  │ reattach: same id, same request, from these offsets
//!                         ▼  │
//!                      not connected
//! ```
//! Nothing happens outside of [`Exec::next`]: it sends what is to be sent, too. It may be dropped at any time.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use coffer_evidence::ids::{CallId, SessionId};
use coffer_proto::guest::v1 as guest;
use guest::exec_request::Request;
use guest::exec_response::Response;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::command::{Command, Event, Order};
use super::{CHUNK, IN_FLIGHT, addressed, header};
use crate::connection::Client;
use crate::error::ClientError;

/// Bytes of input that are kept until the guest's program has taken them.
pub const INPUT_MAX: usize = 1 << 20;
/// Bytes of input that may be on their way beyond what the program has taken: the guest's limit.
const INPUT_AHEAD: u64 = 256 * 1024;
/// Bytes of output after which the guest is told that they are here.
const TELL: u64 = 64 * 1024;
/// Orders that wait for a connection.
const ORDERS_MAX: usize = 64;

/// Whether an end of input was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputEnd {
    None,
    Wanted,
    Sent,
}

/// Bytes for the program, from the first that it has not taken.
#[derive(Debug)]
struct Input {
    waiting: VecDeque<u8>,
    /// Bytes that the program has taken.
    taken: u64,
    end: InputEnd,
}

/// A call.
#[derive(Debug)]
pub struct Exec {
    client: Client,
    session: SessionId,
    /// As it was sent first.
    start: guest::ExecStart,
    got: guest::Offsets,
    known: Known,
    input: Input,
    orders: VecDeque<Order>,
    cancelled: Cancelled,
    connection: Option<Connection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancelled {
    No,
    /// Said again on every connection.
    Yes,
}

/// What is known of the call's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It was never sent.
    New,
    /// It was sent; whether it arrived nobody knows.
    Sent,
    /// The guest has it; which intent it is, is told once.
    Started { intent: Option<u64> },
}

/// Whether the guest still reads requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    Yes,
    No,
}

/// One stream of requests and responses.
#[derive(Debug)]
struct Connection {
    requests: mpsc::Sender<guest::ExecRequest>,
    responses: Streaming<guest::ExecResponse>,
    /// Bytes of input that came before this connection or were sent on it; none before the guest has said so.
    sent: Option<u64>,
    acknowledged: guest::Offsets,
    cancel_sent: Cancelled,
    listens: Listens,
    last: Option<Box<guest::Exited>>,
}

impl Exec {
    /// A call of its own; nothing is sent before [`Exec::reattach`].
    ///
    /// # Errors
    /// [`ClientError::Random`].
    pub fn new(client: &Client, session: &SessionId, command: Command) -> Result<Self, ClientError> {
        let milliseconds =
            |time: Option<Duration>| time.map_or(0, |time| i64::try_from(time.as_millis().max(1)).unwrap_or(i64::MAX));
        let start = guest::ExecStart {
            header: Some(header(&command.identity)?),
            argv: command.argv,
            cwd: command.cwd,
            env: command.env,
            timeout_ms: milliseconds(command.timeout),
            reattach_ms: milliseconds(command.reattach),
            terminal: command.terminal.map(Into::into),
            acknowledges: true,
            ..guest::ExecStart::default()
        };
        Ok(Self::of(client, session, start))
    }

    /// Starts a program.
    ///
    /// # Errors
    /// [`ClientError`]. Who wants to try again after one with [`ClientError::is_lost`] makes the call with [`Exec::new`].
    pub async fn start(client: &Client, session: &SessionId, command: Command) -> Result<Self, ClientError> {
        let mut exec = Self::new(client, session, command)?;
        exec.reattach().await?;
        Ok(exec)
    }

    /// A call that this or another program started, by its ticket; not connected. What came of its output before is at
    /// most from these offsets on.
    ///
    /// # Errors
    /// [`ClientError::Unexpected`] when the ticket is none.
    pub fn resume(
        client: &Client,
        session: &SessionId,
        ticket: &[u8],
        at: guest::Offsets,
    ) -> Result<Self, ClientError> {
        let start = guest::ExecStart::decode(ticket).ok().filter(|start| start.header.is_some());
        let start = start.ok_or_else(|| ClientError::Unexpected {
            expected: "the ticket of a call",
            found: "other bytes".to_owned(),
        })?;
        let known = Known::Started { intent: None };
        Ok(Self { got: at, known, ..Self::of(client, session, start) })
    }

    fn of(client: &Client, session: &SessionId, start: guest::ExecStart) -> Self {
        Self {
            client: client.clone(),
            session: *session,
            start,
            got: guest::Offsets::default(),
            known: Known::New,
            input: Input { waiting: VecDeque::new(), taken: 0, end: InputEnd::None },
            orders: VecDeque::new(),
            cancelled: Cancelled::No,
            connection: None,
        }
    }

    /// Everything that another program needs to re-attach: the request, the call id and the salt.
    #[must_use]
    pub fn ticket(&self) -> Vec<u8> {
        self.start.encode_to_vec()
    }

    /// The id of the call.
    #[must_use]
    pub fn call_id(&self) -> Option<CallId> {
        let header = self.start.header.as_ref()?;
        header.call_id.as_ref().try_into().ok().map(CallId::new)
    }

    /// Whether the program has a terminal.
    #[must_use]
    pub const fn has_terminal(&self) -> bool {
        self.start.terminal.is_some()
    }

    /// Bytes of output that [`Exec::next`] has given.
    #[must_use]
    pub const fn offsets(&self) -> guest::Offsets {
        self.got
    }

    /// Index of the intent leaf in the action log, when the guest has told it.
    #[must_use]
    pub const fn intent(&self) -> Option<u64> {
        match self.known {
            Known::Started { intent } => intent,
            Known::New | Known::Sent => None,
        }
    }

    /// Starts the call, or goes on with it on a new connection, from the offsets of what came. It is the same call however
    /// often this is done.
    ///
    /// # Errors
    /// [`ClientError`]; with [`ClientError::is_lost`] it may work later.
    pub async fn reattach(&mut self) -> Result<(), ClientError> {
        self.connection = None;
        let (requests, receiver) = mpsc::channel(IN_FLIGHT);
        let mut start = self.start.clone();
        // What the guest is known to have is not to be started by mistake.
        start.resume = matches!(self.known, Known::Started { .. }).then_some(self.got);
        // Only who starts a call for the first time knows that no input came before.
        let sent = (self.known == Known::New).then_some(0);
        requests.try_send(request(Request::Start(start))).map_err(|_| lost("the queue of requests is closed"))?;
        if self.known == Known::New {
            self.known = Known::Sent;
        }
        let stream = addressed(&self.session, ReceiverStream::new(receiver));
        let responses = self.client.tools().exec(stream).await.map_err(ClientError::after_dispatch)?.into_inner();
        // A pipe that was ended stays so, told twice; on a terminal it would be typed twice.
        if self.input.end == InputEnd::Sent && self.start.terminal.is_none() {
            self.input.end = InputEnd::Wanted;
        }
        self.connection = Some(Connection {
            requests,
            responses,
            sent,
            acknowledged: self.got,
            cancel_sent: Cancelled::No,
            listens: Listens::Yes,
            last: None,
        });
        Ok(())
    }

    /// Skips output that the guest has no more, as it says in an error of reason `OUTPUT_GONE`. Answers how many bytes of
    /// each stream are lost; none when the error is another.
    pub fn skip(&mut self, gone: &ClientError) -> Option<guest::Offsets> {
        let from = gone.output_from()?;
        let lost = guest::Offsets {
            stdout: from.stdout.saturating_sub(self.got.stdout),
            stderr: from.stderr.saturating_sub(self.got.stderr),
        };
        self.got.stdout += lost.stdout;
        self.got.stderr += lost.stderr;
        Some(lost)
    }

    /// Bytes of input that [`Exec::write`] takes now.
    #[must_use]
    pub fn input_room(&self) -> usize {
        match self.input.end {
            InputEnd::None => INPUT_MAX - self.input.waiting.len(),
            InputEnd::Wanted | InputEnd::Sent => 0,
        }
    }

    /// Input for the program, at most [`Exec::input_room`]; more is cut off. Answers how much was taken.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.input_room());
        self.input.waiting.extend(bytes.iter().take(count));
        count
    }

    /// Ends the input after what was written; on a terminal by its end-of-file character.
    pub fn end_input(&mut self) {
        if self.input.end == InputEnd::None {
            self.input.end = InputEnd::Wanted;
        }
    }

    /// Orders something; what is sent on a connection that breaks may be lost, but for a cancellation.
    pub fn order(&mut self, order: Order) {
        match order {
            Order::Cancel => self.cancelled = Cancelled::Yes,
            Order::Signal(_) | Order::Resize(_) => {
                // Only the last size is of interest.
                if matches!(order, Order::Resize(_)) {
                    self.orders.retain(|waiting| !matches!(waiting, Order::Resize(_)));
                }
                if self.orders.len() < ORDERS_MAX {
                    self.orders.push_back(order);
                }
            }
        }
    }

    /// The next event. What the one before gave counts as received: the guest need not keep it. After `Exited` nothing
    /// comes.
    ///
    /// # Errors
    /// [`ClientError`]; after one with [`ClientError::is_lost`] [`Exec::reattach`] goes on.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let due = self.is_due();
            let Some(connection) = &mut self.connection else { return Err(lost("there is no connection")) };
            let heard = tokio::select! {
                permit = connection.requests.reserve(), if due => match permit {
                    Ok(permit) => {
                        drop(permit);
                        None
                    }
                    // The guest wants no more of it; why, the responses say.
                    Err(_) => {
                        connection.listens = Listens::No;
                        continue;
                    }
                },
                response = connection.responses.message() => Some(response),
            };
            let Some(response) = heard else {
                self.send_one();
                continue;
            };
            match response {
                Ok(Some(message)) => {
                    if let Some(event) = self.take(message)? {
                        return Ok(event);
                    }
                }
                Ok(None) => match self.connection.take().and_then(|connection| connection.last) {
                    Some(exited) => return Ok(Event::Exited(exited)),
                    None => return Err(lost("the stream ended without an exit")),
                },
                Err(status) => return Err(self.drop_connection(ClientError::after_dispatch(status))),
            }
        }
    }

    /// Sends what is to be sent, while the caller has no use for the next event.
    pub async fn flush(&mut self) {
        while self.is_due() {
            let Some(connection) = &mut self.connection else { return };
            match connection.requests.reserve().await {
                Ok(permit) => drop(permit),
                Err(_) => {
                    connection.listens = Listens::No;
                    return;
                }
            }
            self.send_one();
        }
    }

    fn drop_connection(&mut self, error: ClientError) -> ClientError {
        self.connection = None;
        error
    }

    /// What is to be said next, if anything.
    fn due(&self) -> Option<Due> {
        let connection = self.connection.as_ref().filter(|connection| connection.listens == Listens::Yes)?;
        if self.cancelled == Cancelled::Yes && connection.cancel_sent == Cancelled::No {
            return Some(Due::Cancel);
        }
        if !self.orders.is_empty() && connection.sent.is_some() {
            return Some(Due::Order);
        }
        let here = self.got.stdout + self.got.stderr;
        if here >= connection.acknowledged.stdout + connection.acknowledged.stderr + TELL {
            return Some(Due::Received);
        }
        let sent = connection.sent?;
        let end = self.input.taken + self.input.waiting.len() as u64;
        if sent < end.min(self.input.taken + INPUT_AHEAD) {
            return Some(Due::Input);
        }
        (sent == end && self.input.end == InputEnd::Wanted).then_some(Due::InputEnd)
    }

    fn is_due(&self) -> bool {
        self.due().is_some()
    }

    /// Says it: there is room.
    fn send_one(&mut self) {
        let Some(due) = self.due() else { return };
        let Some(connection) = &mut self.connection else { return };
        let said = match due {
            Due::Cancel => {
                connection.cancel_sent = Cancelled::Yes;
                Request::Cancel(guest::Cancel {})
            }
            Due::Order => match self.orders.pop_front() {
                Some(Order::Signal(number)) => Request::Signal(guest::Signal { number }),
                Some(Order::Resize(size)) => Request::Resize(size.into()),
                Some(Order::Cancel) | None => return,
            },
            Due::Received => {
                connection.acknowledged = self.got;
                Request::Received(self.got)
            }
            Due::Input => {
                let sent = connection.sent.unwrap_or_default();
                let from = usize::try_from(sent.saturating_sub(self.input.taken)).unwrap_or(usize::MAX);
                let most = usize::try_from((self.input.taken + INPUT_AHEAD).saturating_sub(sent)).unwrap_or(CHUNK);
                let length = self.input.waiting.len();
                let to = from.saturating_add(CHUNK.min(most)).min(length);
                let chunk: Vec<u8> = self.input.waiting.range(from.min(to)..to).copied().collect();
                connection.sent = Some(sent + chunk.len() as u64);
                Request::Stdin(chunk.into())
            }
            Due::InputEnd => {
                self.input.end = InputEnd::Sent;
                Request::StdinEof(guest::StdinEof {})
            }
        };
        // There was room, and this is the only sender.
        drop(connection.requests.try_send(request(said)));
    }

    /// What a message is to the caller.
    fn take(&mut self, message: guest::ExecResponse) -> Result<Option<Event>, ClientError> {
        let Some(connection) = &mut self.connection else { return Ok(None) };
        match message.response {
            Some(Response::Started(started)) => {
                let end = self.input.taken + self.input.waiting.len() as u64;
                if started.stdin_offset < self.input.taken || started.stdin_offset > end {
                    // A ticket says nothing of input that went before.
                    if self.input.waiting.is_empty() && self.input.taken == 0 {
                        self.input.taken = started.stdin_offset;
                    } else {
                        return Err(unexpected("an offset of stdin within what was sent", started.stdin_offset));
                    }
                }
                connection.sent = Some(connection.sent.unwrap_or(0).max(started.stdin_offset));
                let known = std::mem::replace(&mut self.known, Known::Started { intent: Some(started.intent_index) });
                let news = !matches!(known, Known::Started { intent: Some(_) });
                Ok(news.then_some(Event::Started(started.intent_index)))
            }
            Some(Response::Stdout(output)) => {
                let data = fresh(output, &mut self.got.stdout)?;
                Ok(data.map(Event::Stdout))
            }
            Some(Response::Stderr(output)) => {
                let data = fresh(output, &mut self.got.stderr)?;
                Ok(data.map(Event::Stderr))
            }
            Some(Response::StdinTaken(taken)) => {
                let count = taken.offset.saturating_sub(self.input.taken);
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                if count > self.input.waiting.len() {
                    return Err(unexpected("an offset of stdin within what was sent", taken.offset));
                }
                self.input.waiting.drain(..count);
                self.input.taken += count as u64;
                Ok((count > 0).then_some(Event::InputTaken))
            }
            Some(Response::Exited(exited)) => {
                connection.last = Some(Box::new(exited));
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

/// The next thing to say.
#[derive(Clone, Copy)]
enum Due {
    Cancel,
    Order,
    Received,
    Input,
    InputEnd,
}

/// What of a chunk is new; one that leaves a gap is none of this call's.
fn fresh(output: guest::Output, got: &mut u64) -> Result<Option<Bytes>, ClientError> {
    if output.offset > *got {
        return Err(unexpected("output that goes on where it was", output.offset));
    }
    let mut data = output.data;
    let known = usize::try_from(*got - output.offset).unwrap_or(usize::MAX).min(data.len());
    data.advance(known);
    *got += data.len() as u64;
    Ok((!data.is_empty()).then_some(data))
}

fn lost(why: &str) -> ClientError {
    ClientError::OutcomeUnknown { why: why.to_owned() }
}

fn unexpected(expected: &'static str, offset: u64) -> ClientError {
    ClientError::Unexpected { expected, found: format!("the offset {offset}") }
}

fn request(request: Request) -> guest::ExecRequest {
    guest::ExecRequest { request: Some(request) }
}
