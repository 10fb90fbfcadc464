//! Processes that are provably ours: a pid alone may be somebody else's by now, a pid with its start time may not. Held
//! by pidfd, so that a signal reaches this process or none.
#![allow(unsafe_code, reason = "tokio's registration of a descriptor is unsafe to call")]

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest record in bytes.
const RECORD_MAX: u64 = 4_096;

/// What names one process of one host boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessRecord {
    pub(crate) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
}

/// A process held by its descriptor.
#[derive(Debug)]
pub(crate) struct OwnedProcess {
    pid: i32,
    pidfd: OwnedFd,
}

/// This boot of the host.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Start time of a process; `None` when there is none.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in the second field may hold anything, but it ends at the last parenthesis.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

impl ProcessRecord {
    /// Of the calling process.
    pub(crate) fn of_self() -> io::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// Of a running process.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let start_time = start_time(pid).ok_or_else(|| io::Error::other("expected to read the process's stat"))?;
        Ok(Self { pid, start_time, boot_id: boot_id()? })
    }

    /// The process that wrote a record about itself to this file before it became what it is, if it still runs.
    pub(crate) fn open_recorded(path: &Path) -> Option<OwnedProcess> {
        Self::read(path)?.open()
    }

    /// Reads a record.
    fn read(path: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(RECORD_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The process, if it still is the one that wrote this.
    fn open(&self) -> Option<OwnedProcess> {
        if boot_id().ok()? != self.boot_id {
            return None;
        }
        let process = OwnedProcess::open(self.pid).ok()?;
        // Checked after the descriptor is held: from here on the pid cannot change hands unnoticed.
        (start_time(self.pid)? == self.start_time).then_some(process)
    }
}

impl OwnedProcess {
    /// Takes hold of a process known to be ours: a child not yet waited for.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let raw = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self { pid, pidfd: pidfd_open(raw, PidfdFlags::NONBLOCK)? })
    }

    /// SIGKILL. Nothing happens when it is gone.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The pid, for diagnostics.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the process has ended, without a thread, for as long as it takes. How it ended only its parent learns.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: the descriptor is owned by what is registered, never replaced, and closed only after it is taken out.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        drop(registered.map_err(io::Error::from)?.readable().await?);
        Ok(())
    }

    /// Waits until the process has ended, ours or adopted: its descriptor becomes readable.
    pub(crate) async fn ended_within(&self, limit: Duration) -> io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        let waiting = move || {
            let timeout = Timespec::try_from(limit).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? {
                0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
                _ => Ok(()),
            }
        };
        tokio::task::spawn_blocking(waiting).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_by_pid_and_start_time_together() {
        let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = i32::try_from(child.id().expect("running")).expect("a pid");
        let record =
            ProcessRecord { pid, start_time: start_time(pid).expect("running"), boot_id: boot_id().expect("boot id") };
        let other_time = ProcessRecord { start_time: record.start_time + 1, ..record.clone() };
        assert!(other_time.open().is_none(), "the pid of another process");
        let other_boot = ProcessRecord { boot_id: "another boot".into(), ..record.clone() };
        assert!(other_boot.open().is_none());
        let process = record.open().expect("ours");
        process.kill().expect("kill");
        tokio::time::timeout(Duration::from_secs(5), process.ended()).await.expect("in time").expect("ended");
        process.ended_within(Duration::from_secs(5)).await.expect("ended");
        child.wait().await.expect("wait");
        process.kill().expect("killing what is gone is not an error");
        assert!(record.open().is_none());
    }
}
