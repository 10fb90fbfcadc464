//! What the kernel is to tell the observer: queues of events, and the places that they are about.
//!
//! A call has a queue of its own, marked on the mounts of its own tree: whatever opens or executes a file by one of them is of that
//! call, and waits until the observer has seen it. What happens to names has no mount; one queue has it for whole file systems.

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A queue of what is opened beneath these paths, as the process with this `/proc` directory sees them.
pub(super) fn of_call(root: &Path, mounts: &[PathBuf]) -> io::Result<OwnedFd> {
    let class = InitFlags::FAN_CLASS_PRE_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    // A name of the tenant's may be a FIFO: nobody may wait for its other end.
    let files = EventFFlags::O_RDONLY
        | EventFFlags::O_LARGEFILE
        | EventFFlags::O_CLOEXEC
        | EventFFlags::O_NONBLOCK
        | EventFFlags::O_NOATIME;
    let queue = Fanotify::init(class, files)?;
    let mask = MaskFlags::FAN_OPEN_PERM | MaskFlags::FAN_OPEN_EXEC_PERM | MaskFlags::FAN_CLOSE_WRITE;
    let mounts = if cfg!(feature = "unwatched") { &[] } else { mounts };
    for mount in mounts {
        let path = root.join(mount.strip_prefix("/").unwrap_or(mount));
        queue.mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT, mask, rustix::fs::CWD, Some(&path))?;
    }
    Ok(queue.into())
}

/// A queue of what happens to names, about nothing yet.
pub(super) fn of_names() -> io::Result<Fanotify> {
    let report = InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME_TARGET);
    let class = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | report;
    Ok(Fanotify::init(class, EventFFlags::O_RDONLY)?)
}

/// Adds the file system of an open directory.
pub(super) fn add(names: &Fanotify, place: BorrowedFd<'_>) -> io::Result<()> {
    if cfg!(feature = "unwatched") {
        return Ok(());
    }
    let mask = MaskFlags::FAN_CREATE | MaskFlags::FAN_DELETE | MaskFlags::FAN_RENAME | MaskFlags::FAN_ONDIR;
    let how = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
    Ok(names.mark::<_, Path>(how, mask, place.as_fd(), None)?)
}
