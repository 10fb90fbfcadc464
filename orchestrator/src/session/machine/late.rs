//! What comes from outside the order of things: a link that goes and comes, a restart of the control plane, and time that
//! is over. Every state but the last has a deadline, and each deadline leads on.

use coffer_evidence::seal::Reason;

use super::{Attesting, Early, Effect, Machine, Scrubbing, Sealing, State};
use crate::session::types::{Ending, Timestamp};

impl Machine {
    /// The machine may still be there, or its agent may come back: wait a little, then it counts as silent.
    pub(super) fn link_lost(&mut self, now: Timestamp) -> Vec<Effect> {
        match self.state {
            State::Attesting(_) | State::Ready | State::Draining => {
                self.silent_until = Some(now.after(self.timings.silence));
            }
            State::Requested
            | State::Scheduled
            | State::Launching
            | State::Sealing(_)
            | State::Scrubbing(_)
            | State::Closed => {}
        }
        Vec::new()
    }

    /// Nothing runs of this life yet. What was launched for certain is taken over; what may be half launched is ended:
    /// nothing is ever launched twice.
    pub(super) fn restarted(&mut self, now: Timestamp) -> Vec<Effect> {
        self.silent_until = None;
        match self.state {
            State::Closed => Vec::new(),
            State::Scrubbing(_) => self.stop(now),
            State::Requested | State::Scheduled | State::Launching => {
                let why = format!("the control plane was restarted while the session was {}", self.phase());
                self.abort(Ending::by_host(Reason::HostLost), Some(why), now)
            }
            // The time to boot, and to live, runs on.
            State::Attesting(Attesting::Booting) | State::Ready => vec![Effect::Adopt],
            State::Attesting(Attesting::Verifying) => {
                // The opening is heard again, and a seal if there was one.
                self.early = Early::No;
                self.enter(State::Attesting(Attesting::Booting), now, self.timings.verify);
                vec![Effect::Adopt]
            }
            State::Draining => {
                self.enter(State::Draining, now, self.timings.seal);
                vec![Effect::Adopt]
            }
            State::Sealing(Sealing::Awaiting | Sealing::Storing) => {
                self.enter(State::Sealing(Sealing::Awaiting), now, self.timings.seal);
                vec![Effect::Adopt]
            }
            State::Sealing(Sealing::StoringAlone) => self.store_alone(now),
            State::Sealing(Sealing::PoweringOff) => {
                self.enter(State::Sealing(Sealing::PoweringOff), now, self.timings.power_off);
                vec![Effect::Adopt]
            }
        }
    }

    /// Served again: the agent comes back by itself, or counts as silent. What was under way is asked for again.
    pub(super) fn adopted(&mut self, now: Timestamp) -> Vec<Effect> {
        match self.state {
            State::Ready => {
                self.silent_until = Some(now.after(self.timings.silence));
                vec![Effect::Reconnect]
            }
            State::Draining => {
                self.silent_until = Some(now.after(self.timings.silence));
                vec![Effect::AskGuestToClose]
            }
            State::Sealing(Sealing::PoweringOff) => vec![Effect::AcknowledgeStored],
            // A take-over that came through although the session ends.
            State::Scrubbing(Scrubbing::Stopping | Scrubbing::Preserving) => vec![Effect::StopGuest],
            State::Requested
            | State::Scheduled
            | State::Launching
            | State::Attesting(_)
            | State::Sealing(_)
            | State::Scrubbing(_)
            | State::Closed => Vec::new(),
        }
    }

    pub(super) fn adopt_failed(&mut self, why: &str, now: Timestamp) -> Vec<Effect> {
        match self.state {
            State::Attesting(_) | State::Ready | State::Draining => {
                let why = format!("the control plane was restarted while the session was {}: {why}", self.phase());
                self.abort(Ending::by_host(Reason::HostLost), Some(why), now)
            }
            State::Sealing(Sealing::Awaiting) => self.store_alone(now),
            // Sealed and stored: only what is left of the machine has to go.
            State::Sealing(Sealing::PoweringOff) => self.stop(now),
            State::Requested
            | State::Scheduled
            | State::Launching
            | State::Sealing(_)
            | State::Scrubbing(_)
            | State::Closed => Vec::new(),
        }
    }

    /// It decides nothing: a guest that is given other files ends by itself. But whoever reads why it ended should read this.
    pub(super) fn image_changed(&mut self, why: &str) -> Vec<Effect> {
        let said = self.message.as_ref().is_some_and(|message| message.contains(why));
        if self.state != State::Closed && !said {
            self.add_message(&format!("the image is not what was checked before the launch: {why}"));
        }
        Vec::new()
    }

    /// The guest is gone after its last word: what was kept of it is enough, or not.
    pub(super) fn store_alone(&mut self, now: Timestamp) -> Vec<Effect> {
        self.enter(State::Sealing(Sealing::StoringAlone), now, self.timings.seal);
        vec![Effect::PreserveSealed]
    }

    pub(super) fn deadline_passed(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.silent_until.is_some_and(|silent| silent <= now) {
            self.silent_until = None;
            let why = "the agent's control channel ended and did not come back".to_owned();
            return self.abort(Ending::by_host(Reason::GuestUnresponsive), Some(why), now);
        }
        if self.deadline > now {
            return Vec::new();
        }
        let late = |what: &str| Some(format!("{what} took longer than its limit"));
        match self.state {
            State::Requested | State::Scheduled => {
                self.abort(Ending::by_host(Reason::Internal), late("setting the session up"), now)
            }
            State::Launching | State::Attesting(Attesting::Booting) => {
                self.abort(Ending::by_host(Reason::BootTimeout), late("booting the guest"), now)
            }
            State::Attesting(Attesting::Verifying) => {
                self.abort(Ending::by_host(Reason::AttestationFailed), late("verifying the opening"), now)
            }
            State::Ready => self.drain(Ending::by_host(Reason::TtlExpired), now),
            State::Draining | State::Sealing(Sealing::Awaiting) => {
                self.abort(Ending::by_host(Reason::GuestUnresponsive), late("sealing in the guest"), now)
            }
            State::Sealing(Sealing::Storing | Sealing::StoringAlone) => {
                self.abort(Ending::by_host(Reason::Internal), late("verifying and storing the bundle"), now)
            }
            // Sealed and stored: only the power-off is late.
            State::Sealing(Sealing::PoweringOff) => self.stop(now),
            State::Scrubbing(Scrubbing::Stopping) => {
                self.add_message("ending the machine took longer than its limit");
                self.preserve(now)
            }
            State::Scrubbing(Scrubbing::Preserving) => {
                self.add_message("storing the prefix took longer than its limit");
                self.clear(now)
            }
            State::Scrubbing(Scrubbing::Clearing) => {
                self.scrub_failures.push("clean-up took longer than its limit".to_owned());
                self.receipt(now)
            }
            State::Scrubbing(Scrubbing::Receipting) => {
                self.scrub_failures.push("receipt: it took longer than its limit".to_owned());
                self.close()
            }
            State::Closed => Vec::new(),
        }
    }
}
