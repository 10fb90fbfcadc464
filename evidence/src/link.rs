//! The frames between guest and host: control (host port 1024, both ways) and record mirror (host port 1027, guest to
//! host). A frame is u32le length and that many bytes of dCBOR [type, ...]. Pure codec; both ends use it.

use thiserror::Error;

use crate::cbor::{Value, decode, encode};
use crate::fields::{ParseError, bytes};
use crate::ids::SessionId;
use crate::numbers::{ClosedBy, Reason};

/// Version of the control protocol.
pub const VERSION: u64 = 1;
/// The largest control frame in bytes.
pub const CONTROL_FRAME_MAX: usize = 16 * 1024 * 1024;
/// The largest mirror frame in bytes.
pub const MIRROR_FRAME_MAX: usize = 1024 * 1024;
/// The longest text in a frame in bytes.
pub const DETAIL_MAX: usize = 1024;

/// From the guest on port 1024.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHost {
    /// First on every connection, unless the guest fails before it knows its session.
    Hello {
        /// The session of the boot disk.
        session: SessionId,
        /// Security version of the agent.
        agent_svn: u64,
    },
    /// The log is open; tools can be called once the host has verified this.
    Ready {
        /// Canonical bytes of O.
        open_map: Vec<u8>,
        /// Cut to its used length.
        opening_quote: Vec<u8>,
        /// The firmware's event log, as ACPI shows it; the simulated platform has none.
        ccel: Option<Vec<u8>>,
    },
    /// The agent ends the session by itself.
    Closing {
        /// Why.
        reason: Reason,
        /// Who.
        closed_by: ClosedBy,
    },
    /// The sealed core.
    Sealed {
        /// Canonical bytes of S.
        seal_map: Vec<u8>,
        /// Cut to its used length.
        seal_quote: Vec<u8>,
        /// `statement.dsse`.
        statement: Vec<u8>,
    },
    /// The guest powers off without a seal.
    Failed {
        /// What was being done.
        stage: String,
        /// At most [`DETAIL_MAX`] bytes.
        detail: String,
    },
}

/// From the host on port 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Seal now.
    Close {
        /// Why, says the host.
        reason: Reason,
    },
    /// The bundle is verified and stored: power off.
    Stored,
    /// Somebody uses the session: the idle timer starts again.
    Touch,
}

/// From the guest on port 1027, in the order of making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// A leaf.
    Leaf {
        /// Its index.
        index: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The private part of a leaf; delegated sessions only.
    Private {
        /// Index of the leaf.
        index: u64,
        /// The salt.
        salt: [u8; 32],
        /// The private bytes.
        bytes: Vec<u8>,
    },
    /// An RTMR3 event.
    Event {
        /// Its index.
        index: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The note over all leaves so far.
    Note(Vec<u8>),
}

/// Why a frame is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Not dCBOR.
    #[error("the frame is malformed")]
    Parse(#[from] ParseError),
    /// Not a frame of this link.
    #[error("expected a frame of this link, found another form")]
    Form,
    /// Too long.
    #[error("expected a frame of at most {limit} bytes, found {found}")]
    TooLong {
        /// Allowed.
        limit: usize,
        /// Announced.
        found: usize,
    },
}

/// A type of frame.
pub trait Frame: Sized {
    /// The largest in bytes.
    const MAX: usize;

    /// dCBOR without the length.
    fn encode(&self) -> Vec<u8>;

    /// Reads dCBOR strictly.
    ///
    /// # Errors
    /// [`FrameError`].
    fn decode(bytes: &[u8]) -> Result<Self, FrameError>;

    /// Length and bytes, as they go over the wire.
    #[must_use]
    fn to_wire(&self) -> Vec<u8> {
        let body = self.encode();
        let mut wire = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        wire.extend_from_slice(&body);
        wire
    }

    /// The length that a prefix announces.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    fn length(prefix: [u8; 4]) -> Result<usize, FrameError> {
        let found = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
        if found > Self::MAX { Err(FrameError::TooLong { limit: Self::MAX, found }) } else { Ok(found) }
    }
}

