//! The virtio side: rings, descriptors, notifications. Everything in a descriptor chain is hostile: lengths are checked
//! against the chain, a malformed chain is counted, returned empty and otherwise ignored, and the device goes on.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, RwLock};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringEpollHandler, VringRwLock, VringT};
use virtio_bindings::virtio_config::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{QueueOwnedT as _, QueueT as _};
use vm_memory::{GuestAddressSpace as _, GuestMemoryAtomic, GuestMemoryMmap};
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

/// The device behind the lock that the vhost-user library asks for.
pub type Shared = Arc<RwLock<Device>>;

/// One vsock device.
pub struct Device {
    cid: u64,
    mux: Mux,
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    buffer: Vec<u8>,
    malformed: u64,
}

impl Device {
    /// A device for the guest `cid`, with the host side `mux`.
    #[must_use]
    pub fn new(cid: u64, mux: Mux) -> Self {
        Self { cid, mux, memory: None, buffer: vec![0; PAYLOAD_MAX], malformed: 0 }
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

    fn memory(&self) -> io::Result<GuestMemoryAtomic<GuestMemoryMmap>> {
        self.memory.clone().ok_or_else(|| io::Error::other("expected guest memory before the first event"))
    }

    /// Takes up to a batch of packets from the guest; how many.
    fn take_from_guest(&mut self, vring: &VringRwLock) -> io::Result<usize> {
        let memory = self.memory()?;
        let mut state = vring.get_mut();
        let mut used = 0;
        while used < BATCH {
            let Some(chain) = state.get_queue_mut().pop_descriptor_chain(memory.memory()) else { break };
            let head = chain.head_index();
            let guest = memory.memory();
            match chain.reader(&*guest).ok().and_then(|mut reader| read_packet(&mut reader, &mut self.buffer)) {
                Some((header, length)) => {
                    let payload = self.buffer.get(..length).unwrap_or_default();
                    self.mux.handle_packet(&header, payload);
                }
                None => self.malformed = self.malformed.saturating_add(1),
            }
            state.add_used(head, 0).map_err(io::Error::other)?;
            used += 1;
        }
        if used > 0 && state.needs_notification().map_err(io::Error::other)? {
            state.signal_used_queue()?;
        }
        Ok(used)
    }

    /// Gives the guest up to a batch of packets; how many.
    fn give_to_guest(&mut self, vring: &VringRwLock) -> io::Result<usize> {
        let memory = self.memory()?;
        let mut state = vring.get_mut();
        let mut used = 0;
        while used < BATCH && self.mux.has_packets() {
            let Some(chain) = state.get_queue_mut().pop_descriptor_chain(memory.memory()) else { break };
            let head = chain.head_index();
            let guest = memory.memory();
            let Some(mut writer) = chain.writer(&*guest).ok().filter(|w| w.available_bytes() >= HEADER_LENGTH) else {
                self.malformed = self.malformed.saturating_add(1);
                state.add_used(head, 0).map_err(io::Error::other)?;
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
            state.add_used(head, written).map_err(io::Error::other)?;
            used += 1;
        }
        if used > 0 && state.needs_notification().map_err(io::Error::other)? {
            state.signal_used_queue()?;
        }
        Ok(used)
    }

    /// Both rings in turn until neither has anything to do.
    fn work(&mut self, vrings: &[VringRwLock]) -> io::Result<()> {
        let (Some(to_guest), Some(from_guest)) =
            (vrings.get(usize::from(TO_GUEST)), vrings.get(usize::from(FROM_GUEST)))
        else {
            return Err(io::Error::other("expected three rings"));
        };
        let mut idle = false;
        loop {
            from_guest.disable_notification().map_err(io::Error::other)?;
            let (taken, given) = (self.take_from_guest(from_guest)?, self.give_to_guest(to_guest)?);
            let came = from_guest.enable_notification().map_err(io::Error::other)?;
            // The guest's free buffers matter only while something waits for them.
            let freed = to_guest.enable_notification().map_err(io::Error::other)? && self.mux.has_packets();
            if !(taken == BATCH || given == BATCH || came || freed) {
                return Ok(());
            }
            // What came in between is taken by the next round. Two rounds that move nothing are a ring whose index points at
            // nothing: it would be so for ever.
            if std::mem::replace(&mut idle, taken == 0 && given == 0) && idle {
                return Err(io::Error::other("expected chains up to the ring's index, found none"));
            }
        }
    }
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

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
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
        // A ring that the guest broke ends nothing but this round: the host can only log it and go on.
        if let Err(error) = self.work(vrings) {
            tracing::warn!(%error, "a ring could not be worked");
        }
        Ok(())
    }
}
