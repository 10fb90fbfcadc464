//! The host side of the device: unix sockets on one side, packets on the other, many connections fairly between them.
//!
//! Host programs connect to `UDS`, write `CONNECT <port>\n` and read `OK <port>\n`. Connections of the guest to host
//! port P go to the unix socket `UDS_P`; where there is none, they are refused. Every table and buffer is bounded by a
//! constant below. It knows nothing of rings.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::epoll;

use crate::connection::{Action, BUFFER, Connection, State};
use crate::host_socket::{connect, is_hung_up};
use crate::packet::{HOST_CID, Header, Operation, PAYLOAD_MAX, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod footprint;

/// The most connections at once, both directions together.
pub const CONNECTIONS_MAX: usize = 1024;
/// Refusals that wait for a place in the guest's ring; more are dropped.
pub const REFUSALS_MAX: usize = 256;
/// The longest `CONNECT` line in bytes.
pub const CONNECT_LINE_MAX: usize = 32;
/// Host ports given to connections of the host start here.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// The epoll token of the listener.
const LISTENER: u64 = u64::MAX;

/// A connection's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    host_port: u32,
    guest_port: u32,
}

/// The host's socket of a connection and what waits for it.
#[derive(Debug)]
struct Peer {
    connection: Connection,
    socket: UnixStream,
    token: u64,
    /// Payload of the guest that the socket has not taken.
    outgoing: VecDeque<u8>,
    /// The socket may have something to read.
    readable: bool,
    /// The guest will send no more: shut the socket's input down when `outgoing` is empty.
    input_ends: bool,
    /// The host's program opened it and waits for `OK`.
    awaits_ok: bool,
    queued: bool,
}

/// A host program that has not finished its `CONNECT` line.
#[derive(Debug)]
struct Caller {
    socket: UnixStream,
    line: Vec<u8>,
}

/// The host side of the device.
#[derive(Debug)]
pub struct Mux {
    guest_cid: u64,
    uds: PathBuf,
    listener: UnixListener,
    epoll: OwnedFd,
    peers: HashMap<Key, Peer>,
    tokens: HashMap<u64, Key>,
    callers: HashMap<u64, Caller>,
    /// Connections that may have something for the guest, in turn.
    turn: VecDeque<Key>,
    refusals: VecDeque<Header>,
    next_token: u64,
    next_port: u32,
}

