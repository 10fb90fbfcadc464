//! What one call keeps of its output: both streams from the oldest byte that a client may still ask for, together never
//! more than the limit. Pure: no time, no I/O.
//!
//! ```text
//!   stream   0 ......... start ............ sent ............ end
//!             had by the   │  on its way to   │   not sent yet
//!             client, gone │  the client      │
//! ```
//! Above `output_bytes_max` output is counted and digested, and not kept: it is nobody's.

use super::super::limits::CHUNK_MAX;
use super::super::pump::Counter;
use bytes::Bytes;
use coffer_evidence::call::StreamDigest;
use std::collections::VecDeque;

/// Bytes of both streams of a call that are kept for a client, at most.
pub const WINDOW: usize = 1 << 20;
/// Room beyond what is in use that a buffer may have.
const SPARE: usize = 128 * 1024;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Standard output, or all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A place in each stream: bytes from its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offsets {
    /// In stdout.
    pub stdout: u64,
    /// In stderr.
    pub stderr: u64,
}

impl Offsets {
    /// The place in one stream.
    pub fn of(self, of: Of) -> u64 {
        match of {
            Of::Stdout => self.stdout,
            Of::Stderr => self.stderr,
        }
    }
}

/// Some bytes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which.
    pub of: Of,
    /// Where they begin.
    pub offset: u64,
    /// At least one, at most a chunk of the API.
    pub data: Bytes,
}

/// Offsets that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// What is asked for is kept no longer; there is output from these offsets.
    Gone(Offsets),
    /// The streams are not that long: so far they end here.
    Ahead(Offsets),
}

/// What may be dropped when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the program waits.
    Nothing,
    /// What was sent, the oldest first.
    Sent,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    start: u64,
    sent: u64,
}

impl Kept {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Bytes that were sent and are still here.
    fn repeatable(&self) -> usize {
        usize::try_from(self.sent.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    fn forget(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.start += count as u64;
        self.sent = self.sent.max(self.start);
        if self.bytes.capacity() > 2 * self.bytes.len() + SPARE {
            self.bytes.shrink_to(self.bytes.len() + SPARE / 2);
        }
    }

    fn copy(&self, of: Of, at: u64) -> Option<Chunk> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        let count = self.bytes.len().checked_sub(from)?.min(CHUNK_MAX);
        if count == 0 {
            return None;
        }
        let (front, back) = self.bytes.as_slices();
        let mut data = Vec::with_capacity(count);
        data.extend_from_slice(front.get(from..).map_or(&[][..], |front| &front[..count.min(front.len())]));
        let rest = from.saturating_sub(front.len());
        data.extend_from_slice(&back[rest..rest + (count - data.len())]);
        Some(Chunk { of, offset: at, data: data.into() })
    }
}

/// Whether a stream is still kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    On,
    /// A byte was left out: no later one is kept, so that offsets stay honest.
    Over,
}

#[derive(Debug)]
struct Stream {
    kept: Kept,
    keeping: Keeping,
    counter: Counter,
}

impl Stream {
    fn new() -> Self {
        Self { kept: Kept::default(), keeping: Keeping::On, counter: Counter::default() }
    }
}

/// The output of a call that has not ended.
#[derive(Debug)]
pub struct Window {
    stdout: Stream,
    stderr: Stream,
    most: usize,
    /// Bytes that may still be kept over the life of the call.
    budget: u64,
}

impl Window {
    /// Keeps `most` bytes at once, and `budget` over the whole life of the call.
    pub fn new(most: usize, budget: u64) -> Self {
        Self { stdout: Stream::new(), stderr: Stream::new(), most, budget }
    }

    fn streams(&mut self) -> [(Of, &mut Stream); 2] {
        [(Of::Stdout, &mut self.stdout), (Of::Stderr, &mut self.stderr)]
    }

    fn stream(&self, of: Of) -> &Stream {
        match of {
            Of::Stdout => &self.stdout,
            Of::Stderr => &self.stderr,
        }
    }

