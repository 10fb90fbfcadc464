//! What shim and simulator say to each other over one byte stream: the shim asks, the simulator answers, one at a time.
//!
//! ```text
//! request: u8 version = 1 │ u8 operation │ u16 length, little-endian │ payload
//!   1 registers: empty                     → 8 × 48 bytes: MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0-3
//!   2 extend:    u8 index 0-3, 48 bytes    → empty
//!   3 quote:     64 bytes of report data   → the quote
//! answer:  u8 version = 1 │ u8 status: 0 done, 1 refused, 2 busy │ u32 length, little-endian │ payload, empty unless done
//! ```
//! Each operation has one length. Anything else ends the connection: neither side resynchronises, and the simulator serves one
//! connection in its life, as a TD has one life.

use std::io::{self, Read, Write};

/// Bytes of a register.
pub const REGISTER_BYTES: usize = 48;
/// Longest answer, in bytes. A quote with its padding is about 5,000.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024;

const VERSION: u8 = 1;
const REGISTERS: u8 = 1;
const EXTEND: u8 = 2;
const QUOTE: u8 = 3;
const DONE: u8 = 0;
const REFUSED: u8 = 1;
const BUSY: u8 = 2;

/// A 48-byte register or digest.
pub type Register = [u8; REGISTER_BYTES];

/// What the shim asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// All registers as they are now.
    Registers,
    /// `RTMR[index] = SHA-384(RTMR[index] ‖ digest)`.
    Extend {
        /// 0 to 3.
        index: u8,
        /// What is extended.
        digest: Register,
    },
    /// A quote over the registers as they are now.
    Quote {
        /// REPORTDATA.
        report_data: [u8; 64],
    },
}

/// The measurement registers of a TD, in the order of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// MRTD.
    pub mrtd: Register,
    /// MRCONFIGID.
    pub mr_config_id: Register,
    /// MROWNER.
    pub mr_owner: Register,
    /// MROWNERCONFIG.
    pub mr_owner_config: Register,
    /// RTMR0 to RTMR3.
    pub rtmr: [Register; 4],
}

/// Why a stream is not this protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The stream broke.
    #[error("the connection between shim and simulator broke")]
    Stream(#[from] io::Error),
    /// Bytes that the other side would not send.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What the protocol allows there.
        expected: &'static str,
        /// What came.
        found: usize,
    },
    /// The simulator refused.
    #[error("the simulator refused the request")]
    Refused,
    /// The simulator has no time for it now.
    #[error("the simulator is busy")]
    Busy,
}

impl Request {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Request::Registers => (REGISTERS, Vec::new()),
            Request::Extend { index, digest } => (EXTEND, [&[*index], &digest[..]].concat()),
            Request::Quote { report_data } => (QUOTE, report_data.to_vec()),
        }
    }

    /// Sends it.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn write(&self, stream: &mut impl Write) -> Result<(), ProtocolError> {
        let (operation, payload) = self.parts();
        // At most 64 bytes: the length fits.
        let mut frame = vec![VERSION, operation, payload.len() as u8, 0];
        frame.extend(payload);
        Ok(stream.write_all(&frame)?)
    }

    /// Receives one; `None` when the other side closed between requests.
    ///
    /// # Errors
    /// [`ProtocolError`] for everything that is not exactly a request.
    pub fn read(stream: &mut impl Read) -> Result<Option<Self>, ProtocolError> {
        let mut header = [0; 4];
        if !read_whole(stream, &mut header)? {
            return Ok(None);
        }
        let [version, operation, low, high] = header;
        within("version 1", 1..=1, usize::from(version))?;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let expected = match operation {
            REGISTERS => 0,
            EXTEND => 1 + REGISTER_BYTES,
            QUOTE => 64,
            _ => {
                return Err(ProtocolError::Unexpected {
                    expected: "an operation 1 to 3",
                    found: usize::from(operation),
                });
            }
        };
        within("the one length of the operation", expected..=expected, length)?;
        let mut payload = [0; 64];
        let payload = &mut payload[..expected];
        stream.read_exact(payload)?;
        Ok(Some(match operation {
            REGISTERS => Request::Registers,
            EXTEND => {
                within("a register 0 to 3", 0..=3, usize::from(payload[0]))?;
                let mut digest = [0; REGISTER_BYTES];
                digest.copy_from_slice(&payload[1..]);
                Request::Extend { index: payload[0], digest }
            }
            _ => {
                let mut report_data = [0; 64];
                report_data.copy_from_slice(payload);
                Request::Quote { report_data }
            }
        }))
    }
}

/// Sends the answer to a request that was carried out.
///
/// # Errors
/// When the stream breaks, or the payload is over [`MAX_ANSWER_BYTES`].
pub fn write_answer(stream: &mut impl Write, payload: &[u8]) -> Result<(), ProtocolError> {
    within("an answer that fits", 0..=MAX_ANSWER_BYTES, payload.len())?;
    let mut frame = vec![VERSION, DONE];
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(payload);
    Ok(stream.write_all(&frame)?)
}

/// Says that a request was refused.
///
/// # Errors
/// When the stream breaks.
pub fn write_refusal(stream: &mut impl Write) -> Result<(), ProtocolError> {
    Ok(stream.write_all(&[VERSION, REFUSED, 0, 0, 0, 0])?)
}

/// Says that there is no time for a request now; it may be made again.
///
/// # Errors
/// When the stream breaks.
pub fn write_busy(stream: &mut impl Write) -> Result<(), ProtocolError> {
    Ok(stream.write_all(&[VERSION, BUSY, 0, 0, 0, 0])?)
}

