//! The state of a running call towards its clients: who is there, what may be dropped, how long it waits. A pure state
//! machine over a [`Window`]; the task of the call owns it and does what it says.
//!
//! ```text
//!               attach: takes over from the one before
//!                    ┌────┐
//!  start ───────> Attached <────────── attach ─────────── Detached{until} ──┐ until is over: cancel, once
//!                    │ │                                   │        ^ <─────┘
//!                    │ └───────────── client gone ─────────┼────────┘
//!                    └──────── program ended, drained ─────┘
//!                                      ▼
//!                    Finished: a `Tail`, with any number of readers, each at its own place
//! ```
//! | state | window full |
//! |---|---|
//! | Attached, the client acknowledges | the program waits until it tells that it has something |
//! | Attached, it does not | what was sent is dropped; when all of it is yet to be sent, the program waits |
//! | Detached | the program waits |

use super::window::{Chunk, Loss, Of, Offsets, Refused, Tail, Window};
use coffer_evidence::call::StreamDigest;
use std::time::Duration;
use tokio::time::Instant;

/// Whether a client tells what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It does, and loses nothing.
    Acknowledges,
    /// It does not.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Attached(Manner),
    Detached {
        until: Instant,
    },
    /// Nobody came back in time; the call is ending.
    GivenUp,
}

/// A call that has not ended, and its client.
#[derive(Debug)]
pub struct Attachment {
    window: Window,
    presence: Presence,
    patience: Duration,
}

impl Attachment {
    /// A call that starts with a client.
    pub fn new(window: Window, manner: Manner, patience: Duration) -> Self {
        Self { window, presence: Presence::Attached(manner), patience }
    }

    fn loss(&self) -> Loss {
        match self.presence {
            Presence::Attached(Manner::Silent) => Loss::Sent,
            Presence::Attached(Manner::Acknowledges) | Presence::Detached { .. } | Presence::GivenUp => Loss::Nothing,
        }
    }

    /// Bytes of memory that the output takes.
    pub fn memory(&self) -> usize {
        self.window.memory()
    }

    /// Bytes of output that are kept.
    pub fn window_len(&self) -> usize {
        self.window.len()
    }

    /// Bytes of this stream that may be read now.
    pub fn room(&self, of: Of) -> usize {
        self.window.room(of, self.loss())
    }

    /// The program put this out.
    pub fn output(&mut self, of: Of, bytes: &[u8]) {
        self.window.put(of, bytes, self.loss());
    }

    /// A client that has everything before these offsets. When it is refused, nothing changes.
    pub fn attach(&mut self, at: Offsets, manner: Manner, patience: Duration) -> Result<(), Refused> {
        self.window.resume(at)?;
        self.patience = patience;
        self.presence = match self.presence {
            // It is ending, and gets to see the end.
            Presence::GivenUp => Presence::GivenUp,
            Presence::Attached(_) | Presence::Detached { .. } => Presence::Attached(manner),
        };
        Ok(())
    }

    /// The client is gone.
    pub fn detach(&mut self, now: Instant) {
        if let Presence::Attached(_) = self.presence {
            self.presence = Presence::Detached { until: now + self.patience };
        }
    }

    /// When the call is to be cancelled if nobody comes.
    pub fn deadline(&self) -> Option<Instant> {
        match self.presence {
            Presence::Detached { until } => Some(until),
            Presence::Attached(_) | Presence::GivenUp => None,
        }
    }

    /// Time has passed; true once, when the call is to be cancelled.
    pub fn is_given_up(&mut self, now: Instant) -> bool {
        let over = self.deadline().is_some_and(|until| now >= until);
        if over {
            self.presence = Presence::GivenUp;
        }
        over
    }

    /// Whether there is something to send.
    pub fn has_next(&self) -> bool {
        self.window.has_next()
    }

    /// The next bytes for the client.
    pub fn next_chunk(&mut self) -> Option<Chunk> {
        self.window.next_chunk()
    }

    /// The client has everything before these offsets.
    pub fn received(&mut self, to: Offsets) -> Result<(), Refused> {
        self.window.received(to)
    }

    /// The program has ended and nobody makes room for the rest of its output: that is counted and digested, no more.
    pub fn abandon(&mut self) {
        self.window.abandon();
    }

