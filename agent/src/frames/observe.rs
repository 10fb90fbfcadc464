//! init ⇄ observer: which calls run, and what they did with files.

use super::fields::{member, number};
use super::{Builder, Fields, Frame, FrameError};

/// From init to the observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToObserver {
    /// A file system that tools can write to. Carries its root directory, open; it is told of before the first call.
    Place {
        /// Uid of the one identity that has it; 0 when all may.
        uid: u64,
    },
    /// What is made, removed and renamed in every place. Carries the queue of the kernel's events.
    Names,
    /// A call begins. Carries the queues of what its processes execute, and of what they open.
    Begin {
        /// Index of the intent leaf.
        intent: u64,
        /// Uid of its identity.
        uid: u64,
        /// Its cgroup: `<uid>/<number>`.
        group: String,
    },
    /// The first process of a call: one that opens nothing is not seen otherwise.
    Process {
        /// Index of the intent leaf.
        intent: u64,
        /// Its process id, as init counts.
        pid: u64,
    },
    /// Every process of the call is gone: tell what it did.
    Finish {
        /// Index of the intent leaf.
        intent: u64,
    },
    /// No program of the call ever ran.
    Forget {
        /// Index of the intent leaf.
        intent: u64,
    },
}

/// From the observer to init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToInit {
    /// What the call did with files. Carries a [`crate::sealed`] file: canonical bytes of a
    /// `coffer_evidence::file_record::FileRecord`, at most [`RECORD_MAX`].
    Observed {
        /// Index of the intent leaf.
        intent: u64,
        /// Whether something is missing.
        coverage: Coverage,
    },
    /// The record of a running call misses something. Told once for each call.
    Lost {
        /// Index of the intent leaf.
        intent: u64,
    },
}

/// Whether a record misses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// Nothing that the observer knows of.
    Whole,
    /// It says what.
    Partial,
}

const COVERAGES: [Coverage; 2] = [Coverage::Whole, Coverage::Partial];

impl Coverage {
    /// The number on the wire.
    pub(super) fn number(self) -> u64 {
        number(&COVERAGES, &self)
    }

    /// From the number on the wire.
    pub(super) fn from_number(number: u64) -> Result<Self, FrameError> {
        member(&COVERAGES, number, "whether a record is whole")
    }
}

/// Bytes of the record of one call: with the rest of an outcome it fits a frame.
pub const RECORD_MAX: usize = 768 * 1024;

impl Frame for ToObserver {
    fn to_fields(&self) -> Builder {
        match self {
            ToObserver::Place { uid } => Builder::kind(1).unsigned(1, *uid),
            ToObserver::Names => Builder::kind(2),
            ToObserver::Begin { intent, uid, group } => {
                Builder::kind(3).unsigned(1, *intent).unsigned(2, *uid).text(3, group)
            }
            ToObserver::Finish { intent } => Builder::kind(4).unsigned(1, *intent),
            ToObserver::Forget { intent } => Builder::kind(5).unsigned(1, *intent),
            ToObserver::Process { intent, pid } => Builder::kind(6).unsigned(1, *intent).unsigned(2, *pid),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToObserver::Place { uid: fields.unsigned(1)? },
            2 => ToObserver::Names,
            3 => ToObserver::Begin { intent: fields.unsigned(1)?, uid: fields.unsigned(2)?, group: fields.text(3)? },
            4 => ToObserver::Finish { intent: fields.unsigned(1)? },
            5 => ToObserver::Forget { intent: fields.unsigned(1)? },
            6 => ToObserver::Process { intent: fields.unsigned(1)?, pid: fields.unsigned(2)? },
            _ => return Err(FrameError::Unexpected("a message of init to the observer")),
        })
    }
}

impl Frame for ToInit {
    fn to_fields(&self) -> Builder {
        match self {
            ToInit::Observed { intent, coverage } => {
                Builder::kind(1).unsigned(1, *intent).unsigned(2, coverage.number())
            }
            ToInit::Lost { intent } => Builder::kind(2).unsigned(1, *intent),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => {
                ToInit::Observed { intent: fields.unsigned(1)?, coverage: Coverage::from_number(fields.unsigned(2)?)? }
            }
            2 => ToInit::Lost { intent: fields.unsigned(1)? },
            _ => return Err(FrameError::Unexpected("a message of the observer to init")),
        })
    }
}
