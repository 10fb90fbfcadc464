//! Starts a process: everything is prepared in the parent, so that the child allocates nothing, and what fails in
//! the child is told through a pipe that closes on exec.
//!
//! ```text
//!   parent ── clone3(INTO_CGROUP) ──┐
//!     │                             ├ session ─ descriptors ─ limits ─ credentials ─ directory ─ exec
//!     │ error pipe: EOF = started   │    each failure writes [stage, errno] and exits
//!     │             5 bytes = not   ▼
//! ```
#![allow(unsafe_code, reason = "the child of a fork may only make bare system calls")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr;

/// What to start, and as whom.
#[derive(Debug)]
pub struct Launch {
    /// The file to execute; never searched for.
    pub program: CString,
    /// Arguments, the program's own name first.
    pub arguments: Vec<CString>,
    /// The whole environment, `KEY=value`.
    pub environment: Vec<CString>,
    /// Where to start.
    pub directory: Directory,
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
    /// A path beneath an open directory, resolved with the child's credentials; it cannot leave it.
    Beneath(OwnedFd, CString),
}

/// How the system treats the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Notary and agent: keep init's protection from the out-of-memory killer.
    Own,
    /// A tool: first to go, no core dumps, no vsock.
    Tool,
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

/// The error pipe of a starting process.
#[derive(Debug)]
pub struct Verdict(pub File);

impl Verdict {
    /// Blocks until the program runs or has failed to.
    pub fn read(mut self) -> Result<(), StartError> {
        let mut bytes = Vec::with_capacity(5);
        let lost = |errno| StartError { stage: Stage::Exec, errno };
        (&mut self.0).take(5).read_to_end(&mut bytes).map_err(|e| lost(e.raw_os_error().unwrap_or(libc::EIO)))?;
        match bytes.as_slice() {
            [] => Ok(()),
            [stage, errno @ ..] => {
                let errno = errno.try_into().map_or(libc::EIO, i32::from_ne_bytes);
                Err(StartError { stage: Stage::from_byte(*stage), errno })
            }
        }
    }
}

/// The lowest number that prepared descriptors get: above every number a child is given.
const SAFE: RawFd = 64;

/// Starts the process. Never blocks on the program: the verdict comes through the pipe.
pub fn spawn(launch: &Launch) -> Result<Born, StartError> {
    let credentials = || StartError::at(Stage::Credentials);
    let (verdict, error_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| credentials()(errno.into()))?;
    let error_end = raised(&error_end).map_err(credentials())?;
    let mut sources = Vec::with_capacity(launch.descriptors.len());
    for (target, descriptor) in &launch.descriptors {
        sources.push((*target, raised(descriptor).map_err(credentials())?));
    }
    let directory = match &launch.directory {
        Directory::Root => None,
        Directory::Beneath(base, path) => Some((base.as_raw_fd(), path.as_c_str())),
    };
    let arguments = pointers(&launch.arguments);
    let environment = pointers(&launch.environment);
    let plan = Plan {
        program: &launch.program,
        arguments: &arguments,
        environment: &environment,
        directory,
        uid: launch.uid,
        sources: &sources,
        error_end: error_end.as_raw_fd(),
        class: launch.class,
    };
    match clone_into(launch.cgroup.as_ref()).map_err(StartError::at(Stage::Cgroup))? {
        0 => {
            let (stage, errno) = child(&plan);
            refuse(plan.error_end, stage, errno)
        }
        pid => Ok(Born { pid, verdict: Verdict(File::from(verdict)) }),
    }
}

struct Plan<'a> {
    program: &'a CStr,
    arguments: &'a [*const libc::c_char],
    environment: &'a [*const libc::c_char],
    directory: Option<(RawFd, &'a CStr)>,
    uid: u32,
    sources: &'a [(RawFd, OwnedFd)],
    error_end: RawFd,
    class: Class,
}

fn raised(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, SAFE)?)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// `linux/sched.h`; the libc crate's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3` with the semantics of fork, into a cgroup. Zero in the child.
fn clone_into(cgroup: Option<&OwnedFd>) -> io::Result<i32> {
    // SAFETY: `clone_args` is plain data for which all zeros is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(directory) = cgroup {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    let size = std::mem::size_of::<libc::clone_args>();
    // SAFETY: no memory is shared and no stack is given, so the child continues here on a copy of everything. It runs
    // `child` and `refuse` only, which make bare system calls; no lock that another thread held is ever taken.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid as i32),
    }
}

