//! What QEMU says to the host's quote generation service, and what it answers: the messages of Intel's `qgs_msg_lib` as they go over
//! its socket. Pure codec, both ends: Coffer asks to see whether the service lives, its simulator answers. In a session QEMU asks.
//!
//! ```text
//! u32be length | u16 major | u16 minor | u32 type | u32 size | u32 error | body        all but the length little endian
//! type 0 quote wanted: u32 report size | u32 0 | TDREPORT        type 4 platform wanted: nothing
//!      1 quote:        u32 id size | u32 quote size | id | quote      5 platform: u16 | u16 | u32 | u32 | identifiers
//! ```
//! `size` is that of the message with its header. An answer with an error has no body.

use thiserror::Error;

/// Bytes of a TDREPORT.
pub const REPORT_BYTES: usize = 1024;
/// The largest message, without its length. Quotes have 5 to 8 KiB.
pub const MESSAGE_MAX: usize = 64 * 1024;

const HEADER_BYTES: usize = 16;
const MAJOR: u16 = 1;
/// What QEMU sends, and insists on in an answer.
const MINOR: u16 = 1;
/// What services answered before there was a minor version.
const MINOR_BEFORE: u16 = 0;

/// Bytes that are no message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QgsError {
    /// Too long or too short.
    #[error("expected a message of {HEADER_BYTES} to {MESSAGE_MAX} bytes, found one of {found}")]
    Length {
        /// Bytes.
        found: usize,
    },
    /// Another version.
    #[error("expected protocol version 1.0 or 1.1, found {major}.{minor}")]
    Version {
        /// Major.
        major: u16,
        /// Minor.
        minor: u16,
    },
    /// Another type of message.
    #[error("expected a message of type {expected}, found type {found}")]
    Type {
        /// Which one.
        expected: u32,
        /// Its number.
        found: u32,
    },
    /// A message whose parts do not make up its size.
    #[error("expected a message whose lengths agree, found {what} of another")]
    Size {
        /// Of what.
        what: &'static str,
    },
    /// An error in something that is asked.
    #[error("expected a request without an error code, found one")]
    ErrorInRequest,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A quote over this report.
    Quote(Box<[u8; REPORT_BYTES]>),
    /// What platform it is.
    Platform,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The quote, without padding.
    Quote(Vec<u8>),
    /// What platform it is.
    Platform(Platform),
    /// It cannot.
    Refused(Refusal),
}

/// What platform the service quotes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Security version of the quoting enclave.
    pub qe_svn: u16,
    /// Security version of the provisioning certification enclave.
    pub pce_svn: u16,
    /// The platform's identifier.
    pub id: Vec<u8>,
    /// Security version of the CPU.
    pub cpu_svn: Vec<u8>,
}

/// Why a service does not do what it is asked: a number of `qgs_msg_error_t`, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(u32);

impl Refusal {
    /// It does not say.
    pub const UNEXPECTED: Self = Self(0x1_2001);
    /// Not a report of this machine.
    pub const INVALID_PARAMETER: Self = Self(0x1_2003);
    /// A type of message that it does not know.
    pub const INVALID_TYPE: Self = Self(0x1_2005);

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self.0 {
            0x1_2001 => "an unexpected error",
            0x1_2002 => "out of memory",
            0x1_2003 => "an invalid parameter",
            0x1_2004 => "a version that it does not know",
            0x1_2005 => "a type of message that it does not know",
            0x1_2006 => "a size that is not right",
            0x1_2007 => "an error code that is none",
            _ => "an error without a name",
        }
    }
}

/// The length that stands before a message.
///
/// # Errors
/// [`QgsError::Length`], before anything is allocated for it.
pub fn length(prefix: [u8; 4]) -> Result<usize, QgsError> {
    let found = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if (HEADER_BYTES..=MESSAGE_MAX).contains(&found) { Ok(found) } else { Err(QgsError::Length { found }) }
}

impl Request {
    const fn kind(&self) -> u32 {
        match self {
            Self::Quote(_) => 0,
            Self::Platform => 4,
        }
    }

