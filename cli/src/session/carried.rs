//! A call as a command of this terminal: its streams, its signals, a connection that may be lost, its exit status.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coffer_client::ClientError;
use coffer_client::calls::{Exec, Notice, Order, Streams};
use coffer_evidence::ids::SessionId;
use coffer_proto::guest::v1::{ExitCause, Exited};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::exec::Ended;
use super::tickets::Ticket;
use crate::command::Context;
use crate::exit::{Asked, Status, of_exited};
use crate::signals::Interrupts;
use crate::stdin::{Input, Stdin};
use crate::terminal::{self, Raw};

/// A second signal within this time of the first is meant for the call, not for its program.
const AGAIN: Duration = Duration::from_secs(2);
const SIGHUP: i32 = 1;

/// What a signal means for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// The first one cancels it.
    Cancel,
    /// It goes to the program; a second one soon after cancels the call, the next leaves it.
    PassOn,
}

/// Whether a call has a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    Terminal,
    Streams,
}

/// How the call is carried.
pub(super) struct Way<'a> {
    pub(super) context: &'a Context,
    pub(super) session: &'a SessionId,
    pub(super) interrupts: &'a Interrupts,
    pub(super) on_signal: OnSignal,
    pub(super) console: Console,
    pub(super) input: Input,
    pub(super) asked: Asked,
    pub(super) ticket: Option<Ticket>,
}

/// The user left before the call was over.
#[derive(Debug)]
pub(super) struct Left(pub(super) i32);

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "left by signal {}", self.0)
    }
}

impl std::error::Error for Left {}

impl Way<'_> {
    /// To the end of the call, or until the user leaves it.
    pub(super) async fn carry(self, exec: &mut Exec) -> anyhow::Result<(Status, Ended)> {
        let Self { context, session, interrupts, on_signal, console, input, asked, ticket } = self;
        context.output.done();
        let streams = Streams {
            stdin: Stdin::open(input),
            stdout: unbuffered(std::io::stdout().as_fd())?,
            stderr: unbuffered(std::io::stderr().as_fd())?,
        };
        let raw = match console {
            Console::Terminal => Raw::enter()?,
            Console::Streams => None,
        };
        // Without the terminal's own help a line must go back to its beginning by itself.
        let end = if raw.is_some() { "\r" } else { "" };
        let (mut orders, left) = orders(interrupts.clone(), on_signal, console)?;
        let call = exec.call_id().map(|call| call.to_string()).unwrap_or_default();
        let notice = |notice: Notice<'_>| match notice {
            Notice::Lost(error) => {
                context
                    .output
                    .note(format_args!("the connection is lost, the call runs on ({error}); trying again{end}"));
            }
            Notice::Back => context.output.note(format_args!("the connection is back{end}")),
            Notice::Missing(lost) => {
                let bytes = lost.stdout + lost.stderr;
                context.output.note(format_args!("{bytes} bytes of output are kept no longer and missing here{end}"));
            }
        };
        let result = tokio::select! {
            result = exec.run(streams, &mut orders, notice) => result,
            signal = left => {
                drop(raw);
                let signal = signal.unwrap_or(SIGHUP);
                context.output.note(format_args!(
                    "left call {call}: it runs on for a while; to come back: coffer session attach {session} --call {call}"
                ));
                return Err(Left(signal).into());
            }
        };
        drop(raw);
        let exited = match result {
            Ok(exited) => exited,
            Err(error) => {
                // What can be re-attached to keeps its ticket.
                match ticket {
                    Some(ticket) if !is_reachable(&error) => ticket.discard(),
                    Some(_) => context.output.note(format_args!(
                        "to look for the call again: coffer session attach {session} --call {call}"
                    )),
                    None => {}
                }
                return Err(error.into());
            }
        };
        if let Some(ticket) = ticket {
            ticket.discard();
        }
        Ok(told(context, &exited, &asked, interrupts.seen(), call))
    }
}

/// Whether the call may still run, and be found.
fn is_reachable(error: &ClientError) -> bool {
    error.is_lost() || error.reason() == Some("ATTACHED_ELSEWHERE")
}

fn told(context: &Context, exited: &Exited, asked: &Asked, interrupted: Option<i32>, call: String) -> (Status, Ended) {
    let (status, told) = of_exited(exited, asked);
    let cut = [&exited.stdout, &exited.stderr].into_iter().flatten().any(|s| s.bytes_delivered < s.bytes_total);
    if cut {
        context.output.note("the command wrote more than is delivered: the action log holds the digest of all of it");
    }
    let status = match (interrupted, exited.cause()) {
        (Some(signal), ExitCause::Cancelled) => Status::of_signal(signal),
        _ => {
            if let Some(told) = told {
                context.output.note(told);
            }
            status
        }
    };
    (status, Ended::new(status, exited, call))
}

