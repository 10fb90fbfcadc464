//! SIMULATED: what the shim needs before it can serve: the kernel's file systems and the modules. The same mounts, with
//! the same flags, as the agent's init makes; it takes what is mounted as it is.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;

use nix::mount::{MsFlags, mount};

/// Where the kernel shows miscellaneous devices. sysfs takes no new directory, so the whole place is served.
pub(crate) const MISC: &str = "/sys/devices/virtual/misc";
/// Where reports are asked for. The module tsm_report makes it; without a provider the kernel refuses `mkdir` there.
pub(crate) const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// The list that the agent's init reads: an absolute path a line, `?` before those that may fail to load, an empty line
/// between groups that do not depend on each other.
const MODULES: &str = "/etc/coffer/modules";
const CONFIGFS: &str = "/sys/kernel/config";
/// Modules that the server cannot do without.
const SERVER_NEEDS: [&str; 2] = ["/vmw_vsock_virtio_transport.ko", "/tsm_report.ko"];
/// Loading is half work for the CPU, half waiting for the kernel.
const WORKERS: usize = 3;

/// Mounts, loads, and calls `serve` as soon as what it needs is there, while the rest still loads.
pub(crate) fn machine(serve: impl FnOnce() -> Result<(), String> + Send) -> Result<(), String> {
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let no_device = no_exec | MsFlags::MS_NODEV;
    mount_kind("devtmpfs", "/dev", no_exec, Some("mode=0755"))?;
    say();
    mount_kind("proc", "/proc", no_device, None)?;
    mount_kind("sysfs", "/sys", no_device, None)?;
    let list = fs::read_to_string(MODULES).map_err(|error| format!("read {MODULES}: {error}"))?;
    let left = load_all(&list, || {
        mount_kind("configfs", CONFIGFS, no_device, None)?;
        serve()
    })?;
    // What is loaded leaves the list: the agent need not have the kernel read and verify it a second time.
    fs::write(MODULES, left).map_err(|error| format!("write {MODULES}: {error}"))
}

/// The first line from user space; whoever reads the console learns at once what this is.
fn say() {
    let line = "coffer-shim: first userspace line: SIMULATED TDX, anyone can forge its evidence\n";
    // Without a console there is nobody to tell.
    if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/dev/console") {
        drop(console.write_all(line.as_bytes()));
    }
}

fn mount_kind(kind: &str, target: &str, flags: MsFlags, options: Option<&str>) -> Result<(), String> {
    match mount(Some(kind), target, Some(kind), flags, options) {
        // The kernel mounts devtmpfs by itself where it is configured to.
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(error) => Err(format!("mount {kind} on {target}: {error}")),
    }
}

/// Loads the list, its groups side by side, and calls `serve` once, as soon as every group that the server needs is
/// loaded. Answers the lines that did not load and need not.
fn load_all(list: &str, serve: impl FnOnce() -> Result<(), String> + Send) -> Result<String, String> {
    let needed = |group: &str| SERVER_NEEDS.iter().any(|name| group.contains(name));
    let groups: Mutex<VecDeque<&str>> = Mutex::new(list.split("\n\n").collect());
    let waiting = Mutex::new((list.split("\n\n").filter(|group| needed(group)).count(), Some(serve)));
    let work = || -> Result<String, String> {
        let mut left = String::new();
        loop {
            let group = lock(&groups).pop_front();
            let Some(group) = group else { return Ok(left) };
            left.push_str(&load_group(group)?);
            let serve = {
                let (count, serve) = &mut *lock(&waiting);
                *count -= usize::from(needed(group));
                if *count == 0 { serve.take() } else { None }
            };
            if let Some(serve) = serve {
                serve()?;
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let join = |worker: ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|_| Err("loading modules".into()));
        workers.into_iter().map(join).collect()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load_group(group: &str) -> Result<String, String> {
    let mut left = String::new();
    for line in group.lines().filter(|line| !line.is_empty()) {
        let path = line.strip_prefix('?').unwrap_or(line);
        let loaded = File::open(path).map_err(|error| error.to_string()).and_then(|file| {
            match rustix::system::finit_module(&file, c"", 0) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno.to_string()),
            }
        });
        match loaded {
            // Its memory is the initramfs, and nobody reads it again.
            Ok(()) => drop(fs::remove_file(path)),
            Err(_) if line.starts_with('?') => left.extend([line, "\n"]),
            Err(error) => return Err(format!("load {path}: {error}")),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_starts_once_whatever_the_list_holds() {
        // Optional modules that are not there: everything stays on the list.
        let list = "?/none/vmw_vsock_virtio_transport.ko\n\n?/none/a.ko\n?/none/tsm_report.ko\n\n?/none/b.ko\n";
        for list in [list, "?/none/b.ko\n", ""] {
            let started = Mutex::new(0);
            let left = load_all(list, || {
                *lock(&started) += 1;
                Ok(())
            });
            let mut left: Vec<_> = left.unwrap().lines().map(str::to_owned).collect();
            let mut expected: Vec<_> = list.lines().filter(|line| !line.is_empty()).collect();
            left.sort();
            expected.sort();
            assert_eq!(left, expected);
            assert_eq!(*lock(&started), 1, "{list:?}");
        }
        assert!(load_all("/none/required.ko\n", || Ok(())).is_err());
        assert!(load_all("", || Err("no server".into())).is_err());
    }

    /// What is said here is the last line of the console before the power-off.
    #[test]
    fn a_guest_without_fuse_is_not_served_and_says_which_module_is_missing() {
        let list = "?/none/vmw_vsock_virtio_transport.ko\n/none/fuse.ko\n?/none/tsm_report.ko\n";
        let served = Mutex::new(0);
        let why = load_all(list, || {
            *lock(&served) += 1;
            Ok(())
        });
        assert_eq!(why, Err("load /none/fuse.ko: No such file or directory (os error 2)".to_owned()));
        assert_eq!(*lock(&served), 0);
    }
}
