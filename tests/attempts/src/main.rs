//! What a hostile tool would try, one attempt a run: `attempts NAME` exits with the errno, or 0 when it worked; `attempts names`
//! lists them. As PID 1 of a bare guest it tries them all as root outside of any jail, each in a process of its own: the control
//! of `tests/tests/jail.rs`. Not part of any image.
#![allow(unsafe_code, reason = "attempts are bare system calls")]

use std::ffi::{CStr, CString};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::ptr::null;

/// 0, or an errno.
type Errno = i32;

fn errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// A system call by its number.
fn call<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Errno {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: what the arguments point to is live in every caller; that a call may do harm is the point of it.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result < 0 { errno() } else { 0 }
}

fn open(path: &CStr, flags: i32) -> Errno {
    call(libc::SYS_openat, [libc::AT_FDCWD as isize as usize, path.as_ptr() as usize, flags as usize, 0o600])
}

fn socket(family: i32, kind: i32, protocol: i32) -> Errno {
    call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize])
}

fn io(result: std::io::Result<()>) -> Errno {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))
}

const OWN: usize = 0;
const ONE: usize = 1;
const NONE: usize = usize::MAX;

/// The first process that is not of our own making: in a jail there is none but its warden.
fn neighbour() -> usize {
    let own = std::process::id();
    // Threads of the kernel have none, and nobody may trace them.
    let has_arguments = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| !line.is_empty());
    let there = (2..32_768).filter(|pid| *pid != own && call(libc::SYS_kill, [*pid as usize, 0]) != libc::ESRCH);
    there.filter(has_arguments).map(|pid| pid as usize).next().unwrap_or(99_999)
}

/// A file of the neighbour's in `/proc`.
fn open_of_neighbour(name: &str, flags: i32) -> Errno {
    open(&CString::new(format!("/proc/{}/{name}", neighbour())).unwrap_or_default(), flags)
}

/// A program that does nothing, somewhere it may not be executed.
fn copy_of_ourselves(directory: &str) -> Result<CString, Errno> {
    let path = format!("{directory}/copy-{}", std::process::id());
    let failed = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    std::fs::copy("/proc/self/exe", &path).map_err(failed)?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(CString::new(path).unwrap_or_default())
}

fn execute(path: &str) -> Errno {
    // `exec` only returns when it fails.
    let mut child = Command::new(path);
    child.arg("nothing");
    match child.status() {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// A pseudo terminal's slave, as a number.
fn terminal() -> Result<i32, Errno> {
    // SAFETY: the functions take descriptors and one buffer of the size that is told.
    unsafe {
        let master = libc::open(c"/dev/ptmx".as_ptr(), libc::O_RDWR | libc::O_NOCTTY);
        if master < 0 || libc::grantpt(master) != 0 || libc::unlockpt(master) != 0 {
            return Err(errno());
        }
        let mut name = [0; 64];
        if libc::ptsname_r(master, name.as_mut_ptr(), name.len()) != 0 {
            return Err(errno());
        }
        let slave = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY);
        if slave < 0 { Err(errno()) } else { Ok(slave) }
    }
}

type Attempt = (&'static str, fn() -> Errno);

/// Others' processes, the one that guards ours above all.
const PROCESSES: &[Attempt] = &[
    ("kill-a-neighbour", || call(libc::SYS_kill, [neighbour(), 0])),
    ("kill-the-first-process", || call(libc::SYS_kill, [ONE, 0])),
    ("trace-the-first-process", || call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, ONE, 0, 0])),
    ("trace-a-neighbour", || call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, neighbour(), 0, 0])),
    ("read-environment-of-first", || open(c"/proc/1/environ", libc::O_RDONLY)),
    ("read-maps-of-first", || open(c"/proc/1/maps", libc::O_RDONLY)),
    ("read-memory-of-first", || open(c"/proc/1/mem", libc::O_RDWR)),
    ("read-environment-of-a-neighbour", || open_of_neighbour("environ", libc::O_RDONLY)),
    ("read-memory-of-a-neighbour", || open_of_neighbour("mem", libc::O_RDWR)),
    ("list-descriptors-of-first", || io(std::fs::read_dir("/proc/1/fd").map(drop))),
    ("enter-root-of-first", || io(std::fs::read_dir("/proc/1/root/").map(drop))),
    ("execute-program-of-first", || execute("/proc/1/exe")),
    ("reach-into-memory-of-first", || {
        // Where there is something, as far as one is told.
        let maps = std::fs::read_to_string("/proc/1/maps").unwrap_or_default();
        let start = maps.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok()).unwrap_or(0x1000);
        let mut here = [0_u8; 8];
        let local = libc::iovec { iov_base: here.as_mut_ptr().cast(), iov_len: here.len() };
        let remote = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(start), iov_len: here.len() };
        call(libc::SYS_process_vm_readv, [ONE, &raw const local as usize, 1, &raw const remote as usize, 1, 0])
    }),
    ("take-descriptor-of-first", || {
        // SAFETY: takes a number.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, ONE, 0) };
        if pidfd < 0 { errno() } else { call(libc::SYS_pidfd_getfd, [pidfd as usize, 0, 0]) }
    }),
    ("set-limits-of-first", || {
        let limit = [1024_u64, 4096];
        call(libc::SYS_prlimit64, [ONE, libc::RLIMIT_NOFILE as usize, limit.as_ptr() as usize, 0])
    }),
    ("renice-first", || call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, ONE, 5])),
    ("pin-first", || {
        let mask = [1_u64; 16];
        call(libc::SYS_sched_setaffinity, [ONE, 128, mask.as_ptr() as usize])
    }),
];

