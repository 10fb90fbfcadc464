//! The life of a session as a pure function: (state, event, now) → effects. No tokio, no clock, no I/O; the driver
//! feeds it, journals what it returns and then performs it.
//!
//! ```text
//!                Begin      Reserved      Launched      GuestOpened, OpeningVerified
//!   Requested ────────> Scheduled ──> Launching ──> Attesting ──────────────────> Ready
//!       │                   │             │             │                           │ CloseRequested,
//!       │                   │             │             │                           │ GuestClosing, ttl
//!       │                   │             │             │         GuestSealed       v
//!       │                   │             │             │     Sealing <───────── Draining
//!       │                   │             │             │        │ EvidenceSealed,    │
//!       │ close, failure,   │             │             │        │ then GuestGone     │ guest gone, silent,
//!       │ restart           │             │             │        v                    │ refused evidence
//!       └───────────────────┴─────────────┴─────────────┴──> Scrubbing <──────────────┘
//!                                                                │
//!      Stopping ── gone ──> Preserving ── stored ──> Clearing ── scrubbed ──> Receipting ──> Closed
//! ```
//!
//! - Every state but `Closed` has a deadline, and a passed deadline always moves on: so `Closed` is reached.
//! - `Closed` is left by no event: so it is reached once.
//! - Only `Scrubbing` leads to `Closed`, and it always asks for `Scrub`: so nothing that was held is forgotten.
//! - An event that means nothing in a state is ignored: late answers of effects that were overtaken are normal.
//! - A guest may seal before its opening is verified; the seal waits, and no call is taken.
//! - A restart takes over a machine that was launched (`Adopt`), hears again what its guest said, and goes on where it was;
//!   a step that was under way is asked for again. Before `Attesting`, and in `Scrubbing`, it goes (again) to `Scrubbing`.

mod late;
mod scrubbing;
mod words;

use coffer_evidence::seal::Reason;
use serde::{Deserialize, Serialize};

use super::types::{Ending, GuestExit, Outcome, Phase, Timestamp};
pub(crate) use words::{Effect, Event};

/// How long each phase may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timings {
    /// Setting aside what a session needs.
    pub(crate) reserve: u64,
    /// From the start of the processes to the guest's opening quote.
    pub(crate) boot: u64,
    /// Verifying the opening.
    pub(crate) verify: u64,
    /// Time to live from Ready, as the intent asks.
    pub(crate) ttl: u64,
    /// How much later than the agent the host enforces the time to live: the agent goes first.
    pub(crate) ttl_slack: u64,
    /// From the wish to close to the sealed core; and again for verifying and storing it.
    pub(crate) seal: u64,
    /// From the acknowledgement to the guest's power-off.
    pub(crate) power_off: u64,
    /// How long the control channel may be gone while the machine still runs.
    pub(crate) silence: u64,
    /// From the kill of a machine to its end.
    pub(crate) stop: u64,
    /// Storing a prefix.
    pub(crate) preserve: u64,
    /// Removing what the host holds.
    pub(crate) scrub: u64,
    /// Signing and storing the receipt.
    pub(crate) receipt: u64,
}

/// What `Attesting` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attesting {
    /// The guest's opening.
    Booting,
    /// Its verification.
    Verifying,
}

/// What the agent said of its end before the host had verified its opening: a session can be that short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Early {
    /// Nothing.
    No,
    /// That it ends, and why.
    Closing(Ending),
    /// The core is here and waits.
    Sealed,
}

/// What `Sealing` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sealing {
    /// After a restart: the sealed core, heard again.
    Awaiting,
    /// Bundle verified and stored; the guest is there.
    Storing,
    /// The same; the guest is gone already.
    StoringAlone,
    /// The guest's power-off.
    PoweringOff,
}

/// What `Scrubbing` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scrubbing {
    /// The end of the machine, or of the effect that would have made one.
    Stopping,
    /// A prefix bundle.
    Preserving,
    /// The host's clean-up.
    Clearing,
    /// The receipt.
    Receipting,
}

/// Phase and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// See [`Phase::Requested`].
    Requested,
    /// See [`Phase::Scheduled`].
    Scheduled,
    /// See [`Phase::Launching`].
    Launching,
    /// See [`Phase::Attesting`].
    Attesting(Attesting),
    /// See [`Phase::Ready`].
    Ready,
    /// See [`Phase::Draining`].
    Draining,
    /// See [`Phase::Sealing`].
    Sealing(Sealing),
    /// See [`Phase::Scrubbing`].
    Scrubbing(Scrubbing),
    /// See [`Phase::Closed`].
    Closed,
}

