//! QEMU and the guest's driver in one: speaks vhost-user, lays rings out in shared memory, and puts anything in them.

use std::collections::VecDeque;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::Ordering;

use coffer_vsock::packet::{HEADER_LENGTH, HOST_CID, Header, Operation, TYPE_STREAM};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Address as _, Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestRegionMmap,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::device::{Device, SOON};

pub(crate) const GUEST_CID: u64 = 4096;
pub(crate) const TO_GUEST: usize = 0;
pub(crate) const FROM_GUEST: usize = 1;
pub(crate) const EVENTS: usize = 2;
/// Entries of a ring.
pub(crate) const SIZE: u16 = 256;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// Bytes of the guest's memory, from address 0.
pub(crate) const MEMORY: u64 = 32 << 20;
/// Free for tables of an attack.
pub(crate) const TABLES: u64 = 0x8_0000;
/// The guest's free buffers and what it sends.
const INPUTS: u64 = 0x10_0000;
const INPUT: u64 = 0x1000;
pub(crate) const OUTPUTS: u64 = 0x40_0000;
pub(crate) const OUTPUT: u64 = 0x1_1000;
/// A batch that the driver sends at once.
const BATCH: usize = 128;
/// What a well-behaved driver gives each connection.
const BUFFER: u32 = 1 << 20;

/// An entry of a descriptor table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) at: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

struct Ring {
    number: usize,
    available: u16,
    used: u16,
    kick: EventFd,
    call: EventFd,
    called: Epoll,
}

impl Ring {
    fn new(number: usize) -> Self {
        let (kick, call) = (EventFd::new(0).expect("eventfd"), EventFd::new(0).expect("eventfd"));
        let called = Epoll::new().expect("epoll");
        called.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).expect("watch");
        Self { number, available: 0, used: 0, kick, call, called }
    }

    const fn at(&self) -> u64 {
        0x1_0000 * (self.number as u64 + 1)
    }

    const fn avail(&self) -> GuestAddress {
        GuestAddress(self.at() + 0x2000)
    }

    const fn used(&self) -> GuestAddress {
        GuestAddress(self.at() + 0x4000)
    }
}

/// Whether rings notify by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    Always,
    ByIndex,
}

pub(crate) struct Driver {
    frontend: Frontend,
    pub(crate) memory: GuestMemoryMmap,
    rings: Vec<Ring>,
    /// Received, and not yet asked for.
    inbox: VecDeque<(Header, Vec<u8>)>,
}

/// Guest memory that another process can map.
fn shared(start: u64, size: u64) -> GuestRegionMmap {
    let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&file, size).expect("its size");
    let file = FileOffset::new(file.into(), 0);
    let size = usize::try_from(size).expect("small");
    GuestRegionMmap::from_range(GuestAddress(start), size, Some(file)).expect("mapped")
}

impl Driver {
    /// Connects and brings the rings up, all of the guest's buffers free.
    pub(crate) fn new(device: &Device, notify: Notify) -> Self {
        let mut driver = Self::connect(device, notify);
        driver.start_rings();
        driver
    }

    /// Connects and shares memory; no ring is set up.
    pub(crate) fn connect(device: &Device, notify: Notify) -> Self {
        let mut frontend = Frontend::connect(device.vhost_socket(), 3).expect("connect");
        frontend.set_owner().expect("owner");
        let offered = frontend.get_features().expect("features");
        let mut wanted = 1 << 32 | 1 << 28 | 1 << 30 | 1 << 33;
        if notify == Notify::ByIndex {
            wanted |= 1 << 29;
        }
        assert_eq!(offered & wanted, wanted, "the device offers what the driver wants");
        frontend.set_features(wanted).expect("features");
        frontend.get_protocol_features().expect("protocol");
        frontend.set_protocol_features(VhostUserProtocolFeatures::REPLY_ACK).expect("protocol");
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let memory = GuestMemoryMmap::from_regions(vec![shared(0, MEMORY)]).expect("memory");
        let driver = Self { frontend, memory, rings: (0..3).map(Ring::new).collect(), inbox: VecDeque::new() };
        driver.share_memory();
        driver
    }

    /// Tells the device where the guest's memory is.
    pub(crate) fn share_memory(&self) {
        let info = |region| VhostUserMemoryRegionInfo::from_guest_region(region).expect("a region");
        let table: Vec<_> = self.memory.iter().map(info).collect();
        self.frontend.set_mem_table(&table).expect("memory");
    }

