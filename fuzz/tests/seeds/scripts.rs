//! Seeds of the vsock device: scripts of a guest and of the programs beside it.

use coffer_fuzz::script::Writer;
use coffer_fuzz::vsock_rings::{AVAIL, RING};
use coffer_vsock::packet::{Header, Operation, TYPE_STREAM};

use crate::{Seed, seed};

/// `vsock_mux`: a packet of this operation between a port of the guest and one of the host, with a large buffer.
fn packet(writer: Writer, operation: u8, ports: u8, flags: u8) -> Writer {
    let writer = writer.u8(0).u8(operation).u8(ports).u8(flags | 0xa0);
    if operation == 5 { writer.u16(3000).u16(0) } else { writer.u16(0) }
}

fn take(writer: Writer) -> Writer {
    writer.u8(4).u8(31).u16(4096)
}

fn mux() -> Vec<Seed> {
    let open = || packet(Writer::default(), 1, 8, 0);
    let echo = take(packet(take(open()), 5, 8, 0)).u8(7).u8(0).u16(5000);
    let echo = take(take(echo)).u8(8).u8(0).u16(9000);
    let ended = take(packet(take(packet(echo.clone(), 4, 8, 3)), 3, 8, 0));
    let come_and_go = (0..40).fold(Writer::default(), |w, _| packet(packet(w, 1, 8, 0), 3, 8, 0));
    let called = take(Writer::default().u8(6).u8(1)).u8(0).u8(2).u8(8 + 5).u8(0xa0).u16(0);
    let called = take(called.u8(7).u8(0).u16(100)).u8(9).u8(0).u8(0);
    let strangers = (0..60).fold(Writer::default(), |w, n| packet(w, 5, n * 4 + 4, 0));
    let credit = packet(take(packet(open(), 6, 8, 0)), 7, 8, 0);
    vec![
        seed("vsock_mux", "echo", echo.0),
        seed("vsock_mux", "ended", ended.0),
        seed("vsock_mux", "come-and-go", come_and_go.0),
        seed("vsock_mux", "called", take(called).0),
        seed("vsock_mux", "a-line-too-long", Writer::default().u8(6).u8(7).counted(&[b'C'; 100]).0),
        seed("vsock_mux", "strangers", strangers.0),
        seed("vsock_mux", "credit", credit.0),
    ]
}

fn connection() -> Vec<Seed> {
    // A packet: operation, plain form, length, buffer, count, flags.
    let packet = |w: Writer, operation: u8, length: u16, taken: u32, flags: u8| {
        w.u8(0).u8(operation).u8(0).u16(length).u32(4096).u32(taken).u8(flags)
    };
    let accepted = || Writer::default().u8(0).u16(0).u32(4096).u32(0).u8(0).u8(8);
    let sent = packet(accepted().u8(3).u32(4096).u8(5).u8(8), 6, 0, 4096, 0);
    let lies = packet(accepted().u8(3).u32(100), 6, 0, u32::MAX, 0);
    let full = (0..5).fold(accepted(), |w, _| packet(w, 5, 65_535, 0, 0));
    let given = packet(accepted(), 5, 1000, 0, 0).u8(2).u32(1000).u8(6);
    let ended = packet(packet(accepted(), 4, 0, 0, 2), 5, 1, 0, 0);
    let requested = packet(Writer::default().u8(1).u8(8), 2, 0, 0, 0).u8(4).u8(3).u8(8).u8(7).u8(0);
    vec![
        seed("vsock_connection", "sent", sent.0),
        seed("vsock_connection", "lies", lies.0),
        seed("vsock_connection", "full", full.0),
        seed("vsock_connection", "given", given.0),
        seed("vsock_connection", "ended", ended.0),
        seed("vsock_connection", "requested", requested.0),
    ]
}

/// A write of the guest to its memory, then a notification.
fn write(writer: Writer, address: u64, bytes: &[u8], notify: u8) -> Writer {
    writer.u16(u16::try_from(address / 4).expect("an address")).counted(bytes).u8(notify)
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// The head of an avail ring: flags, index, entries.
fn available(index: u16, entries: &[u16]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|entry| entry.to_le_bytes());
    [0, 0].into_iter().chain(index.to_le_bytes()).chain(entries).collect()
}