impl Mux {
    /// Listens on `uds`, which must not exist.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(guest_cid: u64, uds: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(uds)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), edge)?;
        Ok(Self {
            guest_cid,
            uds: uds.to_owned(),
            listener,
            epoll,
            peers: HashMap::new(),
            tokens: HashMap::new(),
            callers: HashMap::new(),
            turn: VecDeque::new(),
            refusals: VecDeque::new(),
            next_token: 0,
            next_port: FIRST_HOST_PORT,
        })
    }

    /// Becomes readable when [`Mux::handle_sockets`] has something to do.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Connections at present.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.peers.len() + self.callers.len()
    }

    /// Whether there is anything for the guest that [`Mux::next_packet`] might give.
    #[must_use]
    pub fn has_packets(&self) -> bool {
        !self.refusals.is_empty() || !self.turn.is_empty()
    }

    // ---- packets of the guest

    /// Handles one packet. `payload` is exactly `header.length` bytes. A packet that is not from this guest to this
    /// host is dropped; one that fits no connection is answered with a reset.
    pub fn handle_packet(&mut self, header: &Header, payload: &[u8]) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let Some(operation) = Operation::from_number(header.operation) else { return self.refuse(header) };
        if header.kind != TYPE_STREAM {
            return self.refuse(header);
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let Some(peer) = self.peers.get_mut(&key) else {
            return match operation {
                Operation::Request => self.accept(key, header),
                Operation::Reset => {}
                _ => self.refuse(header),
            };
        };
        match peer.connection.receive(operation, header) {
            Ok(Action::None) => {}
            Ok(Action::Opened) => {
                peer.awaits_ok = false;
                // A fresh socket takes a line; one that does not is broken and found out at the next read.
                let _ = peer.socket.write_all(format!("OK {}\n", key.host_port).as_bytes());
            }
            Ok(Action::Deliver) => {
                peer.outgoing.extend(payload);
                Self::flush(peer);
            }
            Ok(Action::EndOfInput) => {
                peer.input_ends = true;
                Self::flush(peer);
            }
            Ok(Action::Drop) => return self.forget(key),
            Err(violation) => {
                tracing::warn!(?violation, host_port = key.host_port, guest_port = key.guest_port, "connection reset");
            }
        }
        self.settle(key);
    }

    fn accept(&mut self, key: Key, request: &Header) {
        if self.connections() >= CONNECTIONS_MAX {
            return self.refuse(request);
        }
        let mut path = self.uds.clone().into_os_string();
        path.push(format!("_{}", key.host_port));
        match connect(Path::new(&path)) {
            Ok(socket) => self.insert(key, Connection::accepted(request), socket),
            Err(error) => {
                tracing::debug!(port = key.host_port, %error, "nobody takes connections to the host port");
                self.refuse(request);
            }
        }
    }

    /// Answers with a reset, unless the packet was one.
    fn refuse(&mut self, header: &Header) {
        if header.operation == Operation::Reset.number() || self.refusals.len() >= REFUSALS_MAX {
            return;
        }
        self.refusals.push_back(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            operation: Operation::Reset.number(),
            ..Header::default()
        });
    }

    // ---- packets for the guest

    /// The next packet for the guest: its header, and its payload in `buffer`, of which at most `room` bytes are used.
    /// One connection gives one packet, then it is the next one's turn.
    pub fn next_packet(&mut self, buffer: &mut [u8], room: usize) -> Option<Header> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(refusal);
        }
        for _ in 0..self.turn.len() {
            let key = self.turn.pop_front()?;
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            peer.queued = false;
            let header = Self::packet_of(self.guest_cid, key, peer, buffer, room);
            self.settle(key);
            if header.is_some() {
                return header;
            }
        }
        None
    }

    fn packet_of(cid: u64, key: Key, peer: &mut Peer, buffer: &mut [u8], room: usize) -> Option<Header> {
        let mut header = Header {
            src_cid: HOST_CID,
            dst_cid: cid,
            src_port: key.host_port,
            dst_port: key.guest_port,
            kind: TYPE_STREAM,
            ..Header::default()
        };
        // Payload that is there goes before the word that no more will come.
        let ends = peer.connection;
        if let Some((operation, flags)) = peer.connection.next_owed() {
            if operation == Operation::Shutdown && peer.readable && ends.may_send() {
                peer.connection = ends;
            } else {
                header.operation = operation.number();
                header.flags = flags;
                peer.connection.tell_credit(&mut header);
                return Some(header);
            }
        }
        if !peer.readable {
            return None;
        }
        if !peer.connection.guest_receives() {
            // What the host still writes goes nowhere; reading on would only hide the end of the socket.
            peer.readable = false;
            return None;
        }
        if !peer.connection.may_send() {
            peer.connection.want_credit();
            return Self::credit_request(peer, header);
        }
        let credit = usize::try_from(peer.connection.credit()).unwrap_or(usize::MAX);
        let most = room.min(PAYLOAD_MAX).min(credit).min(buffer.len());
        match peer.socket.read(buffer.get_mut(..most)?) {
            Ok(0) => {
                peer.readable = false;
                peer.connection.host_ends(if is_hung_up(&peer.socket) {
                    SHUTDOWN_SEND | SHUTDOWN_RECEIVE
                } else {
                    SHUTDOWN_SEND
                });
                let (operation, flags) = peer.connection.next_owed()?;
                header.operation = operation.number();
                header.flags = flags;
            }
            Ok(length) => {
                let length = u32::try_from(length).unwrap_or(0);
                peer.connection.send(length);
                header.operation = Operation::Payload.number();
                header.length = length;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                peer.readable = error.kind() == ErrorKind::Interrupted;
                return None;
            }
            Err(_) => {
                peer.readable = false;
                peer.connection.reset();
                let (operation, _) = peer.connection.next_owed()?;
                header.operation = operation.number();
            }
        }
        peer.connection.tell_credit(&mut header);
        Some(header)
    }

    fn credit_request(peer: &mut Peer, mut header: Header) -> Option<Header> {
        let (operation, flags) = peer.connection.next_owed()?;
        header.operation = operation.number();
        header.flags = flags;
        peer.connection.tell_credit(&mut header);
        Some(header)
    }

    // ---- sockets

    /// Handles what the sockets have to say, without waiting. Call it when [`Mux::event_fd`] is readable.
    pub fn handle_sockets(&mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(128);
        loop {
            events.clear();
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).is_err() {
                return;
            }
            for event in &events {
                let (token, flags) = (event.data.u64(), event.flags);
                if token == LISTENER {
                    self.greet();
                } else if self.callers.contains_key(&token) {
                    self.listen_to(token);
                } else if let Some(key) = self.tokens.get(&token).copied() {
                    self.handle_socket(key, flags);
                }
            }
            if events.len() < events.capacity() {
                return;
            }
        }
    }

    fn handle_socket(&mut self, key: Key, flags: epoll::EventFlags) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if flags.intersects(epoll::EventFlags::OUT | epoll::EventFlags::ERR | epoll::EventFlags::HUP) {
            Self::flush(peer);
        }
        if flags.intersects(
            epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR,
        ) {
            peer.readable = true;
        }
        if flags.contains(epoll::EventFlags::HUP) && peer.awaits_ok {
            peer.connection.reset();
        }
        self.settle(key);
    }

    /// Takes new host programs in.
    fn greet(&mut self) {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            // Beyond the limit the socket is closed at once: the program sees an end instead of OK.
            if self.connections() >= CONNECTIONS_MAX {
                tracing::warn!(limit = CONNECTIONS_MAX, "host connection refused: too many");
                continue;
            }
            let Ok(token) = self.watch(&socket) else { continue };
            self.callers.insert(token, Caller { socket, line: Vec::new() });
            self.listen_to(token);
        }
    }

    /// Reads the `CONNECT` line, byte by byte so that nothing after it is taken.
    fn listen_to(&mut self, token: u64) {
        let Some(caller) = self.callers.get_mut(&token) else { return };
        loop {
            let mut byte = [0];
            match caller.socket.read(&mut byte) {
                Ok(1) if byte == *b"\n" => break,
                Ok(1) if caller.line.len() < CONNECT_LINE_MAX => caller.line.extend(byte),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => {
                    self.callers.remove(&token);
                    return;
                }
            }
        }
        let Some(caller) = self.callers.remove(&token) else { return };
        let port = std::str::from_utf8(&caller.line).ok().and_then(|l| l.strip_prefix("CONNECT ")?.parse().ok());
        let Some(guest_port) = port else { return };
        let key = Key { host_port: self.free_port(guest_port), guest_port };
        self.insert_watched(key, Connection::requested(), caller.socket, token);
    }

    fn free_port(&mut self, guest_port: u32) -> u32 {
        loop {
            let host_port = self.next_port;
            self.next_port = if host_port == u32::MAX { FIRST_HOST_PORT } else { host_port + 1 };
            if !self.peers.contains_key(&Key { host_port, guest_port }) {
                return host_port;
            }
        }
    }

    fn watch(&mut self, socket: &UnixStream) -> io::Result<u64> {
        socket.set_nonblocking(true)?;
        let token = self.next_token;
        self.next_token += 1;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags)?;
        Ok(token)
    }

    fn insert(&mut self, key: Key, mut connection: Connection, socket: UnixStream) {
        let token = match self.watch(&socket) {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(%error, "expected to watch a socket");
                connection.reset();
                self.next_token += 1;
                self.next_token - 1
            }
        };
        self.insert_watched(key, connection, socket, token);
    }

    fn insert_watched(&mut self, key: Key, connection: Connection, socket: UnixStream, token: u64) {
        let awaits_ok = connection.state() == State::Requested;
        let peer = Peer {
            connection,
            socket,
            token,
            outgoing: VecDeque::new(),
            readable: true,
            input_ends: false,
            awaits_ok,
            queued: false,
        };
        self.tokens.insert(token, key);
        self.peers.insert(key, peer);
        self.settle(key);
    }

    /// Gives the socket what waits for it.
    fn flush(peer: &mut Peer) {
        while !peer.outgoing.is_empty() {
            let (front, _) = peer.outgoing.as_slices();
            match peer.socket.write(front) {
                Ok(taken) => {
                    peer.outgoing.drain(..taken);
                    peer.connection.forward(u32::try_from(taken).unwrap_or(BUFFER));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    peer.outgoing.clear();
                    return peer.connection.reset();
                }
            }
        }
        if std::mem::take(&mut peer.input_ends) {
            let _ = peer.socket.shutdown(Shutdown::Write);
        }
    }

    /// After anything happened to a connection: forget it, or give it its turn.
    fn settle(&mut self, key: Key) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.connection.state() != State::Gone && peer.connection.is_finished() {
            // Both directions are over: the guest waits for the reset that confirms it.
            peer.connection.reset();
        }
        if peer.connection.state() == State::Gone && !peer.connection.owes() {
            return self.forget(key);
        }
        let ready = peer.connection.owes()
            || (peer.readable
                && peer.connection.state() == State::Established
                && (peer.connection.may_send() || needs_credit(&mut peer.connection)));
        if ready && !peer.queued {
            peer.queued = true;
            self.turn.push_back(key);
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(peer) = self.peers.remove(&key) {
            self.tokens.remove(&peer.token);
            // A guest that takes nothing would fill the queue with connections that are gone.
            if peer.queued {
                self.turn.retain(|waiting| *waiting != key);
            }
        }
    }
}

/// Asks for credit where that is what is missing; true when the question is owed now.
fn needs_credit(connection: &mut Connection) -> bool {
    connection.want_credit();
    connection.owes()
}
