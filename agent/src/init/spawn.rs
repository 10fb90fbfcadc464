//! Starts a process: everything is prepared in the parent, so that the child allocates nothing, and what fails in
//! the child is told through a pipe that closes on exec.
//!
//! ```text
//!   parent ── clone3(INTO_CGROUP) ──┐
//!     │                             ├ session ─ descriptors ─ limits ─ jail ─ credentials ─ directory ─ rules ─ exec
//!     │ error pipe: EOF = started   │    each failure writes [stage, errno] and exits
//!     │             5 bytes = not   ▼
//! ```
#![allow(unsafe_code, reason = "the child of a clone may only make bare system calls")]

use super::jail::Entry;
use super::jail::warden::own_processes;
use super::raw::{self, Birth, Stack, call, word};
use coffer_evidence::call::TerminalSize;
use nix::sched::{CloneFlags, setns};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

/// What to execute.
#[derive(Debug)]
pub struct Command {
    /// The file to execute; never searched for.
    pub program: CString,
    /// Arguments, the program's own name first.
    pub arguments: Vec<CString>,
    /// The whole environment, `KEY=value`.
    pub environment: Vec<CString>,
    /// Where to start.
    pub directory: Directory,
    /// With a size, descriptor 0 is a terminal and becomes the controlling one.
    pub terminal: Option<TerminalSize>,
}

/// What to start, and as whom.
#[derive(Debug)]
pub struct Launch {
    /// What it becomes.
    pub command: Command,
    /// Uid and gid; no supplementary groups, no capabilities.
    pub uid: u32,
    /// Descriptors of the child: (number in the child, descriptor here). All others are closed.
    pub descriptors: Vec<(RawFd, OwnedFd)>,
    /// The cgroup to be born in; `None` stays in the parent's.
    pub cgroup: Option<OwnedFd>,
    /// Whether the process is one of the guest's own or a tool.
    pub class: Class,
}

/// Where a process starts.
#[derive(Debug)]
pub enum Directory {
    /// `/`.
    Root,
    /// A path beneath a directory, resolved with the child's credentials in the tree that it sees; it cannot leave it.
    Beneath(CString, CString),
}

/// How the system treats the process.
#[derive(Debug)]
pub enum Class {
    /// One of the guest's own: out of the reach of the out-of-memory killer.
    Own,
    /// As well, and with the two rights that it needs: files by handle, and leases on them.
    Observer,
    /// A tool: first to go, no core dumps, in the jail of its call.
    Tool(Entry),
}

/// What was being done when a start failed. The names are part of the API (`Exited.stage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The program was looked for.
    Program,
    /// The working directory was entered.
    Directory,
    /// The cgroup was made or joined.
    Cgroup,
    /// The jail was made or entered, and the doors were closed.
    Jail,
    /// Session, descriptors, limits, ids, capabilities.
    Credentials,
    /// `execve`.
    Exec,
}

impl Stage {
    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Program => "program",
            Stage::Directory => "cwd",
            Stage::Cgroup => "cgroup",
            Stage::Jail => "jail",
            Stage::Credentials => "credentials",
            Stage::Exec => "exec",
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Stage::Directory,
            2 => Stage::Cgroup,
            3 => Stage::Credentials,
            4 => Stage::Exec,
            5 => Stage::Jail,
            _ => Stage::Program,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Stage::Program => 0,
            Stage::Directory => 1,
            Stage::Cgroup => 2,
            Stage::Credentials => 3,
            Stage::Exec => 4,
            Stage::Jail => 5,
        }
    }
}

/// A start that failed: where, and the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} failed with errno {errno}", stage.word())]
pub struct StartError {
    /// The step that failed.
    pub stage: Stage,
    /// The system's answer.
    pub errno: i32,
}

