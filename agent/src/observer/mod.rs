//! The observer: sees what the calls' processes do with files, and tells init of each call that has ended. It answers the kernel when
//! something is about to be executed: nothing is before it was seen. One thread, two rights (files by handle, leases), no network.
//!
//! ```text
//!  init ── place, names ──────────────┐
//!   │  begin ─> [ Running ] ── finish ─> [ Draining: what is queued ] ─> [ Telling: a few files at a time ] ─> observed
//!   │                 └─ forget ─> gone
//!  kernel ── executing (one queue a call; waits for an answer) ─> rows of that call
//!         ├─ opened, written (one queue a call) ────────────────> rows of that call
//!         └─ created, deleted, renamed (one queue for all) ─> whose? by process ─> rows of that call
//! ```
//! A process that is gone cannot be asked whose it was. Then it was the one running call that has the place; with several, each of
//! them has lost something, and says so.

mod content;
mod draft;
mod event;
mod held;
mod kernel;
mod processes;
mod queue;
mod seen;
mod telling;
mod watched;

use crate::channel::{Channel, ChannelError, Wait};
use crate::fixed;
use crate::frames::observe::{ToInit, ToObserver};
use crate::sealed;
use anyhow::Context as _;
use queue::Found;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use watched::Watched;

/// How often leases are looked at while there are any.
const LEASE_TICK: Duration = Duration::from_millis(20);
/// How long events that nobody waits for are left to gather: each time that this process wakes costs more than what it then does.
const GATHER: Duration = Duration::from_millis(5);

/// Its link to init.
type Init = Channel<ToInit, ToObserver>;

/// Runs as the observer: started by init, with its socket in place.
pub fn run() -> ExitCode {
    crate::inherited::harden();
    let Ok([init]) = crate::inherited::take([fixed::FD_OBSERVER_INIT]) else {
        eprintln!("coffer-agent: expected the descriptors of init; this role is started by init only");
        return ExitCode::from(64);
    };
    match observe(&Channel::new(init)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Init sees the end of this process, and with it ends the machine: what is not seen must not go on.
            eprintln!("coffer-agent: observer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lives until init closes its socket.
fn observe(init: &Init) -> anyhow::Result<()> {
    kernel::ignore_lease_breaks()?;
    let mut watched = Watched::default();
    let mut next = Instant::now();
    loop {
        let ready = wait(init, &watched, next)?;
        watched.tick(Instant::now());
        // What init says comes first: whose a process is. A call that is finished has its last events read then.
        if ready.init {
            loop {
                match init.receive(Wait::Never) {
                    Ok((message, descriptors)) => watched.told(message, descriptors)?,
                    Err(ChannelError::WouldBlock) => break,
                    Err(ChannelError::Closed) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for intent in ready.executing {
            watched.answer(intent)?;
        }
        // While somebody works there is always another event: it is left to gather, too.
        if ready.others && watched.read_others()? < Found::More {
            next = Instant::now() + GATHER;
        }
        for intent in watched.newly_lost() {
            init.send(&ToInit::Lost { intent }, &[], Wait::Block)?;
        }
        for (intent, told) in watched.tell()? {
            let record = sealed::seal(&told.record).context("put a record into memory")?;
            init.send(&ToInit::Observed { intent, coverage: told.coverage }, &[record.as_fd()], Wait::Block)?;
        }
    }
}

/// What has something to read.
#[derive(Debug, Default)]
struct Ready {
    init: bool,
    executing: Vec<u64>,
    others: bool,
}

/// Waits for init, for whoever is about to execute something, and from `next` on for everything else.
fn wait(init: &Init, watched: &Watched, next: Instant) -> anyhow::Result<Ready> {
    let rest = next.saturating_duration_since(Instant::now());
    let gathers = !rest.is_zero();
    let tick = watched.has_leases().then_some(LEASE_TICK);
    let timeout =
        if watched.is_telling() { Some(Duration::ZERO) } else { gathers.then_some(rest).into_iter().chain(tick).min() };
    let timeout = timeout.map(|time| Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() });
    let executing: Vec<(u64, BorrowedFd<'_>)> = watched.executing();
    let mut fds = vec![PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
    fds.extend(executing.iter().map(|(_, queue)| PollFd::from_borrowed_fd(*queue, PollFlags::IN)));
    let others = if gathers { Vec::new() } else { watched.others() };
    fds.extend(others.iter().map(|queue| PollFd::from_borrowed_fd(*queue, PollFlags::IN)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let of_calls = fds.iter().skip(1).zip(&executing).filter(|(fd, _)| is_ready(fd));
    Ok(Ready {
        init: fds.first().is_some_and(is_ready),
        executing: of_calls.map(|(_, (intent, _))| *intent).collect(),
        others: fds.iter().skip(1 + executing.len()).any(is_ready),
    })
}
