//! The owner task of one session: the only one that changes it. It takes what happens, asks the machine what is to be
//! done, journals that, has it performed, and shows it. Wishes to close come through a channel of their own and go first.

use std::sync::Arc;
use std::time::Duration;

use coffer_evidence::seal::Reason;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::calls::GuestCalls;
use super::control::{self, Orders, PowerOff};
use super::evidence::GuestSeal;
use super::gate::Gate;
use super::launch::{self, Running};
use super::machine::{Effect, Event};
use super::mirror::Progress;
use super::perform::{self, Host, now};
use super::record::SessionRecord;
use super::signal::{Opening, Signal};
use super::types::{Ending, Phase};
use crate::host::scrub::Step;
use crate::link::{Dial, Tasks};
use crate::vmm::Vm;

/// Signals that may wait; senders wait beyond that.
const SIGNALS_MAX: usize = 64;
/// Wishes to close that may wait; more say nothing new.
const CLOSES_MAX: usize = 4;

/// How others reach a session.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    closes: mpsc::Sender<Ending>,
    /// The session as it is.
    pub(crate) view: watch::Receiver<Arc<SessionRecord>>,
    pub(crate) gate: Arc<Gate>,
    /// How much of its record is here.
    pub(crate) mirrored: watch::Receiver<Progress>,
}

impl Handle {
    /// Asks for the end. One wish among several is enough, and a session that is gone needs none.
    pub(crate) fn close(&self, ending: Ending) {
        let _ = self.closes.try_send(ending);
    }
}

/// What runs of a session in this process.
enum Machinery {
    Nothing,
    /// Numbers are being set aside; that cannot be called back, and answers soon.
    Reserving,
    /// A launch is under way; the token gives it up.
    Starting(CancellationToken),
    /// What an earlier life launched is being taken over; the token gives that up. The processes are there all the same.
    Adopting(CancellationToken),
    Up(Up),
}

struct Up {
    vm: Arc<dyn Vm>,
    dial: Arc<dyn Dial>,
    mirrored: watch::Receiver<Progress>,
    tasks: Tasks,
}

struct Driver {
    host: Arc<Host>,
    record: SessionRecord,
    view: watch::Sender<Arc<SessionRecord>>,
    changes: broadcast::Sender<Arc<SessionRecord>>,
    gate: Arc<Gate>,
    orders: watch::Sender<Orders>,
    signals: mpsc::Sender<Signal>,
    machinery: Machinery,
    opening: Option<Opening>,
    seal: Option<GuestSeal>,
    calls: Option<GuestCalls>,
    steps: Vec<Step>,
    /// How much of the record is here, for whoever looks on.
    shown: watch::Sender<Progress>,
    /// Effects that write to the session's directory: it is removed when they are through.
    writers: TaskTracker,
}

/// Why a session's task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// It was just created.
    New,
    /// It was found in the store after a restart.
    Restarted,
}

/// Starts the owner task; it ends when the session is closed.
pub(crate) fn start(
    host: Arc<Host>,
    record: SessionRecord,
    birth: Birth,
    changes: broadcast::Sender<Arc<SessionRecord>>,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let (closes, close_requests) = mpsc::channel(CLOSES_MAX);
    let (signals, incoming) = mpsc::channel(SIGNALS_MAX);
    let view = watch::Sender::new(Arc::new(record.clone()));
    let gate = Arc::new(Gate::new());
    let shown = watch::Sender::new(Progress::default());
    let handle = Handle { closes, view: view.subscribe(), gate: Arc::clone(&gate), mirrored: shown.subscribe() };
    let driver = Driver {
        host,
        record,
        view,
        changes,
        gate,
        orders: watch::Sender::new(Orders::default()),
        signals,
        machinery: Machinery::Nothing,
        opening: None,
        seal: None,
        calls: None,
        steps: Vec::new(),
        shown,
        writers: TaskTracker::new(),
    };
    let first = match birth {
        Birth::New => Event::Begin,
        Birth::Restarted => Event::HostRestarted,
    };
    (handle, driver.run(first, close_requests, incoming))
}

impl Driver {
    async fn run(mut self, first: Event, mut closes: mpsc::Receiver<Ending>, mut signals: mpsc::Receiver<Signal>) {
        self.step(first).await;
        while let Some(deadline) = self.record.machine.deadline() {
            let left = Duration::from_millis(deadline.0.saturating_sub(now().0));
            let event = tokio::select! {
                biased;
                Some(ending) = closes.recv() => Event::CloseRequested(ending),
                Some(signal) = signals.recv() => self.take(signal),
                () = tokio::time::sleep(left) => Event::DeadlinePassed,
            };
            self.step(event).await;
        }
        self.gate.end();
    }

