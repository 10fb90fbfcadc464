//! The cgroup v2 tree: one directory for each of the guest's own processes, one for every call.
//!
//! ```text
//!   /coffer/{init,notary,agent,observer}
//!   /calls/<uid>/<number>           one call: made ahead of it with its jail, killed whole, read, removed after it
//! ```

use super::error::{BootError, Context as _};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const STAGE: &str = "cgroup";
/// Memory that calls, and the files they leave in memory, may not take: it is for the kernel and the guest's own
/// processes, whose largest part is the record, with its cap of 384 MiB.
const RESERVED_BYTES: u64 = 512 << 20;
/// Processes and threads of one call, of one identity, and of all calls together.
const CALL_PIDS_MAX: &str = "512";
const IDENTITY_PIDS_MAX: &str = "2048";
const CALLS_PIDS_MAX: &str = "4096";
/// Share of the CPU of the guest's own processes, where all calls together have the default of 100.
const OWN_WEIGHT: &str = "1000";

/// The mounted hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    /// A hierarchy whose root, or delegated part, is this directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes the fixed directories, enables every controller on the way down and bounds what calls may take.
    pub fn prepare(&self, memory_bytes: u64) -> Result<(), BootError> {
        delegate(&self.root)?;
        for directory in ["coffer", "coffer/init", "coffer/notary", "coffer/agent", "coffer/observer", "calls"] {
            let path = self.root.join(directory);
            fs::create_dir_all(&path).context(STAGE, || format!("make {}", path.display()))?;
        }
        let (own, calls) = (self.root.join("coffer"), self.root.join("calls"));
        delegate(&calls)?;
        // Weights and protection count among siblings only: these two are the siblings.
        write_if_there(&own.join("cpu.weight"), OWN_WEIGHT)?;
        write_if_there(&own.join("memory.min"), &RESERVED_BYTES.to_string())?;
        let most = memory_bytes.saturating_sub(RESERVED_BYTES).to_string();
        write_if_there(&calls.join("memory.max"), &most)?;
        write_if_there(&calls.join("pids.max"), CALLS_PIDS_MAX)
    }

    /// The directory of one of the guest's own processes, open.
    pub fn own(&self, name: &str) -> Result<OwnedFd, BootError> {
        let path = self.root.join("coffer").join(name);
        open_directory(&path).context(STAGE, || format!("open {}", path.display()))
    }

    /// Moves the calling process into one of the fixed directories.
    pub fn enter(&self, name: &str) -> Result<(), BootError> {
        let path = self.root.join("coffer").join(name).join("cgroup.procs");
        put(&path, "0").context(STAGE, || format!("write {}", path.display()))
    }

    /// Makes the directory of the identity with this uid.
    pub fn identity(&self, uid: u32) -> Result<Groups, BootError> {
        let directory = self.root.join("calls").join(uid.to_string());
        fs::create_dir(&directory).context(STAGE, || format!("make {}", directory.display()))?;
        delegate(&directory)?;
        write_if_there(&directory.join("pids.max"), IDENTITY_PIDS_MAX)?;
        Ok(Groups { directory, uid, next: AtomicU64::new(0) })
    }

    /// Ends every process of every call. True when nobody is left.
    pub fn kill_calls(&self) -> io::Result<()> {
        put(self.root.join("calls/cgroup.kill"), "1")
    }

    /// Whether any call has a process.
    pub fn calls_populated(&self) -> io::Result<bool> {
        populated(&fs::File::open(self.root.join("calls/cgroup.events"))?)
    }
}

/// The cgroups of the calls of one identity.
#[derive(Debug)]
pub struct Groups {
    directory: PathBuf,
    uid: u32,
    next: AtomicU64,
}

impl Groups {
    /// Makes the directory of one call.
    pub fn call(&self) -> io::Result<CallGroup> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(number.to_string());
        fs::create_dir(&path)?;
        let group = CallGroup { path, name: format!("{}/{number}", self.uid) };
        // Out of memory ends the call whole, not a random process of it.
        for (file, value) in [("memory.oom.group", "1"), ("pids.max", CALL_PIDS_MAX)] {
            put_if_there(&group.path.join(file), value)?;
        }
        Ok(group)
    }
}

/// The cgroup of one call. Removed when dropped; by then its processes are gone.
#[derive(Debug)]
pub struct CallGroup {
    path: PathBuf,
    name: String,
}

/// What the kernel counted for a whole call, with every descendant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Time in user mode, microseconds.
    pub user_us: u64,
    /// Time in the kernel, microseconds.
    pub system_us: u64,
}

impl CallGroup {
    /// `<uid>/<number>`: the end of its path in the hierarchy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory, for `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(open_directory(&self.path)?)
    }

    /// SIGKILL to every process in it, daemons included.
    pub fn kill(&self) -> io::Result<()> {
        put(self.path.join("cgroup.kill"), "1")
    }

    /// `cgroup.events`, which polls with `PRI` when [`populated`] changes after it was read.
    pub fn events(&self) -> io::Result<fs::File> {
        fs::File::open(self.path.join("cgroup.events"))
    }

    /// Time used; what a missing controller does not count is zero.
    pub fn counted(&self) -> Counted {
        let stat = fs::read_to_string(self.path.join("cpu.stat")).unwrap_or_default();
        let time = |key| value(&stat, key).unwrap_or(0);
        Counted { user_us: time("user_usec"), system_us: time("system_usec") }
    }

    /// Processes ended by the out-of-memory killer.
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        value(&events, "oom_kill").unwrap_or(0)
    }
}

impl Drop for CallGroup {
    fn drop(&mut self) {
        // A tool cannot make directories here, so one rmdir is enough; a process that is still there keeps it, and
        // the scrub's self-check reports that.
        drop(fs::remove_dir(&self.path));
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a process is left, read from an open `cgroup.events`.
pub fn populated(events: &fs::File) -> io::Result<bool> {
    let mut text = [0_u8; 256];
    let length = events.read_at(&mut text, 0)?;
    Ok(value(&String::from_utf8_lossy(&text[..length]), "populated") != Some(0))
}

/// Enables for the children of a directory every controller that it has.
fn delegate(directory: &Path) -> Result<(), BootError> {
    let path = directory.join("cgroup.controllers");
    let controllers = fs::read_to_string(&path).context(STAGE, || format!("read {}", path.display()))?;
    let enable: Vec<String> = ["cpu", "memory", "pids"]
        .iter()
        .filter(|controller| controllers.split_ascii_whitespace().any(|word| word == **controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    // One write: each is a change of the whole tree.
    match enable.join(" ") {
        none if none.is_empty() => Ok(()),
        enable => put(directory.join("cgroup.subtree_control"), &enable).context(STAGE, || format!("enable {enable}")),
    }
}

/// Writes to a file that is there; the kernel's file systems answer an attempt to make one with anything but "not
/// found".
pub fn put(path: impl AsRef<Path>, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_ref())
}

fn put_if_there(path: &Path, value: &str) -> io::Result<()> {
    match put(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn write_if_there(path: &Path, value: &str) -> Result<(), BootError> {
    put_if_there(path, value).context(STAGE, || format!("write {value} to {}", path.display()))
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(value(text, "oom_kill"), Some(2));
        assert_eq!(value(text, "oom"), Some(3));
        assert_eq!(value(text, "oom_k"), None);
    }
}
