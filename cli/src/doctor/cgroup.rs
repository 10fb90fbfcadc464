//! cgroup v2 on the host. Sessions are found again by their cgroup and limited by its controllers; without them they run,
//! less walled off from each other.

use std::path::{Path, PathBuf};

use super::{Check, Need};

const WANTED: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn checks() -> Vec<Check> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(mount) = mounted(&mounts) else {
        let fix = "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2";
        return vec![Check::missing("cgroup v2", Need::Better, "not mounted", fix)];
    };
    let names = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    vec![writable(&mount), controllers(&names)]
}

fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

fn writable(mount: &Path) -> Check {
    const NAME: &str = "cgroup v2";
    let found = mount.display().to_string();
    match rustix::fs::access(mount, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Check::ok(NAME, Need::Better, found),
        Err(error) => Check::failed(
            NAME,
            Need::Better,
            format!("{found}: {error}"),
            "run cofferd as root, or delegate a cgroup to its user",
        ),
    }
}

fn controllers(names: &str) -> Check {
    const NAME: &str = "controllers";
    let there: Vec<&str> = names.split_ascii_whitespace().collect();
    let missing: Vec<&str> = WANTED.into_iter().filter(|name| !there.contains(name)).collect();
    if missing.is_empty() {
        return Check::ok(NAME, Need::Better, WANTED.join(" "));
    }
    let fix = "give them to the v2 hierarchy: boot with systemd.unified_cgroup_hierarchy=1; until then VMs are not limited by them";
    Check::missing(NAME, Need::Better, format!("not there: {}", missing.join(" ")), fix)
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;

    #[test]
    fn the_v2_mount_is_found_beside_those_of_v1() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mounted(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("cgroup2 /x cgroup rw 0 0\n"), None);
    }

    #[test]
    fn each_missing_controller_is_named() {
        assert_eq!(controllers("cpuset cpu io memory pids\n").result, Found::Ok);
        let some = controllers("cpu pids");
        assert_eq!((some.result, some.found.as_str()), (Found::Missing, "not there: memory"));
    }
}
