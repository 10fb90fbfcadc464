//! A guest that is acted in this process, for tests of whole lives of sessions: it reads its boot disk, keeps a real log,
//! makes quotes under the published simulator root, and follows a script. No process is started.

mod guest;
#[path = "../../../../evidence/tests/rules/platform.rs"]
#[allow(dead_code, reason = "its own tests use more of it")]
mod platform;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use coffer_evidence::collateral::Collateral;
use coffer_evidence::ids::Digest256;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::types::GuestExit;
use crate::endorsements::{EndorsementsError, Source};
use crate::image::fixtures::write_image_of;
use crate::link::{Dial, GuestDevice, GuestStream, Link, OpenLink, Place, Tasks};
use crate::vmm::{LaunchError, Machine, Vm, Vmm};
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

/// Where link and machine of one session meet.
#[derive(Default)]
pub(crate) struct Stage {
    lines: Mutex<HashMap<PathBuf, Lines>>,
    script: Mutex<Option<Script>>,
}

impl Stage {
    /// Every guest that starts from now on follows this.
    pub(crate) fn set(&self, script: Script) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(script);
    }

    fn script(&self) -> Script {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Script::Orderly)
    }
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
    fn current(&self) -> BoxFuture<'_, Result<Collateral, EndorsementsError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// Connects guests to the host by pipes.
pub(crate) struct ActedLink(pub(crate) Arc<Stage>);

impl Link for ActedLink {
    fn open(&self, place: Place) -> BoxFuture<'_, Result<OpenLink, LaunchError>> {
        Box::pin(async move {
            let (to_control, control) = mpsc::channel(4);
            let (to_record, record) = mpsc::channel(4);
            let lines = Lines { control: to_control, record: to_record };
            self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).insert(place.run, lines);
            let device = GuestDevice::Kernel { cid: place.cid };
            Ok(OpenLink { device, control, record, dial: Arc::new(ActedDial), program: None, tasks: Tasks::default() })
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
            let script = self.0.script();
            let lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&machine.run);
            let lines = lines.ok_or(LaunchError::GivenUp)?;
            if script == Script::DoesNotStart {
                return Err(LaunchError::Unsupported("the script says so".to_owned()));
            }
            let (ended, exit) = watch::channel(None);
            let ended = Arc::new(ended);
            let told = Arc::clone(&ended);
            let acting = tokio::spawn(async move {
                let exit = guest::act(machine, script, lines).await;
                told.send_replace(Some(exit));
            });
            Ok(Box::new(ActedVm { acting: acting.abort_handle(), ended, exit }) as Box<dyn Vm>)
        })
    }
}

struct ActedVm {
    acting: tokio::task::AbortHandle,
    ended: Arc<watch::Sender<Option<GuestExit>>>,
    exit: watch::Receiver<Option<GuestExit>>,
}

impl Vm for ActedVm {
    fn ended(&self) -> BoxFuture<'_, GuestExit> {
        let mut exit = self.exit.clone();
        Box::pin(async move {
            let known = exit.wait_for(Option::is_some).await;
            known.ok().and_then(|exit| *exit).unwrap_or(GuestExit::Lost)
        })
    }

    fn kill(&self) {
        self.acting.abort();
        self.ended.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(GuestExit::Killed(9));
            first
        });
    }
}
