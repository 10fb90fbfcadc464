//! `coffer quote replay`: an event log is what somebody says that a TD measured; a register is what it did. Only what replays
//! to the register counts, and a payload only where the digest is its own.

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::event_log::{EventLog, EventPayload};
use coffer_evidence::quote::Quote;
use coffer_evidence::rtmr::Rtmr;
use serde::Serialize;

use super::dstack::{self, REPORT_MAX};
use super::read_quote;
use crate::exit::{INPUT_OUTPUT, Status, failure};
use crate::file::small;
use crate::output::{Form, Output, printable};

pub(super) const EXIT_HELP: &str = "\
Exit status: 0 every register that the log speaks of is replayed; 1 one is not; 64 usage; 74 a file could not be read.
The quote is not verified here: `coffer quote verify` does that.";
/// Characters of a payload that are shown.
const SHOWN: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The event log: CCEL as the firmware wrote it, or JSON
    #[arg(long, value_name = "FILE")]
    event_log: PathBuf,
    /// The quote to hold it against; without one the replayed registers are shown
    #[arg(long, value_name = "FILE")]
    quote: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Event {
    rtmr: usize,
    r#type: String,
    digest: String,
    /// Whether the digest is of the payload shown.
    recomputed: bool,
    /// In hexadecimal digits.
    payload: String,
    /// What people read: a name of the guest's own event, text, or nothing.
    text: Option<String>,
}

#[derive(Debug, Serialize)]
struct Register {
    rtmr: usize,
    replayed: String,
    quote: Option<String>,
    result: &'static str,
}

#[derive(Debug, Serialize)]
struct Replayed {
    schema: &'static str,
    events: Vec<Event>,
    registers: Vec<Register>,
}

/// `coffer quote replay`
pub(super) fn replay(output: &Output, args: &ReplayArgs) -> anyhow::Result<Status> {
    let bytes = small(&args.event_log, REPORT_MAX, "event log")?;
    let read = match bytes.first() {
        Some(b'{' | b'[') => of_json(&bytes),
        _ => of_ccel(&bytes),
    };
    let (events, replayed) =
        read.map_err(|why| failure(INPUT_OUTPUT, format!("{}: {why}", args.event_log.display())))?;
    let quote = match &args.quote {
        None => None,
        Some(path) => {
            let wrong = |error| failure(INPUT_OUTPUT, format!("{}: {error}", path.display()));
            Some(Quote::parse(&read_quote(path)?).map_err(wrong)?)
        }
    };
    let registers: Vec<Register> = replayed
        .iter()
        .enumerate()
        .map(|(rtmr, value)| {
            let found = quote.as_ref().and_then(|quote| quote.rtmr(rtmr)).map(|value| Rtmr::new(*value));
            let spoken = events.iter().any(|event| event.rtmr == rtmr);
            let result = match found {
                None => "not_evaluated",
                Some(found) if found == *value => "pass",
                // A log that says nothing of a register says nothing wrong of it.
                Some(_) if !spoken => "not_evaluated",
                Some(_) => "fail",
            };
            let shown = |register: Rtmr| hex::encode(register.as_bytes());
            Register { rtmr, replayed: shown(*value), quote: found.map(shown), result }
        })
        .collect();
    let failed = registers.iter().any(|register| register.result == "fail");
    match output.form {
        Form::Json => output.json(&Replayed { schema: "coffer.replay.v1", events, registers })?,
        Form::People => tell(output, &events, &registers)?,
    }
    Ok(if failed { Status::FAILED } else { Status::DONE })
}

type Read = (Vec<Event>, [Rtmr; 4]);

fn of_ccel(bytes: &[u8]) -> Result<Read, String> {
    let log = EventLog::parse(bytes).map_err(|error| error.to_string())?;
    let events = log.events().iter().map(|event| {
        let (payload, recomputed) = match event.payload {
            EventPayload::Recomputed(payload) => (payload, true),
            EventPayload::Opaque(payload) => (payload, false),
        };
        Event {
            rtmr: event.rtmr,
            r#type: event_type(event.kind),
            digest: event.digest.to_string(),
            recomputed,
            payload: hex::encode(payload),
            text: readable(payload),
        }
    });
    Ok((events.collect(), log.replay()))
}

fn of_json(bytes: &[u8]) -> Result<Read, String> {
    let mut registers = [Rtmr::ZERO; 4];
    let mut events = Vec::new();
    for event in dstack::events(bytes)? {
        let digest = event.digest()?;
        let register =
            registers.get_mut(event.imr).ok_or_else(|| format!("expected imr 0 to 3, found {}", event.imr))?;
        *register = register.extend(&digest);
        let recomputed = event.is_recomputed();
        let named = Some(event.event).filter(|name| !name.is_empty());
        let text = named.or_else(|| readable(&hex::decode(&event.event_payload).unwrap_or_default()));
        let r#type = event_type(event.event_type);
        events.push(Event {
            rtmr: event.imr,
            r#type,
            digest: event.digest,
            recomputed,
            payload: event.event_payload,
            text,
        });
    }
    Ok((events, registers))
}

/// The name of an event's type, of those that firmware of TDs writes (TCG PC Client Platform Firmware Profile, table 27).
fn event_type(kind: u32) -> String {
    let name = match kind {
        0x3 => "EV_NO_ACTION",
        0x4 => "EV_SEPARATOR",
        0x6 => "EV_EVENT_TAG",
        0xa => "EV_PLATFORM_CONFIG_FLAGS",
        0xd => "EV_IPL",
        0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
        0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0006 => "EV_EFI_GPT_EVENT",
        0x8000_0007 => "EV_EFI_ACTION",
        0x8000_000a => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000b => "EV_EFI_HANDOFF_TABLES2",
        0x8000_000c => "EV_EFI_VARIABLE_BOOT2",
        0x8000_00e0 => "EV_EFI_VARIABLE_AUTHORITY",
        other => return format!("{other:#010x}"),
    };
    name.to_owned()
}

/// Text, if that is all there is.
fn readable(payload: &[u8]) -> Option<String> {
    let text = payload.strip_suffix(&[0]).unwrap_or(payload);
    let plain = !text.is_empty() && text.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic());
    plain.then(|| String::from_utf8_lossy(text).into_owned())
}

fn tell(output: &Output, events: &[Event], registers: &[Register]) -> anyhow::Result<()> {
    for event in events {
        let payload = match (&event.text, event.recomputed) {
            (_, false) => "(opaque: the digest is of something else)".to_owned(),
            (Some(text), true) => printable(&text.chars().take(SHOWN).collect::<String>()),
            (None, true) => {
                event.payload.get(..SHOWN).map_or_else(|| event.payload.clone(), |start| format!("{start}.."))
            }
        };
        let digest = event.digest.get(..16).unwrap_or(&event.digest);
        output.line(format_args!("rtmr{} {:<32} {digest}.. {payload}", event.rtmr, event.r#type))?;
    }
    for register in registers {
        let result = match register.result {
            "pass" => "ok",
            "fail" => "FAILED",
            _ => "-",
        };
        output.line(format_args!("{result:<7} rtmr{} {}", register.rtmr, register.replayed))?;
        if let Some(quote) = register.quote.as_ref().filter(|_| register.result == "fail") {
            output.line(format_args!("        the quote has {quote}"))?;
        }
    }
    Ok(())
}
