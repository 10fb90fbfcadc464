//! cgroups of sessions: `<v2 mount>/coffer/<session>/<program>`. The anchor by which a session's processes are found and
//! killed, whatever they forked. Controllers are used where the host has them and reported where not.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Controllers that limits need.
const WANTED: [&str; 3] = ["memory", "pids", "cpu"];

/// The root of all sessions' cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CgroupRoot {
    /// `<v2 mount>/coffer`.
    path: PathBuf,
    /// Of [`WANTED`], those that this host does not offer here.
    missing: Vec<&'static str>,
}

/// The mount point of cgroup v2 in the text of `/proc/self/mountinfo`.
fn v2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == "cgroup2").then_some(())?;
        before.split(' ').nth(4).map(PathBuf::from)
    })
}

impl CgroupRoot {
    /// Finds the mount and makes `coffer` below it.
    pub(crate) fn prepare() -> io::Result<Self> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = v2_mount(&mountinfo).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "expected a cgroup v2 file system to be mounted, found none")
        })?;
        Self::prepare_at(&mount)
    }

    fn prepare_at(mount: &Path) -> io::Result<Self> {
        let path = mount.join("coffer");
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // It may be there and somebody else's: only making something shows that we may.
        let probe = path.join(format!("probe-{}", std::process::id()));
        std::fs::create_dir(&probe)?;
        std::fs::remove_dir(&probe)?;
        let mut missing = Vec::new();
        for controller in WANTED {
            if !enable(mount, controller) || !enable(&path, controller) {
                missing.push(controller);
            }
        }
        Ok(Self { path, missing })
    }

    /// Controllers that are not there.
    pub(crate) fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// Removes the root, unless another `cofferd` has sessions in it.
    pub(crate) fn remove_if_empty(&self) {
        // Busy or gone already: both are somebody else's business.
        drop(std::fs::remove_dir(&self.path));
    }

    /// The cgroup of one session. Makes nothing.
    pub(crate) fn session(&self, name: &str) -> SessionCgroup {
        SessionCgroup { path: self.path.join(name) }
    }
}

/// Best effort: a controller bound to a v1 hierarchy, or not delegated, cannot be enabled.
fn enable(parent: &Path, controller: &str) -> bool {
    let offered = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    if !offered.split_whitespace().any(|c| c == controller) {
        return false;
    }
    std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")).is_ok()
}

/// The cgroup of one session, with a child for each of its programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionCgroup {
    path: PathBuf,
}

impl SessionCgroup {
    /// Makes it and its children. The limits are for the program named `qemu`.
    pub(crate) fn create(&self, programs: &[&str], memory_max: u64) -> io::Result<()> {
        // The root goes with the last session of another `cofferd`, too.
        self.path.parent().map(std::fs::create_dir_all).transpose()?;
        std::fs::create_dir(&self.path)?;
        for controller in WANTED {
            enable(&self.path, controller);
        }
        for program in programs {
            std::fs::create_dir(self.path.join(program))?;
        }
        // Where the controllers are missing these files are, too; that was reported at start.
        let _ = std::fs::write(self.path.join("memory.max"), memory_max.to_string());
        let _ = std::fs::write(self.path.join("memory.swap.max"), "0");
        let _ = std::fs::write(self.path.join("pids.max"), "512");
        Ok(())
    }

    /// Where a program puts itself before it starts.
    pub(crate) fn procs_of(&self, program: &str) -> PathBuf {
        self.path.join(program).join("cgroup.procs")
    }

    /// Whether the kernel killed something in it for memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let events = std::fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
    }

    /// Whether it exists.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Kills everything in it, waits until it is empty, removes it. Nothing to do when it is not there. Blocks.
    pub(crate) fn remove(&self, limit: Duration) -> io::Result<()> {
        if !self.exists() {
            return Ok(());
        }
        std::fs::write(self.path.join("cgroup.kill"), "1")?;
        self.wait_until_empty(limit)?;
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir(entry.path())?;
            }
        }
        std::fs::remove_dir(&self.path)
    }

    /// `cgroup.events` signals with POLLPRI when `populated` changes.
    fn wait_until_empty(&self, limit: Duration) -> io::Result<()> {
        let path = self.path.join("cgroup.events");
        let until = Instant::now() + limit;
        let file = std::fs::File::open(&path)?;
        loop {
            // Read before the wait: a change between the two makes the wait return at once.
            let mut text = String::new();
            io::Seek::rewind(&mut &file)?;
            io::Read::read_to_string(&mut &file, &mut text)?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "expected the cgroup to be empty after the kill"));
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            poll(&mut [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)], Some(&timeout))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_among_v1_mounts() {
        let text = "31 25 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:1 - cgroup cgroup rw,cpu\n\
                    40 25 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(v2_mount(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(v2_mount("22 1 0:20 / /sys rw - sysfs sysfs rw\n"), None);
    }

    #[test]
    fn a_root_in_which_nothing_can_be_made_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("coffer"), "in the way").expect("write");
        assert!(CgroupRoot::prepare_at(dir.path()).is_err());
    }

    #[test]
    fn a_cgroup_is_emptied_and_removed_with_what_runs_in_it() {
        let root = match CgroupRoot::prepare() {
            Ok(root) => root,
            Err(error) => {
                eprintln!("NOT RUN: no cgroup can be made here: {error}");
                return;
            }
        };
        let session = root.session(&format!("test-{}", std::process::id()));
        session.create(&["qemu", "vsock"], 1 << 30).expect("create");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        std::fs::write(session.procs_of("qemu"), child.id().to_string()).expect("join");
        let reaper = std::thread::spawn(move || child.wait());
        session.remove(Duration::from_secs(5)).expect("remove");
        assert!(!session.exists());
        let status = reaper.join().expect("reaper").expect("wait");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        session.remove(Duration::from_secs(5)).expect("nothing left to do");
    }
}
