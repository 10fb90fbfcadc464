//! Stdin of a call: what has come and waits for the program. It outlives the client that sent it.

use super::super::errors::Reason;
use super::super::limits::{self, STDIN_WAITING_MAX};
use super::super::pump::Counter;
use super::attachment::Manner;
use bytes::{Buf as _, Bytes};
use coffer_evidence::call::StreamDigest;
use rustix::termios::{SpecialCodeIndex, tcgetattr};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tonic::Status;

/// What ^D is unless the program has changed it.
const VEOF: u8 = 4;

/// What waits.
enum Piece {
    Data(Bytes),
    /// The end of a pipe.
    End,
    /// A character of ours, typed on a terminal.
    Typed(u8),
}

/// The way into a program.
pub(super) struct Input {
    /// Dropping it is the end of input.
    to: Option<pipe::Sender>,
    waiting: VecDeque<Piece>,
    bytes: usize,
    counter: Counter,
}

impl Input {
    /// Into this pipe, or master of a terminal.
    pub(super) fn new(to: pipe::Sender) -> Self {
        Self { to: Some(to), waiting: VecDeque::new(), bytes: 0, counter: Counter::default() }
    }

    /// Whether a client's next message may be read. One that acknowledges keeps to its limit by itself, so that what is no
    /// input is never behind what is.
    pub(super) fn is_ready(&self, manner: Manner) -> bool {
        match manner {
            Manner::Acknowledges => true,
            Manner::Silent => self.bytes == 0,
        }
    }

    /// Takes a chunk.
    pub(super) fn push(&mut self, bytes: Bytes, manner: Manner) -> Result<(), Status> {
        limits::chunk(&bytes)?;
        if manner == Manner::Acknowledges && self.bytes + bytes.len() > STDIN_WAITING_MAX {
            return Err(Reason::LimitExceeded.status(format!(
                "expected at most {STDIN_WAITING_MAX} bytes of stdin beyond the last `stdin_taken`, found more; wait for it"
            )));
        }
        self.counter.came(&bytes);
        // The program closed its stdin: what still comes is nobody's.
        if self.to.is_some() && !bytes.is_empty() {
            self.bytes += bytes.len();
            self.waiting.push_back(Piece::Data(bytes));
        }
        Ok(())
    }

    /// The end of input. Told twice, it is one on a pipe.
    pub(super) fn end(&mut self, terminal: Option<impl AsFd>) {
        let piece = match terminal {
            Some(master) => Piece::Typed(
                tcgetattr(master).map_or(VEOF, |attributes| attributes.special_codes[SpecialCodeIndex::VEOF]),
            ),
            None => Piece::End,
        };
        // One that waits already says it.
        if self.to.is_some() && !matches!(self.waiting.back(), Some(Piece::End | Piece::Typed(_))) {
            self.waiting.push_back(piece);
        }
    }

    /// Whether something waits for the program.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes that came.
    pub(super) fn came(&self) -> u64 {
        self.counter.total()
    }

    /// Bytes that came and wait no more.
    pub(super) fn taken(&self) -> u64 {
        self.counter.total() - self.bytes as u64
    }

    /// Gives the program some of what waits. May be dropped: what was not written still waits.
    pub(super) async fn feed(&mut self) {
        let Some(to) = &mut self.to else { return self.give_up() };
        let typed;
        let bytes = match self.waiting.front() {
            Some(Piece::Data(bytes)) => bytes.as_ref(),
            Some(Piece::Typed(character)) => {
                typed = [*character];
                &typed
            }
            Some(Piece::End) => return self.give_up(),
            None => return,
        };
        let written = match to.write(bytes).await {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return,
            // The program does not read any more.
            Ok(0) | Err(_) => return self.give_up(),
            Ok(written) => written,
        };
        match self.waiting.front_mut() {
            Some(Piece::Data(bytes)) => {
                bytes.advance(written);
                self.bytes -= written;
                self.counter.delivered(written);
                if bytes.is_empty() {
                    self.waiting.pop_front();
                }
            }
            Some(Piece::Typed(_) | Piece::End) | None => drop(self.waiting.pop_front()),
        }
    }

    fn give_up(&mut self) {
        self.to = None;
        self.waiting.clear();
        self.bytes = 0;
    }

    /// What is logged.
    pub(super) fn finish(self) -> StreamDigest {
        self.counter.finish()
    }
}