impl StartError {
    /// Puts the stage on an error of the system.
    pub fn at(stage: Stage) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// A process that exists but may not have executed its program yet.
#[derive(Debug)]
pub struct Born {
    /// Its process id; it is not reaped until somebody waits for it.
    pub pid: i32,
    /// Ends at once when the program started, else delivers the error.
    pub verdict: Verdict,
}

/// The error pipe of a starting process, and the memory that the process reads until it executes its program.
#[derive(Debug)]
pub struct Verdict {
    pipe: File,
    /// Given back once the pipe has ended: the process has a memory of its own by then, or none.
    _plan: Box<Plan>,
}

impl Verdict {
    /// Blocks until the program runs or has failed to.
    pub fn read(mut self) -> Result<(), StartError> {
        let mut bytes = Vec::with_capacity(5);
        let lost = |errno| StartError { stage: Stage::Exec, errno };
        self.pipe.read_to_end(&mut bytes).map_err(|error| lost(error.raw_os_error().unwrap_or(libc::EIO)))?;
        match bytes.as_slice() {
            [] => Ok(()),
            [stage, errno @ ..] => {
                let errno = errno.try_into().map_or(libc::EIO, i32::from_ne_bytes);
                Err(StartError { stage: Stage::from_byte(*stage), errno })
            }
        }
    }
}

impl AsFd for Verdict {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        // Whoever does not want to know must wait all the same: the process still reads the plan.
        drop(self.pipe.read_to_end(&mut Vec::new()));
    }
}

/// The lowest number that prepared descriptors get: above every number a child is given.
const SAFE: RawFd = 64;
/// Everything the child reads. It lives in one place until the child has executed its program.
struct Plan {
    launch: Launch,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// Number in the child, number before.
    sources: Vec<(RawFd, RawFd)>,
    error_end: RawFd,
    stack: Stack,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.launch.fmt(f)
    }
}

/// Starts the process. Never blocks on the program: the verdict comes through the pipe.
pub fn spawn(mut launch: Launch) -> Result<Born, StartError> {
    let credentials = || StartError::at(Stage::Credentials);
    let (verdict, error_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| credentials()(errno.into()))?;
    let error_end = raised(&error_end).map_err(credentials())?;
    // The child has a table of its own: these may be closed here as soon as it exists.
    let mut raised_sources = Vec::with_capacity(launch.descriptors.len());
    for (target, descriptor) in launch.descriptors.drain(..) {
        raised_sources.push((target, raised(&descriptor).map_err(credentials())?));
    }
    let plan = Box::new(Plan {
        arguments: pointers(&launch.command.arguments),
        environment: pointers(&launch.command.environment),
        sources: raised_sources.iter().map(|(target, source)| (*target, source.as_raw_fd())).collect(),
        error_end: error_end.as_raw_fd(),
        stack: Stack::new(),
        launch,
    });
    let pid = clone_into(&plan).map_err(StartError::at(Stage::Cgroup))?;
    Ok(Born { pid, verdict: Verdict { pipe: File::from(verdict), _plan: plan } })
}

fn raised(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, SAFE)?)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// Makes the child. A tool's shares this process's memory until it executes its program, which spares copying the page tables
/// and the faults that follow; the guest's own get a copy, because a score for the out-of-memory killer counts for all who
/// share a memory. A tool is a child of this process, in the process namespace of its warden.
fn clone_into(plan: &Plan) -> io::Result<i32> {
    let cgroup = plan.launch.cgroup.as_ref().map(AsFd::as_fd);
    // SAFETY: `plan` and the stack in it outlive the child's use of them (see `Verdict`), it only reads the plan, and
    // `child` makes bare system calls only.
    let clone = |flags| unsafe { raw::clone(&Birth { flags, cgroup }, &plan.stack, child, plan) };
    let born = match &plan.launch.class {
        Class::Own | Class::Observer => clone(0),
        Class::Tool(jail) => {
            let own = own_processes()?;
            let join = |namespace: BorrowedFd<'_>| setns(namespace, CloneFlags::CLONE_NEWPID);
            join(jail.processes.as_fd())?;
            let born = clone(libc::CLONE_VM);
            // Whatever else was born from here on would be inside.
            if let Err(errno) = join(own.as_fd()) {
                panic!("the way back from a call's namespace is closed: {errno}");
            }
            born
        }
    };
    Ok(born?.pid)
}

