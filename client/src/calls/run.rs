//! Carries a call to its end with three streams of the caller: input, output, orders, and a connection that may be lost
//! meanwhile.
//!
//! ```text
//! stdin ──> Exec ──> stdout, stderr            lost ──> try again, a while ──> go on where it was
//! orders ────┘  └──> exited                      └────────────────────────────> the error that it was lost with
//! ```
//! Nothing keeps a caller waiting: not input that never ends, not a program that does not read, not an output that nobody
//! takes. When a cancellation brings no outcome in time, the call is left to the guest, which ends it.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use coffer_proto::guest::v1 as guest;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::CHUNK;
use super::command::{Event, Order};
use super::exec::Exec;
use crate::error::ClientError;

/// How long a cancelled call may take to tell its outcome: the guest's grace, and the time to drain its output.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a lost connection is tried to be made again, since it was lost.
const LOST_MAX: Duration = Duration::from_secs(60);
/// Between two tries, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that held this long is not the same trouble when it is lost.
const HELD: Duration = Duration::from_secs(10);

/// Where a program's input comes from and its output goes.
#[derive(Debug)]
pub struct Streams<I, O, E> {
    /// Passed to the program until its end.
    pub stdin: I,
    /// Written as it comes, and flushed.
    pub stdout: O,
    /// Written as it comes, and flushed.
    pub stderr: E,
}

/// What the caller may want to tell people.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The connection is lost; it is tried to be made again.
    Lost(&'a ClientError),
    /// It is there again.
    Back,
    /// Output that the guest has no more: that many bytes of each stream are missing.
    Missing(guest::Offsets),
}

impl Exec {
    /// Starts the call, or re-attaches to it, and carries it to its end. Orders are given as they come; when nobody can give
    /// any more, the call goes on. An output that cannot be written cancels the call.
    ///
    /// # Errors
    /// [`ClientError`]; with reason `OUTCOME_UNKNOWN` when the call was started and nobody knows how it ended;
    /// [`ClientError::File`] when an output could not be written.
    pub async fn run<I, O, E>(
        &mut self,
        streams: Streams<I, O, E>,
        orders: &mut mpsc::Receiver<Order>,
        mut notice: impl FnMut(Notice<'_>),
    ) -> Result<guest::Exited, ClientError>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let Streams { mut stdin, stdout, stderr } = streams;
        let mut outputs = Outputs { stdout: Output::new(stdout), stderr: Output::new(stderr), failed: None };
        let (mut input, mut orders) = (Some(&mut stdin), Some(orders));
        let mut buffer = vec![0; CHUNK];
        let mut line = Line::new(Instant::now());
        let mut patience = None;
        loop {
            let room = self.input_room().min(buffer.len());
            let (busy, away) = (outputs.busy(), line.next);
            let happened = tokio::select! {
                order = order(&mut orders) => Happened::Order(order),
                () = outputs.write(), if busy == Busy::Yes => Happened::Written,
                read = read(&mut input, &mut buffer[..room]), if room > 0 => Happened::Read(read),
                happened = go_on(self, away, busy) => happened,
                () = until(patience), if patience.is_some() => Happened::OutOfPatience,
            };
            match happened {
                Happened::Order(Some(order)) => {
                    if order == Order::Cancel && patience.is_none() {
                        patience = Some(Instant::now() + CANCEL_PATIENCE);
                        // What is not sent yet is not wanted any more.
                        input = None;
                    }
                    self.order(order);
                }
                Happened::Order(None) => orders = None,
                Happened::Written => {
                    if outputs.failed.is_some() && patience.is_none() {
                        patience = Some(Instant::now() + CANCEL_PATIENCE);
                        self.order(Order::Cancel);
                    }
                }
                Happened::Read(0) => {
                    self.end_input();
                    input = None;
                }
                Happened::Read(count) => drop(self.write(buffer.get(..count).unwrap_or_default())),
                Happened::Event(Ok(Event::Exited(exited))) => {
                    return match outputs.failed {
                        Some(error) => Err(error),
                        None => Ok(*exited),
                    };
                }
                Happened::Event(Ok(event)) => {
                    line.works();
                    match event {
                        Event::Stdout(data) => outputs.stdout.give(data, outputs.failed.as_ref()),
                        Event::Stderr(data) => outputs.stderr.give(data, outputs.failed.as_ref()),
                        Event::Started(_) | Event::InputTaken | Event::Exited(_) => {}
                    }
                }
                Happened::Event(Err(error)) | Happened::Tried(Err(error)) => {
                    let now = Instant::now();
                    if let Some(missing) = self.skip(&error) {
                        notice(Notice::Missing(missing));
                        line.next = Some(now);
                    } else {
                        let was_there = line.next.is_none() || line.trouble.is_none();
                        let trouble = line.trouble.is_some();
                        if !error.is_lost() || !line.lost(now) {
                            let error = if trouble { after_loss(error) } else { error };
                            return Err(outputs.failed.unwrap_or(error));
                        }
                        if was_there {
                            notice(Notice::Lost(&error));
                        }
                    }
                }
                Happened::Tried(Ok(())) => {
                    if line.trouble.is_some() {
                        notice(Notice::Back);
                    }
                    line.there(Instant::now());
                }
                Happened::OutOfPatience => {
                    return Err(ClientError::OutcomeUnknown { why: "cancelled, and no answer to that".to_owned() });
                }
            }
        }
    }
}

