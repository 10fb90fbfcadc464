//! watch: tells what changes in a directory, and beneath it, as the kernel's inotify does, until its time is over, nothing
//! changed for a while, or the directory is gone.
//!
//! Directories are opened like any other path and given to the kernel by descriptor, so no link is followed. One that is made
//! while it is watched is entered, and what is in it by then is told: such a thing may be told twice. Directories that the
//! identity may not read are not watched.

use super::beneath::{self, Beneath, Links};
use super::watched::{Directories, Moves, Seen, Step, joined};
use super::{Tell, ToolError, WATCHED_MAX, done, told};
use crate::frames::tool::{Change, ChangeKind, Of, Report, WatchEnd};
use coffer_evidence::call::Reach;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// How long one end of a move waits for the other: the kernel tells both at once.
const OTHER_END: Duration = Duration::from_millis(20);
/// How often it is looked whether the directory is still there: the kernel tells that only when nobody has it open any more,
/// and we have.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of events that are read at once.
const EVENTS: usize = 64 * 1024;
/// Events between two looks at the clock.
const TURN: usize = 4096;

/// When a watch ends by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) timeout: Duration,
    /// Without a change.
    pub(super) idle: Duration,
}

/// Tells the directory once changes are seen, then the changes, then why it ends.
pub(super) fn watch(base: &Beneath, path: &[u8], reach: Reach, times: Times, tell: Tell<'_>) -> Result<(), ToolError> {
    let end = Instant::now() + times.timeout;
    let root = base.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Links::Follow).map_err(ToolError::path)?;
    let stat = rustix::fs::fstat(&root).map_err(ToolError::path)?;
    let notify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(ToolError::path)?;
    let mut watch = Watch {
        notify,
        root: Beneath::at(root),
        reach,
        directories: Directories::default(),
        moves: Moves::default(),
        top: -1,
        gone: false,
        changes: 0,
        tell,
    };
    watch.top = watch.add(b"")?.ok_or(ToolError::path(Errno::NOENT))?;
    if reach == Reach::Tree {
        watch.enter_beneath(Vec::new(), Found::Before)?;
    }
    told((watch.tell)(Report::Entry(beneath::entry(b"", &stat, Vec::new()))))?;
    let why = watch.follow(end, times.idle)?;
    told((watch.tell)(Report::WatchEnd(why)))?;
    done(watch.tell, watch.changes, 0, 0)
}

/// When what a directory holds was found there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Before the watch: it is no change.
    Before,
    /// Since: it came between the directory and its watch.
    Since,
}

struct Watch<'a> {
    notify: OwnedFd,
    root: Beneath,
    reach: Reach,
    directories: Directories,
    moves: Moves,
    /// The kernel's number of the watched directory itself.
    top: i32,
    gone: bool,
    changes: u64,
    tell: Tell<'a>,
}

/// One event, out of the kernel's buffer.
struct Event {
    number: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Vec<u8>,
}

