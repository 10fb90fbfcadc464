//! One order, one writer: append → sign → extend → read back → export. There is no recovery inside: whoever gets an
//! error here ends the process.

use super::live::NotaryError;
use super::registers::Registers;
use coffer_evidence::leaf::Opened;
use coffer_evidence::link::{Frame as _, Mirror};
use coffer_evidence::writer::{AppendError, AppendedLeaf, CHECKPOINT_LEAVES, EventExtend, LeafDraft, LogWriter};
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};

/// From the first leaf that no checkpoint covers to the checkpoint that does.
pub const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// The log, the register that pins it, and what is not exported yet.
#[derive(Debug)]
pub struct Recorder<R> {
    /// The rules of the log.
    pub writer: LogWriter,
    /// The registers.
    pub registers: R,
    pending: Vec<AppendedLeaf>,
    first_uncovered: Option<Instant>,
    /// Over the leaves in their file framing: `u32` length (little endian) and bytes of each.
    leaves: Sha256,
}

impl<R: Registers> Recorder<R> {
    /// Takes over a log whose event 0 is not extended yet, and extends it. Answers the event's record.
    pub fn open(writer: LogWriter, registers: R, event: EventExtend) -> Result<(Self, Vec<u8>), NotaryError> {
        let mut recorder =
            Self { writer, registers, pending: Vec::new(), first_uncovered: None, leaves: Sha256::new() };
        recorder.extend(&event)?;
        Ok((recorder, Mirror::Event { index: event.index, bytes: event.bytes }.to_wire()))
    }

    /// Appends a leaf; answers its index.
    pub fn append(&mut self, draft: LeafDraft, private: Option<Opened>) -> Result<u64, AppendError> {
        let leaf = self.writer.append(draft, private)?;
        let length = u32::try_from(leaf.bytes.len()).unwrap_or(u32::MAX);
        self.leaves.update(length.to_le_bytes());
        self.leaves.update(&leaf.bytes);
        let index = leaf.index;
        self.pending.push(leaf);
        self.first_uncovered.get_or_insert_with(Instant::now);
        Ok(index)
    }

    /// When the next checkpoint is due; at once when enough leaves wait for it.
    pub fn due(&self) -> Option<Instant> {
        let first = self.first_uncovered?;
        Some(if self.writer.uncovered() >= CHECKPOINT_LEAVES { first } else { first + CHECKPOINT_AFTER })
    }

    /// Covers every leaf so far. Answers the records to export, none when nothing was new.
    pub fn checkpoint(&mut self, key: &SigningKey) -> Result<Vec<Vec<u8>>, NotaryError> {
        let Some((event, note)) = self.writer.checkpoint(key) else { return Ok(Vec::new()) };
        self.extend(&event)?;
        self.first_uncovered = None;
        let mut records = Vec::with_capacity(self.pending.len() * 2 + 2);
        for leaf in self.pending.drain(..) {
            records.push(Mirror::Leaf { index: leaf.index, bytes: leaf.bytes }.to_wire());
            if let Some(Opened { salt, bytes }) = leaf.private {
                records.push(Mirror::Private { index: leaf.index, salt, bytes }.to_wire());
            }
        }
        records.push(Mirror::Event { index: event.index, bytes: event.bytes }.to_wire());
        records.push(Mirror::Note(note.into_bytes()).to_wire());
        Ok(records)
    }

    /// Makes the last event. Answers its record.
    pub fn sealed(&mut self) -> Result<Vec<u8>, NotaryError> {
        let event = self.writer.sealed().ok_or_else(|| NotaryError::new("seal", "the log is not ready for it"))?;
        self.extend(&event)?;
        Ok(Mirror::Event { index: event.index, bytes: event.bytes }.to_wire())
    }

    /// SHA-256 of the `leaves` file.
    pub fn leaves_digest(&self) -> [u8; 32] {
        self.leaves.clone().finalize().into()
    }

    /// Extends RTMR3 and insists on its value before and after: nobody else may have extended it.
    fn extend(&mut self, event: &EventExtend) -> Result<(), NotaryError> {
        let register = |error| NotaryError::chain("rtmr3", &error);
        if self.registers.rtmr3().map_err(register)? != *event.before.as_bytes() {
            return Err(foreign(event.index, "before"));
        }
        self.registers.extend(event.digest.as_bytes()).map_err(register)?;
        if self.registers.rtmr3().map_err(register)? != *event.after.as_bytes() {
            return Err(foreign(event.index, "after"));
        }
        Ok(())
    }
}

fn foreign(index: u64, when: &str) -> NotaryError {
    NotaryError::new("rtmr3", format!("it does not hold what the log says {when} event {index}: a foreign extend"))
}
