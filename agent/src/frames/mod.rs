//! What init, notary and agent say to each other, byte for byte. Pure: no sockets.
//!
//! A frame is a `u32` length (little endian) and that many bytes of dCBOR: a map with integer keys, key 0 the kind.
//! One packet holds one frame. The grammar is in `evidence/formats.cddl`, section "guest processes". A process that
//! receives a frame it does not know ends itself, and with it the machine.
//!
//! ```text
//!               started, exited                permit, open, scrub
//!       agent <───────────────── init <───────────────────────── notary
//!         │ ─────────────────────> │ ─────────────────────────────> │
//!         │ start, cancel, signal  │   scrubbed, opened, recorded   │
//!         │                                                         │
//!         └────────── intent, outcome, seal ───────────────────────>│
//!          <───────── appended, record, sealed ─────────────────────┘
//! ```

mod fields;
pub mod grant;
pub mod log;
pub mod observe;
pub mod start;
pub mod tool;
pub mod warrant;

pub use fields::{Builder, Fields};

use coffer_evidence::cbor;
use thiserror::Error;

/// Largest frame between the guest's processes, without its length: an outcome with the largest record fits.
pub const FRAME_MAX: usize = 960 * 1024;

/// Bytes that are no frame of this link.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The length field and the packet disagree, or the frame is too large.
    #[error("expected one frame of at most {FRAME_MAX} bytes, found {found} bytes in the packet")]
    Length {
        /// Bytes of the packet.
        found: usize,
    },
    /// Not canonical CBOR.
    #[error("expected canonical CBOR")]
    Cbor(#[source] cbor::CborError),
    /// Canonical, but not what this link carries.
    #[error("expected {0}, found something else")]
    Unexpected(&'static str),
}

/// A message of one direction of one link.
pub trait Frame: Sized {
    /// The map of the message.
    fn to_fields(&self) -> Builder;
    /// Takes the map apart; every key must be known.
    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError>;

    /// The packet.
    fn encode(&self) -> Vec<u8> {
        let body = cbor::encode(&self.to_fields().into_value());
        let mut packet = Vec::with_capacity(4 + body.len());
        packet.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        packet.extend_from_slice(&body);
        packet
    }

    /// Takes a packet apart.
    fn decode(packet: &[u8]) -> Result<Self, FrameError> {
        let length = FrameError::Length { found: packet.len() };
        let Some((head, body)) = packet.split_first_chunk::<4>() else { return Err(length) };
        if body.len() > FRAME_MAX || usize::try_from(u32::from_le_bytes(*head)).ok() != Some(body.len()) {
            return Err(length);
        }
        let mut fields = Fields::parse(body)?;
        let kind = fields.unsigned(0)?;
        let frame = Self::from_fields(kind, &mut fields)?;
        fields.finish()?;
        Ok(frame)
    }
}
