//! More of everything: requests, data that nobody reads, connections that are opened and dropped. Each ends as a guest that
//! has had enough of it would, so that what stays is the device's own doing.

use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use coffer_vsock::connection::BUFFER;
use coffer_vsock::mux::CONNECTIONS_MAX;
use coffer_vsock::packet::{Header, Operation, PAYLOAD_MAX};

use super::attacks::Attack;
use super::device::SOON;
use super::driver::{Descriptor, Driver, FROM_GUEST, INDIRECT, NEXT, OUTPUTS, SIZE, TABLES};
use super::{ECHO, NOBODY, SMALL_KIB};

/// A host port whose program takes connections and reads nothing.
const DEAF: u32 = 7001;
/// A host port whose program does not even take connections.
const BUSY: u32 = 7002;
/// A host port whose program lets go of each connection at once.
const BRIEF: u32 = 7004;
/// Guest ports of floods start here.
const FIRST: u32 = 100_000;

fn requests(ports: impl Iterator<Item = u32>, host_port: u32) -> Vec<(Header, Vec<u8>)> {
    ports.map(|port| (Driver::packet(Operation::Request, port, host_port), Vec::new())).collect()
}

fn resets(ports: impl Iterator<Item = u32>, host_port: u32) -> Vec<(Header, Vec<u8>)> {
    ports.map(|port| (Driver::packet(Operation::Reset, port, host_port), Vec::new())).collect()
}

pub(crate) const FLOODS: &[Attack] = &[
    ("tens of thousands of requests to nobody", |s| {
        s.driver.send(&requests(FIRST..FIRST + 30_000, NOBODY));
        s.driver.expect_of(Operation::Reset, FIRST);
        let memory = s.device.memory_kib();
        assert!(memory < SMALL_KIB, "{memory} KiB");
    }),
    ("tens of thousands of requests to a program", |s| {
        s.driver.send(&requests(FIRST..FIRST + 30_000, ECHO));
        let descriptors = s.device.descriptors();
        assert!(descriptors <= s.descriptors + CONNECTIONS_MAX, "{descriptors} descriptors");
        s.driver.send(&resets(FIRST..FIRST + 30_000, ECHO));
    }),
    ("a connection that is opened and dropped without end, and nothing of it heard", |s| {
        let listener = UnixListener::bind(s.device.port(BRIEF)).expect("listen");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        // The guest's free buffers are used up first.
        s.driver.send(&requests(FIRST..FIRST + u32::from(SIZE), NOBODY));
        let round = [Operation::Request, Operation::Reset]
            .map(|operation| (Driver::packet(operation, FIRST, BRIEF), Vec::new()));
        let many: Vec<_> = round.into_iter().cycle().take(800_000).collect();
        let before = s.device.memory_kib();
        s.driver.send(&many);
        let memory = s.device.memory_kib();
        assert!(memory < before + 1024, "{before} KiB before, {memory} after");
    }),
    ("data that nobody reads", |s| {
        let listener = UnixListener::bind(s.device.port(DEAF)).expect("listen");
        let count = 128;
        s.driver.send(&requests(FIRST..FIRST + count, DEAF));
        let deaf: Vec<UnixStream> = (0..count).map(|_| listener.accept().expect("a connection").0).collect();
        let chunk = vec![7; PAYLOAD_MAX];
        // The device's buffer, what the kernel holds beside it, and more.
        for port in FIRST..FIRST + count {
            let flood: Vec<_> = (0..12).map(|_| Driver::payload(port, DEAF, &chunk)).collect();
            s.driver.send(&flood[..4]);
            s.driver.send(&flood[4..]);
            s.driver.expect_of(Operation::Reset, port);
        }
        drop(deaf);
    }),
    ("data that nobody reads, within the credit", |s| {
        let listener = UnixListener::bind(s.device.port(BUSY)).expect("listen");
        let count = 128;
        s.driver.send(&requests(FIRST..FIRST + count, BUSY));
        let chunk = vec![7; PAYLOAD_MAX / 2 - 1];
        let before = s.device.memory_kib();
        for port in FIRST..FIRST + count {
            let flood: Vec<_> = (0..BUFFER / 0x8000).map(|_| Driver::payload(port, BUSY, &chunk)).collect();
            s.driver.send(&flood);
        }
        let memory = s.device.memory_kib();
        let most = u64::from(count * BUFFER / 1024);
        assert!(memory < before + most, "{before} KiB before, {memory} after");
        drop(listener);
        s.driver.send(&resets(FIRST..FIRST + count, BUSY));
    }),
    ("requests to a program that takes none", |s| {
        let path = s.device.port(BUSY + 1);
        let address = rustix::net::SocketAddrUnix::new(&path).expect("an address");
        let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
        let socket = socket.expect("a socket");
        rustix::net::bind(&socket, &address).expect("bound");
        rustix::net::listen(&socket, 4).expect("listening");
        s.driver.send(&requests(FIRST..FIRST + 100, BUSY + 1));
        // Those that do not fit into its queue are refused, and nobody waits for them.
        s.driver.expect_of(Operation::Reset, FIRST + 99);
        s.driver.send(&resets(FIRST..FIRST + 100, BUSY + 1));
    }),
    ("chains without end while a program calls", |s| {
        let port = s.fresh_port();
        // Long ones, so that the device is never faster than the driver.
        let (table, count) = (OUTPUTS, 20_000_u16);
        for n in 0..count {
            let piece = Descriptor { at: TABLES, length: 1, flags: NEXT, next: (n + 1) % count };
            s.driver.describe_at(table + u64::from(n) * 16, piece);
        }
        let length = u32::from(count) * 16;
        s.driver.describe(FROM_GUEST, 0, Descriptor { at: table, length, flags: INDIRECT, next: 0 });
        (0..SIZE).for_each(|_| s.driver.offer(FROM_GUEST, 0));
        s.driver.kick(FROM_GUEST);
        let mut program = UnixStream::connect(s.device.uds()).expect("connect");
        program.write_all(format!("CONNECT {port}\n").as_bytes()).expect("ask");
        // The ring is never empty until the guest has heard of it.
        let begin = Instant::now();
        while !s.driver.has_received() {
            let used = s.driver.used_index(FROM_GUEST);
            s.driver.set_available(FROM_GUEST, used.wrapping_add(SIZE));
            assert!(begin.elapsed() < SOON, "the device sees nothing but the guest");
        }
        s.driver.expect_of(Operation::Request, port);
        drop(program);
        s.driver.reset();
    }),
    ("credit updates without end", |s| {
        let port = s.fresh_port();
        s.driver.say(Operation::Request, port, ECHO);
        let update = (Driver::packet(Operation::CreditUpdate, port, ECHO), Vec::new());
        let ask = (Driver::packet(Operation::CreditRequest, port, ECHO), Vec::new());
        let many: Vec<_> = [update, ask].into_iter().cycle().take(100_000).collect();
        s.driver.send(&many);
        s.end(port, ECHO);
    }),
];