/// More rights than one has.
const RIGHTS: &[Attempt] = &[
    ("become-root", || call(libc::SYS_setuid, [0])),
    ("become-group-root", || call(libc::SYS_setgid, [0])),
    ("join-groups", || call(libc::SYS_setgroups, [1, [0_u32].as_ptr() as usize])),
    ("take-capabilities", || {
        let header = [0x2008_0522_u32, 0];
        let every = [u32::MAX, u32::MAX, 0, 0x1ff, 0x1ff, 0];
        // The control keeps what it has.
        let now = [0_u32; 6];
        let got = call(libc::SYS_capget, [header.as_ptr() as usize, now.as_ptr() as usize]);
        if got != 0 {
            return got;
        }
        let wanted = if now[0] == 0 { &every } else { &now };
        call(libc::SYS_capset, [header.as_ptr() as usize, wanted.as_ptr() as usize])
    }),
    ("drop-bounding-set", || call(libc::SYS_prctl, [libc::PR_CAPBSET_DROP as usize, 30, 0, 0, 0])),
    ("give-a-file-to-root", || {
        let path = "/tmp/given";
        io(std::fs::write(path, "x").and_then(|()| std::os::unix::fs::chown(path, Some(0), Some(0))))
    }),
    ("raise-priority", || call(libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, OWN, (-20_isize) as usize])),
    ("run-in-real-time", || {
        let priority = [10_i32];
        call(libc::SYS_sched_setscheduler, [OWN, libc::SCHED_FIFO as usize, priority.as_ptr() as usize])
    }),
    ("raise-open-files", || {
        let limit = [1_000_000_u64, 1_000_000];
        call(libc::SYS_prlimit64, [OWN, libc::RLIMIT_NOFILE as usize, limit.as_ptr() as usize, 0])
    }),
    ("escape-the-memory-killer", || io(std::fs::write("/proc/self/oom_score_adj", "-1000"))),
    ("change-execution-domain", || call(libc::SYS_personality, [0x004_0000])),
    ("execute-a-set-user-id-program", || {
        // Beside ourselves, where programs may be executed; whoever can gives it to another.
        let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        match copy_of_ourselves(&own.parent().unwrap_or(std::path::Path::new("/")).to_string_lossy()) {
            Ok(path) => {
                use std::os::unix::fs::PermissionsExt as _;
                let path = path.to_string_lossy().into_owned();
                drop(std::os::unix::fs::chown(&path, Some(1), Some(1)));
                let status = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o6755))
                    .and_then(|()| Command::new(&path).arg("another").status());
                drop(std::fs::remove_file(&path));
                status.map_or_else(|error| io(Err(error)), |status| status.code().unwrap_or(libc::EIO))
            }
            Err(errno) => errno,
        }
    }),
    ("leave-the-cgroup", || io(std::fs::write("/sys/fs/cgroup/cgroup.procs", "0"))),
    ("use-what-was-inherited", || {
        // Whatever is open beside the three streams was somebody else's: a way to the log, to the registers, to init.
        if (3..1024).any(|number| call(libc::SYS_fcntl, [number, libc::F_GETFD as usize]) == 0) {
            0
        } else {
            libc::EBADF
        }
    }),
];