/// The child's side: becomes the program, or tells the parent why not, and ends.
extern "C" fn child(plan: &Plan) -> ! {
    let (stage, errno) = match prepare(plan) {
        Err(failure) => failure,
        Ok(()) => {
            let (program, arguments) =
                (plan.launch.command.program.as_ptr() as usize, plan.arguments.as_ptr() as usize);
            let environment = plan.environment.as_ptr() as usize;
            // SAFETY: both arrays end with a null pointer and point to strings that live as long as the plan.
            let failed = unsafe { call(libc::SYS_execve, [program, arguments, environment, 0, 0]) };
            (Stage::Exec, failed.err().unwrap_or(0))
        }
    };
    let mut message = [0_u8; 5];
    message[0] = stage.byte();
    message[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: five bytes of a live array go into a pipe that has room for them; the call after it never returns.
    unsafe {
        let _ = call(libc::SYS_write, [plan.error_end as usize, message.as_ptr() as usize, message.len(), 0, 0]);
        loop {
            let _ = call(libc::SYS_exit_group, [127, 0, 0, 0, 0]);
        }
    }
}

type Failure = (Stage, i32);

/// What a runtime or a shell may have this process ignore; the program would inherit that.
const IGNORED: [i32; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGCHLD];

// Numbers of `linux/capability.h`.
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_LEASE: u32 = 28;
/// The observer's capabilities.
const OBSERVER_KEEPS: &[u32] = &[CAP_DAC_READ_SEARCH, CAP_LEASE];
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

fn prepare(plan: &Plan) -> Result<(), Failure> {
    let own = |errno| (Stage::Credentials, errno);
    // What `sigprocmask` and `sigaction` of the kernel take: no signal; the default action.
    let (none, default) = (0_u64, [0_u64; 4]);
    // SAFETY: every call below takes integers, pointers to constants, or pointers to memory that outlives the call;
    // each changes the calling process only, which is the freshly made child.
    unsafe {
        call(libc::SYS_setsid, [0; 5]).map_err(own)?;
        let (set, action) = (&raw const none as usize, default.as_ptr() as usize);
        call(libc::SYS_rt_sigprocmask, [word(libc::SIG_SETMASK), set, 0, 8, 0]).map_err(own)?;
        for signal in IGNORED {
            call(libc::SYS_rt_sigaction, [word(signal), action, 0, 8, 0]).map_err(own)?;
        }
        match plan.launch.class {
            Class::Tool(_) => tool_limits().map_err(own)?,
            Class::Own | Class::Observer => never_kill_me().map_err(own)?,
        }
        // Everything closes on exec but what is given.
        let to_the_end = u32::MAX as usize;
        call(libc::SYS_close_range, [3, to_the_end, libc::CLOSE_RANGE_CLOEXEC as usize, 0, 0]).map_err(own)?;
        for (target, source) in &plan.sources {
            call(libc::SYS_dup2, [word(*source), word(*target), 0, 0, 0]).map_err(own)?;
        }
        if plan.launch.command.terminal.is_some() {
            // Also when another call of the identity was quicker: it is root that asks.
            call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 1, 0, 0]).map_err(own)?;
        }
        let _ = call(libc::SYS_umask, [0o022, 0, 0, 0, 0]);
        let jail = |errno| (Stage::Jail, errno);
        if let Class::Tool(entry) = &plan.launch.class {
            let spaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;
            call(libc::SYS_setns, [entry.warden.as_raw_fd() as usize, word(spaces), 0, 0, 0]).map_err(jail)?;
        }
        let kept = if matches!(plan.launch.class, Class::Observer) { OBSERVER_KEEPS } else { &[] };
        credentials(plan.launch.uid, kept).map_err(own)?;
        if let Directory::Beneath(base, path) = &plan.launch.command.directory {
            enter(base, path).map_err(|errno| (Stage::Directory, errno))?;
        }
        if let Class::Tool(entry) = &plan.launch.class {
            call(libc::SYS_landlock_restrict_self, [entry.ruleset.as_raw_fd() as usize, 0, 0, 0, 0]).map_err(jail)?;
            filter(entry).map_err(jail)?;
        }
        Ok(())
    }
}

/// Open files of a tool: what it has, and what it may raise that to.
const FILES_USUAL: u64 = 1024;
const FILES_MAX: u64 = 65_536;

/// Limits that only tools get. That they go first when memory ends, they have from init.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn tool_limits() -> Result<(), i32> {
    let limit = |which: libc::__rlimit_resource_t, new: *const [u64; 2], old: *mut [u64; 2]| {
        // SAFETY: as in `prepare`; the kernel's `rlimit64` is two words, the present and the largest value.
        unsafe { call(libc::SYS_prlimit64, [0, which as usize, new as usize, old as usize, 0]).map(drop) }
    };
    let none = [0, 0];
    limit(libc::RLIMIT_CORE, &raw const none, ptr::null_mut())?;
    // A POSIX message queue outlives its processes.
    limit(libc::RLIMIT_MSGQUEUE, &raw const none, ptr::null_mut())?;
    let mut files = none;
    limit(libc::RLIMIT_NOFILE, ptr::null(), &raw mut files)?;
    let files = [FILES_USUAL.min(files[1]), FILES_MAX.min(files[1])];
    limit(libc::RLIMIT_NOFILE, &raw const files, ptr::null_mut())
}