/// Tells the parent what failed, and ends the child.
fn refuse(error_end: RawFd, stage: Stage, errno: i32) -> ! {
    let mut message = [0_u8; 5];
    message[0] = stage.byte();
    message[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: five bytes of a live array go into a pipe that has room for them; `_exit` ends the process without
    // running anything of the parent's.
    unsafe {
        libc::write(error_end, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

fn check(result: libc::c_int, stage: Stage) -> Result<(), (Stage, i32)> {
    if result >= 0 { Ok(()) } else { Err((stage, errno())) }
}

fn errno() -> i32 {
    // SAFETY: the location of errno is valid for the life of the thread.
    unsafe { *libc::__errno_location() }
}

/// The child's side. Returns only when something failed.
fn child(plan: &Plan<'_>) -> (Stage, i32) {
    match prepare(plan) {
        Err(failure) => failure,
        Ok(()) => {
            // SAFETY: both arrays end with a null pointer and point to strings that live as long as the plan.
            unsafe { libc::execve(plan.program.as_ptr(), plan.arguments.as_ptr(), plan.environment.as_ptr()) };
            (Stage::Exec, errno())
        }
    }
}

fn prepare(plan: &Plan<'_>) -> Result<(), (Stage, i32)> {
    let own = Stage::Credentials;
    // SAFETY: every call below takes integers, pointers to constants, or pointers to memory that outlives the call;
    // each changes the calling process only, which is the freshly made child.
    unsafe {
        check(libc::setsid(), own)?;
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()), own)?;
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if plan.class == Class::Tool {
            tool_limits()?;
        }
        // Everything closes on exec but what is given.
        check(libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) as libc::c_int, own)?;
        for (target, source) in plan.sources {
            check(libc::dup2(source.as_raw_fd(), *target), own)?;
        }
        libc::umask(0o022);
        credentials(plan.uid)?;
        if let Some((base, path)) = plan.directory {
            enter(base, path)?;
        }
        if plan.class == Class::Tool {
            no_vsock()?;
        }
        Ok(())
    }
}

/// Open files of a tool: what it has, and what it may raise that to.
const FILES_USUAL: libc::rlim_t = 1024;
const FILES_MAX: libc::rlim_t = 65_536;

/// Limits that only tools get.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn tool_limits() -> Result<(), (Stage, i32)> {
    let own = Stage::Credentials;
    // SAFETY: as in `prepare`.
    unsafe {
        let adjust = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(adjust, own)?;
        check(libc::write(adjust, c"500".as_ptr().cast(), 3) as libc::c_int, own)?;
        libc::close(adjust);
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const none), own)?;
        // A POSIX message queue outlives its processes, and no scrub would find it.
        check(libc::setrlimit(libc::RLIMIT_MSGQUEUE, &raw const none), own)?;
        let mut files = none;
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files), own)?;
        let files = libc::rlimit { rlim_cur: FILES_USUAL.min(files.rlim_max), rlim_max: FILES_MAX.min(files.rlim_max) };
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files), own)
    }
}

/// Gives up everything that root has: groups, ids, the bounding set, and the way back through set-uid files.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn credentials(uid: u32) -> Result<(), (Stage, i32)> {
    let own = Stage::Credentials;
    // SAFETY: as in `prepare`.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                // The end of what this kernel knows; they are numbered without gaps.
                if errno() == libc::EINVAL && capability > 0 {
                    break;
                }
                return Err((own, errno()));
            }
        }
        // The bare calls: glibc's take a lock and speak to every thread that it believes to exist.
        check(libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) as libc::c_int, own)?;
        check(libc::syscall(libc::SYS_setresgid, uid, uid, uid) as libc::c_int, own)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as libc::c_int, own)?;
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), own)?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), own)
    }
}

/// Enters a directory beneath `base`; neither `..` nor a link may lead out of it.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn enter(base: RawFd, path: &CStr) -> Result<(), (Stage, i32)> {
    // SAFETY: `open_how` is plain data; the kernel reads exactly the size it is told; see `prepare` for the rest.
    unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        let size = std::mem::size_of::<libc::open_how>();
        let opened = libc::syscall(libc::SYS_openat2, base, path.as_ptr(), &raw const how, size) as libc::c_int;
        check(opened, Stage::Directory)?;
        check(libc::fchdir(opened), Stage::Directory)
    }
}

/// `socket(2)` on this architecture.
const SOCKET: u32 = libc::SYS_socket as u32;
/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Set in the numbers of the x32 calling convention.
const X32: u32 = 0x4000_0000;

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | code | libc::BPF_K) as u16, jt, jf, k }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;

/// Tools may not speak to the host: `socket(AF_VSOCK, ..)` is answered as if the kernel knew no such family. Other
/// calling conventions have other numbers, so they are closed altogether.
static NO_VSOCK: [libc::sock_filter; 9] = [
    // seccomp_data: number at 0, architecture at 4, first argument at 16.
    statement(LOAD, 4),
    jump(libc::BPF_JEQ, ARCHITECTURE, 0, 5),
    statement(LOAD, 0),
    jump(libc::BPF_JGE, X32, 3, 0),
    jump(libc::BPF_JEQ, SOCKET, 0, 3),
    statement(LOAD, 16),
    jump(libc::BPF_JEQ, libc::AF_VSOCK as u32, 0, 1),
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
];

/// Installs the filter; needs `no_new_privs`.
///
/// # Safety
/// Only in a freshly made child.
unsafe fn no_vsock() -> Result<(), (Stage, i32)> {
    let program = libc::sock_fprog { len: NO_VSOCK.len() as u16, filter: NO_VSOCK.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the filter, which is static, and writes nothing.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    check(set, Stage::Credentials)
}
