//! One connection, without sockets: its state, its credit both ways, and what it owes the guest.
//!
//! ```text
//!   guest REQUEST, host socket dialled          host CONNECT line
//!            │                                        │ REQUEST owed
//!            │ RESPONSE owed                          ▼
//!            │                                   Requested ── guest RESPONSE ──┐
//!            ▼                                        │                        │
//!       Established <─────────────────────────────────┼────────────────────────┘
//!            │  either side SHUTDOWN of one direction: half open
//!            │  both directions ended, or RST, or a broken promise
//!            ▼                                        ▼
//!          Gone  (RST owed unless the guest sent one) ┘ guest RST
//! ```

use crate::packet::{Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// The receive buffer that the device gives each connection, in bytes: what the guest may send before the host's
/// socket has taken it.
pub const BUFFER: u32 = 256 * 1024;
/// Credit is told again when this much of it is free and untold.
const TELL_AFTER: u32 = BUFFER / 4;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The host asked, the guest has not answered.
    Requested,
    /// Open, in at least one direction.
    Established,
    /// To be forgotten once what is owed is sent.
    Gone,
}

/// What the guest did wrong. The connection is reset; the device goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A packet that does not fit the state.
    State,
    /// More payload than the credit it was given.
    Credit,
    /// Payload after it said that it would send no more.
    AfterShutdown,
}

/// What a packet from the guest asks the mux to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Tell the host's side that it is connected.
    Opened,
    /// Give this payload to the host's socket.
    Deliver,
    /// No more payload will come: end the host socket's input after what is buffered.
    EndOfInput,
    /// Close the host's socket at once and forget the connection.
    Drop,
}

/// The bookkeeping of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    state: State,
    owes_request: bool,
    owes_response: bool,
    owes_reset: bool,
    owes_credit: bool,
    owes_credit_request: bool,
    owes_shutdown: u32,
    /// SHUTDOWN flags the guest has sent.
    guest_ended: u32,
    /// SHUTDOWN flags we have sent or owe.
    host_ended: u32,
    /// What the guest gives us: its buffer, and how far it has emptied it.
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Payload bytes sent to the guest, modulo 2^32.
    sent: u32,
    /// Payload bytes of the guest given to the host's socket, modulo 2^32.
    forwarded: u32,
    /// What `forwarded` was when it was last told.
    told: u32,
    /// Payload bytes of the guest that wait for the host's socket.
    buffered: u32,
    asked_for_credit: bool,
}

impl Connection {
    const fn new(state: State) -> Self {
        Self {
            state,
            owes_request: false,
            owes_response: false,
            owes_reset: false,
            owes_credit: false,
            owes_credit_request: false,
            owes_shutdown: 0,
            guest_ended: 0,
            host_ended: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
            sent: 0,
            forwarded: 0,
            told: 0,
            buffered: 0,
            asked_for_credit: false,
        }
    }

    /// The host wants to reach the guest.
    #[must_use]
    pub const fn requested() -> Self {
        let mut connection = Self::new(State::Requested);
        connection.owes_request = true;
        connection
    }

    /// The guest asked, and the host's socket is there.
    #[must_use]
    pub fn accepted(request: &Header) -> Self {
        let mut connection = Self::new(State::Established);
        connection.owes_response = true;
        connection.take_credit(request);
        connection
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        // A count that runs ahead of what was sent is a lie: it would give credit that does not exist.
        if self.sent.wrapping_sub(header.fwd_cnt) <= self.sent.wrapping_sub(self.guest_forwarded) {
            self.guest_forwarded = header.fwd_cnt;
        }
        if self.credit() > 0 {
            self.asked_for_credit = false;
        }
    }

    /// Payload bytes that may be sent to the guest now.
    #[must_use]
    pub const fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// Handles one packet of the guest for this connection.
    ///
    /// # Errors
    /// [`Violation`]: the connection is then [`State::Gone`] and owes a reset.
    pub fn receive(&mut self, operation: Operation, header: &Header) -> Result<Action, Violation> {
        self.take_credit(header);
        match (self.state, operation) {
            (_, Operation::Reset) => {
                self.state = State::Gone;
                self.owes_reset = false;
                Ok(Action::Drop)
            }
            (State::Requested, Operation::Response) if !self.owes_request => {
                self.state = State::Established;
                Ok(Action::Opened)
            }
            (State::Established, Operation::Payload) => self.receive_payload(header.length),
            (State::Established, Operation::CreditUpdate) => Ok(Action::None),
            (State::Established, Operation::CreditRequest) => {
                self.owes_credit = true;
                Ok(Action::None)
            }
            (State::Established, Operation::Shutdown) => Ok(self.receive_shutdown(header.flags)),
            (State::Gone, _) => Ok(Action::None),
            _ => Err(self.violate(Violation::State)),
        }
    }

