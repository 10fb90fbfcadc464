//! The device as a process, and what its process may use.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than the device takes for anything.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// `coffer-vsock`, ended when this is dropped.
pub(crate) struct Device {
    child: Child,
    directory: tempfile::TempDir,
}

impl Device {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let complaints = std::fs::File::create(directory.path().join("complaints")).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_coffer-vsock"))
            .args(["--cid", &super::driver::GUEST_CID.to_string(), "--vhost-socket"])
            .arg(directory.path().join("vhost.sock"))
            .arg("--uds")
            .arg(directory.path().join("vsock.sock"))
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .expect("start the device");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("the ready line");
        assert_eq!(line, "coffer-vsock: ready\n");
        Self { child, directory }
    }

    pub(crate) fn vhost_socket(&self) -> PathBuf {
        self.directory.path().join("vhost.sock")
    }

    pub(crate) fn uds(&self) -> PathBuf {
        self.directory.path().join("vsock.sock")
    }

    /// Where it connects for the guest's connections to a host port.
    pub(crate) fn port(&self, port: u32) -> PathBuf {
        self.directory.path().join(format!("vsock.sock_{port}"))
    }

    /// What it wrote to stderr.
    pub(crate) fn complaints(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("complaints")).expect("read")
    }

    /// Fails unless it runs.
    pub(crate) fn assert_alive(&mut self, after: &str) {
        let ended = self.child.try_wait().expect("ask");
        assert!(ended.is_none(), "after {after}: the device ended with {ended:?}\n{}", self.complaints());
    }

    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string())
    }

    /// Memory of its own in KiB; what it shares with the guest does not count.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc().join("status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc().join("fd")).expect("its descriptors").count()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let begin = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        let end = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
        let mut fds = [rustix::event::PollFd::new(&end, rustix::event::PollFlags::IN)];
        let left = rustix::time::Timespec { tv_sec: i64::try_from(SOON.as_secs()).expect("small"), tv_nsec: 0 };
        let ready = rustix::event::poll(&mut fds, Some(&left)).expect("poll");
        assert_eq!(ready, 1, "the device still runs after {:?}", begin.elapsed());
        let status = self.child.wait().expect("its status");
        (status, self.complaints())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