impl Watch<'_> {
    fn follow(&mut self, end: Instant, idle: Duration) -> Result<WatchEnd, ToolError> {
        let mut buffer = vec![MaybeUninit::uninit(); EVENTS];
        let (mut quiet, mut changes) = (Instant::now(), self.changes);
        loop {
            if self.gone || rustix::fs::fstat(&self.root).is_ok_and(|stat| stat.st_nlink == 0) {
                return Ok(WatchEnd::Gone);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(WatchEnd::Timeout);
            }
            if self.changes != changes {
                (quiet, changes) = (now, self.changes);
            } else if now >= quiet + idle {
                return Ok(WatchEnd::Idle);
            }
            let until = end.min(quiet + idle).min(now + LOOK);
            let until = if self.moves.waits() { until.min(now + OTHER_END) } else { until };
            if self.wait(until - now)? {
                for event in self.events(&mut buffer)? {
                    self.event(event)?;
                }
            } else {
                let steps = self.moves.flush();
                self.steps(steps)?;
            }
        }
    }

    /// Waits for events; false when none came in time.
    fn wait(&self, time: Duration) -> Result<bool, ToolError> {
        let timeout =
            Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(self.notify.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(ToolError::new("watch", errno)),
        }
    }

    /// The events that are there, as many as are taken in one turn.
    fn events(&self, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<Event>, ToolError> {
        let mut reader = inotify::Reader::new(self.notify.as_fd(), buffer);
        let mut events = Vec::new();
        // What was read is taken whole: the reader forgets it.
        while events.len() < TURN || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => events.push(Event {
                    number: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default(),
                }),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ToolError::new("watch", errno)),
            }
        }
        Ok(events)
    }

    fn event(&mut self, event: Event) -> Result<(), ToolError> {
        let Event { number, flags, cookie, name } = event;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            let steps = self.moves.flush();
            self.steps(steps)?;
            // Directories may be among what was missed. They are watched before it is said: who then lists anew misses nothing.
            if self.reach == Reach::Tree {
                self.enter_beneath(Vec::new(), Found::Before).or_else(|error| match error.stage {
                    "watch" => Ok(()),
                    _ => Err(error),
                })?;
            }
            return self.lagged();
        }
        let ends = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
        if flags.intersects(ends) {
            self.gone |= number == self.top;
            if flags.contains(ReadFlags::IGNORED) {
                self.directories.remove(number);
            }
            return Ok(());
        }
        let seen = if flags.contains(ReadFlags::CREATE) {
            Seen::Created
        } else if flags.contains(ReadFlags::MODIFY) {
            Seen::Modified
        } else if flags.contains(ReadFlags::DELETE) {
            Seen::Deleted
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            Seen::MovedFrom(cookie)
        } else if flags.contains(ReadFlags::MOVED_TO) {
            Seen::MovedTo(cookie)
        } else {
            return Ok(());
        };
        // A directory that is not watched any more has no path.
        let Some(path) = self.directories.path(number, &name).filter(|_| !name.is_empty()) else { return Ok(()) };
        let of = if flags.contains(ReadFlags::ISDIR) { Of::Directory } else { Of::Leaf };
        let steps = self.moves.take(seen, path, of);
        self.steps(steps)
    }

    fn steps(&mut self, steps: Vec<Step>) -> Result<(), ToolError> {
        for step in steps {
            match step {
                Step::Tell(change) => self.change(change)?,
                Step::Enter(path) if self.reach == Reach::Tree => self.enter(path)?,
                Step::Enter(_) => {}
                Step::Renamed(from, to) => self.directories.rename(&from, &to),
                Step::Forget(path) => {
                    for number in self.directories.forget(&path) {
                        // Gone already is as good.
                        let _ = inotify::remove_watch(&self.notify, number);
                    }
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), ToolError> {
        self.changes += 1;
        told((self.tell)(Report::Change(change)))
    }

    fn lagged(&mut self) -> Result<(), ToolError> {
        told((self.tell)(Report::Lagged))
    }

    /// Watches a directory; nothing when it is gone, or not the identity's to read.
    fn add(&mut self, path: &[u8]) -> Result<Option<i32>, ToolError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = match self.root.open(path, flags, Links::Refuse) {
            Ok(directory) => directory,
            Err(errno) => return absent(errno),
        };
        if self.directories.len() >= WATCHED_MAX {
            return Err(ToolError::new("watch", Errno::NOSPC));
        }
        let wanted = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(&self.notify, format!("/proc/self/fd/{}", directory.as_raw_fd()), wanted) {
            Ok(number) => {
                self.directories.insert(number, path.to_vec());
                Ok(Some(number))
            }
            Err(Errno::NOSPC) => Err(ToolError::new("watch", Errno::NOSPC)),
            Err(errno) => absent(errno),
        }
    }

    /// Watches a directory that has come, and what is in it. When there are too many, changes are missed.
    fn enter(&mut self, path: Vec<u8>) -> Result<(), ToolError> {
        let entered = match self.add(&path) {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => self.enter_beneath(path, Found::Since),
            Err(error) => Err(error),
        };
        match entered {
            Err(ToolError { stage: "watch", .. }) => self.lagged(),
            result => result,
        }
    }

    /// Watches all directories beneath one that is watched.
    fn enter_beneath(&mut self, path: Vec<u8>, found: Found) -> Result<(), ToolError> {
        let mut ahead = vec![path];
        while let Some(path) = ahead.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let Ok(directory) = self.root.open(&path, flags, Links::Refuse).map(Beneath::at) else { continue };
            for entry in rustix::fs::Dir::read_from(&directory).map_err(ToolError::path)? {
                let Ok(entry) = entry else { break };
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let below = joined(&path, name);
                let Ok(stat) = directory.child(name) else { continue };
                let of = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Of::Directory,
                    _ => Of::Leaf,
                };
                if found == Found::Since {
                    self.change(Change { kind: ChangeKind::Created, path: below.clone(), from: Vec::new(), of })?;
                }
                if of == Of::Directory && self.add(&below)?.is_some() {
                    ahead.push(below);
                }
            }
        }
        Ok(())
    }
}

/// What a directory that cannot be opened means: one that is not there, or not for the identity, is not watched.
fn absent(errno: Errno) -> Result<Option<i32>, ToolError> {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS | Errno::PERM => Ok(None),
        // Deeper than a path can name.
        Errno::NAMETOOLONG => Err(ToolError::new("watch", errno)),
        errno => Err(ToolError::path(errno)),
    }
}