    /// Keeps what a signal brings, and tells the machine's event of it.
    fn take(&mut self, signal: Signal) -> Event {
        match signal {
            Signal::Event(event) => {
                if matches!(event, Event::AdoptFailed(_)) {
                    self.machinery = Machinery::Nothing;
                }
                event
            }
            Signal::Reserved(reservation) => {
                self.record.cid = Some(reservation.cid);
                self.record.uid = reservation.uid;
                Event::Reserved
            }
            Signal::Launched(running) => {
                self.machinery = Machinery::Up(self.bring_up(*running));
                Event::Launched
            }
            Signal::Adopted(running) => {
                self.machinery = Machinery::Up(self.bring_up(*running));
                Event::Adopted
            }
            Signal::Reconnected(calls) => {
                self.calls = Some(calls);
                Event::Reconnected
            }
            Signal::Opened(opening) => {
                self.opening = Some(opening);
                Event::GuestOpened
            }
            Signal::Verified { instance, calls } => {
                self.record.instance = Some(instance.to_string());
                self.calls = Some(calls);
                Event::OpeningVerified
            }
            Signal::Sealed(seal) => {
                self.seal = Some(seal);
                Event::GuestSealed
            }
            Signal::Scrubbed(steps) => {
                let failures = steps.iter().filter_map(|s| s.result.as_ref().err().map(|e| format!("{}: {e}", s.name)));
                let failures = failures.collect();
                self.steps = steps;
                Event::Scrubbed(failures)
            }
        }
    }

    /// Serves the guest's connections and waits for its end.
    fn bring_up(&self, running: Running) -> Up {
        let Running { vm, dial, control, record, mirror, conversation, mut tasks, started } = running;
        started.keep();
        let progress = watch::Sender::new(mirror.progress());
        let mirrored = progress.subscribe();
        self.shown.send_replace(mirror.progress());
        // Ending a task does not wait for it: both write to the session's directory, which is removed when they are through.
        let hearing = control::serve(conversation, control, self.orders.subscribe(), self.signals.clone());
        tasks.spawn(self.writers.track_future(hearing));
        let mirroring = perform::serve_mirror(record, mirror, [progress, self.shown.clone()], self.signals.clone());
        tasks.spawn(self.writers.track_future(mirroring));
        let (machine, signals) = (Arc::clone(&vm), self.signals.clone());
        let (host, view) = (Arc::clone(&self.host), self.view.subscribe());
        tasks.spawn(async move {
            let exit = machine.ended().await;
            let record = Arc::clone(&view.borrow());
            // A guest that was Ready was given what was checked: its quote said so.
            if record.instance.is_none()
                && let Some(why) = perform::image_changed(host, &record).await
            {
                drop(signals.send(Event::ImageChanged(why).into()).await);
            }
            drop(signals.send(Event::GuestGone(exit).into()).await);
        });
        Up { vm, dial, mirrored, tasks }
    }

    /// One event: decide, journal, show, perform.
    async fn step(&mut self, event: Event) {
        let before = self.record.clone();
        let step = self.record.apply(event, now());
        if self.record == before && step.effects.is_empty() {
            return;
        }
        let phase = self.record.machine.phase();
        if phase != before.machine.phase() {
            let message = self.record.machine.message().unwrap_or("");
            tracing::info!(session = %self.record.id, %phase, message, "the session moved on");
        }
        let effects = step.effects.clone();
        if let Err(error) = self.host.store.commit(self.record.clone(), step).await {
            tracing::error!(session = %self.record.id, error = perform::chain(&error), "a step is not in the journal");
            // Nothing new is started that a restart would not know of; ending what runs needs no journal.
            if let Some(failed) = unjournaled(&effects, &perform::chain(&error)) {
                return Box::pin(self.step(failed)).await;
            }
        }
        // Performed before it is shown: whoever sees a session ready may call it at once.
        for effect in effects {
            self.perform(effect);
        }
        let shown = Arc::new(self.record.clone());
        if visible(&self.record) != visible(&before) {
            // Nobody watches: nobody is told.
            drop(self.changes.send(Arc::clone(&shown)));
        }
        self.view.send_replace(shown);
    }

    fn spawn(&self, work: impl Future<Output = Signal> + Send + 'static) {
        let signals = self.signals.clone();
        tokio::spawn(async move {
            let signal = work.await;
            drop(signals.send(signal).await);
        });
    }

    fn spawn_writer(&self, work: impl Future<Output = Signal> + Send + 'static) {
        self.spawn(self.writers.track_future(work));
    }

