//! What a jailed process sees of the file system. A directory that is closed to other users (the state directory, root's
//! home) and every one that anybody may write to is covered with an empty one that nobody may, and only the exposed paths
//! below it are put back, under their own names. So the arguments of a program hold the same paths inside and outside, and
//! it can write to what it is given and to nothing else.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, mount_remount, move_mount,
    open_tree,
};

use super::{Access, Exposure};

/// Directories of the host that anybody may write to.
const WORLD_WRITABLE: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run/lock"];

/// The topmost directory above `path` that others may not pass, if any.
fn topmost_closed(path: &Path, is_open: &impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    above.into_iter().find(|directory| !is_open(directory)).map(Path::to_path_buf)
}

fn others_may_pass(directory: &Path) -> bool {
    std::fs::metadata(directory).is_ok_and(|m| m.mode() & 0o001 != 0)
}

/// What is covered, none of it below another.
fn covered(expose: &[Exposure], is_open: impl Fn(&Path) -> bool) -> BTreeSet<PathBuf> {
    let closed = expose.iter().filter_map(|exposure| topmost_closed(&exposure.path, &is_open));
    // A link to another of them is covered where it leads.
    let writable = WORLD_WRITABLE.iter().filter_map(|path| Path::new(path).canonicalize().ok());
    let all: BTreeSet<PathBuf> = closed.chain(writable).collect();
    let below_another = |path: &PathBuf| all.iter().any(|other| other != path && path.starts_with(other));
    all.iter().filter(|path| !below_another(path)).cloned().collect()
}

/// Arranges the view in a mount namespace that is this process's alone.
pub(super) fn apply(expose: &[Exposure]) -> io::Result<()> {
    // What is mounted here stays here; what the host unmounts later goes here, too.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let covered = covered(expose, others_may_pass);
    let mut put_back = Vec::new();
    for exposure in expose {
        if covered.iter().any(|directory| exposure.path.starts_with(directory)) {
            // Taken before anything is covered.
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(CWD, &exposure.path, flags).map_err(|e| naming(&exposure.path, e.into()))?;
            put_back.push((tree, exposure, exposure.path.is_dir()));
        }
    }
    for directory in covered {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let options = c"size=64k,nr_inodes=256,mode=0755";
        mount("none", &directory, "tmpfs", flags, Some(options)).map_err(|e| naming(&directory, e.into()))?;
    }
    for (tree, exposure, is_directory) in put_back {
        let path = exposure.path.as_path();
        let place = || -> io::Result<()> {
            if is_directory {
                std::fs::create_dir_all(path)?;
            } else {
                path.parent().map(std::fs::create_dir_all).transpose()?;
                std::fs::File::create(path)?;
            }
            move_mount(&tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
            if exposure.access == Access::ReadOnly {
                flags |= MountFlags::RDONLY;
            }
            mount_remount(path, flags, c"")?;
            Ok(())
        };
        place().map_err(|e| naming(path, e))?;
    }
    Ok(())
}

fn naming(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_anybody_may_write_to_are_covered_and_nothing_is_covered_twice() {
        let expose = |path: &str| Exposure { path: path.into(), access: Access::ReadWrite };
        let closed = |p: &Path| p != Path::new("/tmp/state") && p != Path::new("/root");
        let found = covered(&[expose("/tmp/state/run"), expose("/root/kit"), expose("/usr/bin/x")], closed);
        assert!(found.contains(Path::new("/tmp")) && found.contains(Path::new("/root")), "{found:?}");
        assert!(!found.contains(Path::new("/tmp/state")), "/tmp covers it: {found:?}");
        assert!(!found.iter().any(|path| Path::new("/usr/bin/x").starts_with(path)), "{found:?}");
    }

    #[test]
    fn the_topmost_closed_directory_is_the_one_that_is_covered() {
        let closed = ["/root", "/var/lib/coffer", "/var/lib/coffer/sessions"];
        let is_open = |p: &Path| !closed.contains(&p.to_str().expect("text"));
        let find = |path: &str| topmost_closed(Path::new(path), &is_open);
        assert_eq!(find("/root/.cache/coffer/qemu/11"), Some("/root".into()));
        assert_eq!(find("/var/lib/coffer/sessions/1"), Some("/var/lib/coffer".into()));
        assert_eq!(find("/usr/bin/qemu"), None);
        assert_eq!(find("/root"), None, "the path itself is the caller's to open");
    }
}
