//! The firmware's event log (CCEL): what the firmware says it measured into RTMR0-2, and the replay that shows whether it did.
//! What the events mean is not judged here; reference values come from the signed manifest.
//!
//! The "crypto agile" form of the TCG PC Client Platform Firmware Profile, as the firmware of a TD leaves it in memory and ACPI shows
//! it. A TD has SHA-384 and nothing else, so this reader takes logs of that one algorithm. Integers are little-endian:
//! ```text
//! TCG_PCR_EVENT     index u32 | EV_NO_ACTION | 20 zeros | size u32 | "Spec ID Event03\0" and the algorithms
//! TCG_PCR_EVENT2 *  index u32 | type u32 | 1 u32 | SHA-384 u16 | digest 48 | size u32 | payload
//! end               0xff or zeros up to the end of the memory area, or its end at once
//! ```
//! Index n is RTMR n-1 (UEFI 2.10, 38.4.1). Register values cover digests in their order within a register, and nothing else: type,
//! payload, and the order of events of different registers are the host's to choose. So a payload says something only where the
//! digest was recomputed from it ([`EventPayload`]).

mod cursor;
mod payload;

use thiserror::Error;

use crate::ids::Digest384;
use crate::rtmr::Rtmr;
use cursor::Cursor;

pub use payload::EventPayload;

/// The largest log in bytes, padding included. Firmware reserves 64 KiB.
pub const EVENT_LOG_MAX: usize = 1024 * 1024;
/// The most events.
pub const EVENTS_MAX: usize = 4096;
/// The largest payload of an event in bytes.
pub const PAYLOAD_MAX: usize = 64 * 1024;

/// Type of an event that is logged and not extended.
const EV_NO_ACTION: u32 = 3;
/// TPM_ALG_SHA384.
const SHA384: u16 = 0x000c;
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootEvent<'a> {
    /// The register, 0 to 3.
    pub rtmr: usize,
    /// The type, which no digest covers.
    pub kind: u32,
    /// What was extended.
    pub digest: Digest384,
    /// What it is said to be of.
    pub payload: EventPayload<'a>,
}

impl BootEvent<'_> {
    /// Whether the digest went into the register.
    #[must_use]
    pub const fn is_extended(&self) -> bool {
        self.kind != EV_NO_ACTION
    }
}

/// A log in the one form that is taken. That it is true is for the registers to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventLog<'a> {
    events: Vec<BootEvent<'a>>,
}

/// Why bytes are not an event log.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum EventLogError {
    /// The log.
    #[error("expected an event log of at most {EVENT_LOG_MAX} bytes, found {0}")]
    TooLarge(usize),
    /// Cut short.
    #[error("expected {needed} bytes of {what} at {at}, found {left}")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Its length.
        needed: usize,
        /// What is there.
        left: usize,
        /// Where it begins.
        at: usize,
    },
    /// The first event.
    #[error("expected a first event that declares {0}")]
    Header(&'static str),
    /// A register that a TD's firmware does not extend.
    #[error("expected a register index from 1 to 4 at {at}, found {found}")]
    Index {
        /// Of the event.
        at: usize,
        /// The index.
        found: u32,
    },
    /// Digests of an event.
    #[error("expected one digest of the declared algorithm at {at}")]
    Digests {
        /// Of the event.
        at: usize,
    },
    /// An event that is not extended.
    #[error("expected a digest of zeros in the EV_NO_ACTION event at {at}")]
    NoAction {
        /// Of the event.
        at: usize,
    },
    /// A payload.
    #[error("expected a payload of at most {PAYLOAD_MAX} bytes at {at}, found {found}")]
    Payload {
        /// Of the event.
        at: usize,
        /// Its size.
        found: u32,
    },
    /// Events.
    #[error("expected at most {EVENTS_MAX} events")]
    TooMany,
    /// After the last event.
    #[error("expected nothing but 0xff or nothing but zeros from the end of the log at {at}")]
    Padding {
        /// Where the log ends.
        at: usize,
    },
}

