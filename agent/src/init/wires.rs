//! What connects a call's program with the agent: three pipes, or a terminal. The program's ends become its descriptors
//! 0, 1 and 2; ours go to the agent.

use coffer_evidence::call::TerminalSize;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Both sides.
#[derive(Debug)]
pub struct Wires {
    /// (number in the child, descriptor here).
    pub theirs: Vec<(RawFd, OwnedFd)>,
    /// Stdin to write, stdout and stderr to read; or the master of the terminal.
    pub ours: Vec<OwnedFd>,
}

/// Three pipes.
pub fn pipes() -> Result<Wires, Errno> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    Ok(Wires { theirs: vec![(0, stdin), (1, stdout), (2, stderr)], ours: vec![to_stdin, from_stdout, from_stderr] })
}

/// A terminal of this size out of the identity's own: no other identity has it by any name.
pub fn terminal(size: TerminalSize, uid: u32, terminals: BorrowedFd<'_>) -> Result<Wires, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(terminals, "ptmx", flags, Mode::empty())?;
    unlockpt(&master)?;
    // By the master and not by its name: whatever is mounted on /dev/pts, it is this one.
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    tcsetwinsize(&master, winsize(size))?;
    let again = || fcntl_dupfd_cloexec(&slave, 0);
    Ok(Wires { theirs: vec![(0, again()?), (1, again()?), (2, slave)], ours: vec![master] })
}

/// The size as the kernel takes it; nobody counts pixels.
pub fn winsize(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
