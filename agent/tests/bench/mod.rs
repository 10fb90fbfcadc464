//! A place for calls on this machine: a cgroup and a workspace of their own, real jails, a real observer.

use coffer_agent::channel;
use coffer_agent::frames::observe::{self, Coverage, RECORD_MAX};
use coffer_agent::frames::start::Exit;
use coffer_agent::init::calls::{Calls, Observer, Place, Report, Times};
use coffer_agent::init::cgroup::Hierarchy;
use coffer_agent::init::jail::room::Site;
use coffer_agent::init::jail::{Access, Grant, Jails, Reach};
use coffer_agent::init::reap::{Who, reap, reap_waiting};
use coffer_agent::init::spawn::{Command, Directory};
use coffer_agent::sealed;
use coffer_evidence::call::TerminalSize;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::file_record::FileRecord;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const UID: u32 = 10_000;

pub(crate) struct Bench {
    pub(crate) root: PathBuf,
    pub(crate) workspace: tempfile::TempDir,
    pub(crate) calls: Calls,
    /// Calls whose record misses something, as the observer told while they ran.
    pub(crate) lost: Vec<u64>,
    /// What the last call that ended did with files, as it was told: it is read when a test asks.
    record: Option<(OwnedFd, Coverage)>,
    reports: VecDeque<Report>,
    observer: Child,
    jails: Option<Jails>,
    _alone: MutexGuard<'static, ()>,
}

/// One at a time, as in a guest: a child that another test has just cloned holds this one's descriptors for a moment.
static ALONE: Mutex<()> = Mutex::new(());

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Bench {
    pub(crate) fn new() -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mounted = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let base = mounted.iter().map(Path::new).find(|path| path.join("cgroup.procs").exists())?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = base.join(format!("coffer-agent-test-{}-{number}", std::process::id()));
        if !rustix::process::geteuid().is_root() || fs::create_dir(&root).is_err() {
            return None;
        }
        let hierarchy = Hierarchy::at(&root);
        hierarchy.prepare(1 << 40).unwrap();
        // Not beneath /tmp: in a room that is another. And a file system of its own: what happens to names is seen in all of one.
        let workspace = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        mount(Some("tmpfs"), workspace.path(), Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
        fs::set_permissions(workspace.path(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(workspace.path(), Some(UID), Some(UID)).unwrap();
        let everything = Access::READ.and(Access::WRITE).and(Access::DELETE).and(Access::EXECUTE);
        let grants = vec![
            Grant { path: workspace.path().into(), access: everything, reach: Reach::Beneath },
            Grant { path: "/usr".into(), access: Access::EXECUTE, reach: Reach::Beneath },
        ];
        let site = Site { workspace: workspace.path().into(), tmp_bytes: 1 << 20, landlock: landlock::ABI::V6 };
        let mut jails = Jails::new(&site, &hierarchy, &[(UID, grants)]).unwrap();
        let (link, observer) = observe(&mut jails);
        let (calls, jails) = (Calls::new(link), Some(jails));
        let (lost, record, reports) = (Vec::new(), None, VecDeque::new());
        Some(Self { root, workspace, calls, lost, record, reports, observer, jails, _alone: alone })
    }

    /// The record of the call that ended last, and its bytes.
    #[allow(dead_code, reason = "not every test is about the record")]
    pub(crate) fn record(&self) -> (FileRecord, usize) {
        let (told, coverage) = self.record.as_ref().expect("a call that ended");
        let bytes = sealed::read(told, RECORD_MAX).unwrap();
        let record = FileRecord::parse(&bytes).unwrap();
        assert_eq!(*coverage == Coverage::Whole, record.lost.is_empty());
        (record, bytes.len())
    }

    pub(crate) fn command(&self, argv: &[&str], directory: &str) -> Command {
        let text = |text: &&str| CString::new(*text).unwrap();
        let workspace = CString::new(self.workspace.path().to_str().unwrap()).unwrap();
        Command {
            program: text(&argv[0]),
            arguments: argv.iter().map(text).collect(),
            environment: vec![c"PATH=/usr/bin:/bin".into()],
            directory: Directory::Beneath(workspace, text(&directory)),
            terminal: None,
        }
    }

    pub(crate) fn begin(&mut self, command: Command, times: Times) {
        let jail = self.jails.as_mut().unwrap().take(UID).unwrap();
        self.calls.start(1, Place { uid: UID, jail }, command, times).unwrap();
        self.jails.as_mut().unwrap().prepare(UID);
    }

    /// Starts a script on a terminal; answers the master.
    #[allow(dead_code, reason = "not every test has terminals")]
    pub(crate) fn on_a_terminal(&mut self, script: &str, size: (u64, u64), times: Times) -> File {
        let mut command = self.command(&["/bin/sh", "-c", script], ".");
        command.terminal = TerminalSize::new(size.0, size.1);
        self.begin(command, times);
        match self.next(Duration::from_secs(10)) {
            Report::Started(1, mut master) if master.len() == 1 => File::from(master.remove(0)),
            report => panic!("{report:?}"),
        }
    }

    #[allow(dead_code, reason = "not every test wants the end alone")]
    pub(crate) fn exited(&mut self) -> Exit {
        match self.next(Duration::from_secs(20)) {
            Report::Exited(1, exit) => exit,
            report => panic!("{report:?}"),
        }
    }

    pub(crate) fn start(&mut self, argv: &[&str], directory: &str, times: Times) -> Report {
        let command = self.command(argv, directory);
        self.begin(command, times);
        self.next(Duration::from_secs(10))
    }

    /// Runs the loop of init, without being PID 1, until there is a report.
    pub(crate) fn next(&mut self, patience: Duration) -> Report {
        let until = Instant::now() + patience;
        loop {
            self.reports.extend(self.calls.reports());
            match self.reports.pop_front() {
                Some(Report::Recorded(_, record, coverage)) => {
                    self.record = Some((record, coverage));
                    continue;
                }
                Some(report) => {
                    for (_, jail) in self.calls.clear() {
                        self.jails.as_ref().unwrap().take_apart(jail);
                    }
                    return report;
                }
                None => {}
            }
            assert!(Instant::now() < until, "nothing was reported in {patience:?}");
            self.turn();
        }
    }

    /// The same, until the observer has told that a record misses something.
    #[allow(dead_code, reason = "not every test is about the record")]
    pub(crate) fn until_lost(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.lost.is_empty() {
            assert!(Instant::now() < until, "nothing was lost in {patience:?}");
            self.turn();
        }
    }

    /// One turn of the loop of init.
    fn turn(&mut self) {
        self.calls.tick(Instant::now());
        for pid in self.calls.pids() {
            if let Some(reaped) = reap(Who::Pid(pid)) {
                self.calls.reaped(reaped, Instant::now());
            }
        }
        // Where init has a signal for all of its children.
        let processes: Vec<OwnedFd> = self.calls.pids().into_iter().map(process).collect();
        let ready: Vec<u64> = {
            let interests = self.calls.interests();
            let mut fds: Vec<_> =
                interests.iter().map(|(_, fd, flags)| rustix::event::PollFd::from_borrowed_fd(*fd, *flags)).collect();
            let others = processes.iter().map(OwnedFd::as_fd).chain([self.calls.observer().as_fd()]);
            fds.extend(others.map(|fd| rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)));
            let slice = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            rustix::event::poll(&mut fds, Some(&slice)).unwrap();
            let news = fds.iter().zip(&interests).filter(|(fd, _)| !fd.revents().is_empty());
            news.map(|(_, (intent, ..))| *intent).collect()
        };
        for intent in ready {
            self.calls.ready(intent);
        }
        let lost = self.calls.hear().unwrap();
        self.lost.extend(lost);
    }

    /// Starts, closes stdin, and answers the exit and what was put out.
    pub(crate) fn run(&mut self, script: &str, times: Times) -> (Exit, String) {
        let report = self.start(&["/bin/sh", "-c", script], ".", times);
        let [stdin, stdout, _stderr] = pipes(report);
        drop(stdin);
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::from(stdout).read_to_string(&mut text).unwrap();
            text
        });
        let report = self.next(Duration::from_secs(20));
        let Report::Exited(1, exit) = report else { panic!("{report:?}") };
        (exit, reader.join().unwrap())
    }
}

