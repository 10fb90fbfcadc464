//! `coffer-vsock`: serves one guest and ends when its QEMU goes away.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use anyhow::{Context as _, bail};
use clap::Parser;
use coffer_vsock::device::Device;
use coffer_vsock::mux::Mux;
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as BackendError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// The vhost-user vsock device of one Coffer session.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Context id of the guest, at least 3.
    #[arg(long)]
    cid: u64,
    /// Where QEMU connects. Must not exist.
    #[arg(long)]
    vhost_socket: PathBuf,
    /// Where host programs connect; the guest's connections to host port P go to this path with _P appended.
    #[arg(long)]
    uds: PathBuf,
    /// Diagnostics on stderr: error, warn, info, debug or trace.
    #[arg(long, default_value = "warn")]
    log_level: tracing::Level,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(arguments.log_level).with_writer(std::io::stderr).init();
    if arguments.cid < 3 || arguments.cid >= u64::from(u32::MAX) {
        bail!("expected --cid between 3 and 4294967294, found {}", arguments.cid);
    }
    let mux =
        Mux::new(arguments.cid, &arguments.uds).with_context(|| format!("listen on {}", arguments.uds.display()))?;
    let device = Arc::new(RwLock::new(Device::new(arguments.cid, mux)));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
    let mut daemon = VhostUserDaemon::new("coffer-vsock".to_owned(), Arc::clone(&device), memory)
        .map_err(|error| anyhow::anyhow!("start the device: {error}"))?;
    for handler in daemon.get_epoll_handlers() {
        let device = device.read().map_err(|_| anyhow::anyhow!("the device's lock is poisoned"))?;
        device.watch_sockets(&handler).context("watch the host's sockets")?;
    }
    let mut listener = Listener::new(&arguments.vhost_socket, false)
        .map_err(|error| anyhow::anyhow!("listen on {}: {error}", arguments.vhost_socket.display()))?;
    println!("coffer-vsock: ready");
    std::io::stdout().flush().context("say that the device is ready")?;

    daemon.start(&mut listener).map_err(|error| anyhow::anyhow!("serve QEMU: {error}"))?;
    match daemon.wait() {
        Ok(()) | Err(BackendError::HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => {
            tracing::info!("QEMU went away");
            Ok(())
        }
        Err(error) => bail!("serve QEMU: {error}"),
    }
}