/// Mounts and namespaces.
const SPACES: &[Attempt] = &[
    ("mount", || {
        let (kind, target) = (c"tmpfs".as_ptr() as usize, c"/tmp".as_ptr() as usize);
        call(libc::SYS_mount, [kind, target, kind, 0, 0])
    }),
    ("unmount", || call(libc::SYS_umount2, [c"/tmp".as_ptr() as usize, libc::MNT_DETACH as usize])),
    ("open-a-file-system", || call(libc::SYS_fsopen, [c"tmpfs".as_ptr() as usize, 0])),
    ("clone-a-mount", || call(libc::SYS_open_tree, [libc::AT_FDCWD as isize as usize, c"/tmp".as_ptr() as usize, 1])),
    ("change-a-mount", || {
        let attributes = [0_u64; 4];
        let here = libc::AT_FDCWD as isize as usize;
        call(libc::SYS_mount_setattr, [here, c"/tmp".as_ptr() as usize, 0, attributes.as_ptr() as usize, 32])
    }),
    ("change-root", || call(libc::SYS_chroot, [c"/tmp".as_ptr() as usize])),
    ("new-user-namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize])),
    ("new-mount-namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWNS as usize])),
    ("new-network-namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize])),
    ("new-process-namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWPID as usize])),
    ("new-ipc-namespace", || call(libc::SYS_unshare, [libc::CLONE_NEWIPC as usize])),
    ("join-a-namespace", || {
        // SAFETY: a constant path.
        let own = unsafe { libc::open(c"/proc/self/ns/net".as_ptr(), libc::O_RDONLY) };
        call(libc::SYS_setns, [own as usize, libc::CLONE_NEWNET as usize])
    }),
    ("clone-into-a-user-namespace", || {
        // SAFETY: as `fork`, whose child ends at once.
        let child = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0) };
        match child {
            0 => std::process::exit(0),
            -1 => errno(),
            _ => 0,
        }
    }),
    ("clone3", || {
        let mut arguments = [0_u64; 11];
        arguments[4] = libc::SIGCHLD as u64;
        // SAFETY: as `fork`, whose child ends at once.
        let child = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), 88) };
        match child {
            0 => std::process::exit(0),
            -1 => errno(),
            _ => 0,
        }
    }),
];

