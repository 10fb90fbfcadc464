//! From the first instruction in user space to the processes that do the work.
//!
//! ```text
//!  /dev ─ kernel file systems ─ modules ─ boot disk (read once) ─┬─ verified root ──────┬─ workspace
//!                                                                └─ cgroups, lock-down ─┘
//!       ─ measurement files and report directory ─ notary, agent, observer ─ supervise
//! ```

use super::cgroup::Hierarchy;
use super::disks::{self, Arrivals};
use super::error::{BootError, Context as _};
use super::spawn::{self, Born, Class, Command, Directory, Launch};
use super::steps::Steps;
use super::supervise::{Child, Supervisor};
use super::{ccel, console, harden, modules, mounts, root};
use crate::channel::{self, Channel};
use crate::machine::Machine;
use crate::{fixed, frames};
use coffer_evidence::boot_disk;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::ffi::CString;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

const STAGE: &str = "boot";
/// The kernel's list of the processors that are there.
const PROCESSORS: &str = "/sys/devices/system/cpu/present";

/// Boots, and supervises until there is a reason to power off; answers that reason.
pub(super) fn boot() -> Result<String, BootError> {
    let mut steps = Steps::begin();
    mounts::device_files()?;
    console::say("init");
    mounts::kernel_file_systems()?;
    let arrivals = Arrivals::listen()?;
    steps.done("file systems");
    modules::load()?;
    steps.done("modules");
    mounts::configfs()?;
    let boot_disk = disks::find(&arrivals, fixed::DISK_BOOT)?;
    let boot_disk = disks::read_once(&boot_disk, boot_disk::BYTES_MAX)?;
    // The image's own words lie in the initramfs, which the new root hides.
    let machine = Machine::read(Path::new(fixed::IMAGE), Path::new(PROCESSORS), root::memory_bytes()?)
        .context(STAGE, || "see what image and machine this is".into())?;
    let ccel = ccel::read(Path::new(ccel::FILE))?;
    let hierarchy = Hierarchy::at("/sys/fs/cgroup");
    steps.done("boot disk");
    // Side by side: both wait for the kernel more than they work. Nothing of a tenant runs before both are done.
    let (root, locked) = std::thread::scope(|scope| {
        let lock_down = scope.spawn(|| lock_down(&hierarchy));
        (root::prepare(&arrivals), lock_down.join())
    });
    let upper = root?;
    locked.unwrap_or_else(|_| {
        Err(BootError::Unexpected { stage: STAGE, expected: "a lock-down".into(), found: "a panic".into() })
    })?;
    steps.done("root and lock-down");
    root::switch()?;
    mounts::device_extras()?;
    root::writable_places()?;
    root::read_only()?;
    let reports = report_directory()?;
    steps.done("new root");

    let (to_notary, notary_end) = link()?;
    let (to_agent, agent_end) = link()?;
    let (agent_notary, notary_agent): (Channel<frames::log::ToNotary, frames::log::ToAgent>, _) = link()?;
    let mut descriptors = vec![
        (fixed::FD_NOTARY_INIT, notary_end.into_inner()),
        (fixed::FD_NOTARY_AGENT, notary_agent.into_inner()),
        (fixed::FD_NOTARY_RTMR3, measurement("rtmr3:sha384", OFlags::RDWR)?),
        (fixed::FD_NOTARY_BOOT, sealed_memory("boot", &boot_disk)?),
    ];
    for (number, name) in (fixed::FD_NOTARY_REGISTERS..).zip(crate::notary::registers::FILES) {
        descriptors.push((number, measurement(name, OFlags::RDONLY)?));
    }
    // The notary judges the same bytes; until it has admitted them nobody looks at this.
    let policy = boot_disk::read(&boot_disk).map(|disk| disk.policy).unwrap_or_default();
    let policy = sealed_memory("policy", &policy)?;
    drop(boot_disk);
    let notary = ("notary", machine.to_arguments(), Class::Own);
    let notary = start_own(&hierarchy, notary, fixed::UID_NOTARY, descriptors)?;
    let descriptors = vec![
        (fixed::FD_AGENT_INIT, agent_end.into_inner()),
        (fixed::FD_AGENT_NOTARY, agent_notary.into_inner()),
        (fixed::FD_AGENT_CCEL, sealed_memory("ccel", &ccel)?),
    ];
    let agent = start_own(&hierarchy, ("agent", Vec::new(), Class::Own), fixed::UID_AGENT, descriptors)?;
    let (to_observer, observer_end) = link()?;
    let descriptors = vec![(fixed::FD_OBSERVER_INIT, observer_end.into_inner())];
    let observer = ("observer", Vec::new(), Class::Observer);
    let observer = start_own(&hierarchy, observer, fixed::UID_OBSERVER, descriptors)?;
    let notary = Child { pid: started("notary", notary)?, link: to_notary };
    let agent = Child { pid: started("agent", agent)?, link: to_agent };
    let observer = Child { pid: started("observer", observer)?, link: to_observer };
    steps.done("processes");
    console::say(&steps.line());
    Supervisor::new(hierarchy, (upper, reports), notary, agent, observer, policy).run()
}

