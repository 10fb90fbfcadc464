//! init ⇄ notary: permission to start what was logged, what it did with files, files that only root may open, and the scrub.

use super::fields::{member, number};
use super::observe::Coverage;
use super::{Builder, Fields, Frame, FrameError};

/// From the notary to init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToInit {
    /// The config is admitted; identity n of this list has uid 10000+n.
    Admitted {
        /// Names, in the order of the intent.
        identities: Vec<String>,
        /// Whether a call may go on when its record misses something.
        gaps: Gaps,
    },
    /// An intent is logged: the agent may start exactly this request, once.
    Permit {
        /// Index of the intent leaf.
        intent: u64,
        /// Name of the identity.
        identity: String,
        /// SHA-256 of the canonical request.
        request: [u8; 32],
    },
    /// Open a file of the report directory anew; the answer carries the descriptor.
    Open {
        /// Which one.
        file: ReportFile,
    },
    /// Every outcome is logged: unmount what tools could write, check, and say what was found.
    Scrub,
    /// The notary cannot go on.
    Failed {
        /// What was being done.
        stage: String,
        /// What went wrong.
        detail: String,
    },
}

/// What becomes of a call whose record misses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// It goes on, and the log says so.
    Logged,
    /// It ends: the intent demands a record.
    Fatal,
}

const GAPS: [Gaps; 2] = [Gaps::Logged, Gaps::Fatal];

/// From init to the notary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToNotary {
    /// Each step of the scrub and its result, as numbers of `coffer_evidence::leaf`.
    Scrubbed {
        /// Pairs of step and result.
        steps: Vec<[u64; 2]>,
    },
    /// The file is open; the descriptor comes with this frame.
    Opened,
    /// The file could not be opened.
    NotOpened {
        /// The system's answer.
        errno: u64,
    },
    /// Every process of a call is gone. Carries what they did with files, as the observer told it: the bytes of
    /// [`super::observe::ToInit::Observed`]. The agent hears of the end only after this was said.
    Recorded {
        /// Index of the intent leaf.
        intent: u64,
        /// Whether something is missing.
        coverage: Coverage,
    },
    /// No program of a call ever ran, and none will.
    NotStarted {
        /// Index of the intent leaf.
        intent: u64,
    },
}

/// A file of the report directory. The kernel finishes a write when the file is closed and fills a read when it is
/// opened, so each use needs a fresh descriptor, and the files belong to root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFile {
    /// Report data, for writing.
    Inblob,
    /// The quote, for reading.
    Outblob,
    /// Counts writes, for reading.
    Generation,
    /// Name of the driver, for reading.
    Provider,
}

const FILES: [ReportFile; 4] = [ReportFile::Inblob, ReportFile::Outblob, ReportFile::Generation, ReportFile::Provider];

impl ReportFile {
    /// Name beneath the report directory.
    pub fn name(self) -> &'static str {
        match self {
            ReportFile::Inblob => "inblob",
            ReportFile::Outblob => "outblob",
            ReportFile::Generation => "generation",
            ReportFile::Provider => "provider",
        }
    }
}

impl Frame for ToInit {
    fn to_fields(&self) -> Builder {
        match self {
            ToInit::Admitted { identities, gaps } => {
                Builder::kind(1).texts(1, identities).unsigned(2, number(&GAPS, gaps))
            }
            ToInit::Permit { intent, identity, request } => {
                Builder::kind(2).unsigned(1, *intent).text(2, identity).bytes(3, request)
            }
            ToInit::Open { file } => Builder::kind(3).unsigned(1, number(&FILES, file)),
            ToInit::Scrub => Builder::kind(4),
            ToInit::Failed { stage, detail } => Builder::kind(5).text(1, stage).text(2, detail),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToInit::Admitted {
                identities: fields.texts(1)?,
                gaps: member(&GAPS, fields.unsigned(2)?, "what gaps are")?,
            },
            2 => ToInit::Permit { intent: fields.unsigned(1)?, identity: fields.text(2)?, request: fields.array(3)? },
            3 => ToInit::Open { file: member(&FILES, fields.unsigned(1)?, "a report file")? },
            4 => ToInit::Scrub,
            5 => ToInit::Failed { stage: fields.text(1)?, detail: fields.text(2)? },
            _ => return Err(FrameError::Unexpected("a message of the notary to init")),
        })
    }
}

impl Frame for ToNotary {
    fn to_fields(&self) -> Builder {
        match self {
            ToNotary::Scrubbed { steps } => {
                Builder::kind(1).rows(1, &steps.iter().map(|step| step.to_vec()).collect::<Vec<_>>())
            }
            ToNotary::Opened => Builder::kind(2),
            ToNotary::NotOpened { errno } => Builder::kind(3).unsigned(1, *errno),
            ToNotary::Recorded { intent, coverage } => {
                Builder::kind(4).unsigned(1, *intent).unsigned(2, coverage.number())
            }
            ToNotary::NotStarted { intent } => Builder::kind(5).unsigned(1, *intent),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToNotary::Scrubbed { steps: fields.rows(1)? },
            2 => ToNotary::Opened,
            3 => ToNotary::NotOpened { errno: fields.unsigned(1)? },
            4 => ToNotary::Recorded {
                intent: fields.unsigned(1)?,
                coverage: Coverage::from_number(fields.unsigned(2)?)?,
            },
            5 => ToNotary::NotStarted { intent: fields.unsigned(1)? },
            _ => return Err(FrameError::Unexpected("a message of init to the notary")),
        })
    }
}
