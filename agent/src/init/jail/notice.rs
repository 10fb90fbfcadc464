//! What the kernel is to tell the observer: queues of events, and the places that they are about.
//!
//! A call has two queues of its own, marked on the mounts of its own tree: whatever executes or opens a file by one of them is of that
//! call. Who executes waits until the observer has seen it; who opens does not. What happens to names has no mount; one queue has it for
//! whole file systems.

use super::room::mount_point;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How often the places of grants are looked for: others may be moving them at that moment.
const LOOKS: usize = 64;

/// The queues of one call.
#[derive(Debug)]
pub struct Queues {
    /// What is executed: each event waits for an answer.
    pub executing: OwnedFd,
    /// What was opened, and closed after it was open for writing, where tools can write.
    pub opened: OwnedFd,
}

/// What of a room is to be seen used.
#[derive(Debug)]
pub(super) struct Watched {
    /// Its mounts that stay where they are; the image's first.
    pub(super) places: Vec<PathBuf>,
    /// Where grants are mounted.
    pub(super) workspace: PathBuf,
    /// What is mounted there, open. Who may write around it can move it, and put something else in its place.
    pub(super) parts: Vec<OwnedFd>,
}

/// The queues of what happens in these places, as the process with this `/proc` directory sees them.
pub(super) fn of_call(root: &Path, watched: &Watched) -> io::Result<Queues> {
    let class = InitFlags::FAN_CLASS_PRE_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    // A name of the tenant's may be a FIFO: nobody may wait for its other end.
    let files = EventFFlags::O_RDONLY
        | EventFFlags::O_LARGEFILE
        | EventFFlags::O_CLOEXEC
        | EventFFlags::O_NONBLOCK
        | EventFFlags::O_NOATIME;
    let executing = Fanotify::init(class, files)?;
    let opened = of_names()?;
    if !cfg!(feature = "unwatched") {
        let mark = |queue: &Fanotify, mask, path: &Path| {
            queue.mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT, mask, rustix::fs::CWD, Some(path))
        };
        let writable = |path: &Path| {
            mark(&executing, MaskFlags::FAN_OPEN_EXEC_PERM, path)?;
            mark(&opened, MaskFlags::FAN_OPEN | MaskFlags::FAN_CLOSE_WRITE, path)
        };
        for (number, place) in watched.places.iter().enumerate() {
            let path = root.join(place.strip_prefix("/").unwrap_or(place));
            // That a file of the image was opened says little, and every program opens dozens.
            if number == 0 { mark(&executing, MaskFlags::FAN_OPEN_EXEC_PERM, &path)? } else { writable(&path)? }
        }
        for part in parts_of_call(root, watched)? {
            writable(Path::new(&format!("/proc/self/fd/{}", part.as_raw_fd())))?;
        }
    }
    Ok(Queues { executing: executing.into(), opened: opened.into() })
}

/// The mounts of the parts in the tree of this call, open, wherever they are by now. No link is followed: it would be a tenant's.
/// A part that is there and out of the call's reach is an error: it could come back, and nobody would see it used.
fn parts_of_call(root: &Path, watched: &Watched) -> io::Result<Vec<OwnedFd>> {
    let inside = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let table = root.with_file_name("mountinfo");
    for _ in 0..LOOKS {
        let mut wanted = BTreeSet::new();
        for part in &watched.parts {
            let stat = rustix::fs::fstat(part)?;
            // What was removed is mounted nowhere any more.
            if stat.st_nlink > 0 {
                wanted.insert((stat.st_dev, stat.st_ino));
            }
        }
        let mut found = Vec::new();
        for line in fs::read_to_string(&table)?.lines() {
            let mut fields = line.split(' ');
            let (Some(id), Some(point)) = (fields.next(), fields.nth(3).map(mount_point)) else { continue };
            if !point.starts_with(&watched.workspace) {
                continue;
            }
            let name = point.strip_prefix("/").unwrap_or(&point);
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(part) = rustix::fs::openat2(&inside, name, flags, Mode::empty(), resolve) else { continue };
            let stat = rustix::fs::fstat(&part)?;
            let mount = rustix::fs::statx(&part, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
            if id.parse() == Ok(mount) && wanted.remove(&(stat.st_dev, stat.st_ino)) {
                found.push(part);
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESTALE))
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
