//! The observer: sees what the calls' processes do with files, and tells init of each call that has ended. It answers the kernel's
//! permission events: no file is opened or executed before it was seen. One thread, two rights (files by handle, leases), no
//! network.
//!
//! ```text
//!  init ── place, names ──────────────┐
//!   │  begin ─> [ Running ] ── finish ─> [ Draining: what is queued ] ─> [ Telling: a few files at a time ] ─> observed
//!   │                 └─ forget ─> gone
//!  kernel ── opening, executing, written (one queue a call) ─> rows of that call
//!         └─ created, deleted, renamed (one queue for all) ─> whose? by process ─> rows of that call
//! ```
//! A process that is gone cannot be asked whose it was. Then it was the one running call that has the place; with several, each of
//! them has lost something, and says so.

mod content;
mod event;
mod kernel;
mod seen;
mod telling;
mod watched;

use crate::channel::{Channel, ChannelError, Wait};
use crate::fixed;
use crate::frames::observe::{ToInit, ToObserver};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;
use watched::Watched;

/// How often leases are looked at while there are any.
const LEASE_TICK: Duration = Duration::from_millis(20);

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
    loop {
        let ready = wait(init, &watched)?;
        watched.tick(std::time::Instant::now());
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
        for intent in ready.calls {
            watched.read_call(intent)?;
        }
        if ready.names {
            watched.read_names()?;
        }
        for intent in watched.newly_lost() {
            init.send(&ToInit::Lost { intent }, &[], Wait::Block)?;
        }
        for (intent, record) in watched.tell()? {
            init.send(&ToInit::Observed { intent, record }, &[], Wait::Block)?;
        }
    }
}

/// What has something to read.
#[derive(Debug, Default)]
struct Ready {
    init: bool,
    names: bool,
    calls: Vec<u64>,
}

fn wait(init: &Init, watched: &Watched) -> anyhow::Result<Ready> {
    let timeout = if watched.is_telling() {
        Some(Timespec { tv_sec: 0, tv_nsec: 0 })
    } else {
        let tick = Timespec { tv_sec: 0, tv_nsec: LEASE_TICK.subsec_nanos().into() };
        watched.has_leases().then_some(tick)
    };
    let queues: Vec<(u64, BorrowedFd<'_>)> = watched.queues();
    let mut fds = vec![PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
    let names = watched.names();
    fds.extend(names.iter().map(|queue| PollFd::from_borrowed_fd(*queue, PollFlags::IN)));
    let first = fds.len();
    fds.extend(queues.iter().map(|(_, queue)| PollFd::from_borrowed_fd(*queue, PollFlags::IN)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    let (fixed, of_calls) = fds.split_at(first);
    Ok(Ready {
        init: fixed.first().is_some_and(is_ready),
        names: fixed.get(1).is_some_and(is_ready),
        calls: queues.iter().zip(of_calls).filter(|(_, fd)| is_ready(fd)).map(|((intent, _), _)| *intent).collect(),
    })
}
