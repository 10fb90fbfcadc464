//! Files that are about to be executed: nobody may begin to write them until the kernel forbids it itself.

use super::kernel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// How long at most. The kernel forbids it as soon as the process that asked goes on.
const LEASE: Duration = Duration::from_secs(2);

/// How long when somebody waits to write it: the process that asked has gone on long since.
const WANTED: Duration = Duration::from_millis(100);

/// The leases that are held.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Lease>);

#[derive(Debug)]
struct Lease {
    file: OwnedFd,
    pid: i32,
    process: Option<OwnedFd>,
    since: Instant,
}

impl Lease {
    fn is_over(&self, now: Instant) -> bool {
        let held = now.saturating_duration_since(self.since);
        held >= LEASE || (held >= WANTED && kernel::is_wanted(self.file.as_fd()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Closing it does the same, when no other descriptor of the same opening is left; there is none.
        let _ = kernel::release(self.file.as_fd());
    }
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a file that this process is about to execute, and that was just leased.
    pub(super) fn hold(&mut self, file: &OwnedFd, pid: i32) {
        let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Ok(file) = file.try_clone() {
            self.0.push(Lease { file, pid, process, since: Instant::now() });
        }
    }

    /// A process is about to execute something else: a script's interpreter, a program's loader, or another program. It has what it
    /// executed before, or could not.
    pub(super) fn went_on(&mut self, pid: i32) {
        self.0.retain(|lease| lease.pid != pid);
    }

    /// Gives up what is over time, and what belonged to a process that is gone.
    pub(super) fn tick(&mut self, now: Instant) {
        let is_gone = |process: &OwnedFd| {
            let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        };
        self.0.retain(|lease| !lease.is_over(now) && !lease.process.as_ref().is_none_or(is_gone));
    }
}
