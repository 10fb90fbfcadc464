//! Room for VMs: memory, disk, the state directory, and who we are.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Check, Need, images};

/// One VM of shape s1, and what runs beside it.
const MEMORY_LEAST: u64 = 2 * 1024 + 256;
/// Bundles, diagnostics and the store, in MiB.
const DISK_LEAST: u64 = 1024;

pub(super) fn checks(state: Option<&Path>) -> Vec<Check> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut checks = vec![memory(&meminfo), user()];
    match state.map(Path::to_path_buf).or_else(default_state) {
        Some(state) => {
            checks.extend([directory(&state), disk(&state)]);
            checks.extend(images::checks(&state));
        }
        None => checks.push(Check::missing(
            "state directory",
            Need::Both,
            "neither XDG_STATE_HOME nor HOME is set",
            "set one of them",
        )),
    }
    checks
}

/// Where `cofferd` keeps its state when nobody says otherwise.
fn default_state() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/coffer"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("coffer"))
}

fn memory(meminfo: &str) -> Check {
    const NAME: &str = "memory";
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024);
    let found = format!("{available} MiB available, one VM takes {MEMORY_LEAST}");
    if available >= MEMORY_LEAST {
        Check::ok(NAME, Need::Both, found)
    } else {
        Check::failed(NAME, Need::Both, found, "end something else, or use a larger host")
    }
}

fn user() -> Check {
    const NAME: &str = "user";
    if rustix::process::geteuid().is_root() {
        return Check::ok(NAME, Need::Better, "root: each VM gets a uid of its own");
    }
    let found = "not root: VMs share this user's uid, and are not walled off by it";
    Check::failed(NAME, Need::Better, found, "run cofferd as root")
}

/// The nearest directory above that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"))
}

fn directory(state: &Path) -> Check {
    const NAME: &str = "state directory";
    let (shown, above) = (state.display(), existing(state));
    match access(above, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if above == state => Check::ok(NAME, Need::Both, format!("{shown}")),
        Ok(()) => Check::ok(NAME, Need::Both, format!("{shown}, will be made")),
        Err(error) => {
            let fix =
                format!("let this user write to {}, or give cofferd another directory with --state", above.display());
            Check::failed(NAME, Need::Both, format!("{shown}: {}: {error}", above.display()), fix)
        }
    }
}

fn disk(state: &Path) -> Check {
    const NAME: &str = "disk";
    let free =
        rustix::fs::statvfs(existing(state)).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) / (1024 * 1024));
    let found = format!("{free} MiB free for {}", state.display());
    if free >= DISK_LEAST {
        Check::ok(NAME, Need::Both, found)
    } else {
        Check::failed(
            NAME,
            Need::Both,
            found,
            format!("make {DISK_LEAST} MiB free, or give cofferd another directory with --state"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;

    #[test]
    fn memory_is_enough_for_one_vm_or_it_is_not() {
        let of = |mib: u64| memory(&format!("MemTotal: 1 kB\nMemAvailable:   {} kB\n", mib * 1024)).result;
        assert_eq!(of(MEMORY_LEAST), Found::Ok);
        assert_eq!(of(MEMORY_LEAST - 1), Found::Failed);
        assert_eq!(memory("").result, Found::Failed);
    }

    #[test]
    fn a_state_directory_that_is_not_there_yet_is_judged_by_where_it_will_be() {
        let above = tempfile::tempdir().expect("a directory");
        let state = above.path().join("a/b");
        let check = directory(&state);
        assert_eq!(check.result, Found::Ok);
        assert!(check.found.ends_with("will be made"), "{}", check.found);
    }
}