/// A descriptor of a child that is not reaped: it polls once that has ended.
fn process(pid: i32) -> OwnedFd {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap()
}

/// Starts the observer, as init does, and shows it the places.
fn observe(jails: &mut Jails) -> (Observer, Child) {
    let (ours, theirs) = channel::pair::<observe::ToObserver, observe::ToInit>().unwrap();
    // Not as init does: that one may keep the out-of-memory killer away from it, and here nobody may.
    let observer = std::process::Command::new("/bin/sh")
        .args(["-c", "exec 3<&0 </dev/null; exec \"$0\" observer", env!("CARGO_BIN_EXE_coffer-agent")])
        .stdin(theirs.into_inner())
        .spawn()
        .unwrap();
    let (places, names) = jails.observed().unwrap();
    for place in &places {
        let message = observe::ToObserver::Place { uid: place.uid.unwrap_or(0).into() };
        ours.send(&message, &[place.root.as_fd()], channel::Wait::Block).unwrap();
    }
    ours.send(&observe::ToObserver::Names, &[names.as_fd()], channel::Wait::Block).unwrap();
    (ours, observer)
}

pub(crate) fn pipes(report: Report) -> [OwnedFd; 3] {
    let Report::Started(1, pipes) = report else { panic!("{report:?}") };
    pipes.try_into().unwrap()
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A test that failed leaves its call running; a warden goes only when the last of its processes was collected.
        for pid in self.calls.pids() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
            let _ = reap_waiting(Who::Pid(pid));
        }
        // Whoever reads its queue is gone: what waits to open something goes on.
        let _ = self.observer.kill();
        let _ = self.observer.wait();
        let (link, _) = channel::pair().unwrap();
        self.calls = Calls::new(link);
        let freed = self.jails.take().is_some_and(Jails::close);
        let own = format!("calls/{UID}");
        for directory in
            [own.as_str(), "calls", "coffer/init", "coffer/notary", "coffer/agent", "coffer/observer", "coffer", ""]
        {
            drop(fs::remove_dir(self.root.join(directory)));
        }
        let unmounted = umount2(self.workspace.path(), MntFlags::empty()).is_ok();
        if !unmounted {
            let _ = umount2(self.workspace.path(), MntFlags::MNT_DETACH);
        }
        if !std::thread::panicking() {
            assert!(unmounted, "the workspace is still in use");
            assert!(!self.root.exists(), "the test's cgroup is still there");
            assert!(freed, "something in the room is still in use");
        }
    }
}

pub(crate) const LONG: Times = Times { timeout: Duration::from_secs(60), grace: Duration::from_secs(2) };

/// A bench, or the end of the test where there can be none.
macro_rules! bench {
    () => {
        match $crate::bench::Bench::new() {
            Some(bench) => bench,
            None => {
                eprintln!("NOT RUN: needs root and a writable cgroup v2 hierarchy");
                return;
            }
        }
    };
}

pub(crate) use bench;
