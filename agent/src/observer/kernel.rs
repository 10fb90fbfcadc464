//! What the observer asks of the kernel beside plain reads: names for files that outlive renames, files by such names, leases, and
//! its answers to permission events.
#![allow(unsafe_code, reason = "handles, leases and the descriptors in events have no safe wrapper")]

use rustix::fs::OFlags;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// `MAX_HANDLE_SZ` of `linux/exportfs.h`.
const HANDLE_MAX: usize = 128;

/// What the kernel calls a file of one file system, whatever its path is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Handle {
    kind: i32,
    bytes: Bytes,
}

/// Handles are short, and there are tens of thousands of them: most are kept in place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Bytes {
    /// What is beyond the length is zero.
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// Bytes of the longest handle that is kept in place: tmpfs has 12, ext4 8.
const SHORT: usize = 22;

impl Bytes {
    fn new(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(bytes);
                Self::Short(length, short)
            }
            _ => Self::Long(bytes.into()),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// `struct file_handle`, with room for every handle.
#[repr(C)]
struct Raw {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; HANDLE_MAX],
}

impl Handle {
    /// From an event: `None` for one that is too long to be the kernel's.
    pub(super) fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= HANDLE_MAX).then(|| Self { kind, bytes: Bytes::new(bytes) })
    }

    /// That of an open file.
    pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let mut raw = Raw { length: HANDLE_MAX as libc::c_uint, kind: 0, bytes: [0; HANDLE_MAX] };
        let mut mount = 0;
        // SAFETY: `raw` has the layout of `file_handle` and as many bytes as it says; both pointers outlive the call.
        let result = unsafe {
            libc::name_to_handle_at(
                file.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let bytes = raw.bytes.get(..raw.length as usize).unwrap_or_default();
        Ok(Self { kind: raw.kind, bytes: Bytes::new(bytes) })
    }

    /// Opens the file in the file system of this directory. It needs the right to pass over all permissions.
    pub(super) fn open(&self, place: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let mut raw = Raw { length: 0, kind: self.kind, bytes: [0; HANDLE_MAX] };
        for (to, from) in raw.bytes.iter_mut().zip(self.bytes.as_slice()) {
            *to = *from;
        }
        raw.length = self.len() as libc::c_uint;
        let flags = (flags | OFlags::CLOEXEC).bits().cast_signed();
        // SAFETY: as above; the kernel only reads it.
        let opened = unsafe { libc::open_by_handle_at(place.as_raw_fd(), (&raw mut raw).cast(), flags) };
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else knows of.
        Ok(unsafe { OwnedFd::from_raw_fd(opened) })
    }

    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        self.bytes.as_slice().len()
    }
}

/// The descriptor that an event carries; `None` when it carries none.
pub(super) fn carried(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the kernel put the descriptor into this process's table when the event was read, and each event is read once.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whoever wants to write a leased file waits; the kernel's word of that, which would end this process, is not needed.
pub(super) fn ignore_lease_breaks() -> io::Result<()> {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps everybody from opening the file for writing, until [`release`] or the descriptor is closed. `WouldBlock` when
/// somebody has it open for writing already, by a descriptor or in memory.
pub(super) fn lease(file: BorrowedFd<'_>) -> io::Result<()> {
    set_lease(file, libc::F_RDLCK)
}

/// Ends that.
pub(super) fn release(file: BorrowedFd<'_>) -> io::Result<()> {
    set_lease(file, libc::F_UNLCK)
}

/// Whether somebody waits for the end of the lease.
pub(super) fn is_wanted(file: BorrowedFd<'_>) -> bool {
    // SAFETY: takes integers only. What is told of a lease that is to end is what it is to become.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) != libc::F_RDLCK }
}

fn set_lease(file: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: takes integers only.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What becomes of an execution that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It goes on.
    Allow,
    /// It fails: the file is being written.
    Busy,
}

/// Answers a permission event.
pub(super) fn answer(queue: BorrowedFd<'_>, file: BorrowedFd<'_>, answer: Answer) -> io::Result<()> {
    let response = match answer {
        Answer::Allow => libc::FAN_ALLOW,
        // `FAN_DENY_ERRNO` of `linux/fanotify.h`.
        Answer::Busy => libc::FAN_DENY | (libc::ETXTBSY as u32) << 24,
    };
    let bytes = [file.as_raw_fd().to_ne_bytes(), response.to_ne_bytes()].concat();
    rustix::io::retry_on_intr(|| rustix::io::write(queue, &bytes))?;
    Ok(())
}
