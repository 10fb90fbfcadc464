//! Moves bytes between a client and a program, counts and digests them, and never holds more than one chunk.
//!
//! Back-pressure goes end to end: a client that does not read stops the pump, the pipe fills, the program waits.

use super::limits::CHUNK_MAX;
use bytes::Bytes;
use coffer_evidence::call::StreamDigest;
use coffer_evidence::ids::Digest256;
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// Bytes that may still be delivered, shared by stdout and stderr.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Budget {
    /// That many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Takes up to that many bytes; answers how many.
    fn take(&self, wanted: u64) -> u64 {
        let taken = self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - left.min(wanted)));
        taken.unwrap_or(0).min(wanted)
    }
}

/// A digest being made.
#[derive(Debug, Default)]
pub struct Counter {
    hash: Sha256,
    total: u64,
    delivered: u64,
}

impl Counter {
    /// Counts bytes that came.
    pub fn came(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.total += bytes.len() as u64;
    }

    /// Counts bytes that arrived where they were meant to.
    pub fn delivered(&mut self, count: usize) {
        self.delivered += count as u64;
    }

    /// Bytes so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What is logged.
    pub fn finish(self) -> StreamDigest {
        let sha256 = Digest256::new(self.hash.finalize().into());
        StreamDigest { total: self.total, delivered: self.delivered, sha256 }
    }
}

/// Reads a program's stream to its end. Chunks go to `deliver` (offset, bytes) while the budget lasts; what is over,
/// and what comes after `abandon`, is counted and digested but not delivered. `deliver` answers whether the client
/// took it.
pub async fn drain<F>(
    mut from: impl AsyncRead + Unpin,
    budget: &Budget,
    abandon: &CancellationToken,
    mut deliver: impl FnMut(u64, Bytes) -> F,
) -> StreamDigest
where
    F: Future<Output = bool>,
{
    let mut counter = Counter::default();
    let mut wanted = true;
    let mut buffer = vec![0; CHUNK_MAX];
    loop {
        // A read error on a pipe cannot happen; the end is the end.
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return counter.finish(),
            Ok(count) => count,
        };
        let offset = counter.total();
        counter.came(&buffer[..count]);
        if !wanted {
            continue;
        }
        let allowed = usize::try_from(budget.take(count as u64)).unwrap_or(0);
        // Once a byte is left out, later ones are too: offsets stay honest.
        wanted = allowed == count;
        if allowed == 0 {
            continue;
        }
        let chunk = Bytes::copy_from_slice(&buffer[..allowed]);
        let taken = tokio::select! {
            taken = deliver(offset, chunk) => taken,
            () = abandon.cancelled() => false,
        };
        if taken {
            counter.delivered(allowed);
        }
        wanted = wanted && taken;
    }
}

/// Writes one chunk to a program's stdin. False when the program does not read any more.
pub async fn feed(to: &mut (impl AsyncWrite + Unpin), counter: &mut Counter, bytes: &[u8]) -> bool {
    counter.came(bytes);
    let mut rest = bytes;
    while !rest.is_empty() {
        match to.write(rest).await {
            Ok(count) if count > 0 => {
                counter.delivered(count);
                rest = &rest[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    async fn drained(input: &[u8], budget: u64) -> (StreamDigest, Vec<(u64, Bytes)>) {
        let got = Mutex::new(Vec::new());
        let budget = Budget::new(budget);
        let digest = drain(input, &budget, &CancellationToken::new(), |offset, bytes| {
            got.lock().unwrap().push((offset, bytes));
            std::future::ready(true)
        })
        .await;
        (digest, got.into_inner().unwrap())
    }

    #[tokio::test]
    async fn output_above_the_cap_is_digested_and_not_delivered() {
        let input: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let (digest, chunks) = drained(&input, 100_000).await;
        assert_eq!(digest.total, 200_000);
        assert_eq!(digest.delivered, 100_000);
        assert_eq!(digest.sha256, Digest256::of(&input));
        let delivered: Vec<u8> = chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        assert!(delivered == input[..100_000]);
        let mut at = 0;
        for (offset, bytes) in &chunks {
            assert_eq!(*offset, at);
            assert!(bytes.len() <= CHUNK_MAX);
            at += bytes.len() as u64;
        }
    }

    #[tokio::test]
    async fn a_client_that_went_away_does_not_stop_the_digest() {
        let input = vec![7; 200_000];
        let budget = Budget::new(1 << 20);
        let digest = drain(&input[..], &budget, &CancellationToken::new(), |_, _| std::future::ready(false)).await;
        assert_eq!((digest.total, digest.delivered), (200_000, 0));
        assert_eq!(digest.sha256, Digest256::of(&input));
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_left_once_the_call_is_over() {
        let abandon = CancellationToken::new();
        abandon.cancel();
        let budget = Budget::new(1 << 20);
        let digest = drain(&[1_u8; 10][..], &budget, &abandon, |_, _| std::future::pending()).await;
        assert_eq!((digest.total, digest.delivered), (10, 0));
    }
}