/// What the evidence store holds of this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Evidence {
    /// Nothing, and the opening never verified: there is nothing to store.
    Nothing,
    /// Nothing yet, but the opening verified: a prefix can be made.
    Opened,
    /// A prefix bundle.
    Prefix,
    /// A sealed bundle.
    Sealed,
}

/// The state of one session: what the journal holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    state: State,
    ending: Option<Ending>,
    sealed_ending: Option<Ending>,
    evidence: Evidence,
    message: Option<String>,
    scrub_failures: Vec<String>,
    early: Early,
    deadline: Timestamp,
    silent_until: Option<Timestamp>,
    timings: Timings,
}

impl Machine {
    /// A session that was admitted at `now`.
    pub(crate) fn new(timings: Timings, now: Timestamp) -> Self {
        Self {
            state: State::Requested,
            ending: None,
            sealed_ending: None,
            evidence: Evidence::Nothing,
            message: None,
            scrub_failures: Vec::new(),
            early: Early::No,
            deadline: now.after(timings.reserve),
            silent_until: None,
            timings,
        }
    }

    /// The phase that people see.
    pub(crate) const fn phase(&self) -> Phase {
        match self.state {
            State::Requested => Phase::Requested,
            State::Scheduled => Phase::Scheduled,
            State::Launching => Phase::Launching,
            State::Attesting(_) => Phase::Attesting,
            State::Ready => Phase::Ready,
            State::Draining => Phase::Draining,
            State::Sealing(_) => Phase::Sealing,
            State::Scrubbing(_) => Phase::Scrubbing,
            State::Closed => Phase::Closed,
        }
    }

