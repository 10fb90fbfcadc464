//! Looks for what could outlive a call outside of the file systems that the scrub unmounts. Whatever cannot be looked
//! at counts as left.

use super::root::Upper;
use crate::fixed;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Where the kernel lists message queues, semaphores and shared memory of System V.
const SYSV: &str = "/proc/sysvipc";
/// Where the file system of POSIX message queues is mounted for the look.
const QUEUES: &str = "/run/mqueue";

/// The first kind of thing that is left, if there is one.
pub(super) fn find(upper: &Upper) -> Option<&'static str> {
    let looks: [(&str, bool); 5] = [
        ("a process of an identity", process_of_an_identity(Path::new("/proc"))),
        ("a file in the layer over the root", upper.is_written().unwrap_or(true)),
        ("a System V object", sysv_objects(Path::new(SYSV))),
        ("a message queue", message_queues().unwrap_or(true)),
        ("a key of an identity", keys_of_an_identity(&fs::read_to_string("/proc/key-users").unwrap_or_default())),
    ];
    looks.into_iter().find(|(_, left)| *left).map(|(kind, _)| kind)
}

fn process_of_an_identity(proc: &Path) -> bool {
    let Ok(processes) = fs::read_dir(proc) else { return true };
    processes
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())))
        // A process that ends meanwhile is as good as gone.
        .filter_map(|entry| entry.metadata().ok())
        .any(|process| process.uid() >= fixed::UID_IDENTITY)
}

/// Each list begins with a line of headings. A kernel without System V has no lists.
fn sysv_objects(directory: &Path) -> bool {
    ["msg", "sem", "shm"].iter().any(|name| match fs::read_to_string(directory.join(name)) {
        Ok(list) => list.lines().count() > 1,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    })
}

fn message_queues() -> io::Result<bool> {
    fs::create_dir_all(QUEUES)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("mqueue"), QUEUES, Some("mqueue"), flags, None::<&str>) {
        // This kernel has none.
        Err(nix::Error::ENODEV) => return Ok(false),
        result => result?,
    }
    let found = fs::read_dir(QUEUES)?.next().is_some();
    umount2(QUEUES, MntFlags::empty())?;
    Ok(found)
}

/// A line for each user that has keys, the number of the user first.
fn keys_of_an_identity(users: &str) -> bool {
    let uid = |line: &str| line.trim_start().split(':').next()?.parse::<u32>().ok();
    users.lines().filter_map(uid).any(|uid| uid >= fixed::UID_IDENTITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_system_v_objects_with_more_than_its_heading_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!sysv_objects(dir.path()));
        for name in ["msg", "sem", "shm"] {
            fs::write(dir.path().join(name), "       key      semid perms\n").unwrap();
        }
        assert!(!sysv_objects(dir.path()));
        for name in ["msg", "sem", "shm"] {
            let path = dir.path().join(name);
            let heading = fs::read(&path).unwrap();
            fs::write(&path, "       key      semid perms\n         7          0   600\n").unwrap();
            assert!(sysv_objects(dir.path()), "{name}");
            fs::write(&path, heading).unwrap();
        }
        // A list that cannot be read is no empty one.
        fs::remove_file(dir.path().join("shm")).unwrap();
        fs::create_dir(dir.path().join("shm")).unwrap();
        assert!(sysv_objects(dir.path()));
    }

    #[test]
    fn keys_count_when_an_identity_owns_them() {
        assert!(!keys_of_an_identity("    0:    57 56/56 2/1000000 42/25000000\n  901:     1 1/1 1/0 9/0\n"));
        assert!(keys_of_an_identity("    0:    57 56/56 2/1000000 42/25000000\n10000:     1 1/1 1/0 9/0\n"));
        assert!(!keys_of_an_identity(""));
    }

    #[test]
    fn a_proc_that_cannot_be_read_counts_as_a_process() {
        assert!(process_of_an_identity(Path::new("/nonexistent")));
    }
}
