//! Where hostile guests act: real unix sockets in the session's directory, as `coffer-vsock` makes them, behind the link's
//! own listeners and dial. Each session follows an act of its own; without one it behaves.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_evidence::ids::SessionId;
use coffer_evidence::link::{Frame as _, Mirror, ToGuest, ToHost};
use coffer_evidence::seal::ClosedBy;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::codec::FramedRead;

use crate::link::vhost_user::{UnixDial, listen, port_socket};
use crate::link::{GuestDevice, Link, OpenLink, PORT_CONTROL, PORT_RECORD, Place, Tasks};
use crate::session::acted::Script;
use crate::session::acted::guest::{Guest, say};
use crate::session::control::frames;
use crate::session::types::GuestExit;
use crate::vmm::{LaunchError, LeftMachine, Machine, Vm, Vmm};

/// What a guest does. `None`: nothing more, until it is killed.
pub(super) type Act = fn(Actor) -> BoxFuture<'static, Option<GuestExit>>;

/// What a guest does with a connection to its tool service.
pub(super) type Tools = fn(UnixStream) -> BoxFuture<'static, ()>;

/// A guest, its sockets, and what runs in it.
pub(super) struct Actor {
    pub(super) session: SessionId,
    pub(super) guest: Guest,
    /// Tells that the host has made the session ready.
    cue: watch::Receiver<bool>,
    /// What becomes of its record on the way.
    pub(super) changes: Option<fn(&mut Mirror)>,
    /// Serves each connection to its tool service.
    pub(super) tools: Tools,
    uds: PathBuf,
    tasks: Arc<Mutex<Tasks>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor {
    /// A connection to a host port.
    async fn connect(&self, port: u32) -> Option<UnixStream> {
        UnixStream::connect(port_socket(&self.uds, port)).await.ok()
    }

    pub(super) async fn control(&self) -> Option<UnixStream> {
        self.connect(PORT_CONTROL).await
    }

    pub(super) async fn record(&self) -> Option<UnixStream> {
        self.connect(PORT_RECORD).await
    }

    pub(super) const fn hello(&self) -> ToHost {
        ToHost::Hello { session: self.session, agent_svn: 1 }
    }

    /// Listens where the host dials, and answers as the device does.
    fn serve(&mut self) -> Option<()> {
        let (tools, tasks) = (self.tools, Arc::clone(&self.tasks));
        let listener = UnixListener::bind(&self.uds).ok()?;
        lock(&self.tasks).spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                lock(&tasks).spawn(async move {
                    let mut byte = [0];
                    while byte != *b"\n" && stream.read_exact(&mut byte).await.is_ok() {}
                    if stream.write_all(b"OK 1073741824\n").await.is_ok() {
                        tools(stream).await;
                    }
                });
            }
        });
        Some(())
    }

    /// All that a guest says until it is ready and its first call is on record, kept by the host; then waits for its cue.
    pub(super) async fn arrive(&mut self) -> Option<UnixStream> {
        self.serve()?;
        let mut control = self.control().await?;
        say(&mut control, &self.hello()).await?;
        let ready = self.guest.open(Script::Orderly);
        say(&mut control, &ready).await?;
        self.guest.call();
        self.guest.checkpoint();
        self.tell_all().await?;
        // A guest cannot know when the host has verified it; the director does.
        self.cue.wait_for(|ready| *ready).await.ok()?;
        Some(control)
    }

    /// Tells the record from its beginning.
    pub(super) async fn tell(&self, record: &mut UnixStream) -> Option<()> {
        for mut frame in self.guest.records.iter().cloned() {
            if let Some(change) = self.changes {
                change(&mut frame);
            }
            say(record, &frame).await?;
        }
        Some(())
    }

    /// Tells the record from its beginning, and waits until the host has all of it.
    pub(super) async fn tell_all(&self) -> Option<()> {
        let mut record = self.record().await?;
        self.tell(&mut record).await?;
        record.shutdown().await.ok()?;
        // The host lets go of the connection when it has read all of it.
        drop(record.read(&mut [0]).await);
        Some(())
    }

    /// Waits for the wish to close, seals, and powers off when the evidence is stored.
    pub(super) async fn end_well(mut self, control: UnixStream) -> Option<GuestExit> {
        let (reader, mut writer) = tokio::io::split(control);
        let mut orders = FramedRead::new(reader, frames(1024));
        let reason = loop {
            if let Ok(ToGuest::Close { reason }) = ToGuest::decode(&orders.next().await?.ok()?) {
                break reason;
            }
        };
        let sealed = self.guest.seal(reason, ClosedBy::Host, Script::Orderly);
        self.tell_all().await?;
        say(&mut writer, &sealed).await?;
        while let Some(Ok(order)) = orders.next().await {
            if ToGuest::decode(&order) == Ok(ToGuest::Stored) {
                return Some(GuestExit::PoweredOff);
            }
        }
        None
    }
}

