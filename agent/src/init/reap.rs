//! Collects processes that ended: calls, the guest's own, and orphans that PID 1 inherits.
#![allow(unsafe_code, reason = "wait4 is the only call that gives the resource usage with the status")]

use crate::frames::start::{Cause, Exit};
use std::io;

/// A process that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Its id, free for reuse from now on.
    pub pid: i32,
    /// Exit status, when it exited.
    pub code: Option<u64>,
    /// Signal number, when a signal ended it.
    pub signal: Option<u64>,
    /// User time with waited-for children, microseconds.
    pub user_us: u64,
    /// System time with waited-for children, microseconds.
    pub system_us: u64,
    /// Largest resident set, KiB.
    pub max_rss_kib: u64,
}

/// Which process to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Any child: for PID 1.
    Anyone,
    /// This one.
    Pid(i32),
}

/// One process that has ended, if there is one. Never waits.
pub fn reap(who: Who) -> Option<Reaped> {
    collect(who, libc::WNOHANG)
}

/// Waits for a process to end; nothing when there is none to wait for.
pub fn reap_waiting(who: Who) -> Option<Reaped> {
    loop {
        let reaped = collect(who, 0);
        if reaped.is_some() || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return reaped;
        }
    }
}

fn collect(who: Who, options: i32) -> Option<Reaped> {
    let pid = match who {
        Who::Anyone => -1,
        Who::Pid(pid) => pid,
    };
    let mut status = 0;
    // SAFETY: `rusage` is plain data for which all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables of the right type.
    let found = unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) };
    if found <= 0 {
        return None;
    }
    let unsigned = |number: i32| u64::try_from(number).unwrap_or(0);
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000) + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    Some(Reaped {
        pid: found,
        code: libc::WIFEXITED(status).then(|| unsigned(libc::WEXITSTATUS(status))),
        signal: libc::WIFSIGNALED(status).then(|| unsigned(libc::WTERMSIG(status))),
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    })
}

impl Reaped {
    /// The exit of a call whose main process this was.
    pub fn exit(&self, cause: Cause, wall_ms: u64) -> Exit {
        Exit {
            cause,
            code: self.code,
            signal: self.signal,
            wall_ms,
            user_us: self.user_us,
            system_us: self.system_us,
            max_rss_kib: self.max_rss_kib,
        }
    }
}
