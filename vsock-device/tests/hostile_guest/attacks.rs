//! What a hostile driver puts into rings: chains, headers, and the rings themselves. Where the device must return a chain,
//! the attack waits for it.

use coffer_vsock::packet::{HEADER_LENGTH, HOST_CID, Header, Operation, SHUTDOWN_SEND};
use vm_memory::{Bytes as _, GuestAddress};

use super::driver::{
    Descriptor, Driver, EVENTS, FROM_GUEST, GUEST_CID, INDIRECT, MEMORY, NEXT, OUTPUTS, SIZE, TABLES, TO_GUEST, WRITE,
};
use super::{ECHO, NOBODY, Scene};

pub(crate) type Attack = (&'static str, fn(&mut Scene));

const LENGTH: u32 = 44;

fn at(at: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { at, length, flags, next }
}

/// A good header where the attacks point to.
fn lay_header(scene: &Scene, header: &Header) {
    scene.driver.memory.write_slice(&header.to_bytes(), GuestAddress(OUTPUTS)).expect("a header");
}

/// Offers one chain to the device and waits until it comes back.
fn chain(scene: &mut Scene, ring: usize, descriptors: &[Descriptor]) {
    lay_header(scene, &Driver::packet(Operation::Request, 1, NOBODY));
    for (descriptor, index) in descriptors.iter().zip(0..) {
        scene.driver.describe(ring, index, *descriptor);
    }
    scene.driver.offer(ring, 0);
    scene.driver.kick(ring);
    if ring == FROM_GUEST {
        scene.driver.used(ring);
    }
}

fn from_guest(scene: &mut Scene, descriptors: &[Descriptor]) {
    chain(scene, FROM_GUEST, descriptors);
}

/// Uses up the guest's free buffers: each of these packets is answered with a reset.
fn use_up_buffers(scene: &mut Scene) {
    let fill: Vec<_> =
        (0..u32::from(SIZE)).map(|n| (Driver::packet(Operation::Payload, 60_000 + n, NOBODY), vec![])).collect();
    scene.driver.send(&fill);
    let mut filled = 0;
    while filled < usize::from(SIZE) {
        filled += scene.driver.used(TO_GUEST).len();
    }
}

/// Makes bad buffers the only ones of the guest, and has the device want to say something.
fn to_guest(scene: &mut Scene, descriptors: &[Descriptor]) {
    use_up_buffers(scene);
    for (descriptor, index) in descriptors.iter().zip(0..) {
        scene.driver.describe(TO_GUEST, index, *descriptor);
    }
    scene.driver.offer(TO_GUEST, 0);
    scene.driver.kick(TO_GUEST);
    scene.driver.say(Operation::Payload, 1, NOBODY);
    // It comes back, used for something or not.
    scene.driver.used(TO_GUEST);
}

/// An indirect table in memory, and the descriptor that names it.
fn table(scene: &Scene, at_: u64, entries: &[Descriptor]) -> Descriptor {
    for (entry, n) in entries.iter().zip(0..) {
        scene.driver.describe_at(at_ + n * 16, *entry);
    }
    at(at_, u32::try_from(entries.len() * 16).expect("small"), INDIRECT, 0)
}

pub(crate) const CHAINS: &[Attack] = &[
    ("a header outside memory", |s| from_guest(s, &[at(MEMORY, LENGTH, 0, 0)])),
    ("a header over the end of memory", |s| from_guest(s, &[at(MEMORY - 20, LENGTH, 0, 0)])),
    ("a header at the end of the address space", |s| from_guest(s, &[at(u64::MAX - 10, LENGTH, 0, 0)])),
    ("a payload outside memory", |s| {
        lay_header(s, &Header { length: 100, ..Driver::packet(Operation::Payload, 1, ECHO) });
        from_guest(s, &[at(OUTPUTS, LENGTH, NEXT, 1), at(1 << 60, 100, 0, 0)]);
    }),
    ("a chain that is its own next", |s| from_guest(s, &[at(OUTPUTS, LENGTH, NEXT, 0)])),
    ("a chain in a circle", |s| {
        from_guest(s, &[at(OUTPUTS, 4, NEXT, 1), at(OUTPUTS, 4, NEXT, 2), at(OUTPUTS, 4, NEXT, 0)]);
    }),
    ("a next beyond the table", |s| from_guest(s, &[at(OUTPUTS, 20, NEXT, SIZE), at(OUTPUTS, 24, 0, 0)])),
    ("a next of 65535", |s| from_guest(s, &[at(OUTPUTS, 20, NEXT, u16::MAX)])),
    ("a chain as long as the ring", |s| {
        let all: Vec<_> = (0..SIZE).map(|n| at(OUTPUTS, 1, NEXT, (n + 1) % SIZE)).collect();
        from_guest(s, &all);
    }),
    ("a chain of more than 4 GiB", |s| from_guest(s, &[at(0, u32::MAX, NEXT, 1), at(0, u32::MAX, 0, 0)])),
    ("a length of 4 GiB", |s| from_guest(s, &[at(OUTPUTS, u32::MAX, 0, 0)])),
    ("no length", |s| from_guest(s, &[at(OUTPUTS, 0, 0, 0)])),
    ("nothing but empty descriptors", |s| from_guest(s, &[at(0, 0, NEXT, 1), at(0, 0, NEXT, 2), at(0, 0, 0, 0)])),
    ("a header that the device would have to write", |s| from_guest(s, &[at(OUTPUTS, LENGTH, WRITE, 0)])),
    ("a payload that the device would have to write", |s| {
        lay_header(s, &Header { length: 100, ..Driver::packet(Operation::Payload, 1, ECHO) });
        from_guest(s, &[at(OUTPUTS, LENGTH, NEXT, 1), at(OUTPUTS, 100, WRITE, 0)]);
    }),
    ("every flag", |s| from_guest(s, &[at(OUTPUTS, LENGTH, u16::MAX, 1), at(OUTPUTS, LENGTH, u16::MAX, 0)])),
    ("an indirect table of odd length", |s| from_guest(s, &[at(TABLES, 17, INDIRECT, 0)])),
    ("an indirect table of no length", |s| from_guest(s, &[at(TABLES, 0, INDIRECT, 0)])),
    ("an indirect table of 4 GiB", |s| from_guest(s, &[at(TABLES, 0xffff_fff0, INDIRECT, 0)])),
    ("an indirect table outside memory", |s| from_guest(s, &[at(MEMORY, 32, INDIRECT, 0)])),
    ("an indirect table in an indirect table", |s| {
        let inner = table(s, TABLES + 0x1000, &[at(OUTPUTS, LENGTH, 0, 0)]);
        let outer = table(s, TABLES, &[inner]);
        from_guest(s, &[outer]);
    }),
    ("an indirect table that is itself", |s| {
        let own = table(s, TABLES, &[at(TABLES, 16, INDIRECT, 0)]);
        from_guest(s, &[own]);
    }),
    ("an indirect table with a next", |s| {
        let inner = table(s, TABLES, &[at(OUTPUTS, LENGTH, 0, 0)]);
        from_guest(s, &[Descriptor { flags: INDIRECT | NEXT, next: 0, ..inner }]);
    }),
    ("an indirect table in a circle, as large as can be", |s| {
        for n in 0..0xffff_u16 {
            s.driver.describe_at(TABLES + 0x100_0000 + u64::from(n) * 16, at(OUTPUTS, 1, NEXT, (n + 1) % 0xffff));
        }
        from_guest(s, &[at(TABLES + 0x100_0000, 0xffff0, INDIRECT, 0)]);
    }),
    ("a buffer outside memory", |s| to_guest(s, &[at(MEMORY, 4096, WRITE, 0)])),
    ("a buffer over the end of memory", |s| to_guest(s, &[at(MEMORY - 50, 4096, WRITE, 0)])),
    ("a buffer that may only be read", |s| to_guest(s, &[at(OUTPUTS, 4096, 0, 0)])),
    ("a buffer of no length", |s| to_guest(s, &[at(OUTPUTS, 0, WRITE, 0)])),
    ("a buffer smaller than a header", |s| to_guest(s, &[at(OUTPUTS, 43, WRITE, 0)])),
    ("a buffer that is its own next", |s| to_guest(s, &[at(OUTPUTS, 1, WRITE | NEXT, 0)])),
    ("a buffer of 4 GiB", |s| to_guest(s, &[at(0, u32::MAX, WRITE, 0)])),
    ("a buffer in an indirect table of odd length", |s| to_guest(s, &[at(TABLES, 15, INDIRECT, 0)])),
    ("a buffer with room for a header alone", |s| {
        let port = opened(s);
        use_up_buffers(s);
        s.driver.send(&[Driver::payload(port, ECHO, b"x")]);
        s.driver.describe(TO_GUEST, 0, at(OUTPUTS, LENGTH, WRITE, 0));
        s.driver.offer(TO_GUEST, 0);
        s.driver.kick(TO_GUEST);
        assert_eq!(s.driver.used(TO_GUEST), [(0, 0)], "no word of an end that was none");
        s.driver.describe(TO_GUEST, 1, at(OUTPUTS, 4096, WRITE, 0));
        s.driver.offer(TO_GUEST, 1);
        s.driver.kick(TO_GUEST);
        assert_eq!(s.driver.used(TO_GUEST), [(1, LENGTH + 1)], "the byte that waited");
        s.driver.say(Operation::Reset, port, ECHO);
    }),
    ("a buffer over the ring that it is in", |s| to_guest(s, &[at(0x1_0000, 0x4000, WRITE, 0)])),
];

/// Sends one packet as it is.
fn packet(scene: &mut Scene, header: Header, payload: &[u8]) {
    scene.driver.send(&[(header, payload.to_vec())]);
}

/// A connection of the guest to the echo.
fn opened(scene: &mut Scene) -> u32 {
    let port = scene.fresh_port();
    scene.driver.say(Operation::Request, port, ECHO);
    scene.driver.expect_of(Operation::Response, port);
    port
}

/// Sends one packet in an open connection, which the device resets for it.
fn resets(scene: &mut Scene, change: impl Fn(&mut Header), payload: &[u8]) {
    let port = opened(scene);
    let (mut header, payload) = Driver::payload(port, ECHO, payload);
    change(&mut header);
    packet(scene, header, &payload);
    scene.driver.expect_of(Operation::Reset, port);
}

/// Sends one packet in an open connection, which the device makes nothing of: it goes on.
fn ignores(scene: &mut Scene, change: impl Fn(&mut Header), payload: &[u8]) {
    let port = opened(scene);
    let (mut header, payload) = Driver::payload(port, ECHO, payload);
    change(&mut header);
    packet(scene, header, &payload);
    scene.driver.send(&[Driver::payload(port, ECHO, b"still here")]);
    let (_, heard) = scene.driver.expect_of(Operation::Payload, port);
    assert_eq!(heard, b"still here");
    scene.end(port, ECHO);
}

pub(crate) const HEADERS: &[Attack] = &[
    ("a header over many descriptors", |s| {
        // Odd, and good: it is served.
        let port = s.fresh_port();
        let header = Driver::packet(Operation::Request, port, ECHO);
        s.driver.memory.write_slice(&header.to_bytes(), GuestAddress(OUTPUTS)).expect("a header");
        let length = u16::try_from(HEADER_LENGTH).expect("44");
        for n in 0..length {
            let flags = if n + 1 < length { NEXT } else { 0 };
            s.driver.describe(FROM_GUEST, n, at(OUTPUTS + u64::from(n), 1, flags, n + 1));
        }
        s.driver.offer(FROM_GUEST, 0);
        s.driver.kick(FROM_GUEST);
        s.driver.expect_of(Operation::Response, port);
        s.end(port, ECHO);
    }),
    ("half a header", |s| from_guest(s, &[at(OUTPUTS, 22, 0, 0)])),
    ("a header less a byte", |s| from_guest(s, &[at(OUTPUTS, 43, 0, 0)])),
    ("a length of 0xffffffff", |s| ignores(s, |h| h.length = u32::MAX, b"")),
    ("a length larger than any packet", |s| ignores(s, |h| h.length = 64 * 1024 + 1, &[7; 4096])),
    ("a length larger than the descriptors", |s| ignores(s, |h| h.length += 1, b"half a packet")),
    ("more bytes than the length says", |s| ignores(s, |h| h.length = 0, b"beside the point")),
    ("operation 0", |s| {
        let port = opened(s);
        packet(s, Header { operation: 0, ..Driver::packet(Operation::Payload, port, ECHO) }, b"");
        s.driver.expect_of(Operation::Reset, port);
        s.driver.say(Operation::Reset, port, ECHO);
    }),
    ("operation 65535", |s| {
        packet(s, Header { operation: u16::MAX, ..Driver::packet(Operation::Payload, 9, NOBODY) }, b"");
        s.driver.expect_of(Operation::Reset, 9);
    }),
    ("a datagram", |s| {
        packet(s, Header { kind: 3, ..Driver::packet(Operation::Request, 9, ECHO) }, b"");
        s.driver.expect_of(Operation::Reset, 9);
    }),
    ("type 65535", |s| {
        packet(s, Header { kind: u16::MAX, ..Driver::packet(Operation::Request, 9, ECHO) }, b"");
        s.driver.expect_of(Operation::Reset, 9);
    }),
    ("every flag of a payload", |s| {
        let port = opened(s);
        let (header, payload) = Driver::payload(port, ECHO, b"odd");
        packet(s, Header { flags: u32::MAX, ..header }, &payload);
        assert_eq!(s.driver.expect_of(Operation::Payload, port).1, b"odd");
        s.end(port, ECHO);
    }),
    ("a shutdown of nothing", |s| {
        ignores(s, |h| (h.operation, h.flags) = (Operation::Shutdown.number(), 0xffff_fffc), b"");
    }),
    ("another sender", |s| ignores(s, |h| h.src_cid = GUEST_CID + 1, b"forged")),
    ("the host as the sender", |s| ignores(s, |h| h.src_cid = HOST_CID, b"forged")),
    ("another receiver", |s| ignores(s, |h| h.dst_cid = GUEST_CID, b"forged")),
    ("a receiver of 2^32 + 2", |s| ignores(s, |h| h.dst_cid = (1 << 32) + HOST_CID, b"forged")),
    ("a request on an open connection", |s| resets(s, |h| h.operation = Operation::Request.number(), b"")),
    ("a response nobody asked for", |s| resets(s, |h| h.operation = Operation::Response.number(), b"")),
    ("payload after the end", |s| {
        let port = opened(s);
        let mut end = Driver::packet(Operation::Shutdown, port, ECHO);
        end.flags = SHUTDOWN_SEND;
        s.driver.send(&[(end, vec![]), Driver::payload(port, ECHO, b"more")]);
        s.driver.expect_of(Operation::Reset, port);
    }),
    ("packets for connections that are not there", |s| {
        for (operation, port) in [Operation::Response, Operation::Shutdown, Operation::Payload].into_iter().zip(1..) {
            s.driver.say(operation, port, ECHO);
            s.driver.expect_of(Operation::Reset, port);
        }
        for operation in [Operation::CreditUpdate, Operation::CreditRequest] {
            s.driver.say(operation, 8, ECHO);
            s.driver.expect_of(Operation::Reset, 8);
        }
        s.driver.say(Operation::Reset, 9, ECHO);
    }),
    ("no buffer at all", |s| {
        let port = opened(s);
        let (mut header, payload) = Driver::payload(port, ECHO, b"where to");
        header.buf_alloc = 0;
        packet(s, header, &payload);
        // The device asks for room, and keeps what it has.
        s.driver.expect_of(Operation::CreditRequest, port);
        s.driver.say(Operation::CreditUpdate, port, ECHO);
        assert_eq!(s.driver.expect_of(Operation::Payload, port).1, b"where to");
        s.end(port, ECHO);
    }),
    ("a buffer of 4 GiB that was emptied before it was filled", |s| {
        let port = opened(s);
        for taken in [u32::MAX, 1 << 31, 1, 0] {
            let (mut header, payload) = Driver::payload(port, ECHO, b"x");
            (header.buf_alloc, header.fwd_cnt) = (u32::MAX, taken);
            packet(s, header, &payload);
            assert_eq!(s.driver.expect_of(Operation::Payload, port).1, b"x");
        }
        s.end(port, ECHO);
    }),
];

pub(crate) const RINGS: &[Attack] = &[
    ("a head beyond the table", |s| {
        s.driver.offer(FROM_GUEST, SIZE);
        s.driver.offer(FROM_GUEST, u16::MAX);
        s.driver.kick(FROM_GUEST);
        // What comes after it is taken.
        s.driver.say(Operation::Payload, 5, NOBODY);
        s.driver.expect_of(Operation::Reset, 5);
    }),
    ("a buffer's head beyond the table", |s| {
        s.driver.offer(TO_GUEST, SIZE);
        s.driver.offer(TO_GUEST, u16::MAX);
        s.driver.kick(TO_GUEST);
    }),
    ("an index of what is there that jumps", |s| {
        let there = s.driver.available(FROM_GUEST);
        s.driver.set_available(FROM_GUEST, there.wrapping_add(SIZE + 1));
        s.driver.kick(FROM_GUEST);
    }),
    ("an index of what is there that goes back", |s| {
        let there = s.driver.available(FROM_GUEST);
        s.driver.set_available(FROM_GUEST, there.wrapping_sub(1));
        s.driver.kick(FROM_GUEST);
    }),
    ("an index of free buffers that jumps", |s| {
        let free = s.driver.available(TO_GUEST);
        s.driver.set_available(TO_GUEST, free.wrapping_add(20_000));
        s.driver.kick(TO_GUEST);
        // There is something to say, and no way to.
        s.driver.say(Operation::Payload, 5, NOBODY);
    }),
    ("what is available over the end of memory", |s| {
        s.driver.move_available(FROM_GUEST, MEMORY - 4, 1);
        s.driver.kick(FROM_GUEST);
    }),
    ("the same chain many times", |s| {
        lay_header(s, &Driver::packet(Operation::Payload, 5, NOBODY));
        s.driver.describe(FROM_GUEST, 0, at(OUTPUTS, LENGTH, 0, 0));
        for _ in 0..SIZE {
            s.driver.offer(FROM_GUEST, 0);
        }
        s.driver.kick(FROM_GUEST);
        let mut returned = 0;
        while returned < usize::from(SIZE) {
            returned += s.driver.used(FROM_GUEST).len();
        }
    }),
    ("anything in the ring of events", |s| {
        s.driver.describe(EVENTS, 0, at(MEMORY, u32::MAX, u16::MAX, u16::MAX));
        s.driver.offer(EVENTS, 0);
        s.driver.set_available(EVENTS, 40_000);
        s.driver.kick(EVENTS);
    }),
    ("a storm of kicks", |s| {
        for n in 0..100_000 {
            s.driver.kick(n % 3);
        }
    }),
    ("memory that is told again while it is used", |s| {
        let port = opened(s);
        for _ in 0..50 {
            s.driver.send(&[Driver::payload(port, ECHO, b"meanwhile")]);
            s.driver.share_memory();
        }
        s.end(port, ECHO);
    }),
    ("rings written over", |s| {
        for ring in [0x1_0000, 0x2_0000, 0x3_0000] {
            s.driver.memory.write_slice(&[0xff; 0x8000], GuestAddress(ring)).expect("written");
        }
        for ring in [TO_GUEST, FROM_GUEST, EVENTS] {
            s.driver.kick(ring);
        }
    }),
];
