//! The way from the end of the guest to `Closed`: stop it, keep what can be shown, remove the rest, sign for it.

use super::{Effect, Event, Evidence, Machine, Scrubbing, State};
use crate::session::types::Timestamp;

impl Machine {
    pub(super) fn in_scrubbing(&mut self, step: Scrubbing, event: Event, now: Timestamp) -> Vec<Effect> {
        match (step, event) {
            (_, Event::EvidenceSealed(ending)) if self.evidence != Evidence::Prefix => {
                self.sealed(ending);
                if step == Scrubbing::Preserving { self.clear(now) } else { Vec::new() }
            }
            // A launch that was given up came through all the same.
            (Scrubbing::Stopping | Scrubbing::Preserving, Event::Launched) => vec![Effect::StopGuest],
            (
                Scrubbing::Stopping,
                Event::GuestGone(_) | Event::LaunchFailed(_) | Event::Reserved | Event::ReserveFailed(_),
            ) => self.preserve(now),
            (Scrubbing::Preserving, Event::PrefixStored) => {
                self.evidence = Evidence::Prefix;
                self.clear(now)
            }
            (Scrubbing::Preserving, Event::NothingToPreserve(why)) => {
                self.add_message(&why);
                self.clear(now)
            }
            (Scrubbing::Clearing, Event::Scrubbed(failures)) => {
                self.scrub_failures = failures;
                self.receipt(now)
            }
            (Scrubbing::Receipting, Event::Receipted(failure)) => {
                if let Some(why) = failure {
                    self.scrub_failures.push(format!("receipt: {why}"));
                }
                self.close()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn stop(&mut self, now: Timestamp) -> Vec<Effect> {
        self.silent_until = None;
        self.enter(State::Scrubbing(Scrubbing::Stopping), now, self.timings.stop);
        vec![Effect::EndCalls, Effect::StopGuest]
    }

    pub(super) fn end_calls_then(
        &mut self,
        next: impl FnOnce(&mut Self, Timestamp) -> Vec<Effect>,
        now: Timestamp,
    ) -> Vec<Effect> {
        self.silent_until = None;
        let mut effects = vec![Effect::EndCalls];
        effects.extend(next(self, now));
        effects
    }

    pub(super) fn preserve(&mut self, now: Timestamp) -> Vec<Effect> {
        match self.evidence {
            Evidence::Opened => {
                self.enter(State::Scrubbing(Scrubbing::Preserving), now, self.timings.preserve);
                vec![Effect::PreservePrefix]
            }
            Evidence::Nothing | Evidence::Prefix | Evidence::Sealed => self.clear(now),
        }
    }

    pub(super) fn clear(&mut self, now: Timestamp) -> Vec<Effect> {
        self.enter(State::Scrubbing(Scrubbing::Clearing), now, self.timings.scrub);
        vec![Effect::Scrub]
    }

    pub(super) fn receipt(&mut self, now: Timestamp) -> Vec<Effect> {
        match self.evidence {
            Evidence::Prefix | Evidence::Sealed => {
                self.enter(State::Scrubbing(Scrubbing::Receipting), now, self.timings.receipt);
                vec![Effect::WriteReceipt]
            }
            Evidence::Nothing | Evidence::Opened => self.close(),
        }
    }

    pub(super) fn close(&mut self) -> Vec<Effect> {
        self.state = State::Closed;
        Vec::new()
    }
}