    /// The message with its length.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let body = match self {
            Self::Quote(report) => {
                let size = u32::try_from(REPORT_BYTES).unwrap_or(u32::MAX);
                [&size.to_le_bytes()[..], &[0; 4], &report[..]].concat()
            }
            Self::Platform => Vec::new(),
        };
        message(self.kind(), 0, &body)
    }

    /// Reads a message, without its length.
    ///
    /// # Errors
    /// [`QgsError`].
    pub fn parse(message: &[u8]) -> Result<Self, QgsError> {
        let Header { kind, error, mut body } = Header::read(message)?;
        if error != 0 {
            return Err(QgsError::ErrorInRequest);
        }
        let request = match kind {
            0 => {
                let (report, ids) = (body.u32()?, body.u32()?);
                if usize::try_from(report) != Ok(REPORT_BYTES) || ids != 0 {
                    return Err(QgsError::Size { what: "a report, or a list of keys," });
                }
                let report = body.take(REPORT_BYTES)?.try_into().map_err(|_| QgsError::Size { what: "a report" })?;
                Self::Quote(Box::new(report))
            }
            4 => Self::Platform,
            found => return Err(QgsError::Type { expected: 0, found }),
        };
        body.end()?;
        Ok(request)
    }

    /// The type of the answer to it.
    #[must_use]
    pub const fn answered_by(&self) -> u32 {
        self.kind().saturating_add(1)
    }
}

impl Answer {
    /// The message with its length, as an answer to this request.
    #[must_use]
    pub fn to_wire(&self, to: &Request) -> Vec<u8> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        match self {
            Self::Quote(quote) => message(1, 0, &[&[0; 4][..], &size(quote), quote].concat()),
            Self::Platform(Platform { qe_svn, pce_svn, id, cpu_svn }) => {
                let versions = [qe_svn.to_le_bytes(), pce_svn.to_le_bytes()].concat();
                message(5, 0, &[&versions[..], &size(id), &size(cpu_svn), id, cpu_svn].concat())
            }
            Self::Refused(refusal) => message(to.answered_by(), refusal.number(), &[]),
        }
    }

    /// Reads the answer to a request, without its length.
    ///
    /// # Errors
    /// [`QgsError`].
    pub fn parse(message: &[u8], to: &Request) -> Result<Self, QgsError> {
        let Header { kind, error, mut body } = Header::read(message)?;
        let expected = to.answered_by();
        if kind != expected {
            return Err(QgsError::Type { expected, found: kind });
        }
        if error != 0 {
            // Some services fill in the lengths of what is not there: nothing after the header is of interest.
            return Ok(Self::Refused(Refusal(error)));
        }
        let size = |body: &mut Body<'_>| Ok(usize::try_from(body.u32()?).unwrap_or(usize::MAX));
        let answer = match to {
            Request::Quote(_) => {
                let (id, quote) = (size(&mut body)?, size(&mut body)?);
                body.take(id)?;
                Self::Quote(body.take(quote)?.to_vec())
            }
            Request::Platform => {
                let (qe_svn, pce_svn) = (body.u16()?, body.u16()?);
                let (id, cpu_svn) = (size(&mut body)?, size(&mut body)?);
                let (id, cpu_svn) = (body.take(id)?.to_vec(), body.take(cpu_svn)?.to_vec());
                Self::Platform(Platform { qe_svn, pce_svn, id, cpu_svn })
            }
        };
        body.end()?;
        Ok(answer)
    }
}

fn message(kind: u32, error: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len().saturating_add(HEADER_BYTES)).unwrap_or(u32::MAX);
    let numbers = [kind, size, error].map(u32::to_le_bytes).concat();
    [&size.to_be_bytes()[..], &MAJOR.to_le_bytes(), &MINOR.to_le_bytes(), &numbers, body].concat()
}

struct Header<'a> {
    kind: u32,
    error: u32,
    body: Body<'a>,
}

impl<'a> Header<'a> {
    fn read(message: &'a [u8]) -> Result<Self, QgsError> {
        if message.len() > MESSAGE_MAX || message.len() < HEADER_BYTES {
            return Err(QgsError::Length { found: message.len() });
        }
        let mut body = Body(message);
        let (major, minor) = (body.u16()?, body.u16()?);
        if major != MAJOR || !matches!(minor, MINOR | MINOR_BEFORE) {
            return Err(QgsError::Version { major, minor });
        }
        let (kind, size, error) = (body.u32()?, body.u32()?, body.u32()?);
        if usize::try_from(size) != Ok(message.len()) {
            return Err(QgsError::Size { what: "a message" });
        }
        Ok(Self { kind, error, body })
    }
}

