//! The root file system: verified lower, small upper, a workspace of its own; and the move into it.
//!
//! ```text
//!   coffer-root (erofs) ─ dm-verity ─┐ lower, read-only
//!   tmpfs, 64 MiB ───────────────────┴ overlay ─ /newroot ── becomes / ── /workspace, /tmp: tmpfs of their own
//!                                                                     └─ then read-only itself
//! ```

use super::disks::{self, Arrivals};
use super::error::{BootError, Context as _};
use super::{mapper, verity};
use crate::fixed;
use nix::mount::{MsFlags, mount};
use rustix::fs::{Dir, Mode, OFlags};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;

const STAGE: &str = "root";
const LOWER: &str = "/lower";
const UPPER: &str = "/upper";
const NEW: &str = "/newroot";
const NONE: Option<&str> = None;
/// Directories that the new root must have, whatever the image holds.
const NEEDED: [&str; 6] = ["dev", "proc", "sys", "run", "tmp", "workspace"];

/// The layer over the verified root, open: the new root hides its path.
#[derive(Debug)]
pub struct Upper(OwnedFd);

impl Upper {
    /// Opens the directory of the layer.
    pub(super) fn open(path: &str) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Self)
    }

    /// Whether anything was ever written over the root.
    pub fn is_written(&self) -> rustix::io::Result<bool> {
        for entry in Dir::read_from(&self.0)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Mounts the verified root with a layer on it. [`switch`] makes it `/`, [`read_only`] ends writing to it.
pub fn prepare(arrivals: &Arrivals) -> Result<Upper, BootError> {
    let data = disks::find(arrivals, fixed::DISK_ROOT)?;
    let hash = disks::find(arrivals, fixed::DISK_VERITY)?;
    let line = fs::read_to_string("/proc/cmdline").context(STAGE, || "read /proc/cmdline".into())?;
    let root = verity::RootHash::from_command_line(&line)?;
    let mut head = [0_u8; 4096];
    File::open(&hash)
        .and_then(|mut disk| disk.read_exact(&mut head))
        .context(STAGE, || format!("read the superblock of {}", hash.display()))?;
    let superblock = verity::Superblock::parse(&head)?;
    let table = superblock.table(&data.to_string_lossy(), &hash.to_string_lossy(), &root);
    let device = mapper::create("coffer-root", "verity", superblock.sectors(), &table)?;

    for directory in [LOWER, UPPER, NEW] {
        fs::create_dir_all(directory).context(STAGE, || format!("make {directory}"))?;
    }
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(&device), LOWER, Some("erofs"), read_only, NONE).context(STAGE, || "mount the erofs root".into())?;
    mount_tmpfs(UPPER, "mode=0755,size=64m,nr_inodes=16384", MsFlags::MS_NODEV)?;
    let (changes, work) = (format!("{UPPER}/changes"), format!("{UPPER}/work"));
    for directory in [&changes, &work] {
        fs::create_dir(directory).context(STAGE, || format!("make {directory}"))?;
    }
    fs::set_permissions(&changes, fs::Permissions::from_mode(0o755)).context(STAGE, || "open the upper".into())?;
    let options = format!("lowerdir={LOWER},upperdir={changes},workdir={work}");
    mount(Some("overlay"), NEW, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
        .context(STAGE, || "mount the overlay".into())?;
    for directory in NEEDED {
        let path = format!("{NEW}/{directory}");
        fs::create_dir_all(&path).context(STAGE, || format!("make {path}"))?;
    }
    Upper::open(&changes).context(STAGE, || format!("open {changes}"))
}

/// Ends writing to the root, for root as for everybody: tools write to [`writable_places`] and nowhere else.
pub fn read_only() -> Result<(), BootError> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(NONE, "/", NONE, flags, NONE).context(STAGE, || "make the root read-only".into())
}

/// Moves the kernel's file systems over and makes the new root the root of this and every later process.
pub fn switch() -> Result<(), BootError> {
    for directory in ["/dev", "/proc", "/sys", "/run"] {
        let target = format!("{NEW}{directory}");
        mount(Some(directory), target.as_str(), NONE, MsFlags::MS_MOVE, NONE)
            .context(STAGE, || format!("move {directory}"))?;
    }
    nix::unistd::chdir(NEW).context(STAGE, || format!("enter {NEW}"))?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context(STAGE, || "move the root".into())?;
    nix::unistd::chroot(".").context(STAGE, || "change the root".into())?;
    nix::unistd::chdir("/").context(STAGE, || "enter the root".into())
}

/// Mounts the two places where tools may write. Both are memory, both have an end.
pub fn writable_places() -> Result<(), BootError> {
    let memory = memory_bytes()?;
    let owner = fixed::UID_IDENTITY;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let inodes = fixed::WORKSPACE_INODES;
    let workspace = format!("mode=0755,uid={owner},gid={owner},size={},nr_inodes={inodes}", memory / 2);
    mount_tmpfs(fixed::WORKSPACE, &workspace, flags)?;
    mount_tmpfs(fixed::TMP, &format!("mode=1777,size={},nr_inodes=65536", memory / 8), flags)
}

/// Mounts a memory file system.
pub fn mount_tmpfs(target: &str, options: &str, flags: MsFlags) -> Result<(), BootError> {
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).context(STAGE, || format!("mount {target}"))
}

/// `MemTotal` of this machine, in bytes.
pub fn memory_bytes() -> Result<u64, BootError> {
    let text = fs::read_to_string("/proc/meminfo").context(STAGE, || "read /proc/meminfo".into())?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .and_then(|kib| kib.checked_mul(1024))
        .ok_or_else(|| BootError::Unexpected {
            stage: STAGE,
            expected: "MemTotal in /proc/meminfo".into(),
            found: "none".into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_holds_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let upper = Upper::open(dir.path().to_str().unwrap()).unwrap();
        assert!(!upper.is_written().unwrap());
        fs::write(dir.path().join("x"), "").unwrap();
        assert!(upper.is_written().unwrap());
        fs::remove_file(dir.path().join("x")).unwrap();
        assert!(!upper.is_written().unwrap(), "the second look must not see the first");
    }
}