/// A tool service that greets and takes no call.
pub(super) fn greet(stream: UnixStream) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Ok(mut connection) = h2::server::handshake(stream).await {
            while let Some(Ok(call)) = connection.accept().await {
                drop(call);
            }
        }
    })
}

/// A guest that behaves.
pub(super) fn orderly(mut actor: Actor) -> BoxFuture<'static, Option<GuestExit>> {
    Box::pin(async move {
        let control = actor.arrive().await?;
        actor.end_well(control).await
    })
}

/// The sockets of `coffer-vsock`, without it.
pub(super) struct SocketLink;

impl Link for SocketLink {
    fn open(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            let uds = place.run.join("vsock.sock");
            let mut tasks = Tasks::default();
            let control = listen(&port_socket(&uds, PORT_CONTROL), None, &mut tasks)?;
            let record = listen(&port_socket(&uds, PORT_RECORD), None, &mut tasks)?;
            let device = GuestDevice::Kernel { cid: place.cid };
            Ok(OpenLink { device, control, record, dial: Arc::new(UnixDial { uds }), program: None, tasks })
        })
    }

    fn adopt(&self, _: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async { Err(LaunchError::Gone { program: "the hostile link" }) })
    }
}

/// What a guest will do, on which connections, and its cue.
type Part = (Act, Tools, watch::Receiver<bool>);

/// Starts guests that follow their acts.
#[derive(Default)]
pub(super) struct ActVmm(Mutex<HashMap<SessionId, Part>>);

impl ActVmm {
    /// What a session's guest will do, and the cue that it waits for when it is ready.
    pub(super) fn set(&self, session: SessionId, act: Act, tools: Tools) -> watch::Sender<bool> {
        let cue = watch::Sender::new(false);
        let script = (act, tools, cue.subscribe());
        lock(&self.0).insert(session, script);
        cue
    }
}

impl Vmm for ActVmm {
    fn launch(&self, machine: Machine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>> {
        Box::pin(async move {
            let script = lock(&self.0).remove(&machine.session);
            let (act, tools, cue) = script.unwrap_or_else(|| (orderly, greet, watch::Sender::new(true).subscribe()));
            let guest = Guest::boot(&machine).ok_or(LaunchError::GivenUp)?;
            let uds = machine.run.join("vsock.sock");
            let actor =
                Actor { session: machine.session, guest, cue, changes: None, tools, uds, tasks: Arc::default() };
            let ended = Arc::new(watch::Sender::new(None));
            let (killed, told) = (watch::Sender::new(false), Arc::clone(&ended));
            let mut kill = killed.subscribe();
            tokio::spawn(async move {
                let tasks = Arc::clone(&actor.tasks);
                let life = async {
                    match act(actor).await {
                        Some(exit) => exit,
                        None => std::future::pending().await,
                    }
                };
                let exit = tokio::select! {
                    exit = life => exit,
                    _ = kill.wait_for(|killed| *killed) => GuestExit::Killed(9),
                };
                // A machine that has ended holds no socket.
                let tasks = std::mem::take(&mut *lock(&tasks));
                tasks.end().await;
                told.send_replace(Some(exit));
            });
            Ok(Box::new(ActVm { killed, ended }) as Box<dyn Vm>)
        })
    }

    fn adopt(&self, _: LeftMachine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>> {
        Box::pin(async { Err(LaunchError::Gone { program: "the hostile machine" }) })
    }
}

struct ActVm {
    killed: watch::Sender<bool>,
    ended: Arc<watch::Sender<Option<GuestExit>>>,
}

impl Vm for ActVm {
    fn ended(&self) -> BoxFuture<'_, GuestExit> {
        let mut exit = self.ended.subscribe();
        Box::pin(async move {
            let known = exit.wait_for(Option::is_some).await;
            known.ok().and_then(|exit| *exit).unwrap_or(GuestExit::Lost)
        })
    }

    fn kill(&self) {
        self.killed.send_replace(true);
    }
}

/// Writes what it can: a host that has ended the session takes no more.
pub(super) async fn write(stream: &mut UnixStream, bytes: &[u8]) -> Option<()> {
    stream.write_all(bytes).await.ok()
}
