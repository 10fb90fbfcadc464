//! The link through the kernel's vhost-vsock: the host's kernel serves the device, this process listens once for all
//! guests and tells them apart by their context id, which the kernel vouches for.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, mpsc};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use super::vhost_user::port_socket;
use super::{
    Dial, GuestDevice, GuestStream, Link, OpenLink, PORT_CONTROL, PORT_RECORD, PORT_SIMULATOR, Place, Tasks,
    WAITING_MAX, next,
};
use crate::vmm::LaunchError;

/// The device that QEMU opens.
pub(crate) const DEVICE: &str = "/dev/vhost-vsock";

/// Where the connections of one guest go.
struct Guest {
    control: mpsc::Sender<GuestStream>,
    record: mpsc::Sender<GuestStream>,
    /// Where its simulator listens, until the guest has called it.
    simulator: Option<PathBuf>,
}

type Guests = Arc<Mutex<HashMap<u32, Guest>>>;

/// Listens on the host's vsock ports from the first session on.
#[derive(Default)]
pub(crate) struct KernelLink {
    guests: Guests,
    listening: OnceCell<Tasks>,
}

impl KernelLink {
    async fn register(&self, cid: u32, simulator: Option<PathBuf>) -> Result<OpenLink, LaunchError> {
        if !Path::new(DEVICE).exists() {
            let hint = "load the module vhost_vsock, or set vmm.link to \"vhost-user\"";
            return Err(LaunchError::Missing { what: "the kernel's vsock device", path: DEVICE.into(), hint });
        }
        self.listen().await?;
        let (to_control, control) = mpsc::channel(WAITING_MAX);
        let (to_record, record) = mpsc::channel(WAITING_MAX);
        let guest = Guest { control: to_control, record: to_record, simulator };
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).insert(cid, guest);
        let mut tasks = Tasks::default();
        tasks.keep(Registration { cid, guests: Arc::clone(&self.guests) });
        let device = GuestDevice::Kernel { cid };
        Ok(OpenLink { device, control, record, dial: Arc::new(VsockDial { cid }), program: None, tasks })
    }

    async fn listen(&self) -> Result<(), LaunchError> {
        let start = || async {
            let mut tasks = Tasks::default();
            for port in [PORT_CONTROL, PORT_SIMULATOR, PORT_RECORD] {
                let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))?;
                tasks.spawn(accept(listener, port, Arc::clone(&self.guests)));
            }
            Ok(tasks)
        };
        let failed = |source: io::Error| LaunchError::Io { path: PathBuf::from("/dev/vsock"), source };
        self.listening.get_or_try_init(start).await.map(|_| ()).map_err(failed)
    }
}

impl Link for KernelLink {
    fn open(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            let simulator = Some(port_socket(&place.run.join("vsock.sock"), PORT_SIMULATOR));
            self.register(place.cid, simulator).await
        })
    }

    fn adopt(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        // The relay to a simulator ended with the earlier life; a simulated guest then ends by itself.
        Box::pin(async move { self.register(place.cid, None).await })
    }
}

/// Forgets a guest when dropped.
struct Registration {
    cid: u32,
    guests: Guests,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.cid);
    }
}

async fn accept(listener: VsockListener, port: u32, guests: Guests) {
    loop {
        let (stream, peer) = next(|| listener.accept()).await;
        let mut guests = guests.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(guest) = guests.get_mut(&peer.cid()) else { continue };
        // A guest with more waiting connections than it needs loses the newest: the listener serves all guests.
        match port {
            PORT_CONTROL => drop(guest.control.try_send(Box::new(stream))),
            PORT_RECORD => drop(guest.record.try_send(Box::new(stream))),
            // One shim, one connection: a simulated TD has one life.
            _ => {
                if let Some(simulator) = guest.simulator.take() {
                    drop(tokio::spawn(relay(stream, simulator)));
                }
            }
        }
    }
}

/// Carries bytes between a guest and its simulator.
async fn relay(mut guest: VsockStream, simulator: PathBuf) {
    if let Ok(mut stream) = UnixStream::connect(simulator).await {
        drop(tokio::io::copy_bidirectional(&mut guest, &mut stream).await);
    }
}

struct VsockDial {
    cid: u32,
}

impl Dial for VsockDial {
    fn dial(&self, port: u32) -> BoxFuture<'_, io::Result<GuestStream>> {
        Box::pin(async move {
            let stream = VsockStream::connect(VsockAddr::new(self.cid, port)).await?;
            Ok(Box::new(stream) as GuestStream)
        })
    }
}