    fn receive_payload(&mut self, length: u32) -> Result<Action, Violation> {
        if self.guest_ended & SHUTDOWN_SEND != 0 {
            return Err(self.violate(Violation::AfterShutdown));
        }
        match self.buffered.checked_add(length) {
            Some(total) if total <= BUFFER => {
                self.buffered = total;
                Ok(Action::Deliver)
            }
            _ => Err(self.violate(Violation::Credit)),
        }
    }

    fn receive_shutdown(&mut self, flags: u32) -> Action {
        let before = self.guest_ended;
        self.guest_ended |= flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
        if before & SHUTDOWN_SEND == 0 && self.guest_ended & SHUTDOWN_SEND != 0 {
            Action::EndOfInput
        } else {
            Action::None
        }
    }

    fn violate(&mut self, violation: Violation) -> Violation {
        self.state = State::Gone;
        self.owes_reset = true;
        violation
    }

    /// The host's socket took this many bytes of the guest's payload.
    pub fn forward(&mut self, bytes: u32) {
        self.buffered = self.buffered.saturating_sub(bytes);
        self.forwarded = self.forwarded.wrapping_add(bytes);
        if self.forwarded.wrapping_sub(self.told) >= TELL_AFTER {
            self.owes_credit = true;
        }
    }

    /// Payload of the guest that waits for the host's socket, in bytes.
    #[must_use]
    pub const fn buffered(&self) -> u32 {
        self.buffered
    }

    /// The host's socket will give no more; with `SHUTDOWN_RECEIVE` it will take no more either.
    pub fn host_ends(&mut self, flags: u32) {
        let new = flags & !self.host_ended;
        self.host_ended |= new;
        self.owes_shutdown |= new;
    }

    /// The host's socket broke, or the device gives up: reset.
    pub fn reset(&mut self) {
        self.state = State::Gone;
        self.owes_reset = true;
    }