/// What must hold before anything that a tenant wrote can run, and needs no root file system.
fn lock_down(hierarchy: &Hierarchy) -> Result<(), BootError> {
    hierarchy.prepare(root::memory_bytes()?)?;
    hierarchy.enter("init")?;
    harden::protect()?;
    harden::lock_down()
}

/// Both ends of a new link.
type Ends<S, R> = (Channel<S, R>, Channel<R, S>);

fn link<S: frames::Frame, R: frames::Frame>() -> Result<Ends<S, R>, BootError> {
    channel::pair().context(STAGE, || "make a socket pair".into())
}

fn measurement(name: &str, flags: OFlags) -> Result<OwnedFd, BootError> {
    let path = Path::new(fixed::MEASUREMENTS).join(name);
    rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
        .context(STAGE, || format!("open {}", path.display()))
}

/// Makes the directory in which quotes are asked for. Only root can open its files: see `frames::warrant::Open`.
fn report_directory() -> Result<PathBuf, BootError> {
    let path = Path::new(fixed::TSM_REPORTS).join("coffer");
    std::fs::create_dir(&path).context(STAGE, || format!("make {}", path.display()))?;
    Ok(path)
}

/// Bytes as a file that nobody can change any more.
fn sealed_memory(name: &str, bytes: &[u8]) -> Result<OwnedFd, BootError> {
    let what = || format!("pass {name} on");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(name, flags).context(STAGE, what)?);
    file.write_all(bytes).and_then(|()| file.rewind()).context(STAGE, what)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .context(STAGE, what)?;
    Ok(file.into())
}

fn start_own(
    hierarchy: &Hierarchy,
    (name, words, class): (&str, Vec<CString>, Class),
    uid: u32,
    mut descriptors: Vec<(i32, OwnedFd)>,
) -> Result<Born, BootError> {
    let null = File::open("/dev/null").context(STAGE, || "open /dev/null".into())?;
    let console = File::options().write(true).open("/dev/console").or_else(|_| null.try_clone());
    let console = console.context(STAGE, || "open the console".into())?;
    let other = console.as_fd().try_clone_to_owned().context(STAGE, || "copy the console".into())?;
    descriptors.extend([(0, null.into()), (1, console.into()), (2, other)]);
    let command = Command {
        program: c"/proc/self/exe".into(),
        arguments: [c"coffer-agent".into(), CString::new(name).unwrap_or_default()].into_iter().chain(words).collect(),
        environment: Vec::new(),
        directory: Directory::Root,
        terminal: None,
    };
    let launch = Launch { command, uid, descriptors, cgroup: Some(hierarchy.own(name)?), class };
    spawn::spawn(launch).map_err(|error| start_failed(name, error))
}

/// Waits until the program runs; answers its process id.
fn started(name: &str, born: Born) -> Result<i32, BootError> {
    born.verdict.read().map_err(|error| start_failed(name, error))?;
    Ok(born.pid)
}

fn start_failed(name: &str, error: spawn::StartError) -> BootError {
    BootError::System {
        stage: STAGE,
        what: format!("start the {name} ({})", error.stage.word()),
        source: std::io::Error::from_raw_os_error(error.errno),
    }
}
