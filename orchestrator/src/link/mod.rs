//! The port to a guest's vsock. The guest dials the host first, on a few known ports; the host dials the guest's tool
//! service. Two ways lead there: the kernel's vhost device, and `coffer-vsock`. Nothing here reads what is said.

pub(crate) mod kernel;
pub(crate) mod vhost_user;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::jail::EndOnDrop;
use crate::vmm::LaunchError;

/// Host port of the control connection.
pub(crate) const PORT_CONTROL: u32 = 1024;
/// Host port of the TDX simulator, simulated images only.
pub(crate) const PORT_SIMULATOR: u32 = 1025;
/// Host port of the record mirror.
pub(crate) const PORT_RECORD: u32 = 1027;
/// Guest port of the tool service.
pub(crate) const PORT_TOOLS: u32 = 1030;

/// Connections of the guest to one port that may wait to be served.
const WAITING_MAX: usize = 4;

/// A byte stream to or from a guest.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Any of them.
pub(crate) type GuestStream = Box<dyn Duplex>;

/// The vsock device that QEMU gives the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GuestDevice {
    /// Served by `coffer-vsock` on this socket.
    VhostUser { socket: PathBuf },
    /// Served by the host's kernel.
    Kernel { cid: u32 },
}

/// Where a link is made.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Where sockets are made.
    pub(crate) run: PathBuf,
    /// Where a program of the link writes who it is.
    pub(crate) process_record: PathBuf,
    pub(crate) cid: u32,
    pub(crate) uid: Option<u32>,
    /// `cgroup.procs` that a program of the link joins.
    pub(crate) cgroup_procs: Option<PathBuf>,
    /// Where a program of the link complains: the session's console.
    pub(crate) complaints: PathBuf,
}

/// A link that listens: the guest may be started.
pub(crate) struct OpenLink {
    pub(crate) device: GuestDevice,
    /// The guest's connections to [`PORT_CONTROL`].
    pub(crate) control: mpsc::Receiver<GuestStream>,
    /// The guest's connections to [`PORT_RECORD`].
    pub(crate) record: mpsc::Receiver<GuestStream>,
    pub(crate) dial: Arc<dyn Dial>,
    /// The program that serves it, where there is one.
    pub(crate) program: Option<EndOnDrop>,
    /// Ends what the link runs in this process.
    pub(crate) tasks: Tasks,
}

/// Calls the guest.
pub(crate) trait Dial: Send + Sync {
    /// Connects to a port of the guest.
    fn dial(&self, port: u32) -> BoxFuture<'_, io::Result<GuestStream>>;
}

/// Makes links.
pub(crate) trait Link: Send + Sync {
    /// Listens for the guest of one session. Returns when every port is ready.
    fn open(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>>;

    /// Listens again for a guest of an earlier life of this process.
    fn adopt(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>>;
}

/// After a failed accept: the kernel has no event for descriptors that are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The next connection of a listener, which outlives any want of descriptors or memory.
async fn next<T, A: Future<Output = io::Result<T>>>(accept: impl Fn() -> A) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "a guest's connection cannot be accepted now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tasks that end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Tasks {
    /// Runs a task until this is dropped.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }

    /// Something to be done when this is dropped: the task never ends by itself, and drops what it holds when ended.
    pub(crate) fn keep(&mut self, held: impl Send + 'static) {
        self.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
    }

    /// Takes over the tasks of another.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Ends them, and returns when they have let go of what they held.
    pub(crate) async fn end(mut self) {
        for task in &self.0 {
            task.abort();
        }
        for task in std::mem::take(&mut self.0) {
            // Its answer is that it was ended.
            drop(task.await);
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
