//! Acknowledgements in strict sessions (EVIDENCE section 2, rule R15), leaf by leaf: one state machine for the writer, which appends
//! no leaf that this refuses, and for the verifier. In relaxed sessions nothing waits, and nothing is held.
//!
//! ```text
//! intent leaf ─> checkpoint over it ─> ack of the caller or a witness ─> effect ─> outcome leaf
//! ```
//! When an effect began is not in the log. What is there: an outcome that says there was one follows the ack.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use crate::call_header::{Said, Seen, Speaker};
use crate::chain::RUNNING_MAX;
use crate::ids::{CallId, Digest256, Identity};
use crate::intent::{Durability, Intent};
use crate::leaf::{CauseClass, Leaf, Public};

/// How many checkpoints back an ack may reach.
pub const SEEN_WINDOW: usize = 1_024;

/// Why a leaf does not go on with the acknowledgements.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AckFault {
    /// What was seen is no checkpoint of this log.
    #[error(
        "leaf {leaf}: expected one of the last {SEEN_WINDOW} checkpoints of this log, found another root or size ({size})"
    )]
    NoSuchCheckpoint {
        /// The leaf of the ack.
        leaf: u64,
        /// The size that it names.
        size: u64,
    },
    /// Nobody who may release it had acknowledged its intent.
    #[error(
        "leaf {leaf}: the effect of intent {intent} began, and neither its caller nor a witness had acknowledged it"
    )]
    Unacknowledged {
        /// The leaf of the outcome.
        leaf: u64,
        /// The leaf of the intent.
        intent: u64,
    },
    /// Too many calls at once.
    #[error("leaf {leaf}: more than {RUNNING_MAX} running calls")]
    TooMany {
        /// The leaf of the intent.
        leaf: u64,
    },
}

/// The acknowledgements so far.
#[derive(Clone, Debug)]
pub struct Acks {
    durability: Durability,
    checkpoints: VecDeque<Seen>,
    /// The largest size that each identity has acknowledged.
    acked: BTreeMap<Identity, u64>,
    /// The largest that any witness has.
    witnessed: u64,
    running: BTreeMap<(Identity, CallId), u64>,
    released: u64,
}

impl Acks {
    /// Before leaf 0.
    #[must_use]
    pub const fn new(intent: &Intent) -> Self {
        Self {
            durability: intent.durability,
            checkpoints: VecDeque::new(),
            acked: BTreeMap::new(),
            witnessed: 0,
            running: BTreeMap::new(),
            released: 0,
        }
    }

    /// How many effects began after an acknowledgement.
    #[must_use]
    pub const fn released(&self) -> u64 {
        self.released
    }

    /// A checkpoint over all leaves so far.
    pub fn checkpoint(&mut self, size: u64, root: Digest256) {
        if self.durability == Durability::Relaxed {
            return;
        }
        if self.checkpoints.len() >= SEEN_WINDOW {
            self.checkpoints.pop_front();
        }
        self.checkpoints.push_back(Seen { size, root });
    }

    /// Judges the next leaf, and takes it.
    ///
    /// # Errors
    /// [`AckFault`]; nothing has changed then.
    pub fn see(&mut self, leaf: &Leaf) -> Result<(), AckFault> {
        self.judge(leaf)?;
        self.take(leaf);
        Ok(())
    }

    /// Whether the acknowledgements allow this leaf.
    ///
    /// # Errors
    /// [`AckFault`].
    pub fn judge(&self, leaf: &Leaf) -> Result<(), AckFault> {
        if self.durability == Durability::Relaxed {
            return Ok(());
        }
        let index = leaf.index;
        match &leaf.public {
            Public::Client { header } => match header.header.said {
                Said::Ack { seen } if !self.checkpoints.contains(&seen) => {
                    Err(AckFault::NoSuchCheckpoint { leaf: index, size: seen.size })
                }
                _ => Ok(()),
            },
            Public::Intent { .. } if self.running.len() >= RUNNING_MAX => Err(AckFault::TooMany { leaf: index }),
            Public::Outcome { cause, .. } if *cause != CauseClass::NotStarted => {
                let Some(call) = leaf.identity.clone().zip(leaf.call) else { return Ok(()) };
                let acked = self.acked.get(&call.0).copied().unwrap_or(0).max(self.witnessed);
                match self.running.get(&call) {
                    Some(intent) if acked <= *intent => Err(AckFault::Unacknowledged { leaf: index, intent: *intent }),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Takes a leaf that was judged.
    pub fn take(&mut self, leaf: &Leaf) {
        if self.durability == Durability::Relaxed {
            return;
        }
        let call = leaf.identity.clone().zip(leaf.call);
        match (&leaf.public, call) {
            (Public::Client { header }, _) => {
                let Said::Ack { seen } = header.header.said else { return };
                match &header.header.speaker {
                    Speaker::Identity(identity) => {
                        let acked = self.acked.entry(identity.clone()).or_default();
                        *acked = seen.size.max(*acked);
                    }
                    Speaker::Witness(_) => self.witnessed = seen.size.max(self.witnessed),
                    // The owner is told, and releases nothing.
                    Speaker::Owner => {}
                }
            }
            (Public::Intent { .. }, Some(call)) => {
                self.running.insert(call, leaf.index);
            }
            (Public::Outcome { cause, .. }, Some(call)) => {
                let ran = self.running.remove(&call).is_some();
                let began = u64::from(ran && *cause != CauseClass::NotStarted);
                self.released = self.released.saturating_add(began);
            }
            _ => {}
        }
    }
}
