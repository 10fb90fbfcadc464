//! What the kernel is to tell the observer: queues of events, and the places that they are about.
//!
//! A call has two queues of its own, marked on the mounts of its own tree: whatever executes or opens a file by one of them is of that
//! call. Who executes waits until the observer has seen it; who opens does not. What happens to names has no mount; one queue has it for
//! whole file systems.

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The queues of one call.
#[derive(Debug)]
pub struct Queues {
    /// What is executed: each event waits for an answer.
    pub executing: OwnedFd,
    /// What was opened, and closed after it was open for writing, where tools can write.
    pub opened: OwnedFd,
}

/// The queues of what happens beneath these paths, as the process with this `/proc` directory sees them: the first is the image.
pub(super) fn of_call(root: &Path, mounts: &[PathBuf]) -> io::Result<Queues> {
    let class = InitFlags::FAN_CLASS_PRE_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    // A name of the tenant's may be a FIFO: nobody may wait for its other end.
    let files = EventFFlags::O_RDONLY
        | EventFFlags::O_LARGEFILE
        | EventFFlags::O_CLOEXEC
        | EventFFlags::O_NONBLOCK
        | EventFFlags::O_NOATIME;
    let executing = Fanotify::init(class, files)?;
    let opened = of_names()?;
    let mounts = if cfg!(feature = "unwatched") { &[] } else { mounts };
    for (number, mount) in mounts.iter().enumerate() {
        let path = root.join(mount.strip_prefix("/").unwrap_or(mount));
        let mark = |queue: &Fanotify, mask| {
            queue.mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT, mask, rustix::fs::CWD, Some(&path))
        };
        mark(&executing, MaskFlags::FAN_OPEN_EXEC_PERM)?;
        // That a file of the image was opened says little, and every program opens dozens.
        if number > 0 {
            mark(&opened, MaskFlags::FAN_OPEN | MaskFlags::FAN_CLOSE_WRITE)?;
        }
    }
    Ok(Queues { executing: executing.into(), opened: opened.into() })
}

/// A queue whose events tell names and the kernel's handles, about nothing yet.
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
