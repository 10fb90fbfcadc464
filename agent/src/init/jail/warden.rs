//! The first process of a call's own process namespace. It makes what can only be made from inside, and then holds it: the
//! mount tree with a `/proc` of its own, the network of the identity, the IPC namespace. It collects the orphans of the call,
//! and its end is the end of every process in there.
//!
//! ```text
//!  clone(new pid, new ipc) ─ mounts and network of the room ─ mount tree of its own ─ /proc ─ no capabilities ─ sleeps
//!     each failure writes its errno and exits; success writes 0
//! ```
//! It has a copy of init's memory, so that the out-of-memory killer, which ends all who share one, never takes it with a
//! tool that is just starting. It makes bare system calls only, as a child of a process with threads must.
#![allow(unsafe_code, reason = "the child of a clone may only make bare system calls")]

use super::super::raw::{self, Birth, Stack, call, word};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

/// A warden that has made its namespaces. Killed when dropped, and everything in them with it.
#[derive(Debug)]
pub struct Warden {
    process: raw::Child,
}

/// What the child reads.
struct Plan {
    mounts: RawFd,
    network: RawFd,
    report: RawFd,
    /// Everything but these three descriptors, as ranges with both ends in them.
    others: [(RawFd, RawFd); 4],
}

/// Everything but three descriptors. A range that ends before it begins is none.
fn others(mut keep: [RawFd; 3]) -> [(RawFd, RawFd); 4] {
    keep.sort_unstable();
    let [a, b, c] = keep;
    [(0, a - 1), (a + 1, b - 1), (b + 1, c - 1), (c + 1, RawFd::MAX)]
}

impl Warden {
    /// Makes the namespaces of one call out of those of its identity.
    pub(super) fn new(mounts: BorrowedFd<'_>, network: BorrowedFd<'_>) -> io::Result<Self> {
        let (verdict, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let [mounts, network, descriptor] = [mounts.as_raw_fd(), network.as_raw_fd(), report.as_raw_fd()];
        let plan = Plan { mounts, network, report: descriptor, others: others([mounts, network, descriptor]) };
        let stack = Stack::new();
        let birth = Birth { flags: libc::CLONE_NEWPID | libc::CLONE_NEWIPC, cgroup: None };
        // SAFETY: the child has copies of plan and stack, and makes bare system calls only.
        let process = unsafe { raw::clone(&birth, &stack, main, &plan) }?;
        drop(report);
        let warden = Self { process };
        warden.made(File::from(verdict))?;
        Ok(warden)
    }

    /// Waits for its report.
    fn made(&self, mut verdict: File) -> io::Result<()> {
        let mut errno = [0; 4];
        let failed = match verdict.read_exact(&mut errno) {
            Ok(()) => i32::from_ne_bytes(errno),
            Err(_) => libc::ESRCH,
        };
        if failed == 0 {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(failed))
    }

    /// The process: what the tool joins.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// Whether it has not ended. One that has is reaped now, if nobody did before.
    pub(super) fn is_there(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        matches!(waitid(WaitId::PidFd(self.process.pidfd.as_fd()), options), Ok(None))
    }

    /// Its process id. It is init's to reap, once it is dropped.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // Whoever is gone already cannot be killed; there is no other error for a child of our own.
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
    }
}

/// Waits for a warden that was killed; nothing when somebody else has reaped it.
pub(super) fn wait(process: BorrowedFd<'_>) {
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(process), WaitIdOptions::EXITED));
}

/// A descriptor of this process's own namespace for processes, to come back to.
pub(in super::super) fn own_processes() -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/ns/pid", flags, rustix::fs::Mode::empty())?)
}

extern "C" fn main(plan: &Plan) -> ! {
    let errno: i32 = prepare(plan).err().unwrap_or(0);
    // SAFETY: four bytes of a live variable go into a pipe that has room for them. After that nothing of this memory is
    // used: the loop keeps to registers.
    unsafe {
        let _ = call(libc::SYS_write, [plan.report as usize, &raw const errno as usize, 4, 0, 0]);
        if errno != 0 {
            loop {
                let _ = call(libc::SYS_exit_group, [1, 0, 0, 0, 0]);
            }
        }
        let _ = call(libc::SYS_close_range, [0, u32::MAX as usize, 0, 0, 0]);
        std::arch::asm!(
            "3:",
            "mov eax, {pause}",
            "syscall",
            "jmp 3b",
            pause = const libc::SYS_pause,
            options(noreturn),
        );
    }
}

fn prepare(plan: &Plan) -> Result<(), i32> {
    // The kernel's `sigaction` on x86-64: handler, flags, restorer, mask. Ignored children leave no zombies.
    let (ignore, none) = ([libc::SIG_IGN as u64, 0, 0, 0], 0_u64);
    // SAFETY: every call takes integers, pointers to constants, or pointers to memory that outlives the call; each
    // changes the calling process only, or namespaces that are its own by then.
    unsafe {
        // First: while it holds a copy of a pipe that another thread has for a starting tool, nobody sees that pipe end.
        for (first, last) in plan.others {
            if first <= last {
                call(libc::SYS_close_range, [word(first), word(last), 0, 0, 0])?;
            }
        }
        call(libc::SYS_setsid, [0; 5])?;
        call(libc::SYS_rt_sigprocmask, [word(libc::SIG_SETMASK), &raw const none as usize, 0, 8, 0])?;
        call(libc::SYS_rt_sigaction, [word(libc::SIGCHLD), ignore.as_ptr() as usize, 0, 8, 0])?;
        call(libc::SYS_setns, [word(plan.network), word(libc::CLONE_NEWNET), 0, 0, 0])?;
        call(libc::SYS_setns, [word(plan.mounts), word(libc::CLONE_NEWNS), 0, 0, 0])?;
        call(libc::SYS_unshare, [word(libc::CLONE_NEWNS), 0, 0, 0, 0])?;
        let (kind, target) = (c"proc".as_ptr() as usize, c"/proc".as_ptr() as usize);
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        call(libc::SYS_mount, [kind, target, kind, flags as usize, 0])?;
        // Where there is no right to that (a test), it is as likely to go as any other.
        let _ = super::super::spawn::never_kill_me();
        super::super::spawn::credentials(crate::fixed::UID_WARDEN, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_closed_but_three_descriptors() {
        assert_eq!(others([7, 3, 12]), [(0, 2), (4, 6), (8, 11), (13, RawFd::MAX)]);
        assert_eq!(others([0, 1, 2]), [(0, -1), (1, 0), (2, 1), (3, RawFd::MAX)]);
    }
}
