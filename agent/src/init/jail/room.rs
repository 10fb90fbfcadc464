//! The room of an identity: a mount tree and a network that all its calls share and nobody else has. Made once, before the
//! first tool runs, by a thread that leaves init's namespaces for good.
//!
//! ```text
//!   /            the verified root, read-only
//!   /workspace   what grants name, and nothing else; for this owner; read-only but where a grant lets it write
//!   /tmp /dev/shm /dev/pts   its own
//!   /dev         null zero full random urandom tty, and no other device
//!   /sys         the list of processors; /run empty
//!   /proc        none: each call gets one of its own processes
//! ```

use super::mapped::{Again, Owners, Writing};
use super::notice::Watched;
use super::rules::{self, Rules};
use super::{Access, Grant, Reach};
use crate::fixed;
use crate::init::cgroup::Groups;
use crate::init::error::{BootError, Context as _};
use crate::init::grants::GRANTS_MAX;
use crate::init::harden;
use landlock::ABI;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode as NodeMode, SFlag, makedev, mknod};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

const STAGE: &str = "jail";
const NONE: Option<&str> = None;
/// Where things are put together before they are moved to their place.
const STAGING: &str = "/run";
/// Where an identity's memory is that its processes share by name.
const SHARED: &str = "/dev/shm";
/// Bytes and inodes of shared memory of one identity.
const SHM: &str = "mode=1777,size=64m,nr_inodes=4096";
const NO_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Every device file of a tool.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// What the image holds for everybody to read.
const PUBLIC: [&str; 11] = ["/usr", "/etc", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/var", "/srv", "/run", "/sys"];
/// The program that the kernel starts beside each dynamic program.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Where the rooms of a machine are made, and how large their places are.
#[derive(Debug, Clone)]
pub struct Site {
    /// The workspace, by the same name inside and outside of a room.
    pub workspace: PathBuf,
    /// Bytes of an identity's `/tmp`.
    pub tmp_bytes: u64,
    /// The Landlock that the kernel must have.
    pub landlock: ABI,
}

/// The namespaces of one identity, and what it may do with files in them.
#[derive(Debug)]
pub struct Room {
    pub(super) mounts: OwnedFd,
    pub(super) network: OwnedFd,
    pub(super) rules: Rules,
    pub(super) terminals: OwnedFd,
    /// What of it the observer is to see used.
    pub(super) watched: Watched,
    /// Where its calls are counted and bounded.
    pub(super) groups: Groups,
}

/// What is only open in a room: the roots of its own file systems.
type Own = Vec<OwnedFd>;

impl Room {
    /// Makes the room of the identity with this uid. `owners` is its view of the workspace, when it is not the first.
    pub fn new(
        site: &Site,
        groups: Groups,
        owners: Option<&Owners>,
        grants: &[Grant],
    ) -> Result<(Self, Own), BootError> {
        let made = std::thread::scope(|scope| scope.spawn(|| Self::inside(site, groups, owners, grants)).join());
        made.unwrap_or_else(|_| {
            Err(BootError::Unexpected { stage: STAGE, expected: "a room".into(), found: "a panic".into() })
        })
    }

    /// Runs in a thread of its own.
    fn inside(
        site: &Site,
        groups: Groups,
        owners: Option<&Owners>,
        grants: &[Grant],
    ) -> Result<(Self, Own), BootError> {
        let own = || open(Path::new("/proc/self/exe"), OFlags::PATH);
        let exe = own().context(STAGE, || "open our own program".into())?;
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context(STAGE, || "leave the namespaces of init".into())?;
        let namespace = |kind: &str| {
            let path = format!("/proc/thread-self/ns/{kind}");
            open(Path::new(&path), OFlags::RDONLY).context(STAGE, || format!("open {path}"))
        };
        let (mounts, network) = (namespace("mnt")?, namespace("net")?);
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            .context(STAGE, || "keep mounts to the room".into())?;
        clear(Path::new(fixed::TMP))?;
        harden::loopback_up()?;
        devices()?;
        kernel_views()?;
        away("/proc")?;
        let tmp = format!("mode=1777,size={},nr_inodes=65536", site.tmp_bytes);
        tmpfs(fixed::TMP, &tmp, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
        let parts = workspace(&site.workspace, owners, grants)?;
        let mut rules = Rules::new(site.landlock);
        allow(&mut rules, exe, grants).map_err(|error| BootError::Unexpected {
            stage: STAGE,
            expected: "rules for files".into(),
            found: error.to_string(),
        })?;
        let pts = Path::new("/dev/pts");
        let terminals = open(pts, OFlags::PATH | OFlags::DIRECTORY).context(STAGE, || "open /dev/pts".into())?;
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        let own = [fixed::TMP, SHARED].map(|path| open(Path::new(path), directory));
        let own = own.into_iter().collect::<Result<Own, _>>().context(STAGE, || "open the room's places".into())?;
        let parts = parts.iter().map(|part| open(part, OFlags::PATH)).collect::<Result<_, _>>();
        let parts = parts.context(STAGE, || "open the places of grants".into())?;
        let places = ["/", fixed::TMP, SHARED].map(PathBuf::from).into();
        let watched = Watched { places, workspace: site.workspace.clone(), parts };
        Ok((Self { mounts, network, rules, terminals, watched, groups }, own))
    }

    /// Unmounts what tools could write to, from inside; true when nobody kept any of it busy. Every call is over by then.
    pub fn close(self) -> bool {
        let Self { mounts, network, rules, terminals, watched: Watched { workspace, parts, .. }, .. } = self;
        // An open file keeps its mount.
        drop((rules, network, terminals, parts));
        let unmounting = || {
            let table = open(Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY)?;
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
            nix::sched::setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
            let places = [Path::new(fixed::TMP), Path::new(SHARED), &workspace];
            let table = rustix::fs::openat(&table, "thread-self/mountinfo", OFlags::RDONLY, Mode::empty())?;
            let table = io::read_to_string(File::from(table))?;
            Ok::<_, io::Error>(places.map(|place| unmount_all(place, &table)).iter().all(|unmounted| *unmounted))
        };
        let result = std::thread::scope(|scope| scope.spawn(unmounting).join());
        matches!(result, Ok(Ok(true)))
    }
}

/// Unmounts everything at and beneath a place: the places of grants are mounts of their own. Every one is tried.
fn unmount_all(place: &Path, table: &str) -> bool {
    let points = points(place, table);
    let unmounted: Vec<bool> = points.iter().map(|point| umount2(point, MntFlags::empty()).is_ok()).collect();
    unmounted.iter().all(|unmounted| *unmounted)
}

/// Takes away what is mounted at and beneath a place: the room's own would only hide what is beneath.
fn clear(place: &Path) -> Result<(), BootError> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").context(STAGE, || "read the mounts".into())?;
    for point in points(place, &table) {
        let what = || format!("take {} away", point.display());
        umount2(&point, MntFlags::MNT_DETACH).context(STAGE, what)?;
    }
    Ok(())
}

/// The places where something is mounted at and beneath a place, the deepest first.
fn points(place: &Path, table: &str) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table.lines().filter_map(|line| line.split(' ').nth(4)).map(mount_point).collect();
    points.retain(|point| point.starts_with(place));
    // The deepest first: the order of the table is that of the mounts' making, not of their places.
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// A path as the kernel's table has it: spaces, tabs, newlines and backslashes in octal.
pub(super) fn mount_point(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[3..]).1,
            None => (bytes.push(*first), rest = after).1,
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Takes away whatever is mounted there, with all that is mounted on it: nothing of init's stays, not even out of sight.
fn away(target: &str) -> Result<(), BootError> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Nothing is any more.
            Err(nix::Error::EINVAL) => return Ok(()),
            result => return result.context(STAGE, || format!("take {target} away")),
        }
    }
}

