//! The host side of the vsock device with real sockets, between a hostile guest and programs that come and go: its tables
//! stay bounded, it gives no more payload than it has credit for, and it comes to rest.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use coffer_vsock::connection::BUFFER;
use coffer_vsock::mux::{CONNECT_LINE_MAX, CONNECTIONS_MAX, Mux, REFUSALS_MAX};
use coffer_vsock::packet::{HEADER_LENGTH, HOST_CID, Header, Operation, PAYLOAD_MAX, TYPE_STREAM};

use crate::script::Script;

const CID: u64 = 4096;
/// The port on which a program of the host listens.
const SERVED: u32 = 1024;
/// Steps of one script: each may open a socket.
const STEPS_MAX: usize = 200;

struct World {
    mux: Mux,
    served: UnixListener,
    programs: Vec<UnixStream>,
    /// What the guest last said of its buffer, by host port and guest port.
    told: HashMap<(u32, u32), u32>,
    uds: std::path::PathBuf,
    buffer: Vec<u8>,
}

impl World {
    fn new(root: &Path) -> Self {
        let uds = root.join("v");
        let served = UnixListener::bind(root.join(format!("v_{SERVED}"))).expect("a socket");
        served.set_nonblocking(true).expect("not blocking");
        let mux = Mux::new(CID, &uds).expect("a mux");
        Self { mux, served, programs: Vec::new(), told: HashMap::new(), uds, buffer: vec![0; PAYLOAD_MAX] }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.served.accept() {
            self.adopt(socket);
        }
    }

    fn adopt(&mut self, socket: UnixStream) {
        socket.set_nonblocking(true).expect("not blocking");
        self.programs.push(socket);
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        // Words that are not for a connection of this guest say nothing of its buffers.
        let heard = (header.src_cid, header.dst_cid, header.kind) == (CID, HOST_CID, TYPE_STREAM);
        if heard && Operation::from_number(header.operation).is_some() {
            self.told.insert((header.dst_port, header.src_port), header.buf_alloc);
        }
        self.mux.handle_packet(header, payload);
        self.accept();
    }

    /// Takes packets like a guest with buffers of this size, up to so many.
    fn take(&mut self, most: usize, room: usize) {
        for _ in 0..most {
            let Some(header) = self.mux.next_packet(&mut self.buffer, room) else { return };
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
            let length = usize::try_from(header.length).expect("a length");
            assert!(length <= room && length <= PAYLOAD_MAX, "{length} bytes for a buffer of {room}");
            let operation = Operation::from_number(header.operation).expect("an operation");
            assert!(length == 0 || operation == Operation::Payload, "{operation:?} with payload");
            if operation == Operation::Payload {
                let told = self.told.get(&(header.src_port, header.dst_port)).copied().unwrap_or(0);
                assert!(header.length <= told, "{length} bytes for a credit of {told}");
                assert!(length > 0, "payload without payload");
            }
        }
    }

    fn hold(&self) {
        let held = self.mux.footprint();
        assert!(held.connections <= CONNECTIONS_MAX, "{held:?}");
        assert!(held.refusals <= REFUSALS_MAX, "{held:?}");
        assert!(held.outgoing <= BUFFER as usize, "{held:?}");
        assert!(held.line <= CONNECT_LINE_MAX, "{held:?}");
        // Each connection waits for its turn once, and nothing that is gone waits.
        assert!(held.turn <= held.connections && held.tokens <= held.connections, "{held:?}");
        assert_eq!(self.mux.has_packets(), held.refusals + held.turn > 0);
    }
}

/// A script of packets, of programs of the host, and of the guest's buffers.
pub fn run(data: &[u8]) {
    let root = tempfile::tempdir().expect("a directory");
    let mut world = World::new(root.path());
    let mut script = Script::new(data);
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        step(&mut world, &mut script);
        world.hold();
    }
    // Everybody goes away, and the guest takes what is left: the device comes to rest.
    world.programs.clear();
    for _ in 0..4 {
        world.mux.handle_sockets();
        world.take(8 * CONNECTIONS_MAX, PAYLOAD_MAX);
    }
    assert!(!world.mux.has_packets(), "it does not come to rest: {:?}", world.mux.footprint());
    world.hold();
}

fn step(world: &mut World, script: &mut Script<'_>) {
    match script.u8() % 10 {
        0..=2 => {
            let header = packet(script);
            let payload = vec![0xa5; usize::try_from(header.length).expect("a length")];
            world.send(&header, &payload);
        }
        3 => {
            let bytes: [u8; HEADER_LENGTH] = script.array();
            let length = u32::from(script.u8());
            let header = Header { length, src_cid: CID, dst_cid: HOST_CID, ..Header::from_bytes(&bytes) };
            world.send(&header, &vec![1; length as usize]);
        }
        4 => {
            let (most, room) = (usize::from(script.u8() % 32), usize::from(script.u16()));
            world.take(most, room);
        }
        5 => world.mux.handle_sockets(),
        6 => {
            let Ok(mut socket) = UnixStream::connect(&world.uds) else { return };
            let guest_port = script.u8() % 8;
            let line = match guest_port {
                7 => script.counted().to_vec(),
                port => format!("CONNECT {port}\n").into_bytes(),
            };
            socket.set_nonblocking(true).expect("not blocking");
            drop(socket.write(&line));
            world.adopt(socket);
            world.mux.handle_sockets();
        }
        7 => {
            let (which, length) = (usize::from(script.u8()), usize::from(script.u16()));
            let count = world.programs.len().max(1);
            if let Some(program) = world.programs.get_mut(which % count) {
                drop(program.write(&vec![0x5a; length]));
            }
            world.mux.handle_sockets();
        }
        8 => {
            let (which, length) = (usize::from(script.u8()), usize::from(script.u16()));
            let count = world.programs.len().max(1);
            if let Some(program) = world.programs.get_mut(which % count) {
                drop(program.read(&mut vec![0; length]));
            }
        }
        _ => {
            let which = usize::from(script.u8());
            if !world.programs.is_empty() {
                let at = which % world.programs.len();
                match script.u8() % 3 {
                    0 => drop(world.programs.swap_remove(at)),
                    1 => drop(world.programs[at].shutdown(Shutdown::Write)),
                    _ => drop(world.programs[at].shutdown(Shutdown::Read)),
                }
            }
            world.mux.handle_sockets();
        }
    }
}

/// A packet as a driver would make it, but for what the script decides.
fn packet(script: &mut Script<'_>) -> Header {
    let (operation, ports, flags) = (script.u8(), script.u8(), script.u8());
    // The first ports that the device gives to connections of the host, and two of the host's own.
    let host_port = match ports % 8 {
        0..=3 => SERVED,
        4 => SERVED + 1,
        other => (1 << 30) + u32::from(other - 5),
    };
    let buf_alloc = [0, 1, 64, 4096, BUFFER, 1 << 20, u32::MAX - 1, u32::MAX][usize::from(flags >> 5)];
    Header {
        src_cid: CID + u64::from(flags & 16 != 0 && ports == 255),
        dst_cid: HOST_CID,
        src_port: u32::from(ports / 8) % 8,
        dst_port: host_port,
        length: if operation % 9 == 5 { u32::from(script.u16()) } else { 0 },
        kind: TYPE_STREAM,
        operation: u16::from(operation % 9),
        flags: u32::from(flags % 4),
        buf_alloc,
        fwd_cnt: u32::from(script.u16()),
    }
}
