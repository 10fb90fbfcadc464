//! A guest that breaks its rings, or the order of things, harms nobody but its own connections: the device comes back from each
//! notification and holds nothing of what is over. More of the kind is in the fuzz targets `vsock_*`.

use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use coffer_vsock::device::Device;
use coffer_vsock::mux::Mux;
use coffer_vsock::packet::{HOST_CID, Header, Operation, TYPE_STREAM};
use vhost_user_backend::{VhostUserBackendMut as _, VringRwLock, VringT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestAddressSpace as _, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

const CID: u64 = 4096;
const PORT: u32 = 1024;

fn request(operation: Operation) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1,
        dst_port: PORT,
        kind: TYPE_STREAM,
        operation: operation.number(),
        buf_alloc: 65_536,
        ..Header::default()
    }
}

#[test]
fn a_guest_that_opens_and_resets_for_ever_leaves_nothing_behind() {
    let root = tempfile::tempdir().expect("a directory");
    let served = UnixListener::bind(root.path().join(format!("v_{PORT}"))).expect("a socket");
    let mut mux = Mux::new(CID, &root.path().join("v")).expect("a mux");
    for _ in 0..100 {
        mux.handle_packet(&request(Operation::Request), &[]);
        assert_eq!(mux.connections(), 1, "it is accepted");
        drop(served.accept().expect("the program's side"));
        // The answer is not taken: the guest gives the device no buffers.
        mux.handle_packet(&request(Operation::Reset), &[]);
        assert_eq!(mux.connections(), 0);
        assert!(!mux.has_packets(), "something waits for a connection that is gone");
    }
}

/// One notification behind rings of which these have an index far ahead of what they hold.
fn notified(root: &std::path::Path, broken: &[usize]) {
    const PAGE: u64 = 0x1000;
    const AVAIL: u64 = 0x400;
    let _served = UnixListener::bind(root.join(format!("v_{PORT}"))).expect("a socket");
    let mut device = Device::new(CID, Mux::new(CID, &root.join("v")).expect("a mux"));
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory");
    let memory = GuestMemoryAtomic::new(memory);
    let mut pages = 1..;
    let rings = [(); 3].map(|()| {
        let ring = VringRwLock::new(memory.clone(), 1024).expect("a ring");
        let page = PAGE * pages.next().expect("a page");
        ring.set_queue_size(16);
        ring.set_queue_info(page, page + AVAIL, page + 2 * AVAIL).expect("addresses");
        ring.set_queue_ready(true);
        ring.set_enabled(true);
        ring
    });
    device.update_memory(memory.clone()).expect("memory");
    let write = |address: u64, bytes: &[u8]| memory.memory().write_slice(bytes, GuestAddress(address)).expect("write");
    // A request, so that there is an answer for the guest.
    write(0x8000, &request(Operation::Request).to_bytes());
    write(2 * PAGE, &[&0x8000_u64.to_le_bytes()[..], &44_u32.to_le_bytes(), &[0; 4]].concat());
    write(2 * PAGE + AVAIL, &[0, 0, 1, 0, 0, 0]);
    for ring in broken {
        write(PAGE * (1 + *ring as u64) + AVAIL, &[0, 0, 0x60, 0xea]);
    }
    for event in [1, 0, 1] {
        device.handle_event(event, EventSet::IN, &rings, 0).expect("the device goes on");
    }
}

#[test]
fn a_ring_whose_index_points_at_nothing_does_not_spin_the_device() {
    for broken in [&[][..], &[0], &[1], &[0, 1]] {
        let (done, waits) = mpsc::channel();
        std::thread::spawn(move || {
            let root = tempfile::tempdir().expect("a directory");
            notified(root.path(), broken);
            let _ = done.send(());
        });
        waits.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("rings {broken:?}: it never comes back"));
    }
}
