//! A guest that is acted in this process, for tests of whole lives of sessions: it reads its boot disk, keeps a real log,
//! makes quotes under the published simulator root, and follows a script. No process is started.

pub(crate) mod guest;
#[path = "../../../../evidence/tests/rules/platform.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
pub(crate) mod platform;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use coffer_evidence::collateral::Collateral;
use coffer_evidence::ids::Digest256;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::types::GuestExit;
use crate::endorsements::{EndorsementsError, Source};
use crate::image::fixtures::write_image_of;
use crate::link::{Dial, GuestDevice, GuestStream, Link, OpenLink, Place, Tasks};
use crate::vmm::{LaunchError, LeftMachine, Machine, Vm, Vmm};
use guest::Lines;

/// What the guest does beside the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Boots, works, seals when it is told to.
    Orderly,
    /// Never calls the host.
    Silent,
    /// Cannot be started.
    DoesNotStart,
    /// Powers off before it says a word.
    DiesBooting,
    /// Says that it failed, and powers off.
    Fails,
    /// Has a quote over something else.
    LiesAtTheOpening,
    /// Is killed when it is told to close.
    IsKilled,
    /// Says hello for another session.
    IsAnother,
    /// Contradicts its record on a second connection.
    Contradicts,
    /// Seals by itself, at once.
    SealsAtOnce,
    /// Never answers the wish to close.
    DoesNotSeal,
    /// Leaves the last leaf out of what it tells the host.
    WithholdsALeaf,
    /// Seals over a root that is not the log's.
    SealsSomethingElse,
}

/// A machine that is acted now.
#[derive(Clone)]
struct Acting {
    task: tokio::task::AbortHandle,
    ended: Arc<watch::Sender<Option<GuestExit>>>,
}

/// Where link and machine of each session meet. Guests live here and not in the control plane's runtime: they outlive it,
/// as machines do.
pub(crate) struct Stage {
    guests: Option<tokio::runtime::Runtime>,
    lines: Mutex<HashMap<PathBuf, watch::Sender<Lines>>>,
    machines: Mutex<HashMap<PathBuf, Acting>>,
    script: Mutex<Script>,
    launches: AtomicUsize,
}

impl Default for Stage {
    fn default() -> Self {
        let guests = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self {
            guests: Some(guests.expect("a runtime for the guests")),
            lines: Mutex::default(),
            machines: Mutex::default(),
            script: Mutex::new(Script::Orderly),
            launches: AtomicUsize::new(0),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Not waited for: it may be dropped by a task of another runtime.
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

impl Stage {
    /// Every guest that starts from now on follows this.
    pub(crate) fn set(&self, script: Script) {
        *lock(&self.script) = script;
    }

    /// Machines started so far.
    pub(crate) fn launches(&self) -> usize {
        self.launches.load(Ordering::SeqCst)
    }

    /// Machines that run.
    pub(crate) fn machines(&self) -> usize {
        lock(&self.machines).len()
    }

    /// Kills every machine that runs, as a signal would.
    pub(crate) fn kill_all(&self) {
        for (_, acting) in lock(&self.machines).drain() {
            acting.end(GuestExit::Killed(9));
        }
    }

    fn guests(&self) -> &tokio::runtime::Runtime {
        self.guests.as_ref().expect("there until it is dropped")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An image that the acted guests boot to.
pub(crate) fn write_image(images: &std::path::Path) -> Digest256 {
    let td = platform::Td::default();
    write_image_of(images, [td.mrtd, td.rtmr[0], td.rtmr[1], td.rtmr[2]])
}

/// Collateral that is current.
pub(crate) struct ActedSource(Collateral);

impl ActedSource {
    pub(crate) fn new() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        // Sets begin and end with a year here: this one and the next.
        let year = 1970 + i32::try_from(seconds / 31_556_952).expect("a year");
        let dates = platform::Dates { issued: (year, 1), ends: (year + 2, 1) };
        Self(platform::collateral(dates, platform::Tcb::UP_TO_DATE))
    }
}

impl Source for ActedSource {
    fn current<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Collateral, EndorsementsError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// Connects guests to the host by pipes.
pub(crate) struct ActedLink(pub(crate) Arc<Stage>);

fn ports(cid: u32) -> (Lines, OpenLink) {
    let (to_control, control) = mpsc::channel(4);
    let (to_record, record) = mpsc::channel(4);
    let device = GuestDevice::Kernel { cid };
    let link = OpenLink { device, control, record, dial: Arc::new(ActedDial), program: None, tasks: Tasks::default() };
    (Lines { control: to_control, record: to_record }, link)
}

impl Link for ActedLink {
    fn open(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            let (lines, link) = ports(place.cid);
            lock(&self.0.lines).insert(place.run, watch::Sender::new(lines));
            Ok(link)
        })
    }

    fn adopt(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            let (lines, link) = ports(place.cid);
            let known = lock(&self.0.lines);
            known.get(&place.run).ok_or(LaunchError::Gone { program: "the acted link" })?.send_replace(lines);
            Ok(link)
        })
    }
}

/// A tool service that greets and takes no call.
struct ActedDial;

impl Dial for ActedDial {
    fn dial(&self, _: u32) -> BoxFuture<'_, std::io::Result<GuestStream>> {
        Box::pin(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                if let Ok(mut connection) = h2::server::handshake(theirs).await {
                    while let Some(Ok(call)) = connection.accept().await {
                        drop(call);
                    }
                }
            });
            Ok(Box::new(ours) as GuestStream)
        })
    }
}

