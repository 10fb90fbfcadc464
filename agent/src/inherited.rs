//! The descriptors that a process of the guest was started with, and what it does about itself first.
#![allow(unsafe_code, reason = "a number becomes an owned descriptor once, at the start of the process")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Takes over descriptors that init put at fixed numbers. Call once, before anything else opens files.
pub(crate) fn take<const N: usize>(numbers: [RawFd; N]) -> io::Result<[OwnedFd; N]> {
    for number in numbers {
        // SAFETY: asks about a number; an unused one is answered with an error.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(numbers.map(|number| {
        // SAFETY: the descriptor is open, as was just seen, and belongs to nobody else: it was inherited, and this is
        // the one place that takes it.
        let owned = unsafe { OwnedFd::from_raw_fd(number) };
        let _ = rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC);
        owned
    }))
}

/// No core file and no ptrace by a process of the same uid.
pub(crate) fn harden() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