/// A session that is over, or gone, says nothing of a call that ran in it.
fn after_loss(error: ClientError) -> ClientError {
    const OF_THE_SESSION: [&str; 3] = ["SESSION_CLOSED", "SESSION_CLOSING", "SESSION_NOT_FOUND"];
    match error.reason() {
        Some(reason) if !OF_THE_SESSION.contains(&reason) => error,
        _ => ClientError::OutcomeUnknown { why: format!("the connection was lost, and then: {error}") },
    }
}

enum Happened {
    Order(Option<Order>),
    Written,
    Read(usize),
    Event(Result<Event, ClientError>),
    Tried(Result<(), ClientError>),
    OutOfPatience,
}

/// The connection as far as it fails.
struct Line {
    /// When to try next; none while there is one.
    next: Option<Instant>,
    /// Since when it has not held.
    trouble: Option<Instant>,
    pause: Duration,
    made: Instant,
}

impl Line {
    const fn new(now: Instant) -> Self {
        Self { next: Some(now), trouble: None, pause: PAUSE_MIN, made: now }
    }

    fn there(&mut self, now: Instant) {
        self.next = None;
        self.made = now;
    }

    /// Something came: whatever was the matter is over.
    const fn works(&mut self) {
        self.trouble = None;
        self.pause = PAUSE_MIN;
    }

    /// It is lost; false when it has been so for too long. A connection that held for a while begins anew.
    fn lost(&mut self, now: Instant) -> bool {
        if self.next.is_none() && now.duration_since(self.made) > HELD {
            self.trouble = None;
            self.pause = PAUSE_MIN;
        }
        let since = *self.trouble.get_or_insert(now);
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        now.duration_since(since) <= LOST_MAX
    }
}

async fn order(orders: &mut Option<&mut mpsc::Receiver<Order>>) -> Option<Order> {
    match orders {
        Some(orders) => orders.recv().await,
        None => std::future::pending().await,
    }
}

/// A read that fails is an end, too.
async fn read<I: AsyncRead + Unpin>(input: &mut Option<&mut I>, buffer: &mut [u8]) -> usize {
    match input {
        Some(input) => input.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// The next event of the connection that is there, or the next try to make one. While an output has yet to take what came,
/// nothing is heard, and orders are given all the same.
async fn go_on(exec: &mut Exec, away: Option<Instant>, outputs: Busy) -> Happened {
    match (away, outputs) {
        (Some(_), _) => {
            until(away).await;
            Happened::Tried(exec.reattach().await)
        }
        (None, Busy::No) => Happened::Event(exec.next().await),
        (None, Busy::Yes) => {
            exec.flush().await;
            std::future::pending().await
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One output of the caller.
struct Output<W> {
    to: W,
    waiting: Bytes,
    flush: Flush,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Done,
    Due,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    const fn new(to: W) -> Self {
        Self { to, waiting: Bytes::new(), flush: Flush::Done }
    }

    /// Takes what comes next; nothing is waiting then.
    fn give(&mut self, data: Bytes, failed: Option<&ClientError>) {
        if failed.is_none() {
            self.waiting = data;
        }
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.flush == Flush::Due
    }

    /// Does the next step. May be dropped: what was not written still waits.
    async fn step(&mut self) -> std::io::Result<()> {
        if self.waiting.is_empty() {
            self.to.flush().await?;
            self.flush = Flush::Done;
            return Ok(());
        }
        match self.to.write(&self.waiting).await? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            count => self.waiting.advance(count),
        }
        self.flush = Flush::Due;
        Ok(())
    }

    fn give_up(&mut self) {
        self.waiting.clear();
        self.flush = Flush::Done;
    }
}

/// Whether something waits to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Busy {
    Yes,
    No,
}

/// Both. The first failure is kept and told; after it output is dropped, while the outcome is still awaited.
struct Outputs<O, E> {
    stdout: Output<O>,
    stderr: Output<E>,
    failed: Option<ClientError>,
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Outputs<O, E> {
    fn busy(&self) -> Busy {
        if self.stdout.is_busy() || self.stderr.is_busy() { Busy::Yes } else { Busy::No }
    }

    async fn write(&mut self) {
        let (name, result) = if self.stdout.is_busy() {
            ("standard output", self.stdout.step().await)
        } else {
            ("standard error", self.stderr.step().await)
        };
        if let Err(source) = result {
            self.failed = Some(ClientError::File { what: "write to", path: name.into(), source });
            self.stdout.give_up();
            self.stderr.give_up();
        }
    }
}