/// Starts acted guests.
pub(crate) struct ActedVmm(pub(crate) Arc<Stage>);

impl Vmm for ActedVmm {
    fn launch(&self, machine: Machine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>> {
        Box::pin(async move {
            let stage = &self.0;
            let script = *lock(&stage.script);
            let run = machine.run.clone();
            let lines = lock(&stage.lines).get(&run).map(watch::Sender::subscribe).ok_or(LaunchError::GivenUp)?;
            if script == Script::DoesNotStart {
                return Err(LaunchError::Unsupported("the script says so".to_owned()));
            }
            stage.launches.fetch_add(1, Ordering::SeqCst);
            let ended = Arc::new(watch::Sender::new(None));
            let (told, weak, place) = (Arc::clone(&ended), Arc::downgrade(stage), run.clone());
            // Held until it is entered: a machine that ends at once waits with taking itself out.
            let mut machines = lock(&stage.machines);
            let task = stage.guests().spawn(async move {
                let exit = guest::act(machine, script, lines).await;
                if let Some(stage) = weak.upgrade() {
                    lock(&stage.machines).remove(&place);
                    lock(&stage.lines).remove(&place);
                }
                told.send_replace(Some(exit));
            });
            let acting = Acting { task: task.abort_handle(), ended };
            machines.insert(run.clone(), acting.clone());
            drop(machines);
            Ok(Box::new(ActedVm { acting, run, stage: Arc::downgrade(stage) }) as Box<dyn Vm>)
        })
    }

    fn adopt(&self, machine: LeftMachine) -> BoxFuture<'_, Result<Box<dyn Vm>, LaunchError>> {
        Box::pin(async move {
            let acting = lock(&self.0.machines).get(&machine.run).cloned();
            let acting = acting.ok_or(LaunchError::Gone { program: "the acted machine" })?;
            Ok(Box::new(ActedVm { acting, run: machine.run, stage: Arc::downgrade(&self.0) }) as Box<dyn Vm>)
        })
    }
}

impl Acting {
    fn end(&self, how: GuestExit) {
        self.task.abort();
        self.ended.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(how);
            first
        });
    }
}

struct ActedVm {
    acting: Acting,
    run: PathBuf,
    stage: Weak<Stage>,
}

impl Vm for ActedVm {
    fn ended(&self) -> BoxFuture<'_, GuestExit> {
        let mut exit = self.acting.ended.subscribe();
        Box::pin(async move {
            let known = exit.wait_for(Option::is_some).await;
            known.ok().and_then(|exit| *exit).unwrap_or(GuestExit::Lost)
        })
    }

    fn kill(&self) {
        if let Some(stage) = self.stage.upgrade() {
            lock(&stage.machines).remove(&self.run);
            lock(&stage.lines).remove(&self.run);
        }
        self.acting.end(GuestExit::Killed(9));
    }
}