fn frame(kind: u64, rest: impl IntoIterator<Item = Value>) -> Vec<u8> {
    let mut items = vec![Value::Unsigned(kind)];
    items.extend(rest);
    encode(&Value::Array(items))
}

fn items(input: &[u8], limit: usize) -> Result<Vec<Value>, FrameError> {
    if input.len() > limit {
        return Err(FrameError::TooLong { limit, found: input.len() });
    }
    match decode(input).map_err(ParseError::from)? {
        Value::Array(items) => Ok(items),
        _ => Err(FrameError::Form),
    }
}

fn text(text: String) -> Result<String, FrameError> {
    if text.len() > DETAIL_MAX { Err(FrameError::Form) } else { Ok(text) }
}

/// Cuts text to what a frame may carry.
#[must_use]
pub fn detail(mut text: String) -> String {
    while text.len() > DETAIL_MAX {
        text.pop();
    }
    text
}

impl Frame for ToHost {
    const MAX: usize = CONTROL_FRAME_MAX;

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { session, agent_svn } => {
                frame(1, [Value::Unsigned(VERSION), bytes(session), Value::Unsigned(*agent_svn)])
            }
            Self::Ready { open_map, opening_quote, ccel } => {
                frame(2, [bytes(open_map), bytes(opening_quote)].into_iter().chain(ccel.as_ref().map(bytes)))
            }
            Self::Closing { reason, closed_by } => {
                frame(3, [Value::Unsigned(reason.number()), Value::Unsigned(closed_by.number())])
            }
            Self::Sealed { seal_map, seal_quote, statement } => {
                frame(4, [bytes(seal_map), bytes(seal_quote), bytes(statement)])
            }
            Self::Failed { stage, detail } => frame(5, [Value::Text(stage.clone()), Value::Text(detail.clone())]),
        }
    }

    fn decode(input: &[u8]) -> Result<Self, FrameError> {
        let mut items = items(input, Self::MAX)?.into_iter();
        let mut next = || items.next();
        let parsed = match (next(), next(), next(), next(), next()) {
            (
                Some(Value::Unsigned(1)),
                Some(Value::Unsigned(VERSION)),
                Some(Value::Bytes(id)),
                Some(Value::Unsigned(agent_svn)),
                None,
            ) => Self::Hello { session: SessionId::from_bytes(&id).map_err(|_| FrameError::Form)?, agent_svn },
            (Some(Value::Unsigned(2)), Some(Value::Bytes(open_map)), Some(Value::Bytes(opening_quote)), None, None) => {
                Self::Ready { open_map, opening_quote, ccel: None }
            }
            (
                Some(Value::Unsigned(2)),
                Some(Value::Bytes(open_map)),
                Some(Value::Bytes(opening_quote)),
                Some(Value::Bytes(ccel)),
                None,
            ) => Self::Ready { open_map, opening_quote, ccel: Some(ccel) },
            (Some(Value::Unsigned(3)), Some(Value::Unsigned(reason)), Some(Value::Unsigned(by)), None, None) => {
                Self::Closing {
                    reason: Reason::from_number(reason).ok_or(FrameError::Form)?,
                    closed_by: ClosedBy::from_number(by).ok_or(FrameError::Form)?,
                }
            }
            (
                Some(Value::Unsigned(4)),
                Some(Value::Bytes(seal_map)),
                Some(Value::Bytes(seal_quote)),
                Some(Value::Bytes(statement)),
                None,
            ) => Self::Sealed { seal_map, seal_quote, statement },
            (Some(Value::Unsigned(5)), Some(Value::Text(stage)), Some(Value::Text(detail)), None, None) => {
                Self::Failed { stage: text(stage)?, detail: text(detail)? }
            }
            _ => return Err(FrameError::Form),
        };
        Ok(parsed)
    }
}

