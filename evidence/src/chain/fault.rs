//! Why a leaf does not go on with the chains of its session.

use thiserror::Error;

use crate::call_header::{HeaderType, Speaker};
use crate::ids::Digest256;

/// What a fault is about. Each is a row of the verifier's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Which leaf holds which header.
    Place,
    /// The order within a channel, and what belongs to it.
    Order,
    /// The owner's hello.
    Owner,
    /// What covers the input of a call.
    Input,
    /// A signature.
    Signature,
}

/// Why a leaf does not go on with the chains.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum ChainFault {
    #[error("leaf {leaf}: expected the call header that asked for it, found none")]
    NoHeader { leaf: u64 },
    #[error("leaf {leaf}: expected a header in every decision or in none, found that leaf {other} differs")]
    SomeHeaders { leaf: u64, other: u64 },
    #[error("leaf {leaf}: expected a header of type {expected} in it, found one of type {found}")]
    Type { leaf: u64, expected: &'static str, found: HeaderType },
    #[error("leaf {leaf}: its header has another {field}")]
    Differs { leaf: u64, field: &'static str },
    #[error("leaf {leaf}: the intent names no {speaker}")]
    NoSuchSpeaker { leaf: u64, speaker: Speaker },
    #[error("leaf {leaf}: channel {channel} was accepted before")]
    ChannelTwice { leaf: u64, channel: Digest256 },
    #[error("leaf {leaf}: more than {limit} {what}")]
    TooMany { leaf: u64, limit: u64, what: &'static str },
    #[error("leaf {leaf}: its header names another instance")]
    Instance { leaf: u64 },
    #[error("leaf {leaf}: no channel {channel} was accepted before it")]
    NoSuchChannel { leaf: u64, channel: Digest256 },
    #[error("leaf {leaf}: channel {channel} was closed by a rejected header")]
    Closed { leaf: u64, channel: Digest256 },
    #[error("leaf {leaf}: expected seq {expected} in channel {channel}, found {found}")]
    Seq { leaf: u64, channel: Digest256, expected: u64, found: u64 },
    #[error("leaf {leaf}: prev is not the digest of the header before it in channel {channel}")]
    Prev { leaf: u64, channel: Digest256 },
    #[error("leaf {leaf}: expected a hello first in a channel and nowhere else, found {found} at seq {seq}")]
    Hello { leaf: u64, found: HeaderType, seq: u64 },
    #[error("leaf {leaf}: the hello names another opening quote")]
    Quote { leaf: u64 },
    #[error("leaf {leaf}: its header is {found}'s, and channel {channel} another's")]
    OtherSpeaker { leaf: u64, channel: Digest256, found: Speaker },
    #[error("leaf {leaf}: {speaker} may not say {found}")]
    NotPermitted { leaf: u64, speaker: Speaker, found: HeaderType },
    #[error("leaf {leaf}: a call is decided before the owner's hello names this instance")]
    BeforeOwner { leaf: u64 },
    /// A call after the end of calls.
    #[error("leaf {leaf}: a call is decided after a client closed the session in leaf {close}")]
    AfterClose { leaf: u64, close: u64 },
    #[error("leaf {leaf}: the call runs with another commitment")]
    CallReused { leaf: u64 },
    #[error("leaf {leaf}: expected an offset of at least {covered}, found {found}")]
    Offset { leaf: u64, covered: u64, found: u64 },
    #[error("leaf {leaf}: headers cover {covered} bytes of input, the outcome says {told}")]
    Covered { leaf: u64, covered: u64, told: u64 },
    #[error("leaf {leaf}: input of up to {steps} times 4 KiB, of which headers cover {covered} bytes")]
    Unsigned { leaf: u64, steps: u64, covered: u64 },
    #[error("leaf {leaf}: the header is not signed by the key of {speaker}")]
    Signature { leaf: u64, speaker: Speaker },
}

impl ChainFault {
    /// What it is about.
    #[must_use]
    pub const fn concern(&self) -> Concern {
        match self {
            Self::NoHeader { .. } | Self::SomeHeaders { .. } | Self::Type { .. } | Self::Differs { .. } => {
                Concern::Place
            }
            Self::BeforeOwner { .. } => Concern::Owner,
            Self::Offset { .. } | Self::Covered { .. } | Self::Unsigned { .. } => Concern::Input,
            Self::Signature { .. } => Concern::Signature,
            _ => Concern::Order,
        }
    }
}