    /// When `DeadlinePassed` is due; `None` when closed.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Closed => None,
            _ => Some(self.silent_until.map_or(self.deadline, |silent| silent.min(self.deadline))),
        }
    }

    /// Set once closed.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let sealed = self.evidence == Evidence::Sealed;
        (self.state == State::Closed).then_some(if sealed { Outcome::Sealed } else { Outcome::Aborted })
    }

    /// Why it ends, once that is decided. Of a sealed session it is what the seal says.
    pub(crate) fn ending(&self) -> Option<Ending> {
        match self.evidence {
            Evidence::Sealed => self.sealed_ending.or(self.ending),
            Evidence::Nothing | Evidence::Opened | Evidence::Prefix => self.ending,
        }
    }

    /// What the store holds.
    pub(crate) const fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// One sentence for people.
    pub(crate) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// What could not be removed.
    pub(crate) fn scrub_failures(&self) -> &[String] {
        &self.scrub_failures
    }

    /// End of the time to live, while Ready.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        (self.state == State::Ready).then(|| Timestamp(self.deadline.0.saturating_sub(self.timings.ttl_slack)))
    }

    /// Takes one event and says what is to be done, in this order.
    pub(crate) fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::HostRestarted => return self.restarted(now),
            Event::Adopted => return self.adopted(now),
            Event::AdoptFailed(why) => return self.adopt_failed(&why, now),
            Event::LinkLost => return self.link_lost(now),
            Event::LinkRestored => {
                self.silent_until = None;
                return Vec::new();
            }
            Event::DeadlinePassed => return self.deadline_passed(now),
            Event::ImageChanged(why) => return self.image_changed(&why),
            _ => {}
        }
        match self.state {
            State::Requested => self.in_requested(event, now),
            State::Scheduled => self.in_scheduled(event, now),
            State::Launching => self.in_launching(event, now),
            State::Attesting(step) => self.in_attesting(step, event, now),
            State::Ready => self.in_ready(event, now),
            State::Draining => self.in_draining(event, now),
            State::Sealing(step) => self.in_sealing(step, event, now),
            State::Scrubbing(step) => self.in_scrubbing(step, event, now),
            State::Closed => Vec::new(),
        }
    }

    fn enter(&mut self, state: State, now: Timestamp, limit: u64) {
        self.state = state;
        self.deadline = now.after(limit);
    }

    fn in_requested(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::Begin => {
                self.enter(State::Scheduled, now, self.timings.reserve);
                vec![Effect::Reserve]
            }
            Event::CloseRequested(ending) => self.abort_without_guest(ending, None, now),
            _ => Vec::new(),
        }
    }

    fn in_scheduled(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::Reserved => {
                self.enter(State::Launching, now, self.timings.boot);
                vec![Effect::Launch]
            }
            Event::ReserveFailed(why) => self.abort_without_guest(Ending::by_host(Reason::Internal), Some(why), now),
            Event::CloseRequested(ending) => self.abort(ending, None, now),
            _ => Vec::new(),
        }
    }

    fn in_launching(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::Launched => {
                // The boot deadline runs on from the start of the processes.
                self.state = State::Attesting(Attesting::Booting);
                Vec::new()
            }
            Event::LaunchFailed(why) => self.abort_without_guest(Ending::by_host(Reason::Internal), Some(why), now),
            Event::CloseRequested(ending) => self.abort(ending, None, now),
            // The effect is still under way and answers.
            Event::GuestGone(exit) => self.abort(ending_of_exit(exit, self.state), Some(exit.to_string()), now),
            _ => Vec::new(),
        }
    }

    fn in_attesting(&mut self, step: Attesting, event: Event, now: Timestamp) -> Vec<Effect> {
        match (step, event) {
            (Attesting::Booting, Event::GuestOpened) => {
                self.enter(State::Attesting(Attesting::Verifying), now, self.timings.verify);
                vec![Effect::VerifyOpening]
            }
            (Attesting::Verifying, Event::OpeningVerified) => {
                self.evidence = Evidence::Opened;
                match self.early {
                    Early::No => {
                        self.enter(State::Ready, now, self.timings.ttl.saturating_add(self.timings.ttl_slack));
                        vec![Effect::AcceptCalls]
                    }
                    // No call can have been: straight on to its end.
                    Early::Closing(ending) => self.closing(ending, now),
                    Early::Sealed => {
                        self.enter(State::Sealing(Sealing::Storing), now, self.timings.seal);
                        vec![Effect::RefuseCalls, Effect::PreserveSealed]
                    }
                }
            }
            (Attesting::Verifying, Event::OpeningRefused(why)) => {
                self.abort(Ending::by_host(Reason::AttestationFailed), Some(why), now)
            }
            (Attesting::Verifying, Event::GuestSealed) => {
                self.early = Early::Sealed;
                Vec::new()
            }
            (Attesting::Verifying, Event::GuestClosing(ending)) => {
                if self.early == Early::No {
                    self.early = Early::Closing(ending);
                }
                Vec::new()
            }
            (_, Event::CloseRequested(ending)) => self.abort(ending, None, now),
            (_, event) => self.guest_ended(event, now),
        }
    }

    fn in_ready(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::CloseRequested(ending) => self.drain(ending, now),
            Event::GuestClosing(ending) => self.closing(ending, now),
            Event::GuestSealed => {
                self.enter(State::Sealing(Sealing::Storing), now, self.timings.seal);
                vec![Effect::RefuseCalls, Effect::PreserveSealed]
            }
            Event::Reconnected => vec![Effect::AcceptCalls],
            Event::ReconnectFailed(why) => {
                // Nobody can be served; its record can still be sealed.
                self.add_message(&why);
                self.drain(Ending::by_host(Reason::GuestUnresponsive), now)
            }
            event => self.guest_ended(event, now),
        }
    }

    fn in_draining(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::GuestSealed => {
                self.enter(State::Sealing(Sealing::Storing), now, self.timings.seal);
                vec![Effect::PreserveSealed]
            }
            event => self.guest_ended(event, now),
        }
    }

    fn in_sealing(&mut self, step: Sealing, event: Event, now: Timestamp) -> Vec<Effect> {
        match (step, event) {
            (Sealing::Awaiting, Event::GuestSealed) => {
                self.enter(State::Sealing(Sealing::Storing), now, self.timings.seal);
                vec![Effect::PreserveSealed]
            }
            (Sealing::Awaiting, Event::GuestGone(_)) => self.store_alone(now),
            (Sealing::Awaiting, event) => self.guest_ended(event, now),
            (Sealing::Storing, Event::EvidenceSealed(ending)) => {
                self.sealed(ending);
                self.enter(State::Sealing(Sealing::PoweringOff), now, self.timings.power_off);
                vec![Effect::AcknowledgeStored]
            }
            (Sealing::StoringAlone, Event::EvidenceSealed(ending)) => {
                self.sealed(ending);
                self.end_calls_then(|machine, now| machine.clear(now), now)
            }
            (Sealing::Storing, Event::EvidenceRefused(why)) => {
                self.abort(Ending::by_host(Reason::AttestationFailed), Some(why), now)
            }
            (Sealing::StoringAlone, Event::EvidenceRefused(why)) => {
                self.abort_without_guest(Ending::by_host(Reason::AttestationFailed), Some(why), now)
            }
            (Sealing::Storing, Event::HostFailed(why)) => self.abort(Ending::by_host(Reason::Internal), Some(why), now),
            (Sealing::StoringAlone, Event::HostFailed(why)) => {
                self.abort_without_guest(Ending::by_host(Reason::Internal), Some(why), now)
            }
            (Sealing::Storing, Event::GuestGone(_)) => {
                // Everything needed is here: storing goes on without it.
                self.state = State::Sealing(Sealing::StoringAlone);
                Vec::new()
            }
            (Sealing::PoweringOff, Event::GuestGone(_)) => self.end_calls_then(|machine, now| machine.clear(now), now),
            _ => Vec::new(),
        }
    }

    /// Events that end a guest that was up, whatever the phase.
    fn guest_ended(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        match event {
            Event::GuestGone(exit) => {
                let ending = ending_of_exit(exit, self.state);
                self.abort_without_guest(ending, Some(exit.to_string()), now)
            }
            Event::GuestFailed(why) => {
                let before_ready = matches!(self.state, State::Attesting(_));
                let reason = if before_ready { Reason::AttestationFailed } else { Reason::Internal };
                self.abort(Ending::by_agent(reason), Some(why), now)
            }
            Event::GuestViolated(why) => self.abort(Ending::by_host(Reason::AttestationFailed), Some(why), now),
            Event::HostFailed(why) => self.abort(Ending::by_host(Reason::Internal), Some(why), now),
            _ => Vec::new(),
        }
    }

    /// The agent ends it by itself.
    fn closing(&mut self, ending: Ending, now: Timestamp) -> Vec<Effect> {
        self.ending = Some(ending);
        self.enter(State::Draining, now, self.timings.seal);
        vec![Effect::RefuseCalls]
    }

    fn drain(&mut self, ending: Ending, now: Timestamp) -> Vec<Effect> {
        self.ending = Some(ending);
        self.enter(State::Draining, now, self.timings.seal);
        vec![Effect::RefuseCalls, Effect::AskGuestToClose]
    }

    fn sealed(&mut self, ending: Ending) {
        self.evidence = Evidence::Sealed;
        self.sealed_ending = Some(ending);
    }

    fn add_message(&mut self, text: &str) {
        match &mut self.message {
            Some(message) => {
                message.push_str("; ");
                message.push_str(text);
            }
            None => self.message = Some(text.to_owned()),
        }
    }

    fn decide(&mut self, ending: Ending, why: Option<String>) {
        self.ending = Some(ending);
        if let Some(why) = why {
            self.add_message(&why);
        }
    }

    /// Ends a session whose machine may exist or be on its way.
    fn abort(&mut self, ending: Ending, why: Option<String>, now: Timestamp) -> Vec<Effect> {
        self.decide(ending, why);
        self.stop(now)
    }

    /// Ends a session that has no machine, or none any more.
    fn abort_without_guest(&mut self, ending: Ending, why: Option<String>, now: Timestamp) -> Vec<Effect> {
        self.decide(ending, why);
        self.end_calls_then(|machine, now| machine.preserve(now), now)
    }
}

/// What a machine's end means, by what was expected of it then.
fn ending_of_exit(exit: GuestExit, state: State) -> Ending {
    let before_ready = matches!(state, State::Launching | State::Attesting(_));
    match exit {
        // The agent powers off when it does not accept what it was given.
        GuestExit::PoweredOff if before_ready => Ending::by_agent(Reason::AttestationFailed),
        GuestExit::PoweredOff | GuestExit::Reset | GuestExit::Panicked => Ending::by_agent(Reason::GuestPanicked),
        GuestExit::Failed(_) | GuestExit::Halted if before_ready => Ending::by_host(Reason::Internal),
        GuestExit::Failed(_) | GuestExit::Halted | GuestExit::Killed(_) | GuestExit::Lost => {
            Ending::by_host(Reason::HostLost)
        }
        GuestExit::OutOfMemory => Ending::by_host(Reason::OutOfMemory),
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
