//! The port to whatever runs guests: QEMU for real, a fake in tests.

pub(crate) mod qemu;
pub(crate) mod stand_in;

use std::path::PathBuf;

use coffer_evidence::config::MeasuredConfig;
use coffer_evidence::ids::SessionId;
use coffer_evidence::intent::Shape;
use coffer_evidence::manifest::Profile;
use futures_util::future::BoxFuture;

use crate::host::cgroup::SessionCgroup;
use crate::jail::SpawnError;
use crate::link::GuestDevice;
use crate::session::types::GuestExit;

/// What a guest is made of. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) session: SessionId,
    pub(crate) profile: Profile,
    /// Processors and memory.
    pub(crate) shape: Shape,
    /// The boot disk.
    pub(crate) boot_disk: PathBuf,
    /// Where sockets are made: all that the machine's processes may write to.
    pub(crate) run: PathBuf,
    /// Where those processes write who they are, before they are confined.
    pub(crate) process_records: PathBuf,
    /// The image's directory.
    pub(crate) image: PathBuf,
    /// `-append`.
    pub(crate) cmdline: String,
    /// Goes into the TDX module, tdx profile.
    pub(crate) measured: MeasuredConfig,
    pub(crate) link: GuestDevice,
    pub(crate) uid: Option<u32>,
    /// The session's cgroup.
    pub(crate) cgroup: Option<SessionCgroup>,
    /// Where the guest's serial port and QEMU's complaints go.
    pub(crate) console: PathBuf,
}

/// Why a guest does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("expected {what} at {}: {hint}", path.display())]
    Missing { what: &'static str, path: PathBuf, hint: &'static str },
    #[error("{0}")]
    Kit(String),
    #[error("expected to make {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(
        "expected {program} to get ready, found {found}: what it said is in cofferd's diagnostics, which program it is \
         says {setting}"
    )]
    NotReady { program: &'static str, setting: &'static str, found: String },
    #[error(
        "expected a KVM that can run guests, found {found}: set vmm.accelerator to \"auto\" or \"tcg\", or use another host"
    )]
    Kvm { found: String },
    #[error("{0}")]
    Unsupported(String),
    #[error("the launch was given up: the session is ending")]
    GivenUp,
    #[error("expected {program} of an earlier life of cofferd to run, found it gone")]
    Gone { program: &'static str },
}

/// A machine that an earlier life of this process started. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftMachine {
    pub(crate) session: SessionId,
    /// Where its sockets are made.
    pub(crate) run: PathBuf,
    /// Where its processes wrote who they are.
    pub(crate) process_records: PathBuf,
    pub(crate) uid: Option<u32>,
    pub(crate) cgroup: Option<SessionCgroup>,
}

/// Starts machines.
pub(crate) trait Vmm: Send + Sync {
    /// Returns when the machine's process runs; the guest then calls the host by itself.
    fn launch(&self, machine: Machine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>>;

    /// Takes over a machine that runs and is provably the one that was launched.
    fn adopt(&self, machine: LeftMachine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>>;
}

/// One machine.
pub(crate) trait Vm: Send + Sync {
    /// How it ended, when it has. May be asked more than once.
    fn ended(&self) -> BoxFuture<'_, GuestExit>;

    /// Ends it at once; `ended` tells when.
    fn kill(&self);
}
