//! SIMULATED: a small tree of files, shown through FUSE with the habits of the kernel's own file systems. What the files
//! hold is in `measurements` and `reports`.
//!
//! | habit | read | write |
//! |---|---|---|
//! | sysfs | computed for every call | takes effect at once |
//! | configfs | computed at the first read of an open file, then kept for that file | takes effect when it is closed |

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session,
    SessionACL, WriteFlags,
};

/// Number of the top directory.
pub(crate) const ROOT: u64 = 1;
/// Files that may be open at once.
const OPEN_MAX: usize = 256;
/// Directories appear and vanish through this mount alone, so the kernel may remember them for a while.
const REMEMBERED: Duration = Duration::from_secs(1);

/// How the files behave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    Sysfs,
    /// `longest`: bytes that one file takes.
    Configfs {
        longest: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// What `stat` says.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) size: u64,
}

/// A tree of numbered nodes. Errors are the system's numbers.
pub(crate) trait Tree: Send + 'static {
    const HABIT: Habit;
    fn node(&self, number: u64) -> Option<Node>;
    fn children(&self, number: u64) -> Vec<(String, u64)>;
    fn read(&mut self, number: u64) -> Result<Vec<u8>, i32>;
    fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), i32>;

    fn make(&mut self, _parent: u64, _name: &str) -> Result<u64, i32> {
        Err(libc::EPERM)
    }

    fn remove(&mut self, _parent: u64, _name: &str) -> Result<(), i32> {
        Err(libc::EPERM)
    }
}

/// Shows a tree at a directory. Everybody may use it, as far as the modes say: the notary is not root.
pub(crate) fn mount<T: Tree>(place: &str, tree: T) -> io::Result<Session<Files<T>>> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.mount_options = vec![
        MountOption::FSName("coffer-simulated".into()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    Session::new(Files(Mutex::new(State { tree, open: BTreeMap::new(), next: 1 })), place, &config)
}

/// The FUSE side of a tree.
pub(crate) struct Files<T>(Mutex<State<T>>);

struct State<T> {
    tree: T,
    open: BTreeMap<u64, Open>,
    next: u64,
}

/// An open file.
struct Open {
    number: u64,
    content: Option<Vec<u8>>,
    /// Written and not yet taken over.
    written: Option<Vec<u8>>,
}

impl<T: Tree> Files<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Tree> State<T> {
    fn attributes(&self, number: u64) -> Result<FileAttr, i32> {
        let node = self.tree.node(number).ok_or(libc::ENOENT)?;
        let directory = node.kind == Kind::Directory;
        Ok(FileAttr {
            ino: INodeNo(number),
            size: node.size,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: node.mode,
            nlink: if directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn lookup(&self, parent: u64, name: &OsStr) -> Result<FileAttr, i32> {
        let found = self.tree.children(parent).into_iter().find(|(known, _)| name == known.as_str());
        self.attributes(found.ok_or(libc::ENOENT)?.1)
    }

    fn open(&mut self, number: u64) -> Result<u64, i32> {
        self.attributes(number)?;
        if self.open.len() >= OPEN_MAX {
            return Err(libc::ENFILE);
        }
        let handle = self.next;
        self.next += 1;
        self.open.insert(handle, Open { number, content: None, written: None });
        Ok(handle)
    }

    fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let open = self.open.get_mut(&handle).ok_or(libc::EBADF)?;
        let content = match (T::HABIT, open.content.take()) {
            (Habit::Configfs { .. }, Some(content)) => content,
            _ => self.tree.read(open.number)?,
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(content.len());
        let part = content[from..to].to_vec();
        open.content = Some(content);
        Ok(part)
    }

    fn write(&mut self, handle: u64, offset: u64, bytes: &[u8]) -> Result<u32, i32> {
        let open = self.open.get_mut(&handle).ok_or(libc::EBADF)?;
        match T::HABIT {
            Habit::Sysfs => self.tree.write(open.number, offset, bytes)?,
            Habit::Configfs { longest } => {
                let from = usize::try_from(offset).map_err(|_| libc::EFBIG)?;
                let to = from.checked_add(bytes.len()).filter(|to| *to <= longest).ok_or(libc::EFBIG)?;
                let written = open.written.get_or_insert_default();
                written.resize(written.len().max(to), 0);
                written[from..to].copy_from_slice(bytes);
            }
        }
        u32::try_from(bytes.len()).map_err(|_| libc::EFBIG)
    }

    /// One of the descriptors of an open file is being closed, and whoever closes it waits for this.
    fn close(&mut self, handle: u64) -> Result<(), i32> {
        let open = self.open.get_mut(&handle).ok_or(libc::EBADF)?;
        match open.written.take() {
            Some(written) => self.tree.write(open.number, 0, &written),
            None => Ok(()),
        }
    }

    fn entries(&self, number: u64) -> Vec<(u64, FileType, String)> {
        let here = [".", ".."].map(|name| (number, FileType::Directory, name.to_owned()));
        let below = self.tree.children(number).into_iter().map(|(name, number)| {
            let directory = self.tree.node(number).is_some_and(|node| node.kind == Kind::Directory);
            (number, if directory { FileType::Directory } else { FileType::RegularFile }, name)
        });
        here.into_iter().chain(below).collect()
    }
}

fn entry(reply: ReplyEntry, found: Result<FileAttr, i32>) {
    match found {
        Ok(attributes) => reply.entry(&REMEMBERED, &attributes, Generation(0)),
        Err(error) => reply.error(Errno::from_i32(error)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), i32>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(Errno::from_i32(error)),
    }
}

impl<T: Tree> Filesystem for Files<T> {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.state().lookup(parent.0, name));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(number.0) {
            Ok(attributes) => reply.attr(&REMEMBERED, &attributes),
            Err(error) => reply.error(Errno::from_i32(error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let mut state = self.state();
        let made = name.to_str().ok_or(libc::EINVAL).and_then(|name| state.tree.make(parent.0, name));
        entry(reply, made.and_then(|number| state.attributes(number)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = name.to_str().ok_or(libc::ENOENT);
        empty(reply, removed.and_then(|name| self.state().tree.remove(parent.0, name)));
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.state().open(number.0) {
            // Past the page cache: every read and write comes here as it was made.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(Errno::from_i32(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().read(handle.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(Errno::from_i32(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(handle.0, offset, bytes) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(Errno::from_i32(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        empty(reply, self.state().close(handle.0));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.state().open.remove(&handle.0);
        reply.ok();
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = self.state().entries(number.0);
        for (at, (number, kind, name)) in (1_u64..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(INodeNo(number), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