impl Frame for ToGuest {
    const MAX: usize = 1024;

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Close { reason } => frame(1, [Value::Unsigned(reason.number())]),
            Self::Stored => frame(2, []),
            Self::Touch => frame(3, []),
        }
    }

    fn decode(input: &[u8]) -> Result<Self, FrameError> {
        match items(input, Self::MAX)?.as_slice() {
            [Value::Unsigned(1), Value::Unsigned(reason)] => {
                Ok(Self::Close { reason: Reason::from_number(*reason).ok_or(FrameError::Form)? })
            }
            [Value::Unsigned(2)] => Ok(Self::Stored),
            [Value::Unsigned(3)] => Ok(Self::Touch),
            _ => Err(FrameError::Form),
        }
    }
}

impl Frame for Mirror {
    const MAX: usize = MIRROR_FRAME_MAX;

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf { index, bytes: leaf } => frame(1, [Value::Unsigned(*index), bytes(leaf)]),
            Self::Private { index, salt, bytes: part } => frame(2, [Value::Unsigned(*index), bytes(salt), bytes(part)]),
            Self::Event { index, bytes: event } => frame(3, [Value::Unsigned(*index), bytes(event)]),
            Self::Note(note) => frame(4, [bytes(note)]),
        }
    }

    fn decode(input: &[u8]) -> Result<Self, FrameError> {
        let mut items = items(input, Self::MAX)?.into_iter();
        let mut next = || items.next();
        match (next(), next(), next(), next(), next()) {
            (Some(Value::Unsigned(1)), Some(Value::Unsigned(index)), Some(Value::Bytes(bytes)), None, None) => {
                Ok(Self::Leaf { index, bytes })
            }
            (
                Some(Value::Unsigned(2)),
                Some(Value::Unsigned(index)),
                Some(Value::Bytes(salt)),
                Some(Value::Bytes(bytes)),
                None,
            ) => Ok(Self::Private { index, salt: salt.try_into().map_err(|_| FrameError::Form)?, bytes }),
            (Some(Value::Unsigned(3)), Some(Value::Unsigned(index)), Some(Value::Bytes(bytes)), None, None) => {
                Ok(Self::Event { index, bytes })
            }
            (Some(Value::Unsigned(4)), Some(Value::Bytes(note)), None, None, None) => Ok(Self::Note(note)),
            _ => Err(FrameError::Form),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let session = SessionId::new([9; 16]);
        let to_host = [
            ToHost::Hello { session, agent_svn: 1 },
            ToHost::Ready { open_map: vec![1], opening_quote: vec![2; 5000], ccel: None },
            ToHost::Ready { open_map: vec![1], opening_quote: vec![2; 5000], ccel: Some(vec![3]) },
            ToHost::Closing { reason: Reason::TtlExpired, closed_by: ClosedBy::Agent },
            ToHost::Sealed { seal_map: vec![1], seal_quote: vec![2], statement: vec![3] },
            ToHost::Failed { stage: "boot disk".into(), detail: "x".into() },
        ];
        for frame in to_host {
            assert_eq!(ToHost::decode(&frame.encode()), Ok(frame));
        }
        for frame in [ToGuest::Close { reason: Reason::UserClosed }, ToGuest::Stored, ToGuest::Touch] {
            assert_eq!(ToGuest::decode(&frame.encode()), Ok(frame));
        }
        let mirror = [
            Mirror::Leaf { index: 3, bytes: vec![1, 2] },
            Mirror::Private { index: 3, salt: [7; 32], bytes: vec![] },
            Mirror::Event { index: 0, bytes: vec![9] },
            Mirror::Note(b"note".to_vec()),
        ];
        for frame in mirror {
            assert_eq!(Mirror::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [&b""[..], &[0x80], &[0x81, 0x18, 9], &[0x82, 1, 0x18, 99], &[0x81, 2, 0], &[0xf6]] {
            assert!(ToGuest::decode(bytes).is_err(), "{bytes:?}");
            assert!(ToHost::decode(bytes).is_err(), "{bytes:?}");
            assert!(Mirror::decode(bytes).is_err() || bytes == [0x81, 2], "{bytes:?}");
        }
        assert_eq!(ToGuest::length(2000_u32.to_le_bytes()), Err(FrameError::TooLong { limit: 1024, found: 2000 }));
    }
}
