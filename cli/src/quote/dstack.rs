//! Quotes and event logs in JSON: a report with `quote` and `event_log`, or the list of events alone, as dstack writes them.
//! A payload counts only where its digest was recomputed from it.

use coffer_evidence::ids::Digest384;
use serde::Deserialize;

/// A report with its event log, in bytes.
pub(super) const REPORT_MAX: usize = 4 * 1024 * 1024;
/// Type of the events that the guest itself extends.
const RUNTIME_EVENT: u32 = 0x0800_0001;

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    quote: String,
    #[serde(default)]
    event_log: String,
}

/// One event.
#[derive(Debug, Deserialize)]
pub(super) struct JsonEvent {
    pub(super) imr: usize,
    pub(super) event_type: u32,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) event: String,
    #[serde(default)]
    pub(super) event_payload: String,
}

impl JsonEvent {
    /// What went into the register.
    pub(super) fn digest(&self) -> Result<Digest384, String> {
        let bytes: Option<[u8; 48]> = hex::decode(&self.digest).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Digest384::new)
            .ok_or_else(|| format!("expected 96 hexadecimal digits of a digest, found {:?}", self.digest))
    }

    /// Whether the digest is of the payload that stands beside it.
    pub(super) fn is_recomputed(&self) -> bool {
        let Ok(payload) = hex::decode(&self.event_payload) else { return false };
        let measured = if self.event_type == RUNTIME_EVENT {
            [&self.event_type.to_le_bytes(), &b":"[..], self.event.as_bytes(), b":", &payload].concat()
        } else {
            payload
        };
        self.digest().is_ok_and(|digest| digest == Digest384::of(&measured))
    }
}

/// The quote of a report.
pub(super) fn quote(json: &[u8]) -> Result<Vec<u8>, String> {
    let report: Report = serde_json::from_slice(json).map_err(|error| format!("expected a JSON report: {error}"))?;
    if report.quote.is_empty() {
        return Err("expected a field `quote` in the JSON report, found none".to_owned());
    }
    hex::decode(report.quote.trim()).map_err(|error| format!("expected hexadecimal digits in `quote`: {error}"))
}

/// The events of a report, or of a list.
pub(super) fn events(json: &[u8]) -> Result<Vec<JsonEvent>, String> {
    let wrong = |error: serde_json::Error| format!("expected a list of events, or a report with `event_log`: {error}");
    if json.first() == Some(&b'[') {
        return serde_json::from_slice(json).map_err(wrong);
    }
    let report: Report = serde_json::from_slice(json).map_err(wrong)?;
    serde_json::from_str(&report.event_log).map_err(wrong)
}
