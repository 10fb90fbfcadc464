//! The vsock device behind rings of the guest's making: memory, indices and descriptors are all hostile, and may change
//! between two notifications. The device does not panic and comes back from each.

use std::os::unix::net::UnixListener;

use coffer_vsock::device::Device;
use coffer_vsock::mux::Mux;
use vhost_user_backend::{VhostUserBackendMut as _, VringRwLock, VringT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestAddressSpace as _, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::script::Script;

const CID: u64 = 4096;
/// All that the guest has, in bytes.
pub const MEMORY: usize = 64 * 1024;
/// Descriptors of a ring.
pub const QUEUE_SIZE: u16 = 16;
/// Where the parts of ring n lie: n pages up.
pub const RING: u64 = 0x1000;
/// Of a ring's page: its avail ring. The descriptors come first.
pub const AVAIL: u64 = 0x400;
/// Of a ring's page: its used ring.
pub const USED: u64 = 0x800;
/// The sockets' event, as the device registers it.
const SOCKETS_EVENT: u16 = 4;

/// A script: `u8` flags (1: event indices), then writes `u16` address (in units of four bytes), `u16` length and bytes, each
/// followed by a `u8` that says which ring is notified, if any.
pub fn run(data: &[u8]) {
    let root = tempfile::tempdir().expect("a directory");
    let uds = root.path().join("v");
    let served = UnixListener::bind(root.path().join("v_1024")).expect("a socket");
    served.set_nonblocking(true).expect("not blocking");
    let mut device = Device::new(CID, Mux::new(CID, &uds).expect("a mux"));
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let memory = GuestMemoryAtomic::new(memory);
    let mut script = Script::new(data);
    let event_index = script.u8() & 1 == 1;
    let rings: Vec<VringRwLock> = (0..3)
        .map(|n| {
            let ring = VringRwLock::new(memory.clone(), 1024).expect("a ring");
            let page = RING * (n + 1);
            ring.set_queue_size(QUEUE_SIZE);
            ring.set_queue_info(page, page + AVAIL, page + USED).expect("addresses");
            ring.set_queue_event_idx(event_index);
            ring.set_queue_ready(true);
            ring.set_enabled(true);
            ring
        })
        .collect();
    device.update_memory(memory.clone()).expect("memory");
    let mut programs = Vec::new();
    for _ in 0..64 {
        if script.is_over() {
            break;
        }
        let address = u64::from(script.u16()) * 4 % MEMORY as u64;
        let bytes = script.counted();
        // What would go beyond the memory is cut.
        drop(memory.memory().write(bytes, GuestAddress(address)));
        let event = match script.u8() % 4 {
            3 => continue,
            2 => SOCKETS_EVENT,
            ring => u16::from(ring),
        };
        let result = device.handle_event(event, EventSet::IN, &rings, 0);
        assert!(result.is_ok(), "a guest ended its device: {result:?}");
        while let Ok((program, _)) = served.accept() {
            programs.push(program);
        }
    }
    let config = device.get_config(script.u32(), script.u32());
    assert!(config.len() <= 8);
}
