//! Between tar, which reads and writes, and a call, which carries chunks: both directions, with their limits.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

use super::{DOWNLOAD_MAX, UPLOAD_MAX};
use crate::calls::CHUNK;

/// Gathers what the archive writes into chunks, and gives each away when it is full.
pub(super) struct Chunks<G> {
    give: G,
    buffer: Vec<u8>,
    given: u64,
}

impl<G: FnMut(Vec<u8>) -> bool> Chunks<G> {
    pub(super) fn new(give: G) -> Self {
        Self { give, buffer: Vec::with_capacity(CHUNK), given: 0 }
    }

    fn give(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.given += chunk.len() as u64;
        if self.given > UPLOAD_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if (self.give)(chunk) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// Gives away the rest.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.give() }
    }
}

impl<G: FnMut(Vec<u8>) -> bool> Write for Chunks<G> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.buffer.len() == CHUNK {
            self.give()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of chunks as a reader.
pub(super) struct Incoming {
    chunks: mpsc::Receiver<bytes::Bytes>,
    rest: bytes::Bytes,
    left: u64,
}

impl Incoming {
    pub(super) fn new(chunks: mpsc::Receiver<bytes::Bytes>) -> Self {
        Self { chunks, rest: bytes::Bytes::new(), left: DOWNLOAD_MAX }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let Some(chunk) = self.chunks.blocking_recv() else { return Ok(0) };
            self.left = self.left.checked_sub(chunk.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
            self.rest = chunk;
        }
        let length = buffer.len().min(self.rest.len());
        let taken = self.rest.split_to(length);
        buffer.get_mut(..length).unwrap_or_default().copy_from_slice(&taken);
        Ok(length)
    }
}
