//! The bookkeeping of one vsock connection against a second set of books that counts in 64 bits and never wraps.

use coffer_vsock::connection::{Action, BUFFER, Connection, State};
use coffer_vsock::packet::{HEADER_LENGTH, Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

use crate::script::Script;

/// What is true of a connection, whatever the guest claims.
struct Books {
    guest_buffer: u64,
    sent: u64,
    taken_by_guest: u64,
    given_by_guest: u64,
    forwarded: u64,
    guest_ended: u32,
}

impl Books {
    fn hear(&mut self, header: &Header) {
        self.guest_buffer = u64::from(header.buf_alloc);
        let claimed = u64::from(header.fwd_cnt.wrapping_sub(self.taken_by_guest as u32));
        if self.taken_by_guest + claimed <= self.sent {
            self.taken_by_guest += claimed;
        }
    }

    fn credit(&self) -> u64 {
        self.guest_buffer.saturating_sub(self.sent - self.taken_by_guest)
    }
}

fn header(script: &mut Script<'_>) -> Header {
    let bytes: [u8; HEADER_LENGTH] = script.array();
    let header = Header::from_bytes(&bytes);
    assert_eq!(header.to_bytes(), bytes, "a header does not come back");
    header
}

/// A script of packets, reads, writes and ends; the first byte says who opened.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut books =
        Books { guest_buffer: 0, sent: 0, taken_by_guest: 0, given_by_guest: 0, forwarded: 0, guest_ended: 0 };
    let mut connection = if script.u8() & 1 == 0 {
        let request = short(&mut script);
        books.hear(&request);
        Connection::accepted(&request)
    } else {
        Connection::requested()
    };
    while !script.is_over() {
        step(&mut connection, &mut books, &mut script);
        if connection.state() == State::Gone {
            return end(connection);
        }
        hold(&connection, &books);
    }
}

fn step(connection: &mut Connection, books: &mut Books, script: &mut Script<'_>) {
    match script.u8() % 9 {
        0 | 1 => {
            let operation = Operation::from_number(u16::from(script.u8() % 9));
            let packet = if script.u8() % 8 == 7 { header(script) } else { short(script) };
            let Some(operation) = operation else { return };
            let before = connection.state();
            let result = connection.receive(operation, &packet);
            books.hear(&packet);
            match result {
                Ok(Action::Opened) => assert_eq!((before, operation), (State::Requested, Operation::Response)),
                Ok(Action::Deliver) => {
                    assert_eq!(books.guest_ended & SHUTDOWN_SEND, 0, "payload after the end of payload");
                    books.given_by_guest += u64::from(packet.length);
                }
                Ok(Action::Drop) => assert_eq!(connection.state(), State::Gone),
                Ok(Action::None | Action::EndOfInput) => {}
                Err(_) => {
                    assert!(connection.state() == State::Gone && connection.owes(), "a violation without a reset");
                }
            }
            if operation == Operation::Shutdown && before == State::Established {
                books.guest_ended |= packet.flags & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
            }
        }
        2 => {
            let bytes = script.u32().min(connection.buffered());
            connection.forward(bytes);
            books.forwarded += u64::from(bytes);
        }
        3 if connection.may_send() => {
            assert_eq!((connection.state(), books.guest_ended & SHUTDOWN_RECEIVE), (State::Established, 0));
            let bytes = script.u32().min(connection.credit());
            connection.send(bytes);
            books.sent += u64::from(bytes);
        }
        4 => connection.host_ends(u32::from(script.u8()) & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND)),
        5 => connection.want_credit(),
        6 => {
            let mut told = Header::default();
            connection.tell_credit(&mut told);
            assert_eq!((told.buf_alloc, told.fwd_cnt), (BUFFER, books.forwarded as u32));
        }
        7 if script.u8() == 0 => connection.reset(),
        _ => drop(connection.next_owed()),
    }
}

/// A header with the counts that matter and the rest zero.
fn short(script: &mut Script<'_>) -> Header {
    let (length, buf_alloc, fwd_cnt) = (u32::from(script.u16()), script.u32(), script.u32());
    Header { length, buf_alloc, fwd_cnt, flags: u32::from(script.u8()), ..Header::default() }
}

fn hold(connection: &Connection, books: &Books) {
    assert_eq!(u64::from(connection.credit()), books.credit(), "credit that does not exist, or is lost");
    assert_eq!(u64::from(connection.buffered()), books.given_by_guest - books.forwarded);
    assert!(connection.buffered() <= BUFFER, "{} bytes wait for the host", connection.buffered());
    assert_eq!(connection.guest_receives(), books.guest_ended & SHUTDOWN_RECEIVE == 0);
    let mut drained = *connection;
    let owed = std::iter::from_fn(|| drained.next_owed()).take(8).count();
    assert!(owed < 8 && !drained.owes(), "what is owed has no end");
}

/// At most one reset more, and nothing after it.
fn end(mut connection: Connection) {
    let owed: Vec<_> = std::iter::from_fn(|| connection.next_owed()).take(8).collect();
    let resets = owed.iter().filter(|(operation, _)| *operation == Operation::Reset).count();
    assert!(owed.len() < 8 && resets <= 1, "{owed:?}");
    if resets == 1 {
        assert_eq!(owed, [(Operation::Reset, 0)], "words after the reset");
    }
    assert!(!connection.may_send() && !connection.owes());
}