    /// Bytes that are kept, never more than the limit.
    pub fn len(&self) -> usize {
        self.stdout.kept.bytes.len() + self.stderr.kept.bytes.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the output takes: at most twice what is kept, and some room.
    pub fn memory(&self) -> usize {
        self.stdout.kept.bytes.capacity() + self.stderr.kept.bytes.capacity()
    }

    /// Bytes of this stream that may be read now; none means that the program waits.
    pub fn room(&self, of: Of, loss: Loss) -> usize {
        if self.stream(of).keeping == Keeping::Over {
            return CHUNK_MAX;
        }
        let droppable = match loss {
            Loss::Nothing => 0,
            Loss::Sent => self.stdout.kept.repeatable() + self.stderr.kept.repeatable(),
        };
        (self.most - self.len() + droppable).min(CHUNK_MAX)
    }

    /// Takes what was read, at most [`Window::room`].
    pub fn put(&mut self, of: Of, bytes: &[u8], loss: Loss) {
        let room = self.room(of, loss);
        let over = self.stream(of).keeping == Keeping::Over;
        let affordable = usize::try_from(self.budget).unwrap_or(usize::MAX).min(room);
        let count = if over { 0 } else { bytes.len().min(affordable) };
        self.budget -= count as u64;
        let mut excess = (self.len() + count).saturating_sub(self.most);
        while excess > 0 {
            let older = self.streams().into_iter().max_by_key(|(_, stream)| stream.kept.repeatable());
            let Some((_, stream)) = older else { break };
            let dropped = stream.kept.repeatable().min(excess);
            if dropped == 0 {
                break;
            }
            stream.kept.forget(dropped);
            excess -= dropped;
        }
        let stream = match of {
            Of::Stdout => &mut self.stdout,
            Of::Stderr => &mut self.stderr,
        };
        stream.counter.came(bytes);
        stream.counter.delivered(count);
        stream.kept.bytes.extend(&bytes[..count]);
        if count < bytes.len() {
            stream.keeping = Keeping::Over;
        }
    }

    /// Nothing more is kept.
    pub fn abandon(&mut self) {
        for (_, stream) in self.streams() {
            stream.keeping = Keeping::Over;
        }
    }

    /// Whether there is something to send.
    pub fn has_next(&self) -> bool {
        [&self.stdout, &self.stderr].iter().any(|stream| stream.kept.sent < stream.kept.end())
    }

    /// The next bytes for the client, which count as sent.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        self.streams().into_iter().find_map(|(of, stream)| {
            let chunk = stream.kept.copy(of, stream.kept.sent)?;
            stream.kept.sent += chunk.data.len() as u64;
            Some(chunk)
        })
    }

    /// Goes on at these offsets: the client has everything before them.
    pub fn resume(&mut self, at: Offsets) -> Result<(), Refused> {
        check(&self.stdout.kept, &self.stderr.kept, at)?;
        for (of, Stream { kept, .. }) in self.streams() {
            kept.forget(usize::try_from(at.of(of) - kept.start).unwrap_or(usize::MAX));
            kept.sent = kept.start;
        }
        Ok(())
    }

    /// The client has everything before these offsets. What is dropped already it may tell again.
    pub fn received(&mut self, to: Offsets) -> Result<(), Refused> {
        let sent = Offsets { stdout: self.stdout.kept.sent, stderr: self.stderr.kept.sent };
        if to.stdout > sent.stdout || to.stderr > sent.stderr {
            return Err(Refused::Ahead(sent));
        }
        for (of, Stream { kept, .. }) in self.streams() {
            kept.forget(usize::try_from(to.of(of).saturating_sub(kept.start)).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// The program has ended: what is kept, where its client was, and the digests of the streams.
    pub fn freeze(self) -> (Tail, Offsets, [StreamDigest; 2]) {
        let at = Offsets { stdout: self.stdout.kept.sent, stderr: self.stderr.kept.sent };
        let mut tail = Tail { stdout: self.stdout.kept, stderr: self.stderr.kept };
        tail.stdout.bytes.shrink_to_fit();
        tail.stderr.bytes.shrink_to_fit();
        (tail, at, [self.stdout.counter.finish(), self.stderr.counter.finish()])
    }
}

fn check(stdout: &Kept, stderr: &Kept, at: Offsets) -> Result<(), Refused> {
    if at.stdout > stdout.end() || at.stderr > stderr.end() {
        return Err(Refused::Ahead(Offsets { stdout: stdout.end(), stderr: stderr.end() }));
    }
    if at.stdout < stdout.start || at.stderr < stderr.start {
        return Err(Refused::Gone(Offsets { stdout: stdout.start, stderr: stderr.start }));
    }
    Ok(())
}

/// What is left of the output of a call that has ended: it does not change, and has any number of readers.
#[derive(Debug, Default)]
pub struct Tail {
    stdout: Kept,
    stderr: Kept,
}

impl Tail {
    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.stdout.bytes.len() + self.stderr.bytes.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a reader can begin here.
    pub fn check(&self, at: Offsets) -> Result<(), Refused> {
        check(&self.stdout, &self.stderr, at)
    }

    /// The next bytes for a reader that is here; none at the end.
    pub fn read(&self, at: Offsets) -> Option<Chunk> {
        self.stdout.copy(Of::Stdout, at.stdout).or_else(|| self.stderr.copy(Of::Stderr, at.stderr))
    }
}