/// Keeps the out-of-memory killer away from one of the guest's own.
///
/// # Safety
/// Only in a freshly made child that shares no memory.
pub(super) unsafe fn never_kill_me() -> Result<(), i32> {
    // SAFETY: as in `prepare`.
    unsafe {
        let (path, flags) = (c"/proc/self/oom_score_adj".as_ptr() as usize, libc::O_WRONLY | libc::O_CLOEXEC);
        let file = call(libc::SYS_openat, [word(libc::AT_FDCWD), path, word(flags), 0, 0])?;
        call(libc::SYS_write, [file, c"-1000".as_ptr() as usize, 5, 0, 0])?;
        call(libc::SYS_close, [file, 0, 0, 0, 0]).map(drop)
    }
}

/// Gives up everything that root has but what is kept: groups, ids, the bounding set, and the way back through set-uid files.
///
/// # Safety
/// Only in a freshly made child.
pub(super) unsafe fn credentials(uid: u32, kept: &[u32]) -> Result<(), i32> {
    let uid = uid as usize;
    // SAFETY: as in `prepare`.
    unsafe {
        for capability in 0..64 {
            if kept.iter().any(|kept| *kept as usize == capability) {
                continue;
            }
            match call(libc::SYS_prctl, [word(libc::PR_CAPBSET_DROP), capability, 0, 0, 0]) {
                Ok(_) => {}
                // The end of what this kernel knows; they are numbered without gaps.
                Err(libc::EINVAL) if capability > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        if !kept.is_empty() {
            call(libc::SYS_prctl, [word(libc::PR_SET_KEEPCAPS), 1, 0, 0, 0])?;
        }
        call(libc::SYS_setgroups, [0; 5])?;
        call(libc::SYS_setresgid, [uid, uid, uid, 0, 0])?;
        // Makes the memory one that nobody can be traced in, before the new ids count: it may still be init's.
        call(libc::SYS_setresuid, [uid, uid, uid, 0, 0])?;
        call(libc::SYS_prctl, [word(libc::PR_CAP_AMBIENT), word(libc::PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0])?;
        keep(kept)?;
        call(libc::SYS_prctl, [word(libc::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0]).map(drop)
    }
}

/// Keeps these capabilities, and no other, over the execution of a program.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn keep(kept: &[u32]) -> Result<(), i32> {
    if kept.is_empty() {
        return Ok(());
    }
    let mut low = 0_u32;
    for capability in kept {
        low |= 1 << capability;
    }
    // The kernel's `cap_user_header_t`, and two `cap_user_data_t`: effective, permitted, inheritable, low half and high half.
    let (header, data) = ([CAPABILITY_VERSION, 0], [low, low, low, 0, 0, 0]);
    // SAFETY: as in `prepare`.
    unsafe {
        call(libc::SYS_capset, [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0])?;
        for capability in kept {
            let raise = word(libc::PR_CAP_AMBIENT_RAISE);
            call(libc::SYS_prctl, [word(libc::PR_CAP_AMBIENT), raise, *capability as usize, 0, 0])?;
        }
    }
    Ok(())
}

/// Enters a directory beneath `base`; neither `..` nor a link may lead out of it.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn enter(base: &CStr, path: &CStr) -> Result<(), i32> {
    // SAFETY: `open_how` is plain data; the kernel reads exactly the size it is told; see `prepare` for the rest.
    unsafe {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let here = word(libc::AT_FDCWD);
        let base = call(libc::SYS_openat, [here, base.as_ptr() as usize, word(flags), 0, 0])?;
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = flags as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        let (size, how) = (std::mem::size_of::<libc::open_how>(), &raw const how as usize);
        let opened = call(libc::SYS_openat2, [base, path.as_ptr() as usize, how, size, 0])?;
        call(libc::SYS_fchdir, [opened, 0, 0, 0, 0]).map(drop)
    }
}

/// Installs the filter of a jail; needs `no_new_privs`.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn filter(entry: &Entry) -> Result<(), i32> {
    let (set, mode) = (word(libc::PR_SET_SECCOMP), libc::SECCOMP_MODE_FILTER as usize);
    let steps = &entry.filter.0;
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the filter, which lives as long as the entry, and writes nothing.
    unsafe { call(libc::SYS_prctl, [set, mode, &raw const program as usize, 0, 0]).map(drop) }
}
