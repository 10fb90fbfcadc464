//! Closes what the guest does not need before anything that a tenant wrote can run.
#![allow(unsafe_code, reason = "swapoff and the interface ioctl have no safe wrapper")]

use super::error::{BootError, Context as _};
use rustix::process::{Resource, Rlimit};
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;

const STAGE: &str = "harden";
/// Open files of init; tools may raise theirs as far.
const FILES: u64 = 65_536;

/// Written in this order; the last one locks the door for modules and must hold.
/// A file that this kernel does not have is a feature that it does not have.
const SETTINGS: [(&str, &str); 30] = [
    ("kernel/core_pattern", ""),
    ("fs/suid_dumpable", "0"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/io_uring_disabled", "2"),
    ("kernel/yama/ptrace_scope", "1"),
    ("kernel/sysrq", "0"),
    ("kernel/kexec_load_disabled", "1"),
    ("user/max_user_namespaces", "0"),
    ("vm/unprivileged_userfaultfd", "0"),
    // A file in memory is not executable unless it is asked for, and tools may not ask.
    ("vm/memfd_noexec", "1"),
    // Objects that live on without a process: none in the guest's own namespace. A call makes its own in one that goes with it.
    ("kernel/shm_rmid_forced", "1"),
    ("kernel/shmmni", "0"),
    ("kernel/msgmni", "0"),
    ("kernel/sem", "0 0 0 0"),
    ("fs/mqueue/queues_max", "0"),
    // So many descriptors that processes and memory end first: nobody uses up what the guest's own need.
    ("fs/file-max", "4000000000"),
    // A number of a process that is gone is not soon another's: what is done to names is told by numbers.
    ("kernel/pid_max", "4194304"),
    // Each jail has two queues of the kernel's events, and one that is being taken apart still has them.
    ("fs/fanotify/max_user_groups", "4096"),
    // Keys too: the kernel takes no less than one byte for everybody but root, and the smallest key counts two.
    ("kernel/keys/maxkeys", "1"),
    ("kernel/keys/maxbytes", "1"),
    // An oops is a panic, and a panic a reset at once: with `-no-reboot` that ends the machine.
    ("kernel/panic_on_oops", "1"),
    ("kernel/panic", "-1"),
    ("kernel/modules_disabled", "1"),
];

/// Switches swap off and sets every sysctl of the table.
pub fn lock_down() -> Result<(), BootError> {
    swap_off()?;
    for (name, value) in SETTINGS {
        let path = format!("/proc/sys/{name}");
        match super::cgroup::put(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != "kernel/modules_disabled" => {}
            result => result.context(STAGE, || format!("write {value:?} to {path}"))?,
        }
    }
    loopback_up()
}

/// Nothing in the image switches swap on; a device that is there all the same is switched off.
fn swap_off() -> Result<(), BootError> {
    let Ok(list) = fs::read_to_string("/proc/swaps") else { return Ok(()) };
    for line in list.lines().skip(1) {
        let Some(path) = line.split_ascii_whitespace().next() else { continue };
        let name = std::ffi::CString::new(path).unwrap_or_default();
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        if unsafe { libc::swapoff(name.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error()).context(STAGE, || format!("switch swap off on {path}"));
        }
    }
    Ok(())
}

/// Brings up `lo`, the only interface of a network: programs expect 127.0.0.1 to answer.
pub(super) fn loopback_up() -> Result<(), BootError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .context(STAGE, || "open a socket for lo".into())?;
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a whole `ifreq` with a NUL-terminated name, which is what SIOCSIFFLAGS reads.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error()).context(STAGE, || "bring up lo".into());
    }
    Ok(())
}

/// Whatever init starts is the first to go when memory ends, unless it says otherwise; PID 1 itself the kernel never
/// takes. And nobody traces init, whose memory a tool shares until it executes its program.
pub fn protect() -> Result<(), BootError> {
    super::cgroup::put("/proc/self/oom_score_adj", "500").context(STAGE, || "write oom_score_adj".into())?;
    // A room takes some twenty descriptors and one for each grant.
    let files = Rlimit { current: Some(FILES), maximum: Some(FILES) };
    rustix::process::setrlimit(Resource::Nofile, files).context(STAGE, || "raise the limit of open files".into())?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context(STAGE, || "be no core file".into())
}