fn tmpfs(target: &str, options: &str, flags: MsFlags) -> Result<(), BootError> {
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).context(STAGE, || format!("mount {target}"))
}

fn make(directory: &str) -> Result<(), BootError> {
    fs::create_dir_all(directory).context(STAGE, || format!("make {directory}"))
}

fn move_to(from: &str, to: &str) -> Result<(), BootError> {
    mount(Some(from), to, NONE, MsFlags::MS_MOVE, NONE).context(STAGE, || format!("move {from} to {to}"))
}

fn read_only(target: &str, flags: MsFlags) -> Result<(), BootError> {
    mount(NONE, target, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags, NONE)
        .context(STAGE, || format!("make {target} read-only"))
}

/// A `/dev` with what programs expect and nothing else.
fn devices() -> Result<(), BootError> {
    away(STAGING)?;
    tmpfs(STAGING, "mode=0755,size=1m,nr_inodes=256", NO_EXEC)?;
    let dev = format!("{STAGING}/dev");
    make(&dev)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    tmpfs(&dev, "mode=0755,size=1m,nr_inodes=256", flags)?;
    for (name, major, minor) in DEVICES {
        let path = format!("{dev}/{name}");
        mknod(path.as_str(), SFlag::S_IFCHR, NodeMode::from_bits_truncate(0o666), makedev(major, minor))
            .context(STAGE, || format!("make {path}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .context(STAGE, || format!("open {path} to all"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, format!("{dev}/{name}")).context(STAGE, || format!("link {name}"))?;
    }
    let (pts, shm) = (format!("{dev}/pts"), format!("{dev}/shm"));
    make(&pts)?;
    make(&shm)?;
    let options = Some("newinstance,ptmxmode=0666,mode=0600,max=256");
    mount(Some("devpts"), pts.as_str(), Some("devpts"), flags, options).context(STAGE, || format!("mount {pts}"))?;
    tmpfs(&shm, SHM, NO_EXEC)?;
    read_only(&dev, flags)?;
    away("/dev")?;
    move_to(&dev, "/dev")
}

/// Little of `/sys`, nothing of `/run`, no `/proc`.
fn kernel_views() -> Result<(), BootError> {
    const PROCESSORS: &str = "/sys/devices/system/cpu";
    let staged = format!("{STAGING}/cpu");
    make(&staged)?;
    mount(Some(PROCESSORS), staged.as_str(), NONE, MsFlags::MS_BIND, NONE)
        .context(STAGE, || "see the processors".into())?;
    read_only(&staged, NO_EXEC)?;
    away("/sys")?;
    tmpfs("/sys", "mode=0755,size=1m,nr_inodes=64", NO_EXEC)?;
    make(PROCESSORS)?;
    move_to(&staged, PROCESSORS)?;
    read_only("/sys", NO_EXEC)?;
    for name in ["dev", "cpu"] {
        let path = format!("{STAGING}/{name}");
        fs::remove_dir(&path).context(STAGE, || format!("remove {path}"))?;
    }
    read_only(STAGING, NO_EXEC)
}

/// What the grants name of the workspace, for its owner, writable only where one says so. The rest is not there.
/// Answers what is mounted.
fn workspace(place: &Path, owners: Option<&Owners>, grants: &[Grant]) -> Result<Vec<PathBuf>, BootError> {
    let source = open(place, OFlags::PATH | OFlags::DIRECTORY).context(STAGE, || "open the workspace".into())?;
    let changes = |access: Access| access.has(Access::WRITE) || access.has(Access::DELETE);
    // In the order of their paths, so that what contains comes before what is contained.
    let mut parts: BTreeMap<&Path, Writing> = BTreeMap::new();
    let concerns = |grant: &&Grant| {
        let above = grant.reach == Reach::Beneath && place.starts_with(&grant.path);
        above || (grant.path.starts_with(place) && (grant.reach == Reach::Beneath || grant.path != place))
    };
    for grant in grants.iter().filter(concerns) {
        let path = if grant.path.starts_with(place) { grant.path.as_path() } else { place };
        let writing = parts.entry(path).or_insert(Writing::Never);
        if changes(grant.access) {
            *writing = Writing::Possible;
        }
    }
    let mut mounts: Vec<(&Path, Writing, Again)> = Vec::new();
    for (path, writing) in parts {
        // The nearest mount that contains it: what may be written there may be written here.
        let above = mounts.iter().rev().find(|(above, ..)| path.starts_with(above)).map(|(_, writing, _)| *writing);
        if above == Some(Writing::Possible) || above == Some(writing) {
            continue;
        }
        if let Some(part) = beneath(&source, place, path)? {
            let again = Again::of(part.as_fd(), owners, writing);
            mounts.push((path, writing, again.context(STAGE, || format!("have {} again", path.display()))?));
        }
    }
    drop(source);
    away(&place.to_string_lossy())?;
    if mounts.first().is_none_or(|(first, ..)| *first != place) {
        empty_tree(place, &mounts)?;
    }
    let mut mounted = Vec::new();
    for (path, _, again) in mounts {
        again.put(path).context(STAGE, || format!("mount {}", path.display()))?;
        mounted.push(path.to_owned());
    }
    Ok(mounted)
}

/// A part of the workspace, open; nothing when it is not there.
fn beneath(source: &OwnedFd, place: &Path, path: &Path) -> Result<Option<OwnedFd>, BootError> {
    let name = path.strip_prefix(place).unwrap_or(path);
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(source, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(part) => Ok(Some(part)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(STAGE, || format!("open {}", path.display())),
    }
}

/// An empty workspace in which parts can be mounted.
fn empty_tree(place: &Path, parts: &[(&Path, Writing, Again)]) -> Result<(), BootError> {
    let target = place.to_string_lossy();
    let inodes = 16 * GRANTS_MAX;
    tmpfs(&target, &format!("mode=0755,size=1m,nr_inodes={inodes}"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    for (path, _, again) in parts {
        let directory = if again.is_directory() { path } else { path.parent().unwrap_or(place) };
        make(&directory.to_string_lossy())?;
        if !again.is_directory() {
            File::create(path).context(STAGE, || format!("make {}", path.display()))?;
        }
    }
    read_only(&target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

/// What every identity may do, and what the grants of this one add.
fn allow(rules: &mut Rules, exe: OwnedFd, grants: &[Grant]) -> Result<(), rules::RulesError> {
    // For the built-in tools, which are this program; no path leads a tool to it.
    rules.allow(exe, rules::read() | rules::execute());
    // Programs look around; there is nothing to see in a room that is not public or granted.
    rules.allow_path(Path::new("/"), rules::list())?;
    for path in PUBLIC {
        rules.allow_path(Path::new(path), rules::read())?;
    }
    rules.allow_path(Path::new("/dev"), rules::devices())?;
    for path in [fixed::TMP, SHARED] {
        rules.allow_path(Path::new(path), rules::read() | rules::write() | rules::delete())?;
    }
    for grant in grants {
        let mut access = landlock::BitFlags::empty();
        for (kind, rights) in [
            (Access::READ, rules::read()),
            (Access::WRITE, rules::write()),
            (Access::DELETE, rules::delete()),
            (Access::EXECUTE, rules::execute()),
        ] {
            if grant.access.has(kind) {
                access |= rights;
            }
        }
        // A rule on a directory would hold for what is beneath it.
        if grant.reach == Reach::Beneath || grant.path.is_file() {
            rules.allow_path(&grant.path, access)?;
        }
    }
    if grants.iter().any(|grant| grant.access.has(Access::EXECUTE)) {
        rules.allow_path(Path::new(LOADER), rules::execute())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        for (text, path) in
            [("/a", "/a"), ("/a\\040b", "/a b"), ("/\\134040", "/\\040"), ("/a\\", "/a\\"), ("/\\999", "/\\999")]
        {
            assert_eq!(mount_point(text), Path::new(path), "{text}");
        }
    }
}