    /// As a driver that resets its device: the rings end, and begin empty.
    pub(crate) fn reset(&mut self) {
        self.stop_rings();
        self.inbox.clear();
        self.start_rings();
    }

    pub(crate) fn stop_rings(&self) {
        for ring in 0..3 {
            self.frontend.get_vring_base(ring).expect("stopped");
        }
    }

    pub(crate) fn start_rings(&mut self) {
        for number in 0..3 {
            self.rings[number] = Ring::new(number);
            self.memory.write_slice(&[0; 0x8000], GuestAddress(self.rings[number].at())).expect("cleared");
            self.start_ring(number, self.rings[number].avail().raw_value());
        }
        for index in 0..SIZE {
            self.describe(TO_GUEST, index, input(index));
            self.offer(TO_GUEST, index);
        }
        self.kick(TO_GUEST);
    }

    /// Starts a ring, its part of what is available at a place of the caller's choice.
    fn start_ring(&mut self, number: usize, avail: u64) {
        let base = self.memory.iter().next().expect("memory").as_ptr() as u64;
        let ring = &self.rings[number];
        let places = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            desc_table_addr: base + ring.at(),
            avail_ring_addr: base + avail,
            used_ring_addr: base + ring.used().raw_value(),
            ..VringConfigData::default()
        };
        self.frontend.set_vring_num(number, SIZE).expect("size");
        self.frontend.set_vring_addr(number, &places).expect("places");
        self.frontend.set_vring_base(number, 0).expect("base");
        self.frontend.set_vring_call(number, &ring.call).expect("call");
        self.frontend.set_vring_kick(number, &ring.kick).expect("kick");
        self.frontend.set_vring_enable(number, true).expect("enabled");
    }

    /// Moves what is available of a ring to another place, where there is this much of it.
    pub(crate) fn move_available(&mut self, ring: usize, avail: u64, index: u16) {
        self.frontend.get_vring_base(ring).expect("stopped");
        self.memory.write_slice(&index.to_le_bytes(), GuestAddress(avail + 2)).expect("the index");
        self.start_ring(ring, avail);
    }

    // ---- pieces

    pub(crate) fn describe(&self, ring: usize, index: u16, descriptor: Descriptor) {
        self.describe_at(self.rings[ring].at() + u64::from(index) * 16, descriptor);
    }

    pub(crate) fn describe_at(&self, at: u64, Descriptor { at: address, length, flags, next }: Descriptor) {
        let parts = [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        self.memory.write_slice(&parts.concat(), GuestAddress(at)).expect("a descriptor");
    }

    /// Puts a chain into the available ring.
    pub(crate) fn offer(&mut self, ring: usize, head: u16) {
        let entry = &mut self.rings[ring];
        let slot = u64::from(entry.available % SIZE) * 2 + 4;
        self.memory.store(head.to_le(), entry.avail().unchecked_add(slot), Ordering::Relaxed).expect("an entry");
        entry.available = entry.available.wrapping_add(1);
        let available = entry.available;
        self.set_available(ring, available);
    }

    /// Says how many chains there are.
    pub(crate) fn set_available(&mut self, ring: usize, index: u16) {
        let entry = &mut self.rings[ring];
        entry.available = index;
        self.memory.store(index.to_le(), entry.avail().unchecked_add(2), Ordering::Release).expect("the index");
    }

    pub(crate) fn available(&self, ring: usize) -> u16 {
        self.rings[ring].available
    }

    pub(crate) fn kick(&self, ring: usize) {
        self.rings[ring].kick.write(1).expect("kick");
    }

    /// How many chains the device has used of a ring, modulo 2^16.
    pub(crate) fn used_index(&self, ring: usize) -> u16 {
        let at = self.rings[ring].used().unchecked_add(2);
        u16::from_le(self.memory.load(at, Ordering::Acquire).expect("the index"))
    }

    /// Waits until the device has used something of a ring, and takes it: heads and lengths.
    pub(crate) fn used(&mut self, ring: usize) -> Vec<(u32, u32)> {
        while self.used_index(ring) == self.rings[ring].used {
            self.wait(ring);
        }
        let mut taken = Vec::new();
        while self.used_index(ring) != self.rings[ring].used {
            let entry = &mut self.rings[ring];
            let at = entry.used().unchecked_add(4 + u64::from(entry.used % SIZE) * 8);
            let mut bytes = [0; 8];
            self.memory.read_slice(&mut bytes, at).expect("an entry");
            let [head, length] = [0, 4].map(|from| u32::from_le_bytes(std::array::from_fn(|i| bytes[from + i])));
            taken.push((head, length));
            entry.used = entry.used.wrapping_add(1);
            // With notification by index: tell of the next one.
            let event = entry.avail().unchecked_add(4 + u64::from(SIZE) * 2);
            self.memory.store(entry.used.to_le(), event, Ordering::SeqCst).expect("the event index");
        }
        taken
    }

    fn wait(&self, ring: usize) {
        let entry = &self.rings[ring];
        let mut events = [EpollEvent::default()];
        let millis = i32::try_from(SOON.as_millis()).expect("small");
        let ready = entry.called.wait(millis, &mut events).expect("wait");
        assert_eq!(ready, 1, "the device did nothing with ring {ring}");
        entry.call.read().expect("called");
    }

    // ---- packets

    /// Sends packets as a driver does, and waits until the device has them.
    pub(crate) fn send(&mut self, packets: &[(Header, Vec<u8>)]) {
        for batch in packets.chunks(BATCH) {
            for ((header, payload), slot) in batch.iter().zip(0_u16..) {
                let at = OUTPUTS + u64::from(slot) * OUTPUT;
                self.memory.write_slice(&header.to_bytes(), GuestAddress(at)).expect("a header");
                let header_length = u32::try_from(HEADER_LENGTH).expect("44");
                let (first, second) = (slot * 2, slot * 2 + 1);
                let flags = if payload.is_empty() { 0 } else { NEXT };
                let header = Descriptor { at, length: header_length, flags, next: second };
                self.describe(FROM_GUEST, first, header);
                if !payload.is_empty() {
                    let at = at + 64;
                    self.memory.write_slice(payload, GuestAddress(at)).expect("a payload");
                    let length = u32::try_from(payload.len()).expect("small");
                    self.describe(FROM_GUEST, second, Descriptor { at, length, flags: 0, next: 0 });
                }
                self.offer(FROM_GUEST, first);
            }
            self.kick(FROM_GUEST);
            let mut returned = 0;
            while returned < batch.len() {
                returned += self.used(FROM_GUEST).len();
            }
        }
    }

    /// A packet of this guest to the host.
    pub(crate) fn packet(operation: Operation, guest_port: u32, host_port: u32) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            kind: TYPE_STREAM,
            operation: operation.number(),
            buf_alloc: BUFFER,
            ..Header::default()
        }
    }

    pub(crate) fn say(&mut self, operation: Operation, guest_port: u32, host_port: u32) {
        self.send(&[(Self::packet(operation, guest_port, host_port), Vec::new())]);
    }

    pub(crate) fn payload(guest_port: u32, host_port: u32, bytes: &[u8]) -> (Header, Vec<u8>) {
        let length = u32::try_from(bytes.len()).expect("small");
        (Header { length, ..Self::packet(Operation::Payload, guest_port, host_port) }, bytes.to_vec())
    }

    /// Whether the device has used a buffer that was not looked at.
    pub(crate) fn has_received(&self) -> bool {
        self.used_index(TO_GUEST) != self.rings[TO_GUEST].used
    }

    /// Waits for packets of the device; its buffers are free again.
    fn receive(&mut self) {
        for (head, length) in self.used(TO_GUEST) {
            let head = u16::try_from(head).expect("one of ours");
            let at = GuestAddress(input(head).at);
            let mut bytes = vec![0; usize::try_from(length).expect("small")];
            self.memory.read_slice(&mut bytes, at).expect("a packet");
            if let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LENGTH>() {
                self.inbox.push_back((Header::from_bytes(header), payload.to_vec()));
            }
            self.describe(TO_GUEST, head, input(head));
            self.offer(TO_GUEST, head);
        }
        self.kick(TO_GUEST);
    }

    /// Waits for a packet that fits; the others stay.
    pub(crate) fn expect(&mut self, fits: impl Fn(&Header) -> bool) -> (Header, Vec<u8>) {
        loop {
            if let Some(place) = self.inbox.iter().position(|(header, _)| fits(header)) {
                return self.inbox.remove(place).expect("it is there");
            }
            self.receive();
        }
    }

    /// Waits for a packet of one kind to one port of the guest.
    pub(crate) fn expect_of(&mut self, operation: Operation, guest_port: u32) -> (Header, Vec<u8>) {
        self.expect(|header| header.dst_port == guest_port && header.operation == operation.number())
    }
}

fn input(index: u16) -> Descriptor {
    let length = u32::try_from(INPUT).expect("small");
    Descriptor { at: INPUTS + u64::from(index) * INPUT, length, flags: WRITE, next: 0 }
}