/// Turns signals into orders, and says when the user leaves.
fn orders(
    interrupts: Interrupts,
    on_signal: OnSignal,
    console: Console,
) -> anyhow::Result<(mpsc::Receiver<Order>, impl Future<Output = Result<i32, oneshot::error::RecvError>>)> {
    let (sender, orders) = mpsc::channel(16);
    let (leave, left) = oneshot::channel();
    if console == Console::Terminal {
        let mut changes = signal(SignalKind::window_change()).context("expected to hear of the terminal's size")?;
        let sender = sender.clone();
        tokio::spawn(async move {
            loop {
                if sender.send(Order::Resize(terminal::size())).await.is_err() || changes.recv().await.is_none() {
                    return;
                }
            }
        });
    }
    tokio::spawn(async move {
        let mut said = Said::Nothing;
        let mut heard = 0;
        loop {
            let (number, count) = interrupts.after_count(heard).await;
            // Several at once are told as one.
            let came = if count > heard + 1 { Came::Several } else { Came::One };
            heard = count;
            let (next, order) = said.then((number, came), Instant::now(), on_signal, console);
            said = next;
            let Some(order) = order else {
                // Who cancels by the first signal has its own way out.
                if on_signal == OnSignal::PassOn {
                    let _ = leave.send(number);
                }
                return;
            };
            if sender.send(order).await.is_err() {
                return;
            }
        }
    });
    let left = async move {
        match left.await {
            Ok(number) => Ok(number),
            // Nobody can say it any more.
            Err(_) => std::future::pending().await,
        }
    };
    Ok((orders, left))
}

/// What the user's signals have come to.
///
/// ```text
///  Nothing ── signal: to the program ──> Signal ── soon again: cancel ──> Cancel ── again ──> (left)
///     │                                   └── later: to the program again
///     ├── of a call that a signal cancels ─────────────────────────────> Cancel
///     └── HUP, with a terminal: nobody is there any more ──────────────────────────────────> (left)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Signal(Instant),
    Cancel,
}

/// Signals since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    One,
    Several,
}

impl Said {
    /// After another signal; no order means that the user leaves.
    fn then(
        self,
        (number, came): (i32, Came),
        now: Instant,
        on_signal: OnSignal,
        console: Console,
    ) -> (Self, Option<Order>) {
        let soon = came == Came::Several || matches!(self, Self::Signal(at) if now.duration_since(at) < AGAIN);
        match (self, on_signal) {
            (_, OnSignal::PassOn) if number == SIGHUP && console == Console::Terminal => (self, None),
            (Self::Cancel, _) => (self, None),
            (Self::Nothing, OnSignal::Cancel) => (Self::Cancel, Some(Order::Cancel)),
            (Self::Nothing | Self::Signal(_), _) if soon => (Self::Cancel, Some(Order::Cancel)),
            (Self::Nothing | Self::Signal(_), _) => (Self::Signal(now), Some(Order::Signal(number))),
        }
    }
}

/// An output without a buffer of ours: what the command wrote is written when it comes.
fn unbuffered(output: BorrowedFd<'_>) -> anyhow::Result<tokio::fs::File> {
    let output = output.try_clone_to_owned().context("expected to duplicate an output of this command")?;
    Ok(tokio::fs::File::from_std(output.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_goes_to_the_program_a_second_soon_cancels_and_the_next_leaves() {
        let now = Instant::now();
        let then =
            |said: Said, number, after| said.then((number, Came::One), now + after, OnSignal::PassOn, Console::Streams);
        let none = Duration::ZERO;
        let (said, order) = then(Said::Nothing, 2, none);
        assert_eq!(order, Some(Order::Signal(2)));
        assert_eq!(then(said, 2, AGAIN).1, Some(Order::Signal(2)), "later it is one of its own");
        let (said, order) = then(said, 15, AGAIN / 2);
        assert_eq!((said, order), (Said::Cancel, Some(Order::Cancel)));
        assert_eq!(then(said, 2, 100 * AGAIN).1, None);
        // Two that are told as one.
        let both = Said::Nothing.then((2, Came::Several), now, OnSignal::PassOn, Console::Streams);
        assert_eq!(both.1, Some(Order::Cancel));
    }

    #[test]
    fn a_terminal_that_is_gone_leaves_the_call_alone_and_a_run_is_cancelled_at_once() {
        let now = Instant::now();
        let hup = |on_signal, console| Said::Nothing.then((SIGHUP, Came::One), now, on_signal, console).1;
        assert_eq!(hup(OnSignal::PassOn, Console::Terminal), None);
        assert_eq!(hup(OnSignal::PassOn, Console::Streams), Some(Order::Signal(SIGHUP)));
        assert_eq!(hup(OnSignal::Cancel, Console::Streams), Some(Order::Cancel));
        let cancelled = Said::Nothing.then((2, Came::One), now, OnSignal::Cancel, Console::Streams);
        assert_eq!(cancelled, (Said::Cancel, Some(Order::Cancel)));
    }
}