/// Receives the payload of an answer.
///
/// # Errors
/// [`ProtocolError::Refused`], [`ProtocolError::Busy`], or another for everything that is not exactly an answer.
pub fn read_answer(stream: &mut impl Read) -> Result<Vec<u8>, ProtocolError> {
    let mut header = [0; 6];
    stream.read_exact(&mut header)?;
    let [version, status, length @ ..] = header;
    within("version 1", 1..=1, usize::from(version))?;
    let length = u32::from_le_bytes(length) as usize;
    match status {
        DONE => {
            within("an answer that fits", 0..=MAX_ANSWER_BYTES, length)?;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload)?;
            Ok(payload)
        }
        REFUSED => {
            within("an empty refusal", 0..=0, length)?;
            Err(ProtocolError::Refused)
        }
        BUSY => {
            within("no payload when busy", 0..=0, length)?;
            Err(ProtocolError::Busy)
        }
        other => Err(ProtocolError::Unexpected { expected: "a status 0 to 2", found: usize::from(other) }),
    }
}

impl Registers {
    /// The payload of an answer.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let first = [&self.mrtd, &self.mr_config_id, &self.mr_owner, &self.mr_owner_config];
        first.into_iter().chain(&self.rtmr).flatten().copied().collect()
    }

    /// From the payload of an answer.
    ///
    /// # Errors
    /// When it has another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let (all, rest) = bytes.as_chunks::<REGISTER_BYTES>();
        match (all, rest) {
            ([mrtd, mr_config_id, mr_owner, mr_owner_config, r0, r1, r2, r3], []) => Ok(Registers {
                mrtd: *mrtd,
                mr_config_id: *mr_config_id,
                mr_owner: *mr_owner,
                mr_owner_config: *mr_owner_config,
                rtmr: [*r0, *r1, *r2, *r3],
            }),
            _ => Err(ProtocolError::Unexpected { expected: "eight registers", found: bytes.len() }),
        }
    }
}

/// Refuses `found` unless it is in the range.
fn within(expected: &'static str, range: std::ops::RangeInclusive<usize>, found: usize) -> Result<(), ProtocolError> {
    if range.contains(&found) { Ok(()) } else { Err(ProtocolError::Unexpected { expected, found }) }
}

/// Fills the buffer; `false` when the stream ended before its first byte.
fn read_whole(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(request: Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        request.write(&mut bytes).expect("write to memory");
        bytes
    }

    #[test]
    fn requests_arrive_as_they_were_sent() {
        let requests = [
            Request::Registers,
            Request::Extend { index: 3, digest: [7; 48] },
            Request::Quote { report_data: [9; 64] },
        ];
        for request in requests {
            let bytes = sent(request);
            assert_eq!(Request::read(&mut &bytes[..]).expect("read"), Some(request));
            for cut in 1..bytes.len() {
                assert!(Request::read(&mut &bytes[..cut]).is_err(), "cut to {cut} bytes");
            }
        }
        assert_eq!(Request::read(&mut &b""[..]).expect("a clean end"), None);
    }

    #[test]
    fn other_versions_operations_lengths_and_registers_are_refused() {
        let extend = sent(Request::Extend { index: 3, digest: [7; 48] });
        for (at, value) in [(0, 0), (0, 2), (1, 0), (1, 4), (1, 3), (2, 48), (3, 1), (4, 4)] {
            let mut bytes = extend.clone();
            bytes[at] = value;
            assert!(Request::read(&mut &bytes[..]).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn answers_are_bounded_on_both_sides() {
        let mut bytes = Vec::new();
        write_answer(&mut bytes, &[5; MAX_ANSWER_BYTES]).expect("the longest answer");
        assert_eq!(read_answer(&mut &bytes[..]).expect("read").len(), MAX_ANSWER_BYTES);
        assert!(write_answer(&mut bytes, &[5; MAX_ANSWER_BYTES + 1]).is_err());
        let too_long = [1, 0, 1, 64, 0, 0];
        assert!(matches!(read_answer(&mut &too_long[..]), Err(ProtocolError::Unexpected { .. })));
    }

    #[test]
    fn a_refusal_is_told_from_an_empty_answer() {
        let (mut refusal, mut answer) = (Vec::new(), Vec::new());
        write_refusal(&mut refusal).expect("write");
        write_answer(&mut answer, &[]).expect("write");
        assert!(matches!(read_answer(&mut &refusal[..]), Err(ProtocolError::Refused)));
        let mut busy = Vec::new();
        write_busy(&mut busy).expect("write");
        assert!(matches!(read_answer(&mut &busy[..]), Err(ProtocolError::Busy)));
        for status in [1, 2] {
            let with_payload = [1, status, 1, 0, 0, 0, 9];
            assert!(matches!(read_answer(&mut &with_payload[..]), Err(ProtocolError::Unexpected { .. })));
        }
        assert!(read_answer(&mut &answer[..]).expect("an answer").is_empty());
    }

    #[test]
    fn registers_keep_their_places() {
        let bytes: Vec<u8> = (0..8).flat_map(|n| [n; 48]).collect();
        let registers = Registers::from_bytes(&bytes).expect("eight registers");
        assert_eq!((registers.mrtd[0], registers.mr_owner[0], registers.rtmr[3][0]), (0, 2, 7));
        assert_eq!(registers.to_bytes(), bytes);
        assert!(Registers::from_bytes(&bytes[1..]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::read(&mut &bytes[..]);
            let _ = read_answer(&mut &bytes[..]);
        }
    }
}
