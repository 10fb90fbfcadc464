//! The kernel's own file systems, before there is a root. The simulated image's shim may have mounted some already.

use super::error::{BootError, Context as _};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;

const STAGE: &str = "mounts";

struct Kernel {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
}

const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

const KERNEL: [Kernel; 5] = [
    // `dev` comes first: without it there is no console to complain on.
    Kernel {
        kind: "devtmpfs",
        target: "/dev",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: Some("mode=0755"),
    },
    Kernel { kind: "proc", target: "/proc", flags: NO_EXEC, options: None },
    Kernel { kind: "sysfs", target: "/sys", flags: NO_EXEC, options: None },
    Kernel { kind: "tmpfs", target: "/run", flags: NO_EXEC, options: Some("mode=0755,size=4m,nr_inodes=1024") },
    Kernel { kind: "cgroup2", target: "/sys/fs/cgroup", flags: NO_EXEC, options: None },
];

/// Mounts `/dev` alone, so that the console exists.
pub fn device_files() -> Result<(), BootError> {
    mount_one(&KERNEL[0])
}

/// Mounts `/proc`, `/sys`, `/run` and the cgroup hierarchy.
pub fn kernel_file_systems() -> Result<(), BootError> {
    KERNEL[1..].iter().try_for_each(mount_one)
}

/// Mounts configfs unless it is there. Its module may be the one that makes the mount point, so this follows the
/// loading of modules.
pub fn configfs() -> Result<(), BootError> {
    let target = "/sys/kernel/config";
    if is_mount_point(target) {
        return Ok(());
    }
    mount_one(&Kernel { kind: "configfs", target, flags: NO_EXEC, options: None })
}

/// What programs expect beneath `/dev`, and shared memory with a size.
pub fn device_extras() -> Result<(), BootError> {
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        self::link(target, link)?;
    }
    mount_one(&Kernel {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NO_EXEC,
        options: Some("mode=1777,size=64m,nr_inodes=4096"),
    })
}

fn link(target: &str, link: &str) -> Result<(), BootError> {
    match std::os::unix::fs::symlink(target, link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).context(STAGE, || format!("link {link}"))
        }
        _ => Ok(()),
    }
}

fn mount_one(entry: &Kernel) -> Result<(), BootError> {
    if is_mount_point(entry.target) {
        return Ok(());
    }
    fs::create_dir_all(entry.target).context(STAGE, || format!("make {}", entry.target))?;
    match mount(Some(entry.kind), entry.target, Some(entry.kind), entry.flags, entry.options) {
        // Somebody mounted it before us and it could not be told from the device number.
        Err(nix::Error::EBUSY) => Ok(()),
        other => other.context(STAGE, || format!("mount {} on {}", entry.kind, entry.target)),
    }
}

/// Whether something is mounted exactly there: its device differs from its parent's.
pub fn is_mount_point(path: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Some(parent) = Path::new(path).parent() else { return true };
    let (Ok(here), Ok(above)) = (fs::symlink_metadata(path), fs::symlink_metadata(parent)) else { return false };
    here.dev() != above.dev()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        assert!(is_mount_point("/proc"));
        assert!(!is_mount_point("/proc/self"));
        assert!(!is_mount_point("/nonexistent/there"));
    }
}
