//! A socket between two of the guest's processes: packets that keep their borders, and descriptors beside them.

use crate::frames::{FRAME_MAX, Frame, FrameError};
use crate::sealed;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// Descriptors that may come with one packet, and the file of a large frame.
const DESCRIPTORS_MAX: usize = 4;
/// What the kernel may hold for a receiver that is behind: thousands of usual frames.
const QUEUE_BYTES: usize = 4 << 20;
/// The largest frame that is a packet itself. Of a larger one the packet is its length alone, and its bytes are in a sealed file, the
/// last descriptor: the kernel takes the memory of a packet in one piece, which it may not have.
const PACKET_MAX: usize = 64 * 1024;

/// A send or receive that failed.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The process at the other end is gone.
    #[error("the other process closed its socket")]
    Closed,
    /// Nothing to read, or no room to write, on a call that must not wait.
    #[error("the socket would block")]
    WouldBlock,
    /// The system.
    #[error("socket error {0}")]
    System(Errno),
    /// The other process does not speak this link's language.
    #[error("a frame that is none")]
    Frame(#[from] FrameError),
}

/// Whether a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait until it is done.
    Block,
    /// Answer `WouldBlock` instead.
    Never,
}

/// One end of a link that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Channel<S, R> {
    socket: OwnedFd,
    kinds: PhantomData<fn(S) -> R>,
}

/// Both ends of a new link.
pub fn pair<S, R>() -> std::io::Result<(Channel<S, R>, Channel<R, S>)> {
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for socket in [&one, &other] {
        // Root may exceed the system's limit; anybody else (a test) gets what there is.
        if sockopt::set_socket_send_buffer_size_force(socket, QUEUE_BYTES).is_err() {
            sockopt::set_socket_send_buffer_size(socket, QUEUE_BYTES)?;
        }
    }
    Ok((Channel::new(one), Channel::new(other)))
}

impl<S: Frame, R: Frame> Channel<S, R> {
    /// Sends one message, with descriptors if there are any.
    pub fn send(&self, message: &S, descriptors: &[BorrowedFd<'_>], wait: Wait) -> Result<(), ChannelError> {
        let packet = message.encode();
        if packet.len() > FRAME_MAX + 4 {
            return Err(FrameError::Length { found: packet.len() }.into());
        }
        let (length, body) = packet.split_at_checked(4).unwrap_or_default();
        let file = (body.len() > PACKET_MAX).then(|| sealed::seal(body)).transpose().map_err(ChannelError::System)?;
        let packet = if file.is_some() { length } else { &packet };
        let descriptors: Vec<BorrowedFd<'_>> =
            descriptors.iter().copied().chain(file.as_ref().map(AsFd::as_fd)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let flags = SendFlags::NOSIGNAL | if wait == Wait::Never { SendFlags::DONTWAIT } else { SendFlags::empty() };
        rustix::io::retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(packet)], &mut ancillary, flags))
            .map_err(of_errno)?;
        Ok(())
    }

    /// Receives one message and its descriptors.
    pub fn receive(&self, wait: Wait) -> Result<(R, Vec<OwnedFd>), ChannelError> {
        let block = if wait == Wait::Never { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        // The kernel tells the true length first; nothing is allocated for a packet that is too large.
        let peek = block | RecvFlags::PEEK | RecvFlags::TRUNC;
        let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut [0_u8; 0][..], peek))
            .map_err(of_errno)?;
        if length == 0 {
            return Err(ChannelError::Closed);
        }
        if length > PACKET_MAX + 4 {
            return Err(FrameError::Length { found: length }.into());
        }
        let mut packet = vec![0_u8; length];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut packet)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(of_errno)?;
        let whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if received.bytes != length || !whole {
            return Err(FrameError::Length { found: received.bytes }.into());
        }
        let mut descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            })
            .flatten()
            .collect();
        // An empty frame is none, so a length alone is that of a file.
        if packet.len() == 4
            && let Some(file) = descriptors.pop()
        {
            packet.extend(sealed::read(file, FRAME_MAX).map_err(ChannelError::System)?);
        }
        Ok((R::decode(&packet)?, descriptors))
    }
}

impl<S, R> Channel<S, R> {
    /// Wraps an end that was inherited.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, kinds: PhantomData }
    }

    /// Unwraps the descriptor.
    pub fn into_inner(self) -> OwnedFd {
        self.socket
    }
}

impl<S, R> AsFd for Channel<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> std::os::fd::AsRawFd for Channel<S, R> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn of_errno(errno: Errno) -> ChannelError {
    match errno {
        Errno::AGAIN => ChannelError::WouldBlock,
        Errno::PIPE | Errno::CONNRESET => ChannelError::Closed,
        other => ChannelError::System(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::frames::log::ToNotary;
    use crate::frames::start::ToInit;

    type End = Channel<ToInit, ToNotary>;

    fn ends() -> (End, Channel<ToNotary, ToInit>) {
        pair().unwrap()
    }

    fn start(bytes: usize) -> ToInit {
        ToInit::Start { intent: 7, request: vec![0xab; bytes] }
    }

    #[test]
    fn frames_of_every_size_arrive_whole_with_their_descriptors_and_in_order() {
        let (one, other) = ends();
        let sizes = [0, PACKET_MAX - 16, PACKET_MAX - 8, PACKET_MAX, PACKET_MAX * 3, FRAME_MAX - 32];
        let file = tempfile::tempfile().unwrap();
        for bytes in sizes {
            one.send(&start(bytes), &[file.as_fd(); 3], Wait::Never).unwrap();
        }
        for bytes in sizes {
            let (message, descriptors) = other.receive(Wait::Never).unwrap();
            assert_eq!((message, descriptors.len()), (start(bytes), 3), "{bytes} bytes");
        }
        assert!(matches!(other.receive(Wait::Never), Err(ChannelError::WouldBlock)));
        drop(one);
        assert!(matches!(other.receive(Wait::Never), Err(ChannelError::Closed)));
    }

    #[test]
    fn what_is_no_frame_is_refused_however_it_comes() {
        let (one, other) = ends();
        assert!(matches!(one.send(&start(FRAME_MAX), &[], Wait::Never), Err(ChannelError::Frame(_))));
        let body = start(PACKET_MAX * 2).encode().split_off(4);
        let length = u32::try_from(body.len()).unwrap();
        let open = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &open, &body).unwrap();
        let cases: [(u32, Vec<OwnedFd>); 5] = [
            (length, vec![]),
            (length, vec![open.into()]),
            (length + 1, vec![sealed::seal(&body).unwrap()]),
            (0, vec![sealed::seal(&[]).unwrap()]),
            (u32::try_from(FRAME_MAX).unwrap() + 1, vec![sealed::seal(&vec![0; FRAME_MAX + 1]).unwrap()]),
        ];
        for (length, files) in cases {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            if !files.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&files));
            }
            let head = length.to_le_bytes();
            sendmsg(&one.socket, &[IoSlice::new(&head)], &mut ancillary, SendFlags::empty()).unwrap();
            let found = other.receive(Wait::Never);
            let refused = matches!(&found, Err(ChannelError::Frame(_) | ChannelError::System(Errno::INVAL)));
            assert!(refused, "{length} bytes in {} files: {found:?}", files.len());
        }
    }
}