    fn perform(&mut self, effect: Effect) {
        let (host, record) = (Arc::clone(&self.host), self.record.clone());
        match effect {
            Effect::Reserve => {
                self.machinery = Machinery::Reserving;
                self.spawn(perform::reserve(host, record));
            }
            Effect::Launch => {
                let given_up = CancellationToken::new();
                self.machinery = Machinery::Starting(given_up.clone());
                self.spawn_writer(launch::launch(host, record, given_up));
            }
            Effect::Adopt => {
                let given_up = CancellationToken::new();
                self.machinery = Machinery::Adopting(given_up.clone());
                self.spawn_writer(launch::adopt(host, record, given_up));
            }
            Effect::Reconnect => match &self.machinery {
                Machinery::Up(up) => self.spawn(perform::reconnect(Arc::clone(&up.dial), self.gate.ended())),
                _ => unreachable!("the machine asks for it only of an adopted guest"),
            },
            Effect::VerifyOpening => match (&self.machinery, self.opening.take()) {
                (Machinery::Up(up), Some(opening)) => {
                    let ended = self.gate.ended();
                    self.spawn_writer(perform::verify(host, record, opening, Arc::clone(&up.dial), ended));
                }
                _ => unreachable!("the machine asks for it only after a launched guest opened"),
            },
            Effect::AcceptCalls => {
                if let Some(calls) = self.calls.take() {
                    self.gate.open(calls);
                }
            }
            Effect::RefuseCalls => self.gate.refuse(),
            Effect::AskGuestToClose => {
                let reason = self.record.machine.ending().map_or(Reason::Internal, |ending| ending.reason);
                self.orders.send_modify(|orders| orders.close = Some(reason));
            }
            Effect::PreserveSealed => match (&self.machinery, self.seal.take()) {
                (Machinery::Up(up), Some(seal)) => {
                    self.spawn(perform::preserve_sealed(host, record, seal, up.mirrored.clone()));
                }
                // After a restart: the guest sealed in an earlier life of this process, and is gone.
                _ => self.spawn(perform::preserve_kept(host, record)),
            },
            Effect::AcknowledgeStored => self.orders.send_modify(|orders| orders.power_off = PowerOff::Stored),
            Effect::EndCalls => {
                self.gate.end();
                if self.record.machine.phase() == Phase::Scrubbing && self.record.machine.message().is_some() {
                    perform::show_console(&self.host, &self.record);
                }
            }
            Effect::StopGuest => self.stop_guest(host, record),
            Effect::PreservePrefix => self.spawn(perform::preserve_prefix(host, record)),
            Effect::Scrub => {
                let machinery = std::mem::replace(&mut self.machinery, Machinery::Nothing);
                self.writers.close();
                let writers = self.writers.clone();
                self.spawn(async move {
                    // Listeners, console and link of this process go before the directory they are in. The deadline of the
                    // phase bounds this, too.
                    if let Machinery::Up(up) = machinery {
                        up.tasks.end().await;
                    }
                    writers.wait().await;
                    perform::scrub_all(host, record).await
                });
            }
            Effect::WriteReceipt => {
                let steps = std::mem::take(&mut self.steps);
                self.spawn(perform::write_receipt(host, record, steps));
            }
        }
    }

    fn stop_guest(&self, host: Arc<Host>, record: SessionRecord) {
        match &self.machinery {
            Machinery::Up(up) => up.vm.kill(),
            Machinery::Starting(given_up) => given_up.cancel(),
            Machinery::Reserving => {}
            Machinery::Adopting(given_up) => {
                given_up.cancel();
                self.spawn(perform::end_leftovers(host, record));
            }
            // Before a launch nothing of this life runs; of an earlier one something may.
            Machinery::Nothing => self.spawn(perform::end_leftovers(host, record)),
        }
    }
}

/// What people see of a session change: steps within a phase are the journal's alone.
fn visible(record: &SessionRecord) -> impl PartialEq + '_ {
    let machine = &record.machine;
    (machine.phase(), machine.message(), machine.scrub_failures().len(), &record.instance, record.expires_at)
}

/// The failure of an effect that may not be performed unjournaled, if there is one among these.
fn unjournaled(effects: &[Effect], why: &str) -> Option<Event> {
    let why = format!("the journal could not be written: {why}");
    effects.iter().find_map(|effect| match effect {
        Effect::Reserve => Some(Event::ReserveFailed(why.clone())),
        Effect::Launch => Some(Event::LaunchFailed(why.clone())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_is_started_without_a_journal_and_everything_can_still_be_ended() {
        assert!(
            matches!(unjournaled(&[Effect::Launch], "full"), Some(Event::LaunchFailed(why)) if why.contains("full"))
        );
        assert!(matches!(unjournaled(&[Effect::Reserve], "full"), Some(Event::ReserveFailed(_))));
        let endings = [
            Effect::Adopt,
            Effect::Reconnect,
            Effect::RefuseCalls,
            Effect::AskGuestToClose,
            Effect::PreserveSealed,
            Effect::AcknowledgeStored,
            Effect::EndCalls,
            Effect::StopGuest,
            Effect::PreservePrefix,
            Effect::Scrub,
            Effect::WriteReceipt,
        ];
        assert_eq!(unjournaled(&endings, "full"), None);
    }
}