/// Parts of the kernel that are not for tools.
const KERNEL: &[Attempt] = &[
    ("bpf", || {
        // BPF_MAP_CREATE: an array of one.
        let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        call(libc::SYS_bpf, [0, attributes.as_ptr() as usize, 72])
    }),
    ("io-uring", || {
        let parameters = [0_u64; 15];
        call(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as usize])
    }),
    ("keyring", || call(libc::SYS_keyctl, [0, (-3_isize) as usize, 1])),
    ("add-a-key", || {
        let (kind, name) = (c"user".as_ptr() as usize, c"k".as_ptr() as usize);
        call(libc::SYS_add_key, [kind, name, name, 1, (-3_isize) as usize])
    }),
    ("measure-performance", || {
        let mut attributes = [0_u64; 16];
        attributes[0] = 1 | (128 << 32);
        call(libc::SYS_perf_event_open, [attributes.as_ptr() as usize, OWN, NONE, NONE, 0])
    }),
    ("handle-page-faults", || call(libc::SYS_userfaultfd, [0])),
    ("watch-every-file", || call(libc::SYS_fanotify_init, [0, 0])),
    ("name-a-file-by-handle", || {
        let (mut handle, mount) = ([0_u32; 40], 0_i32);
        handle[0] = 128;
        let here = libc::AT_FDCWD as isize as usize;
        let (path, handle) = (c"/tmp".as_ptr() as usize, handle.as_ptr() as usize);
        call(libc::SYS_name_to_handle_at, [here, path, handle, &raw const mount as usize, 0])
    }),
    ("set-the-clock", || {
        let mut now = [0_u64; 2];
        call(libc::SYS_clock_gettime, [0, now.as_mut_ptr() as usize])
            .max(call(libc::SYS_clock_settime, [0, now.as_ptr() as usize]))
    }),
    ("rename-the-host", || call(libc::SYS_sethostname, [c"x".as_ptr() as usize, 1])),
    ("rename-the-domain", || call(libc::SYS_setdomainname, [c"x".as_ptr() as usize, 1])),
    ("arm-the-reset-key", || call(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0])),
    ("read-the-kernel-log", || {
        let buffer = [0_u8; 64];
        call(libc::SYS_syslog, [3, buffer.as_ptr() as usize, 64])
    }),
    ("use-ports", || call(libc::SYS_ioperm, [0x80, 1, 1])),
    ("hang-up", || call(libc::SYS_vhangup, [])),
    ("compare-kernel-objects", || {
        call(libc::SYS_kcmp, [std::process::id() as usize, std::process::id() as usize, 1, 0, 0])
    }),
    ("type-into-a-terminal", || match terminal() {
        Ok(slave) => call(libc::SYS_ioctl, [slave as usize, libc::TIOCSTI as usize, c"x".as_ptr() as usize]),
        Err(errno) => errno,
    }),
    ("type-with-high-bits", || match terminal() {
        // The kernel looks at the lower half of the request alone.
        Ok(slave) => {
            let request = libc::TIOCSTI as usize | 1 << 32;
            call(libc::SYS_ioctl, [slave as usize, request, c"x".as_ptr() as usize])
        }
        Err(errno) => errno,
    }),
    ("lease-a-file", || match std::fs::File::create("/tmp/leased") {
        Ok(file) => {
            use std::os::fd::AsRawFd as _;
            let (file, write) = (file.as_raw_fd() as usize, libc::F_WRLCK as usize);
            call(libc::SYS_fcntl, [file, libc::F_SETLEASE as usize, write])
        }
        Err(error) => io(Err(error)),
    }),
    ("truncate-by-path", || {
        drop(std::fs::write("/tmp/truncated", "x"));
        call(libc::SYS_truncate, [c"/tmp/truncated".as_ptr() as usize, 0])
    }),
    ("executable-memory-file", || call(libc::SYS_memfd_create, [c"m".as_ptr() as usize, 0x10])),
    ("queue-messages", || {
        call(libc::SYS_mq_open, [c"q".as_ptr() as usize, (libc::O_CREAT | libc::O_RDWR) as usize, 0o600, 0])
    }),
];

/// Devices and files of the machine.
const MACHINE: &[Attempt] = &[
    ("make-a-device", || {
        let here = libc::AT_FDCWD as isize as usize;
        let path = c"/tmp/device".as_ptr() as usize;
        call(libc::SYS_mknodat, [here, path, (libc::S_IFCHR | 0o600) as usize, 0x101])
    }),
    ("open-memory", || open(c"/dev/mem", libc::O_RDONLY)),
    ("open-kernel-messages", || open(c"/dev/kmsg", libc::O_RDONLY)),
    ("open-the-console", || open(c"/dev/console", libc::O_WRONLY)),
    ("open-kernel-core", || open(c"/proc/kcore", libc::O_RDONLY)),
    ("request-the-system", || open(c"/proc/sysrq-trigger", libc::O_WRONLY)),
    ("change-core-pattern", || open(c"/proc/sys/kernel/core_pattern", libc::O_WRONLY)),
    ("read-block-devices", || io(std::fs::read_dir("/sys/class/block").map(drop))),
    ("read-the-simulators-registers", || io(std::fs::read_dir("/sys/kernel").map(drop))),
    ("write-system-files", || open(c"/etc/passwd", libc::O_WRONLY | libc::O_CREAT)),
    ("make-files-in-the-root", || open(c"/usr/x", libc::O_WRONLY | libc::O_CREAT)),
    ("execute-from-tmp", || match copy_of_ourselves("/tmp") {
        Ok(path) => execute(&path.to_string_lossy()),
        Err(errno) => errno,
    }),
    ("execute-a-memory-file", || {
        // SAFETY: constant and live arguments; a successful execution ends this process with its own status, which is 0.
        unsafe {
            let file = libc::memfd_create(c"m".as_ptr(), 0);
            let program = std::fs::read("/proc/self/exe").unwrap_or_default();
            if libc::write(file, program.as_ptr().cast(), program.len()) < 0 {
                return errno();
            }
            let arguments = [c"attempts".as_ptr(), c"nothing".as_ptr(), null()];
            let environment = [null()];
            libc::fexecve(file, arguments.as_ptr(), environment.as_ptr());
            errno()
        }
    }),
    ("trusted-attribute", || {
        let (path, name) = (c"/tmp".as_ptr() as usize, c"trusted.x".as_ptr() as usize);
        call(libc::SYS_setxattr, [path, name, name, 1, 0])
    }),
    ("change-the-mode-of-root", || call(libc::SYS_chmod, [c"/tmp".as_ptr() as usize, 0o1777])),
];

