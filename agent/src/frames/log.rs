//! agent ⇄ notary: what is to be logged, and what was. Answers come in the order of the questions; records come in
//! between, in the order in which they were made.

use super::fields::{member, number};
use super::{Builder, Fields, Frame, FrameError};

/// From the agent to the notary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToNotary {
    /// A call was decided on and may begin once this is logged.
    Intent(Call),
    /// A call was refused by policy.
    Denied(Call),
    /// A call is over.
    Outcome {
        /// Index of the intent leaf.
        intent: u64,
        /// Canonical bytes of `coffer_evidence::call::OutcomePrivate`.
        private: Vec<u8>,
        /// Bytes that the call put out, delivered or not.
        output: u64,
        /// Bytes that the call was given.
        input: u64,
    },
    /// Close the log: every call has its outcome.
    Seal {
        /// Number of `coffer_evidence::seal::Reason`.
        reason: u64,
        /// Number of `coffer_evidence::seal::ClosedBy`.
        closed_by: u64,
    },
    /// Sign a commit for a call that runs and whose request is a git commit.
    Sign {
        /// Index of the intent leaf.
        intent: u64,
        /// The commit object, without a signature: an identity's words.
        commit: Vec<u8>,
    },
}

/// One call as it is to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the identity.
    pub identity: String,
    /// Call id.
    pub call: [u8; 16],
    /// Random bytes of the client.
    pub client_salt: [u8; 32],
    /// Canonical request bytes.
    pub request: Vec<u8>,
    /// The program that will be executed.
    pub program: Option<String>,
    /// The paths the request names, as they were understood.
    pub paths: Vec<String>,
    /// The rules of the policy that decided.
    pub rules: Vec<String>,
}

/// From the notary to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToAgent {
    /// The boot disk holds together; the host is to be told hello.
    Admitted {
        /// Config bytes.
        config: Vec<u8>,
        /// Policy text.
        policy: Vec<u8>,
    },
    /// The instance exists: event 0, opening quote and leaf 0 are made.
    Opened {
        /// Open map bytes.
        open_map: Vec<u8>,
        /// Opening quote, cut to its used length.
        quote: Vec<u8>,
    },
    /// The leaf has this index.
    Appended {
        /// Index in the action log.
        index: u64,
    },
    /// Nothing was logged.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// A frame of the record mirror, ready to be sent.
    Record {
        /// Encoded `coffer_evidence::link` mirror frame.
        frame: Vec<u8>,
    },
    /// The log is closed, its key is gone.
    Sealed {
        /// Seal map bytes.
        seal_map: Vec<u8>,
        /// Final quote, cut to its used length.
        quote: Vec<u8>,
        /// DSSE envelope.
        statement: Vec<u8>,
    },
    /// The signature of a commit.
    Signed {
        /// In its armor.
        signature: String,
    },
}

/// Why the notary logged nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The call id was used before.
    CallReused,
    /// One of the session's own caps is reached: only outcomes and the seal still fit.
    Full,
    /// The log's own parser refuses the entry.
    Unacceptable,
}

const REFUSALS: [Refusal; 3] = [Refusal::CallReused, Refusal::Full, Refusal::Unacceptable];

impl Call {
    fn add(&self, builder: Builder) -> Builder {
        builder
            .text(1, &self.identity)
            .bytes(2, &self.call)
            .bytes(3, &self.client_salt)
            .bytes(4, &self.request)
            .optional(5, self.program.as_deref(), Builder::text)
            .texts(6, &self.paths)
            .texts(7, &self.rules)
    }

    fn take(fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(Self {
            identity: fields.text(1)?,
            call: fields.array(2)?,
            client_salt: fields.array(3)?,
            request: fields.bytes(4)?,
            program: fields.optional_text(5)?,
            paths: fields.texts(6)?,
            rules: fields.texts(7)?,
        })
    }
}

impl Frame for ToNotary {
    fn to_fields(&self) -> Builder {
        match self {
            ToNotary::Intent(call) => call.add(Builder::kind(1)),
            ToNotary::Denied(call) => call.add(Builder::kind(2)),
            ToNotary::Outcome { intent, private, output, input } => {
                Builder::kind(3).unsigned(1, *intent).bytes(2, private).unsigned(3, *output).unsigned(4, *input)
            }
            ToNotary::Seal { reason, closed_by } => Builder::kind(4).unsigned(1, *reason).unsigned(2, *closed_by),
            ToNotary::Sign { intent, commit } => Builder::kind(5).unsigned(1, *intent).bytes(2, commit),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToNotary::Intent(Call::take(fields)?),
            2 => ToNotary::Denied(Call::take(fields)?),
            3 => ToNotary::Outcome {
                intent: fields.unsigned(1)?,
                private: fields.bytes(2)?,
                output: fields.unsigned(3)?,
                input: fields.unsigned(4)?,
            },
            4 => ToNotary::Seal { reason: fields.unsigned(1)?, closed_by: fields.unsigned(2)? },
            5 => ToNotary::Sign { intent: fields.unsigned(1)?, commit: fields.bytes(2)? },
            _ => return Err(FrameError::Unexpected("a message of the agent to the notary")),
        })
    }
}

impl Frame for ToAgent {
    fn to_fields(&self) -> Builder {
        match self {
            ToAgent::Admitted { config, policy } => Builder::kind(1).bytes(1, config).bytes(2, policy),
            ToAgent::Opened { open_map, quote } => Builder::kind(2).bytes(1, open_map).bytes(2, quote),
            ToAgent::Appended { index } => Builder::kind(3).unsigned(1, *index),
            ToAgent::Refused { refusal } => Builder::kind(4).unsigned(1, number(&REFUSALS, refusal)),
            ToAgent::Record { frame } => Builder::kind(5).bytes(1, frame),
            ToAgent::Sealed { seal_map, quote, statement } => {
                Builder::kind(6).bytes(1, seal_map).bytes(2, quote).bytes(3, statement)
            }
            ToAgent::Signed { signature } => Builder::kind(7).text(1, signature),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => ToAgent::Admitted { config: fields.bytes(1)?, policy: fields.bytes(2)? },
            2 => ToAgent::Opened { open_map: fields.bytes(1)?, quote: fields.bytes(2)? },
            3 => ToAgent::Appended { index: fields.unsigned(1)? },
            4 => ToAgent::Refused { refusal: member(&REFUSALS, fields.unsigned(1)?, "a refusal")? },
            5 => ToAgent::Record { frame: fields.bytes(1)? },
            6 => ToAgent::Sealed { seal_map: fields.bytes(1)?, quote: fields.bytes(2)?, statement: fields.bytes(3)? },
            7 => ToAgent::Signed { signature: fields.text(1)? },
            _ => return Err(FrameError::Unexpected("a message of the notary to the agent")),
        })
    }
}
