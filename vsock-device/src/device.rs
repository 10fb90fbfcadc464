//! The virtio side: rings, descriptors, notifications. Everything in a descriptor chain is hostile: lengths are checked
//! against the chain, a malformed chain is counted, returned empty and otherwise ignored, and the device goes on.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, RwLock};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringEpollHandler, VringRwLock, VringState, VringT};
use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, QueueOwnedT as _, QueueT as _};
use vm_memory::{GuestAddressSpace as _, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::mux::Mux;
use crate::packet::{HEADER_LENGTH, Header, PAYLOAD_MAX};

/// To the guest, from the guest, events (unused: there is no migration).
const QUEUES: usize = 3;
const TO_GUEST: u16 = 0;
const FROM_GUEST: u16 = 1;
/// The largest ring.
const QUEUE_SIZE_MAX: usize = 1024;
/// The library keeps the numbers 0..=QUEUES for itself.
const SOCKETS_EVENT: u16 = 4;
/// Chains handled from one ring before the other has its turn.
const BATCH: usize = 128;
/// Rounds in which nothing moves although the rings say otherwise; a round that a new packet crosses is one.
const IDLE_MAX: u32 = 2;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type MemoryGuard = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// The device behind the lock that the vhost-user library asks for.
pub type Shared = Arc<RwLock<Device>>;

/// One vsock device.
pub struct Device {
    cid: u64,
    mux: Mux,
    memory: Option<Memory>,
    buffer: Vec<u8>,
    malformed: u64,
    /// Rounds that a broken ring ended.
    broken: u64,
}

impl Device {
    /// A device for the guest `cid`, with the host side `mux`.
    #[must_use]
    pub fn new(cid: u64, mux: Mux) -> Self {
        Self { cid, mux, memory: None, buffer: vec![0; PAYLOAD_MAX], malformed: 0, broken: 0 }
    }

    /// Chains that could not be read or written as packets.
    #[must_use]
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Lets the event loop of the vhost-user library watch the host's sockets too.
    ///
    /// # Errors
    /// When the event loop refuses.
    pub fn watch_sockets(&self, handler: &VringEpollHandler<Shared>) -> io::Result<()> {
        handler.register_listener(self.mux.event_fd().as_raw_fd(), EventSet::IN, u64::from(SOCKETS_EVENT))
    }

    fn memory(&self) -> io::Result<Memory> {
        self.memory.clone().ok_or_else(|| io::Error::other("expected guest memory before the first event"))
    }

    /// Takes up to a batch of packets from the guest; tells how many chains that were.
    fn take_from_guest(&mut self, vring: &VringRwLock) -> io::Result<usize> {
        let memory = self.memory()?;
        let mut state = vring.get_mut();
        let mut taken = 0;
        while taken < BATCH {
            let Some(chain) = next_chain(&mut state, &memory)? else { break };
            let head = chain.head_index();
            let guest = memory.memory();
            match chain.reader(&*guest).ok().and_then(|mut reader| read_packet(&mut reader, &mut self.buffer)) {
                Some((header, length)) => {
                    let payload = self.buffer.get(..length).unwrap_or_default();
                    self.mux.handle_packet(&header, payload);
                }
                None => self.malformed = self.malformed.saturating_add(1),
            }
            give_back(&mut state, head, 0)?;
            taken += 1;
        }
        if taken > 0 && state.needs_notification().map_err(io::Error::other)? {
            state.signal_used_queue()?;
        }
        Ok(taken)
    }

    /// Gives the guest up to a batch of packets; tells how many of its buffers were used for it.
    fn give_to_guest(&mut self, vring: &VringRwLock) -> io::Result<usize> {
        let memory = self.memory()?;
        let mut state = vring.get_mut();
        let mut used = 0;
        while used < BATCH && self.mux.has_packets() {
            let Some(chain) = next_chain(&mut state, &memory)? else { break };
            let head = chain.head_index();
            let guest = memory.memory();
            // A buffer without room for a byte of payload would be taken for the end of a stream.
            let Some(mut writer) = chain.writer(&*guest).ok().filter(|w| w.available_bytes() > HEADER_LENGTH) else {
                self.malformed = self.malformed.saturating_add(1);
                give_back(&mut state, head, 0)?;
                used += 1;
                continue;
            };
            let room = writer.available_bytes() - HEADER_LENGTH;
            let Some(header) = self.mux.next_packet(&mut self.buffer, room) else {
                state.get_queue_mut().go_to_previous_position();
                break;
            };
            let length = usize::try_from(header.length).unwrap_or(0).min(room);
            writer.write_all(&header.to_bytes())?;
            writer.write_all(self.buffer.get(..length).unwrap_or_default())?;
            let written = u32::try_from(HEADER_LENGTH + length).unwrap_or(0);
            give_back(&mut state, head, written)?;
            used += 1;
        }
        if used > 0 && state.needs_notification().map_err(io::Error::other)? {
            state.signal_used_queue()?;
        }
        Ok(used)
    }

    /// Both rings in turn until neither has anything to do. The host's sockets have their turn, too: a guest that never
    /// stops sending does not keep the device from them.
    fn work(&mut self, vrings: &[VringRwLock]) -> io::Result<()> {
        let (Some(to_guest), Some(from_guest)) =
            (vrings.get(usize::from(TO_GUEST)), vrings.get(usize::from(FROM_GUEST)))
        else {
            return Err(io::Error::other("expected three rings"));
        };
        // Before the driver has set them up, and after it reset the device, rings are at no place in particular.
        if !is_ready(to_guest) || !is_ready(from_guest) {
            return Ok(());
        }
        let mut idle = 0;
        loop {
            from_guest.disable_notification().map_err(io::Error::other)?;
            let moved = self.take_from_guest(from_guest)? + self.give_to_guest(to_guest)?;
            let came = from_guest.enable_notification().map_err(io::Error::other)?;
            // The guest's free buffers matter only while something waits for them.
            let freed = to_guest.enable_notification().map_err(io::Error::other)? && self.mux.has_packets();
            if moved < BATCH && !came && !freed {
                return Ok(());
            }
            idle = if moved == 0 { idle + 1 } else { 0 };
            if idle > IDLE_MAX {
                return Err(io::Error::other("expected a ring to hold what its index says, found nothing to take"));
            }
            self.mux.handle_sockets();
        }
    }
}

fn is_ready(vring: &VringRwLock) -> bool {
    vring.get_ref().get_queue().ready()
}

/// The next chain of a ring.
fn next_chain(state: &mut VringState, memory: &Memory) -> io::Result<Option<DescriptorChain<MemoryGuard>>> {
    let mut chains = state.get_queue_mut().iter(memory.memory()).map_err(io::Error::other)?;
    Ok(chains.next())
}

/// Returns a chain to the guest. One whose head is no descriptor at all cannot be: the ring goes on without it.
fn give_back(state: &mut VringState, head: u16, written: u32) -> io::Result<()> {
    if head < state.get_queue().size() { state.add_used(head, written).map_err(io::Error::other) } else { Ok(()) }
}

/// Header and payload of one chain; `None` when the chain is too short for what its header says.
fn read_packet(reader: &mut virtio_queue::Reader<'_>, buffer: &mut [u8]) -> Option<(Header, usize)> {
    let mut bytes = [0; HEADER_LENGTH];
    reader.read_exact(&mut bytes).ok()?;
    let header = Header::from_bytes(&bytes);
    let length = usize::try_from(header.length).ok()?;
    reader.read_exact(buffer.get_mut(..length)?).ok()?;
    Some((header, length))
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE_MAX
    }

    fn features(&self) -> u64 {
        // ACCESS_PLATFORM: a trust domain shares only bounce buffers and insists on it.
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_F_ACCESS_PLATFORM
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        // QEMU insists on the last two from a device that offers ACCESS_PLATFORM; without a virtual IOMMU nothing uses
        // the second.
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.cid.to_le_bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        config.get(from..to).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(&mut self, event: u16, _: EventSet, vrings: &[VringRwLock], _thread: usize) -> io::Result<()> {
        if event == SOCKETS_EVENT {
            self.mux.handle_sockets();
        }
        if self.memory.is_none() {
            return Ok(());
        }
        // A ring that the guest broke ends nothing but this round. The guest decides how often that is: less and less is
        // said of it.
        if let Err(error) = self.work(vrings) {
            self.broken = self.broken.saturating_add(1);
            if self.broken.is_power_of_two() {
                tracing::warn!(%error, times = self.broken, "a ring could not be worked");
            }
        }
        Ok(())
    }
}