/// Ways out.
const NETWORK: &[Attempt] = &[
    ("raw-socket", || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("packet-socket", || socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
    ("vsock", || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("vsock-with-high-bits", || {
        call(libc::SYS_socket, [libc::AF_VSOCK as usize | 1 << 32, libc::SOCK_STREAM as usize, 0])
    }),
    ("vsock-device", || open(c"/dev/vsock", libc::O_RDONLY)),
    ("see-a-socket-of-the-guest", || {
        // One line is the heading.
        let sockets = std::fs::read_to_string("/proc/net/unix").map_or(0, |list| list.lines().count());
        if sockets > 1 { 0 } else { libc::ENOENT }
    }),
    ("audit-socket", || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT)),
    ("device-events", || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)),
    ("bind-a-low-port", || io(std::net::TcpListener::bind("127.0.0.1:80").map(drop))),
    ("add-an-address", || {
        // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: a socket of an ordinary family, and a live request.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            if libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request) < 0 { errno() } else { 0 }
        }
    }),
];

const ALL: [&[Attempt]; 6] = [PROCESSES, RIGHTS, SPACES, KERNEL, MACHINE, NETWORK];

fn main() -> ExitCode {
    let word = std::env::args().nth(1);
    if std::process::id() == 1 && word.is_none() {
        control();
    }
    let attempts = || ALL.iter().flat_map(|group| group.iter());
    match word.as_deref() {
        Some("names") => {
            for (name, _) in attempts() {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        Some("nothing") => ExitCode::SUCCESS,
        // SAFETY: takes nothing.
        Some("another") if unsafe { libc::geteuid() != libc::getuid() } => ExitCode::SUCCESS,
        Some("another") => ExitCode::from(u8::try_from(libc::EPERM).unwrap_or(u8::MAX)),
        Some("wait") => loop {
            std::thread::park();
        },
        Some(wanted) => match attempts().find(|(name, _)| *name == wanted) {
            Some((_, attempt)) => ExitCode::from(u8::try_from(attempt()).unwrap_or(u8::MAX)),
            None => ExitCode::from(255),
        },
        None => ExitCode::from(254),
    }
}

/// Prepares a bare guest and tries everything as its root.
fn control() -> ! {
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/etc", "/usr"] {
        drop(std::fs::create_dir_all(directory));
    }
    let mount = |kind: &CStr, target: &CStr| {
        // SAFETY: constant strings.
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, null()) }
    };
    for (kind, target) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev"), (c"tmpfs", c"/tmp")] {
        mount(kind, target);
    }
    drop(std::fs::create_dir_all("/dev/pts"));
    mount(c"devpts", c"/dev/pts");
    mount(c"cgroup2", c"/sys/fs/cgroup");
    // The image's modules, as its init would load them.
    for line in std::fs::read_to_string("/etc/coffer/modules").unwrap_or_default().lines() {
        if let Ok(file) = std::fs::File::open(line.trim_start_matches('?')) {
            use std::os::fd::AsRawFd as _;
            call(libc::SYS_finit_module, [file.as_raw_fd() as usize, c"".as_ptr() as usize, 0]);
        }
    }
    // Somebody for the first attempts, and what a careless parent would leave to its children.
    // SAFETY: takes a number.
    let _ = unsafe { libc::dup(1) };
    let _socket = std::os::unix::net::UnixListener::bind("/tmp/socket");
    drop(Command::new("/proc/self/exe").arg("wait").spawn());
    println!("attempts: control begins");
    for (name, _) in ALL.iter().flat_map(|group| group.iter()) {
        let mut child = Command::new("/proc/self/exe");
        child.arg0("attempts").arg(name);
        let code = child.status().ok().and_then(|status| status.code());
        println!("attempts: {name} {}", code.unwrap_or(-1));
    }
    println!("attempts: control ends");
    loop {
        // SAFETY: takes a number; the console has everything by then.
        unsafe {
            libc::sync();
            libc::reboot(libc::RB_POWER_OFF);
        }
    }
}