    /// The program has ended: what is kept, where the client was, and the digests of the streams.
    pub fn finish(self) -> (Tail, Offsets, [StreamDigest; 2]) {
        self.window.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::limits::CHUNK_MAX;
    use super::*;
    use coffer_evidence::ids::Digest256;
    use proptest::prelude::*;

    /// Small, so that sequences fill it.
    const MOST: usize = 1000;
    const MINUTE: Duration = Duration::from_secs(60);

    /// What a program puts out: each byte tells its stream and place.
    fn byte(of: Of, at: u64) -> u8 {
        (at % 251) as u8 ^ if of == Of::Stdout { 0 } else { 0x80 }
    }

    fn bytes(of: Of, from: u64, to: u64) -> Vec<u8> {
        (from..to).map(|at| byte(of, at)).collect()
    }

    fn attachment(manner: Manner, budget: u64) -> Attachment {
        Attachment::new(Window::new(MOST, budget), manner, MINUTE)
    }

    fn at(stdout: u64, stderr: u64) -> Offsets {
        Offsets { stdout, stderr }
    }

    /// Output as it came to a client.
    #[derive(Default)]
    struct Got {
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    }

    impl Got {
        fn offsets(&self) -> Offsets {
            at(self.stdout.len() as u64, self.stderr.len() as u64)
        }

        fn take(&mut self, chunk: &Chunk) {
            assert_eq!(chunk.offset, self.offsets().of(chunk.of), "a gap or a repetition");
            match chunk.of {
                Of::Stdout => self.stdout.extend_from_slice(&chunk.data),
                Of::Stderr => self.stderr.extend_from_slice(&chunk.data),
            }
        }
    }

    /// The program puts out that much more, as far as there is room.
    fn put_out(call: &mut Attachment, put: &mut Offsets, of: Of, count: usize) {
        let count = count.min(call.room(of)) as u64;
        let from = put.of(of);
        call.output(of, &bytes(of, from, from + count));
        match of {
            Of::Stdout => put.stdout += count,
            Of::Stderr => put.stderr += count,
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// The program puts out that much, as far as there is room.
        Output(Of, usize),
        /// The client takes a chunk.
        Take,
        /// Chunks that are sent are lost with the connection.
        Lose(usize),
        /// The client comes back where it was.
        Attach,
        /// Another connection of it takes over.
        TakeOver,
        /// It tells what it has.
        Tell,
    }

    fn step() -> impl Strategy<Value = Step> {
        let of = prop_oneof![Just(Of::Stdout), Just(Of::Stderr)];
        prop_oneof![
            4 => (of, 0_usize..700).prop_map(|(of, count)| Step::Output(of, count)),
            4 => Just(Step::Take),
            1 => (0_usize..3).prop_map(Step::Lose),
            2 => Just(Step::Attach),
            1 => Just(Step::TakeOver),
            2 => Just(Step::Tell),
        ]
    }

    proptest! {
        #[test]
        fn a_client_that_acknowledges_and_resumes_where_it_was_gets_exactly_what_the_program_put_out(
            steps in proptest::collection::vec(step(), 0..200)
        ) {
            let now = Instant::now();
            let mut call = attachment(Manner::Acknowledges, u64::MAX);
            let (mut got, mut put, mut here) = (Got::default(), at(0, 0), true);
            for step in steps {
                match step {
                    Step::Output(of, count) => put_out(&mut call, &mut put, of, count),
                    Step::Take if here => call.next_chunk().iter().for_each(|chunk| got.take(chunk)),
                    Step::Lose(sent) if here => {
                        for _ in 0..sent {
                            drop(call.next_chunk());
                        }
                        call.detach(now);
                        here = false;
                    }
                    Step::Attach if !here => {
                        prop_assert_eq!(call.attach(got.offsets(), Manner::Acknowledges, MINUTE), Ok(()));
                        here = true;
                    }
                    Step::TakeOver if here => {
                        drop(call.next_chunk());
                        prop_assert_eq!(call.attach(got.offsets(), Manner::Acknowledges, MINUTE), Ok(()));
                    }
                    Step::Tell if here => prop_assert_eq!(call.received(got.offsets()), Ok(())),
                    Step::Take | Step::Lose(_) | Step::Attach | Step::TakeOver | Step::Tell => {}
                }
                prop_assert!(call.window_len() <= MOST);
                prop_assert!(call.memory() <= 2 * MOST + 2 * CHUNK_MAX * 2);
            }
            // After the end it goes on from the tail.
            let (tail, _, [stdout, stderr]) = call.finish();
            while let Some(chunk) = tail.read(got.offsets()) {
                got.take(&chunk);
            }
            let whole = [(Of::Stdout, &got.stdout, stdout, put.stdout), (Of::Stderr, &got.stderr, stderr, put.stderr)];
            for (of, got, digest, total) in whole {
                prop_assert_eq!(got, &bytes(of, 0, total));
                prop_assert_eq!((digest.total, digest.delivered, digest.sha256), (total, total, Digest256::of(got)));
            }
        }

        /// One that does not acknowledge may lose what was on its way, and is told from where there still is output.
        #[test]
        fn a_silent_client_gets_what_the_program_put_out_or_is_told_what_is_gone(
            steps in proptest::collection::vec(step(), 0..200)
        ) {
            let now = Instant::now();
            let mut call = attachment(Manner::Silent, u64::MAX);
            let (mut at_client, mut put, mut here) = (at(0, 0), at(0, 0), true);
            let take = |chunk: &Chunk, at_client: &mut Offsets| {
                assert_eq!(chunk.offset, at_client.of(chunk.of), "a gap or a repetition");
                let end = chunk.offset + chunk.data.len() as u64;
                assert_eq!(&chunk.data[..], &bytes(chunk.of, chunk.offset, end)[..], "invented");
                match chunk.of {
                    Of::Stdout => at_client.stdout = end,
                    Of::Stderr => at_client.stderr = end,
                }
            };
            for step in steps {
                match step {
                    Step::Output(of, count) => put_out(&mut call, &mut put, of, count),
                    Step::Take | Step::Tell if here => call.next_chunk().iter().for_each(|chunk| take(chunk, &mut at_client)),
                    Step::Lose(sent) if here => {
                        for _ in 0..sent {
                            drop(call.next_chunk());
                        }
                        call.detach(now);
                        here = false;
                    }
                    Step::Attach | Step::TakeOver => match call.attach(at_client, Manner::Silent, MINUTE) {
                        Ok(()) => here = true,
                        Err(Refused::Gone(from)) => {
                            prop_assert!(from.stdout > at_client.stdout || from.stderr > at_client.stderr);
                            at_client = at(from.stdout.max(at_client.stdout), from.stderr.max(at_client.stderr));
                            prop_assert_eq!(call.attach(at_client, Manner::Silent, MINUTE), Ok(()));
                            here = true;
                        }
                        Err(Refused::Ahead(end)) => prop_assert!(false, "{:?} is ahead of {:?}", at_client, end),
                    },
                    Step::Take | Step::Tell | Step::Lose(_) => {}
                }
                prop_assert!(call.window_len() <= MOST);
            }
        }
    }

    #[test]
    fn a_program_waits_when_its_client_is_gone_or_does_not_tell_and_not_when_it_reads() {
        let now = Instant::now();
        for (manner, gone, room) in [
            (Manner::Silent, false, MOST),
            (Manner::Silent, true, 0),
            (Manner::Acknowledges, false, 0),
            (Manner::Acknowledges, true, 0),
        ] {
            let mut call = attachment(manner, u64::MAX);
            call.output(Of::Stdout, &bytes(Of::Stdout, 0, MOST as u64));
            assert_eq!(call.room(Of::Stderr), 0, "nothing of it is sent yet");
            while call.next_chunk().is_some() {}
            if gone {
                call.detach(now);
            }
            assert_eq!(call.room(Of::Stderr), room, "{manner:?}, gone: {gone}");
        }
        let mut call = attachment(Manner::Acknowledges, u64::MAX);
        call.output(Of::Stdout, &bytes(Of::Stdout, 0, MOST as u64));
        while call.next_chunk().is_some() {}
        call.received(at(100, 0)).unwrap();
        assert_eq!(call.room(Of::Stdout), 100);
        assert_eq!(call.received(at(MOST as u64 + 1, 0)), Err(Refused::Ahead(at(MOST as u64, 0))));
    }

    #[test]
    fn a_call_without_a_client_is_given_up_once_when_its_time_is_over() {
        let now = Instant::now();
        let mut call = attachment(Manner::Silent, u64::MAX);
        assert_eq!((call.deadline(), call.is_given_up(now + 9 * MINUTE)), (None, false));
        call.detach(now);
        assert_eq!(call.deadline(), Some(now + MINUTE));
        assert!(!call.is_given_up(now + MINUTE - Duration::from_millis(1)));
        // Somebody comes, with another patience, and goes.
        call.attach(at(0, 0), Manner::Silent, 2 * MINUTE).unwrap();
        assert_eq!(call.deadline(), None);
        call.detach(now + MINUTE);
        assert_eq!(call.deadline(), Some(now + 3 * MINUTE));
        assert!(call.is_given_up(now + 3 * MINUTE));
        assert!(!call.is_given_up(now + 4 * MINUTE));
        assert_eq!(call.deadline(), None);
        // Who comes now sees the end.
        call.attach(at(0, 0), Manner::Silent, MINUTE).unwrap();
        call.detach(now + 4 * MINUTE);
        assert_eq!(call.deadline(), None);
    }

    #[test]
    fn an_attachment_that_is_refused_changes_nothing() {
        let mut call = attachment(Manner::Silent, u64::MAX);
        call.output(Of::Stdout, &bytes(Of::Stdout, 0, 900));
        while call.next_chunk().is_some() {}
        call.output(Of::Stderr, &bytes(Of::Stderr, 0, 300));
        let gone = Err(Refused::Gone(at(200, 0)));
        assert_eq!(call.attach(at(199, 0), Manner::Acknowledges, MINUTE), gone);
        assert_eq!(call.attach(at(901, 0), Manner::Acknowledges, MINUTE), Err(Refused::Ahead(at(900, 300))));
        assert_eq!(call.next_chunk().map(|chunk| (chunk.of, chunk.offset)), Some((Of::Stderr, 0)));
        assert_eq!(call.room(Of::Stdout), MOST, "the client is still one that does not acknowledge");
        call.attach(at(200, 300), Manner::Acknowledges, MINUTE).unwrap();
        assert_eq!(call.next_chunk().map(|chunk| (chunk.of, chunk.offset)), Some((Of::Stdout, 200)));
    }

    #[test]
    fn output_above_the_cap_is_digested_and_counted_once_over_the_whole_life() {
        let now = Instant::now();
        let mut call = attachment(Manner::Silent, 500);
        call.output(Of::Stdout, &bytes(Of::Stdout, 0, 400));
        call.detach(now);
        call.attach(at(100, 0), Manner::Silent, MINUTE).unwrap();
        call.output(Of::Stderr, &bytes(Of::Stderr, 0, 300));
        call.output(Of::Stdout, &bytes(Of::Stdout, 400, 900));
        assert_eq!(call.room(Of::Stderr), CHUNK_MAX, "what is not kept needs no room");
        let mut got = Got { stdout: bytes(Of::Stdout, 0, 100), ..Got::default() };
        while let Some(chunk) = call.next_chunk() {
            got.take(&chunk);
        }
        assert_eq!(got.offsets(), at(400, 100));
        let (_, _, [stdout, stderr]) = call.finish();
        assert_eq!((stdout.total, stdout.delivered), (900, 400));
        assert_eq!((stderr.total, stderr.delivered), (300, 100));
        assert_eq!(stdout.sha256, Digest256::of(&bytes(Of::Stdout, 0, 900)));
    }

    #[test]
    fn what_nobody_makes_room_for_is_digested_when_the_call_is_abandoned() {
        let mut call = attachment(Manner::Acknowledges, u64::MAX);
        call.output(Of::Stdout, &bytes(Of::Stdout, 0, MOST as u64));
        assert_eq!(call.room(Of::Stdout), 0);
        call.abandon();
        call.output(Of::Stdout, &bytes(Of::Stdout, MOST as u64, 3000));
        let (tail, _, [stdout, _]) = call.finish();
        assert_eq!((stdout.total, stdout.delivered, tail.len()), (3000, MOST as u64, MOST));
        assert_eq!(stdout.sha256, Digest256::of(&bytes(Of::Stdout, 0, 3000)));
    }
}
