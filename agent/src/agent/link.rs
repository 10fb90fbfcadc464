//! The agent's ends of its two sockets, for tokio.
#![allow(unsafe_code, reason = "tokio's registration of a descriptor is unsafe to call")]

use crate::channel::{Channel, ChannelError, Wait};
use crate::frames::Frame;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A [`Channel`] that waits without a thread. Sending and receiving may go on at once from two tasks.
#[derive(Debug)]
pub struct Link<S, R>(AsyncFd<Channel<S, R>>);

impl<S: Frame, R: Frame> Link<S, R> {
    /// Registers the socket with the running runtime.
    pub fn new(channel: Channel<S, R>) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the channel owns its descriptor, never replaces it, and lives inside the `AsyncFd` until that is
        // dropped; `as_raw_fd` gives the same number every time.
        let registered = unsafe { AsyncFd::register_with_interest(channel, interest) };
        Ok(Self(registered?))
    }

    /// Sends one message as soon as there is room.
    pub async fn send(&self, message: &S) -> Result<(), ChannelError> {
        loop {
            let mut guard = self.0.writable().await.map_err(of_io)?;
            match self.0.get_ref().send(message, &[], Wait::Never) {
                Err(ChannelError::WouldBlock) => guard.clear_ready(),
                result => return result,
            }
        }
    }

    /// Receives the next message with its descriptors. Safe to drop: nothing is taken before it is returned.
    pub async fn receive(&self) -> Result<(R, Vec<OwnedFd>), ChannelError> {
        loop {
            let mut guard = self.0.readable().await.map_err(of_io)?;
            match self.0.get_ref().receive(Wait::Never) {
                Err(ChannelError::WouldBlock) => guard.clear_ready(),
                result => return result,
            }
        }
    }
}

fn of_io(error: io::Error) -> ChannelError {
    ChannelError::System(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}
