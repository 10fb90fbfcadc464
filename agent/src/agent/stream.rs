//! Everything that was ever said on one host connection, kept so that a host that comes back hears it from the start.
//!
//! The host may be restarted while the session runs. What it must know is small (a session's whole record is some
//! hundred bytes per call), so there is no acknowledgement and no window: a new connection gets all of it again.

use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::sync::watch;

const SEGMENT: usize = 1 << 20;

/// An append-only byte stream in memory, with readers that follow it.
#[derive(Debug)]
pub struct Stream {
    segments: Mutex<Vec<Vec<u8>>>,
    written: watch::Sender<u64>,
    most: u64,
}

/// The stream has reached its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record has reached its cap")]
pub struct StreamFull;

impl Stream {
    /// An empty stream that holds at most `most` bytes.
    pub fn new(most: u64) -> Self {
        Self { segments: Mutex::new(Vec::new()), written: watch::Sender::new(0), most }
    }

    /// Appends bytes, whole or not at all.
    pub fn push(&self, bytes: &[u8]) -> Result<(), StreamFull> {
        let total = *self.written.borrow() + bytes.len() as u64;
        if total > self.most {
            return Err(StreamFull);
        }
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = bytes;
        while !rest.is_empty() {
            if segments.last().is_none_or(|segment| segment.len() == SEGMENT) {
                // Small at first: most sessions are.
                segments.push(Vec::new());
            }
            let Some(last) = segments.last_mut() else { break };
            let (now, later) = rest.split_at(rest.len().min(SEGMENT - last.len()));
            last.extend_from_slice(now);
            rest = later;
        }
        drop(segments);
        self.written.send_modify(|written| *written += bytes.len() as u64);
        Ok(())
    }

    /// Bytes appended so far.
    pub fn len(&self) -> u64 {
        *self.written.borrow()
    }

    /// Whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to 64 KiB from `at`; waits while there is nothing.
    pub async fn read(&self, at: u64) -> Vec<u8> {
        let mut written = self.written.subscribe();
        // The sender lives as long as `self`.
        drop(written.wait_for(|&written| written > at).await);
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let Some(segment) = segments.get(at / SEGMENT) else { return Vec::new() };
        let from = at % SEGMENT;
        let to = segment.len().min(from + 64 * 1024);
        segment.get(from..to).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_gets_every_byte_in_order_across_segments() {
        let stream = Stream::new(8 << 20);
        let bytes: Vec<u8> = (0..(3 << 20) + 17).map(|n: u32| (n % 251) as u8).collect();
        for part in bytes.chunks(70_001) {
            stream.push(part).unwrap();
        }
        let mut read = Vec::new();
        while (read.len() as u64) < stream.len() {
            read.extend(stream.read(read.len() as u64).await);
        }
        assert!(read == bytes);
    }

    #[tokio::test]
    async fn the_cap_is_kept_and_nothing_is_pushed_by_halves() {
        let stream = Stream::new(10);
        stream.push(b"12345678").unwrap();
        assert_eq!(stream.push(b"901"), Err(StreamFull));
        assert_eq!(stream.len(), 8);
        stream.push(b"90").unwrap();
        assert_eq!(stream.read(7).await, b"890");
    }
}