    /// The guest has ended both directions and everything it sent was taken: nothing can happen any more.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.guest_ended == SHUTDOWN_RECEIVE | SHUTDOWN_SEND && self.buffered == 0
    }

    /// Whether the guest still takes payload.
    #[must_use]
    pub const fn guest_receives(&self) -> bool {
        self.guest_ended & SHUTDOWN_RECEIVE == 0
    }

    /// Whether payload from the host's socket may be read and sent on now.
    #[must_use]
    pub const fn may_send(&self) -> bool {
        matches!(self.state, State::Established)
            && !self.owes_response
            && self.guest_receives()
            && self.host_ended & SHUTDOWN_SEND == 0
            && self.credit() > 0
    }

    /// There is payload for the guest and no credit: ask for it, once.
    pub fn want_credit(&mut self) {
        if matches!(self.state, State::Established) && self.credit() == 0 && !self.asked_for_credit {
            self.asked_for_credit = true;
            self.owes_credit_request = true;
        }
    }

    /// Whether a packet without payload is owed to the guest.
    #[must_use]
    pub const fn owes(&self) -> bool {
        self.owes_request
            || self.owes_response
            || self.owes_reset
            || self.owes_credit
            || self.owes_credit_request
            || self.owes_shutdown != 0
    }

    /// Takes the next owed packet: operation and flags. A reset goes before all else, the opening before the rest, the
    /// end of a direction last.
    pub fn next_owed(&mut self) -> Option<(Operation, u32)> {
        if std::mem::take(&mut self.owes_reset) {
            *self = Self { state: State::Gone, ..Self::new(State::Gone) };
            return Some((Operation::Reset, 0));
        }
        if std::mem::take(&mut self.owes_request) {
            return Some((Operation::Request, 0));
        }
        if std::mem::take(&mut self.owes_response) {
            return Some((Operation::Response, 0));
        }
        if std::mem::take(&mut self.owes_credit) {
            return Some((Operation::CreditUpdate, 0));
        }
        if std::mem::take(&mut self.owes_credit_request) {
            return Some((Operation::CreditRequest, 0));
        }
        match std::mem::take(&mut self.owes_shutdown) {
            0 => None,
            flags => Some((Operation::Shutdown, flags)),
        }
    }

    /// This much payload goes to the guest.
    pub fn send(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    /// Fills in the credit that every packet carries.
    pub fn tell_credit(&mut self, header: &mut Header) {
        header.buf_alloc = BUFFER;
        header.fwd_cnt = self.forwarded;
        self.told = self.forwarded;
        self.owes_credit = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u32, buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header { length, buf_alloc, fwd_cnt, ..Header::default() }
    }

    fn open() -> Connection {
        let mut connection = Connection::accepted(&header(0, 1000, 0));
        assert_eq!(connection.next_owed(), Some((Operation::Response, 0)));
        connection
    }

    #[test]
    fn the_host_opens_only_with_a_response_to_its_request() {
        let mut connection = Connection::requested();
        assert_eq!(connection.receive(Operation::Response, &header(0, 9, 0)), Err(Violation::State), "not asked yet");
        let mut connection = Connection::requested();
        assert_eq!(connection.next_owed(), Some((Operation::Request, 0)));
        assert!(!connection.may_send());
        assert_eq!(connection.receive(Operation::Response, &header(0, 9, 0)), Ok(Action::Opened));
        assert!(connection.may_send());
        assert_eq!(connection.receive(Operation::Response, &header(0, 9, 0)), Err(Violation::State));
        assert_eq!(connection.next_owed(), Some((Operation::Reset, 0)));
        assert!(!connection.owes());
    }

    #[test]
    fn credit_is_spent_asked_for_and_given_back() {
        let mut connection = open();
        connection.send(1000);
        assert_eq!(connection.credit(), 0);
        assert!(!connection.may_send());
        connection.want_credit();
        connection.want_credit();
        assert_eq!(connection.next_owed(), Some((Operation::CreditRequest, 0)));
        assert_eq!(connection.next_owed(), None, "asked once");
        assert_eq!(connection.receive(Operation::CreditUpdate, &header(0, 1000, 600)), Ok(Action::None));
        assert_eq!(connection.credit(), 600);
    }

    #[test]
    fn a_guest_that_lies_about_what_it_took_gains_nothing() {
        for lie in [1001, 5000, u32::MAX, 0x8000_0000] {
            let mut connection = open();
            connection.send(1000);
            let _ = connection.receive(Operation::CreditUpdate, &header(0, 1000, lie));
            assert_eq!(connection.credit(), 0, "fwd_cnt {lie}");
        }
        let mut connection = open();
        connection.send(1000);
        let _ = connection.receive(Operation::CreditUpdate, &header(0, 1000, 500));
        let _ = connection.receive(Operation::CreditUpdate, &header(0, 1000, 400));
        assert_eq!(connection.credit(), 500, "it cannot take back either");
    }

    #[test]
    fn payload_beyond_the_credit_given_resets() {
        let mut connection = open();
        assert_eq!(connection.receive(Operation::Payload, &header(BUFFER, 9, 0)), Ok(Action::Deliver));
        assert_eq!(connection.receive(Operation::Payload, &header(1, 9, 0)), Err(Violation::Credit));
        assert_eq!(connection.state(), State::Gone);
        assert_eq!(connection.next_owed(), Some((Operation::Reset, 0)));
    }

    #[test]
    fn credit_is_told_after_a_quarter_of_the_buffer() {
        let mut connection = open();
        let _ = connection.receive(Operation::Payload, &header(BUFFER, 9, 0));
        connection.forward(TELL_AFTER - 1);
        assert!(!connection.owes());
        connection.forward(1);
        assert_eq!(connection.next_owed(), Some((Operation::CreditUpdate, 0)));
        let mut told = Header::default();
        connection.tell_credit(&mut told);
        assert_eq!((told.buf_alloc, told.fwd_cnt), (BUFFER, TELL_AFTER));
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let mut connection = open();
        let mut shutdown = header(0, 1000, 0);
        shutdown.flags = SHUTDOWN_SEND;
        assert_eq!(connection.receive(Operation::Shutdown, &shutdown), Ok(Action::EndOfInput));
        assert!(connection.may_send(), "the guest still receives");
        assert_eq!(connection.receive(Operation::Payload, &header(1, 9, 0)), Err(Violation::AfterShutdown));

        let mut connection = open();
        connection.host_ends(SHUTDOWN_SEND);
        connection.host_ends(SHUTDOWN_SEND);
        assert_eq!(connection.next_owed(), Some((Operation::Shutdown, SHUTDOWN_SEND)));
        assert_eq!(connection.next_owed(), None);
        assert_eq!(
            connection.receive(Operation::Payload, &header(1, 9, 0)),
            Ok(Action::Deliver),
            "the guest still sends"
        );
        shutdown.flags = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
        assert_eq!(connection.receive(Operation::Shutdown, &shutdown), Ok(Action::EndOfInput));
        assert!(!connection.is_finished(), "a byte waits");
        connection.forward(1);
        assert!(connection.is_finished());
    }

    #[test]
    fn a_reset_ends_every_state_without_an_answer() {
        for mut connection in [Connection::requested(), open()] {
            assert_eq!(connection.receive(Operation::Reset, &header(0, 0, 0)), Ok(Action::Drop));
            assert_eq!(connection.state(), State::Gone);
            assert!(connection.next_owed().is_none_or(|(operation, _)| operation != Operation::Reset));
        }
    }
}
