//! SIMULATED: what the shim needs before it can serve: the kernel's file systems and the modules. The same mounts, with
//! the same flags, as the agent's init makes; it takes what is mounted as it is.

use std::fs::{self, File};
use std::io::Write as _;

use nix::mount::{MsFlags, mount};

/// Where the kernel shows miscellaneous devices. sysfs takes no new directory, so the whole place is served.
pub(crate) const MISC: &str = "/sys/devices/virtual/misc";
/// Where reports are asked for. The module tsm_report makes it; without a provider the kernel refuses `mkdir` there.
pub(crate) const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// The list that the agent's init reads: an absolute path a line, `?` before those that may fail to load.
const MODULES: &str = "/etc/coffer/modules";
const CONFIGFS: &str = "/sys/kernel/config";

/// Mounts and loads.
pub(crate) fn machine() -> Result<(), String> {
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let no_device = no_exec | MsFlags::MS_NODEV;
    mount_kind("devtmpfs", "/dev", no_exec, Some("mode=0755"))?;
    say();
    mount_kind("proc", "/proc", no_device, None)?;
    mount_kind("sysfs", "/sys", no_device, None)?;
    load_modules()?;
    mount_kind("configfs", CONFIGFS, no_device, None)
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

/// Loads the whole list: vsock and FUSE need most of it. What is loaded leaves the list, so that the agent does not
/// have the kernel read and verify each module a second time.
fn load_modules() -> Result<(), String> {
    let list = fs::read_to_string(MODULES).map_err(|error| format!("read {MODULES}: {error}"))?;
    let mut left = String::new();
    for line in list.lines().filter(|line| !line.is_empty()) {
        let path = line.strip_prefix('?').unwrap_or(line);
        let loaded = File::open(path).map_err(|error| error.to_string()).and_then(|file| {
            match rustix::system::finit_module(&file, c"", 0) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(errno) => Err(errno.to_string()),
            }
        });
        match loaded {
            Ok(()) => drop(fs::remove_file(path)),
            // Loaded again, and refused again, by the agent: the list decides whether that matters.
            Err(_) if line.starts_with('?') => left.extend([line, "\n"]),
            Err(error) => return Err(format!("load {path}: {error}")),
        }
    }
    fs::write(MODULES, left).map_err(|error| format!("write {MODULES}: {error}"))
}
