//! agent ⇄ init: starting and ending tools. Calls are named by the index of their intent leaf.

use super::fields::{member, number};
use super::{Builder, Fields, Frame, FrameError};

/// From the agent to init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToInit {
    /// Start the call that the notary permitted under this index; the request must have the permitted digest.
    Start {
        /// Index of the intent leaf.
        intent: u64,
        /// Canonical request bytes.
        request: Vec<u8>,
    },
    /// End this call: SIGTERM, grace, SIGKILL.
    Cancel {
        /// Index of the intent leaf.
        intent: u64,
    },
    /// End every call the same way, and start none from now on.
    EndCalls,
    /// Power off: everything is said.
    PowerOff,
    /// Send this signal to the process group of the call's program.
    Signal {
        /// Index of the intent leaf.
        intent: u64,
        /// One of [`SIGNALS`].
        signal: i32,
    },
}

/// Signals that a client may send: HUP, INT, QUIT, KILL, USR1, USR2, TERM, CONT, STOP, TSTP, WINCH.
pub const SIGNALS: [i32; 11] = [1, 2, 3, 9, 10, 12, 15, 18, 19, 20, 28];

/// From init to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// The program runs. Carries three descriptors, stdin to write, stdout and stderr to read; or one, the master of its
    /// terminal.
    Started {
        /// Index of the intent leaf.
        intent: u64,
    },
    /// Nothing ran.
    NotStarted {
        /// Index of the intent leaf.
        intent: u64,
        /// Word of `spawn::Stage`.
        stage: String,
        /// The system's answer.
        errno: u64,
    },
    /// The program ended and every process of the call is gone.
    Exited {
        /// Index of the intent leaf.
        intent: u64,
        /// How it ended.
        exit: Exit,
    },
    /// The machine is about to power off for this reason; tell the host.
    Fatal {
        /// What was being done.
        stage: String,
        /// What went wrong.
        detail: String,
    },
}

/// How a call's main process ended, and what the call used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub cause: Cause,
    /// Exit status, when it exited.
    pub code: Option<u64>,
    /// Signal number, when a signal ended it.
    pub signal: Option<u64>,
    /// Wall clock from start to end, milliseconds.
    pub wall_ms: u64,
    /// User time of the whole call, microseconds.
    pub user_us: u64,
    /// System time of the whole call, microseconds.
    pub system_us: u64,
    /// Largest resident set of one process, KiB.
    pub max_rss_kib: u64,
}

/// Why a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// By itself: `code` or `signal` says how.
    Ended,
    /// Its time was up.
    TimedOut,
    /// The client cancelled it, or went away.
    Cancelled,
    /// The kernel's out-of-memory killer ended it.
    OutOfMemory,
    /// The session was closing.
    SessionClosing,
    /// What it did with files could not be recorded, and the intent demands that.
    RecordIncomplete,
}

const CAUSES: [Cause; 6] = [
    Cause::Ended,
    Cause::TimedOut,
    Cause::Cancelled,
    Cause::OutOfMemory,
    Cause::SessionClosing,
    Cause::RecordIncomplete,
];

impl Frame for ToInit {
    fn to_fields(&self) -> Builder {
        match self {
            ToInit::Start { intent, request } => Builder::kind(1).unsigned(1, *intent).bytes(2, request),
            ToInit::Cancel { intent } => Builder::kind(2).unsigned(1, *intent),
            ToInit::EndCalls => Builder::kind(3),
            ToInit::PowerOff => Builder::kind(4),
            ToInit::Signal { intent, signal } => {
                Builder::kind(5).unsigned(1, *intent).unsigned(2, u64::from(signal.unsigned_abs()))
            }
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToInit::Start { intent: fields.unsigned(1)?, request: fields.bytes(2)? },
            2 => ToInit::Cancel { intent: fields.unsigned(1)? },
            3 => ToInit::EndCalls,
            4 => ToInit::PowerOff,
            5 => {
                let intent = fields.unsigned(1)?;
                let signal = i32::try_from(fields.unsigned(2)?).ok().filter(|signal| SIGNALS.contains(signal));
                ToInit::Signal {
                    intent,
                    signal: signal.ok_or(FrameError::Unexpected("a signal that a client may send"))?,
                }
            }
            _ => return Err(FrameError::Unexpected("a message of the agent to init")),
        })
    }
}

impl Frame for ToAgent {
    fn to_fields(&self) -> Builder {
        match self {
            ToAgent::Started { intent } => Builder::kind(1).unsigned(1, *intent),
            ToAgent::NotStarted { intent, stage, errno } => {
                Builder::kind(2).unsigned(1, *intent).text(2, stage).unsigned(3, *errno)
            }
            ToAgent::Exited { intent, exit } => {
                let usage = vec![exit.wall_ms, exit.user_us, exit.system_us, exit.max_rss_kib];
                Builder::kind(3)
                    .unsigned(1, *intent)
                    .unsigned(2, number(&CAUSES, &exit.cause))
                    .optional(3, exit.code, Builder::unsigned)
                    .optional(4, exit.signal, Builder::unsigned)
                    .rows(5, &[usage])
            }
            ToAgent::Fatal { stage, detail } => Builder::kind(4).text(1, stage).text(2, detail),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToAgent::Started { intent: fields.unsigned(1)? },
            2 => {
                ToAgent::NotStarted { intent: fields.unsigned(1)?, stage: fields.text(2)?, errno: fields.unsigned(3)? }
            }
            3 => {
                let intent = fields.unsigned(1)?;
                let cause = member(&CAUSES, fields.unsigned(2)?, "a cause")?;
                let (code, signal) = (fields.optional_unsigned(3)?, fields.optional_unsigned(4)?);
                let [[wall_ms, user_us, system_us, max_rss_kib]] = fields.rows::<4>(5)?[..] else {
                    return Err(FrameError::Unexpected("one row of usage"));
                };
                let exit = Exit { cause, code, signal, wall_ms, user_us, system_us, max_rss_kib };
                ToAgent::Exited { intent, exit }
            }
            4 => ToAgent::Fatal { stage: fields.text(1)?, detail: fields.text(2)? },
            _ => return Err(FrameError::Unexpected("a message of init to the agent")),
        })
    }
}