impl<'a> EventLog<'a> {
    /// Reads a log strictly.
    ///
    /// # Errors
    /// [`EventLogError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        if bytes.len() > EVENT_LOG_MAX {
            return Err(EventLogError::TooLarge(bytes.len()));
        }
        let mut cursor = Cursor::new(bytes);
        header(&mut cursor)?;
        let mut events = Vec::new();
        // No event begins with either byte: its index is at least 1 and at most 4.
        while let Some(first) = cursor.rest().first() {
            if matches!(first, 0 | 0xff) {
                let uniform = cursor.rest().iter().all(|byte| byte == first);
                return if uniform { Ok(Self { events }) } else { Err(EventLogError::Padding { at: cursor.at() }) };
            }
            if events.len() >= EVENTS_MAX {
                return Err(EventLogError::TooMany);
            }
            events.push(event(&mut cursor)?);
        }
        Ok(Self { events })
    }

    /// The events in their order, the first one, which declares the form, left out.
    #[must_use]
    pub fn events(&self) -> &[BootEvent<'a>] {
        &self.events
    }

    /// RTMR0 to RTMR3 after all of them, from zero.
    #[must_use]
    pub fn replay(&self) -> [Rtmr; 4] {
        let mut registers = [Rtmr::ZERO; 4];
        for event in self.events.iter().filter(|event| event.is_extended()) {
            if let Some(register) = registers.get_mut(event.rtmr) {
                *register = register.extend(&event.digest);
            }
        }
        registers
    }
}

/// The first event, in the older form: it declares the form of all others.
fn header(cursor: &mut Cursor<'_>) -> Result<(), EventLogError> {
    let declares = |condition: bool, what| if condition { Ok(()) } else { Err(EventLogError::Header(what)) };
    // The profile has 0 here, the firmware of TDX writes 1. It is not extended.
    declares(matches!(cursor.u32("index")?, 0 | 1), "itself for register 0 or 1")?;
    declares(cursor.u32("type")? == EV_NO_ACTION, "itself of type EV_NO_ACTION")?;
    declares(cursor.array::<20>("digest")? == [0; 20], "a digest of zeros")?;
    let size = cursor.u32("size")?;
    let size = usize::try_from(size).ok().filter(|size| *size <= PAYLOAD_MAX);
    let mut inner = Cursor::new(cursor.bytes("first event", size.ok_or(EventLogError::Header("its size"))?)?);
    declares(inner.array::<16>("signature")? == *SIGNATURE, "the crypto agile form")?;
    let _platform_class = inner.u32("platform class")?;
    declares(inner.array::<2>("version")? == [0, 2], "version 2.0")?;
    let _errata = inner.u8("errata")?;
    declares(matches!(inner.u8("size of integers")?, 1 | 2), "integers of 32 or 64 bits")?;
    declares(inner.u32("number of algorithms")? == 1, "one algorithm, SHA-384")?;
    declares(inner.u16("algorithm")? == SHA384, "one algorithm, SHA-384")?;
    declares(inner.u16("digest size")? == 48, "digests of 48 bytes")?;
    let vendor = inner.u8("size of vendor information")?;
    let _vendor = inner.bytes("vendor information", usize::from(vendor))?;
    declares(inner.rest().is_empty(), "nothing after the vendor information")
}

fn event<'a>(cursor: &mut Cursor<'a>) -> Result<BootEvent<'a>, EventLogError> {
    let at = cursor.at();
    let found = cursor.u32("index")?;
    let rtmr = match found {
        1 => 0,
        2 => 1,
        3 => 2,
        4 => 3,
        _ => return Err(EventLogError::Index { at, found }),
    };
    let kind = cursor.u32("type")?;
    if cursor.u32("number of digests")? != 1 || cursor.u16("algorithm")? != SHA384 {
        return Err(EventLogError::Digests { at });
    }
    let digest = cursor.array::<48>("digest")?;
    if kind == EV_NO_ACTION && digest != [0; 48] {
        return Err(EventLogError::NoAction { at });
    }
    let digest = Digest384::new(digest);
    let found = cursor.u32("size")?;
    let size = usize::try_from(found).ok().filter(|size| *size <= PAYLOAD_MAX);
    let bytes = cursor.bytes("payload", size.ok_or(EventLogError::Payload { at, found })?)?;
    Ok(BootEvent { rtmr, kind, digest, payload: EventPayload::recompute(kind, &digest, bytes) })
}