/// Bytes that are not read yet.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], QgsError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(QgsError::Size { what: "a part" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, QgsError> {
        let (number, rest) = self.0.split_first_chunk().ok_or(QgsError::Size { what: "a number" })?;
        self.0 = rest;
        Ok(u16::from_le_bytes(*number))
    }

    fn u32(&mut self) -> Result<u32, QgsError> {
        let (number, rest) = self.0.split_first_chunk().ok_or(QgsError::Size { what: "a number" })?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*number))
    }

    fn end(self) -> Result<(), QgsError> {
        if self.0.is_empty() { Ok(()) } else { Err(QgsError::Size { what: "a body" }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    fn quote_wanted() -> Request {
        Request::Quote(Box::new([0x5a; REPORT_BYTES]))
    }

    fn body(wire: &[u8]) -> &[u8] {
        let (prefix, body) = wire.split_first_chunk::<4>().unwrap();
        assert_eq!(length(*prefix), Ok(body.len()));
        body
    }

    /// Byte for byte as `qgs_msg_lib.h` lays them out and QEMU's `tdx-quote-generator.c` checks them.
    #[test]
    fn messages_are_laid_out_as_qemu_and_the_service_have_them() {
        let wire = quote_wanted().to_wire();
        assert_eq!(wire[..4], 1048_u32.to_be_bytes());
        assert_eq!(wire[4..20], [1, 0, 1, 0, 0, 0, 0, 0, 0x18, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(wire[20..28], [0, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(wire[28..], [0x5a; 1024]);
        assert_eq!(Request::Platform.to_wire(), [0, 0, 0, 16, 1, 0, 1, 0, 4, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        let answer = Answer::Quote(vec![7; 3]).to_wire(&quote_wanted());
        let expected = [0, 0, 0, 27, 1, 0, 1, 0, 1, 0, 0, 0, 27, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 7, 7, 7];
        assert_eq!(answer, expected);
        let refused = Answer::Refused(Refusal::INVALID_PARAMETER).to_wire(&quote_wanted());
        assert_eq!(refused, [0, 0, 0, 16, 1, 0, 1, 0, 1, 0, 0, 0, 16, 0, 0, 0, 3, 0x20, 1, 0]);
    }

    #[test]
    fn what_is_written_is_read() {
        let platform = Platform { qe_svn: 8, pce_svn: 13, id: vec![1; 16], cpu_svn: vec![2; 16] };
        for (request, answers) in [
            (quote_wanted(), vec![Answer::Quote(vec![9; 5000]), Answer::Refused(Refusal::UNEXPECTED)]),
            (Request::Platform, vec![Answer::Platform(platform), Answer::Refused(Refusal::INVALID_TYPE)]),
        ] {
            assert_eq!(Request::parse(body(&request.to_wire())).as_ref(), Ok(&request));
            for answer in answers {
                assert_eq!(Answer::parse(body(&answer.to_wire(&request)), &request), Ok(answer));
            }
        }
    }

    #[test]
    fn whatever_is_changed_is_another_message_or_none() {
        let request = quote_wanted();
        for wire in [request.to_wire(), Answer::Quote(vec![9; 30]).to_wire(&request)] {
            let message = body(&wire);
            for cut in 0..message.len() {
                assert!(Request::parse(&message[..cut]).is_err() && Answer::parse(&message[..cut], &request).is_err());
            }
            let longer = [message, &[0]].concat();
            assert!(Request::parse(&longer).is_err() && Answer::parse(&longer, &request).is_err());
            // The version, the type, the sizes.
            for at in (0..12).chain(16..24) {
                let mut changed = message.to_vec();
                changed[at] ^= 0x40;
                assert!(Request::parse(&changed).is_err() && Answer::parse(&changed, &request).is_err(), "byte {at}");
            }
        }
        let mut with_error = request.to_wire();
        with_error[16] = 1;
        assert_eq!(Request::parse(&with_error[4..]), Err(QgsError::ErrorInRequest));
        assert!(matches!(length([0, 1, 0, 1]), Err(QgsError::Length { .. })));
        assert!(matches!(length([0, 0, 0, 15]), Err(QgsError::Length { .. })));
        let platform = Answer::Quote(vec![1]).to_wire(&request);
        assert!(matches!(
            Answer::parse(&platform[4..], &Request::Platform),
            Err(QgsError::Type { expected: 5, found: 1 })
        ));
    }
}