fn header(operation: Operation, length: u32) -> Vec<u8> {
    let header = Header {
        src_cid: 4096,
        dst_cid: 2,
        src_port: 1,
        dst_port: 1024,
        length,
        kind: TYPE_STREAM,
        operation: operation.number(),
        buf_alloc: 65_536,
        ..Header::default()
    };
    header.to_bytes().to_vec()
}

const TO_GUEST: u64 = RING;
const FROM_GUEST: u64 = 2 * RING;
const BUFFERS: u64 = 0x8000;
const NO_RING: u8 = 3;

fn rings() -> Vec<Seed> {
    let start = || Writer::default().u8(0);
    // A buffer for the guest, and a request in the other ring.
    let room = |w: Writer| {
        let w = write(w, TO_GUEST, &descriptor(BUFFERS, 4096, 2, 0), NO_RING);
        write(w, TO_GUEST + AVAIL, &available(1, &[0]), NO_RING)
    };
    let request = |w: Writer| {
        let w = write(w, BUFFERS + 0x2000, &header(Operation::Request, 0), NO_RING);
        let w = write(w, FROM_GUEST, &descriptor(BUFFERS + 0x2000, 44, 0, 0), NO_RING);
        write(w, FROM_GUEST + AVAIL, &available(1, &[0]), 1)
    };
    let opened = request(room(start()));
    let payload = write(opened.clone(), BUFFERS + 0x2000, &header(Operation::Payload, 20), NO_RING);
    let chained = [descriptor(BUFFERS + 0x2000, 44, 1, 1), descriptor(BUFFERS + 0x2100, 20, 0, 0)].concat();
    let payload = write(payload, FROM_GUEST, &chained, NO_RING);
    let payload = write(payload, FROM_GUEST + AVAIL, &available(2, &[0, 0]), 1);
    let longer = write(start(), BUFFERS + 0x2000, &header(Operation::Payload, u32::MAX), NO_RING);
    let longer = write(longer, FROM_GUEST, &descriptor(BUFFERS + 0x2000, u32::MAX, 0, 0), NO_RING);
    let longer = write(longer, FROM_GUEST + AVAIL, &available(1, &[0]), 1);
    let looped = write(start(), FROM_GUEST, &descriptor(BUFFERS, 44, 1, 0), NO_RING);
    let looped = write(looped, FROM_GUEST + AVAIL, &available(2, &[0, 40_000]), 1);
    let indirect = write(start(), BUFFERS, &descriptor(BUFFERS + 64, 44, 1, 9), NO_RING);
    let indirect = write(indirect, FROM_GUEST, &descriptor(BUFFERS, 16, 4, 0), NO_RING);
    let indirect = write(indirect, FROM_GUEST + AVAIL, &available(1, &[0]), 1);
    let ahead = write(start(), FROM_GUEST + AVAIL, &available(60_000, &[]), 1);
    let ahead_to_guest = write(write(start(), TO_GUEST + AVAIL, &available(60_000, &[]), 0), 0, &[], 1);
    let ahead_both = request(write(start(), TO_GUEST + AVAIL, &available(60_000, &[]), NO_RING));
    vec![
        seed("vsock_rings", "opened", opened.0),
        seed("vsock_rings", "payload", payload.0),
        seed("vsock_rings", "longer-than-memory", longer.0),
        seed("vsock_rings", "a-chain-in-a-circle", looped.0),
        seed("vsock_rings", "indirect", indirect.0),
        seed("vsock_rings", "an-index-far-ahead", ahead.0),
        seed("vsock_rings", "an-index-far-ahead-of-the-other-ring", ahead_to_guest.0),
        seed("vsock_rings", "an-answer-with-nowhere-to-go", ahead_both.0),
    ]
}

pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = mux();
    seeds.extend(connection());
    seeds.extend(rings());
    seeds
}
