//! RTMR3: what is extended, in which order, and what the register then holds (EVIDENCE section 2).

use sha2::{Digest as _, Sha384};
use thiserror::Error;

use crate::cbor::{Value, decode, encode};
use crate::fields::{Canonical as _, Fields, MapBuilder, ParseError};
use crate::ids::{Digest256, Digest384};
use crate::open::OpenMap;

/// The tag of every event.
pub const EVENT_TAG: &str = "coffer/rtmr3/v1";
/// The most events of a session.
pub const EVENTS_MAX: u64 = 1_000_000;

/// A run-time measurement register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtmr([u8; 48]);

impl Rtmr {
    /// Before anything was extended.
    pub const ZERO: Self = Self([0; 48]);

    /// Takes a value read from a quote or from the kernel.
    #[must_use]
    pub const fn new(value: [u8; 48]) -> Self {
        Self(value)
    }

    /// SHA-384(register ‖ digest).
    #[must_use]
    pub fn extend(self, digest: &Digest384) -> Self {
        let mut hash = Sha384::new();
        hash.update(self.0);
        hash.update(digest.as_bytes());
        Self(hash.finalize().into())
    }

    /// The 48 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }
}

/// What an RTMR3 event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rtmr3Event {
    /// Type 0, once, first.
    Open(Box<OpenMap>),
    /// Type 1: a checkpoint of the action log, sizes strictly rising.
    Checkpoint {
        /// Leaves covered.
        size: u64,
        /// Root over them.
        root: Digest256,
    },
    /// Type 2, once, last.
    Sealed {
        /// Leaves in all.
        size: u64,
        /// Root over them.
        root: Digest256,
    },
}

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    /// Malformed.
    #[error("the RTMR3 event is malformed")]
    Parse(#[from] ParseError),
    /// Not [tag, index, type, payload].
    #[error("expected an RTMR3 event: [\"coffer/rtmr3/v1\", index, type, payload]")]
    Form,
    /// Type.
    #[error("expected an event of type 0, 1 or 2, found {0}")]
    Type(u64),
}

fn covered(size: u64, root: &Digest256) -> Value {
    MapBuilder::new().unsigned(1, size).bytes(2, root).build()
}

/// dCBOR(["coffer/rtmr3/v1", index, type, payload]).
#[must_use]
pub fn event_bytes(index: u64, event: &Rtmr3Event) -> Vec<u8> {
    let (kind, payload) = match event {
        Rtmr3Event::Open(open) => (0, open.to_value()),
        Rtmr3Event::Checkpoint { size, root } => (1, covered(*size, root)),
        Rtmr3Event::Sealed { size, root } => (2, covered(*size, root)),
    };
    encode(&Value::Array(vec![
        Value::Text(EVENT_TAG.to_owned()),
        Value::Unsigned(index),
        Value::Unsigned(kind),
        payload,
    ]))
}

/// The digest that is extended.
#[must_use]
pub fn event_digest(event: &[u8]) -> Digest384 {
    Digest384::of(event)
}

/// Reads an event strictly.
///
/// # Errors
/// [`EventError`].
pub fn parse_event(bytes: &[u8]) -> Result<(u64, Rtmr3Event), EventError> {
    let Value::Array(items) = decode(bytes).map_err(ParseError::from)? else { return Err(EventError::Form) };
    let Ok([Value::Text(tag), Value::Unsigned(index), Value::Unsigned(kind), payload]) = <[Value; 4]>::try_from(items)
    else {
        return Err(EventError::Form);
    };
    if tag != EVENT_TAG {
        return Err(EventError::Form);
    }
    let event = match kind {
        0 => Rtmr3Event::Open(Box::new(OpenMap::from_value(payload)?)),
        1 | 2 => {
            let mut f = Fields::new("RTMR3 event", payload)?;
            let (size, root) = (f.unsigned(1)?, Digest256::new(f.array(2)?));
            f.finish()?;
            if kind == 1 { Rtmr3Event::Checkpoint { size, root } } else { Rtmr3Event::Sealed { size, root } }
        }
        other => return Err(EventError::Type(other)),
    };
    if event_bytes(index, &event) != bytes {
        return Err(EventError::Parse(ParseError::NotCanonical { structure: "RTMR3 event" }));
    }
    Ok((index, event))
}

/// The register after all these events, from zero.
#[must_use]
pub fn replay<'a>(events: impl IntoIterator<Item = &'a [u8]>) -> Rtmr {
    events.into_iter().fold(Rtmr::ZERO, |rtmr, event| rtmr.extend(&event_digest(event)))
}
