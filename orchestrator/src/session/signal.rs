//! What reaches a session's owner task from the tasks it started: events of the machine, some with what they found.

use coffer_evidence::ids::InstanceId;

use super::calls::GuestCalls;
use super::evidence::GuestSeal;
use super::launch::Running;
use super::machine::Event;
use crate::host::scrub::Step;
use crate::store::Reservation;

/// The agent's opening, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) open_map: Vec<u8>,
    pub(crate) quote: Vec<u8>,
    /// The firmware's event log; the simulated platform has none.
    pub(crate) ccel: Option<Vec<u8>>,
}

/// One message to the owner task.
#[derive(Debug)]
pub(crate) enum Signal {
    /// Nothing but the event.
    Event(Event),
    /// `Reserved`.
    Reserved(Reservation),
    /// `Launched`.
    Launched(Box<Running>),
    /// `Adopted`.
    Adopted(Box<Running>),
    /// `Reconnected`.
    Reconnected(GuestCalls),
    /// `GuestOpened`.
    Opened(Opening),
    /// `OpeningVerified`.
    Verified { instance: InstanceId, calls: GuestCalls },
    /// `GuestSealed`.
    Sealed(GuestSeal),
    /// `Scrubbed`.
    Scrubbed(Vec<Step>),
}

impl From<Event> for Signal {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}
