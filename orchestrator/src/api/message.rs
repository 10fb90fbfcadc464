//! Sessions and images as messages, requests as ours. Conversions only.

use coffer_evidence::ids::{Digest256, SessionId};
use coffer_evidence::manifest::Profile;
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_proto::control::v1 as pb;
use sha2::{Digest as _, Sha256};

use super::errors::RequestError;
use crate::image::Image;
use crate::session::record::SessionRecord;
use crate::session::types::{Outcome, Phase, Timestamp};
use crate::store::RequestKey;

fn ms(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A session as clients see it.
pub(super) fn session(record: &SessionRecord) -> pb::Session {
    let machine = &record.machine;
    let ending = machine.ending();
    let outcome = machine.outcome().map_or(pb::Outcome::Unspecified, |outcome| match outcome {
        Outcome::Sealed => pb::Outcome::Sealed,
        Outcome::Aborted => pb::Outcome::Aborted,
    });
    let instance = record.instance().map(|i| i.as_bytes().to_vec()).unwrap_or_default();
    pb::Session {
        id: record.id.as_bytes().to_vec().into(),
        phase: phase(machine.phase()).into(),
        outcome: outcome.into(),
        reason: ending.map_or(pb::Reason::Unspecified, |e| reason(e.reason)).into(),
        closed_by: ending.map_or(pb::ClosedBy::Unspecified, |e| closed_by(e.closed_by)).into(),
        platform: platform(record.profile).into(),
        image: record.image.as_bytes().to_vec().into(),
        instance: instance.into(),
        created_at_ms: ms(record.created_at),
        phase_since_ms: record.timeline.last().map_or(0, |(_, at)| ms(*at)),
        expires_at_ms: record.expires_at.map_or(0, ms),
        tenant: record.tenant.clone(),
        authority: record.authority.clone(),
        message: machine.message().unwrap_or_default().to_owned(),
        timeline: record
            .timeline
            .iter()
            .map(|(entered, at)| pb::PhaseTime { phase: phase(*entered).into(), entered_at_ms: ms(*at) })
            .collect(),
        scrub_failures: machine.scrub_failures().to_vec(),
    }
}

/// An image as clients see it.
pub(super) fn image(image: &Image, default: Option<Digest256>) -> pb::Image {
    pb::Image {
        digest: image.digest.as_bytes().to_vec().into(),
        name: image.manifest.name.clone(),
        version: image.manifest.version.clone(),
        svn: image.manifest.svn,
        platform: platform(image.manifest.profile).into(),
        publisher: image.publisher.as_bytes().to_vec().into(),
        default: default == Some(image.digest),
    }
}

fn platform(profile: Profile) -> pb::Platform {
    match profile {
        Profile::Tdx => pb::Platform::Tdx,
        Profile::Simulated => pb::Platform::Simulated,
    }
}

fn phase(phase: Phase) -> pb::Phase {
    match phase {
        Phase::Requested => pb::Phase::Requested,
        Phase::Scheduled => pb::Phase::Scheduled,
        Phase::Launching => pb::Phase::Launching,
        Phase::Attesting => pb::Phase::Attesting,
        Phase::Ready => pb::Phase::Ready,
        Phase::Draining => pb::Phase::Draining,
        Phase::Sealing => pb::Phase::Sealing,
        Phase::Scrubbing => pb::Phase::Scrubbing,
        Phase::Closed => pb::Phase::Closed,
    }
}

fn reason(reason: Reason) -> pb::Reason {
    match reason {
        Reason::UserClosed => pb::Reason::UserClosed,
        Reason::TtlExpired => pb::Reason::TtlExpired,
        Reason::IdleTimeout => pb::Reason::IdleTimeout,
        Reason::HostDrained => pb::Reason::HostDrained,
        Reason::HostLost => pb::Reason::HostLost,
        Reason::GuestPanicked => pb::Reason::GuestPanicked,
        Reason::GuestUnresponsive => pb::Reason::GuestUnresponsive,
        Reason::AttestationFailed => pb::Reason::AttestationFailed,
        Reason::PolicyViolation => pb::Reason::PolicyViolation,
        Reason::LimitReached => pb::Reason::LimitReached,
        Reason::BootTimeout => pb::Reason::BootTimeout,
        Reason::OutOfMemory => pb::Reason::OutOfMemory,
        Reason::OrphanReclaimed => pb::Reason::OrphanReclaimed,
        Reason::Internal => pb::Reason::Internal,
    }
}

fn closed_by(closed_by: ClosedBy) -> pb::ClosedBy {
    match closed_by {
        ClosedBy::Client => pb::ClosedBy::Client,
        ClosedBy::Agent => pb::ClosedBy::Agent,
        ClosedBy::Host => pb::ClosedBy::Host,
    }
}

/// A session id of 16 bytes.
pub(super) fn session_id(bytes: &[u8]) -> Result<SessionId, RequestError> {
    SessionId::from_bytes(bytes).map_err(|_| RequestError::Field { field: "id", expected: "16 bytes" })
}

/// Names a mutation, with a digest over method and body.
pub(super) fn request_key(id: &str, method: &str, body: &[&[u8]]) -> Result<RequestKey, RequestError> {
    if !is_uuid(id) {
        return Err(RequestError::Field { field: "request_id", expected: "a UUID in lower case" });
    }
    let mut hash = Sha256::new();
    for part in [method.as_bytes()].iter().chain(body) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(RequestKey { id: id.to_owned(), digest: hex::encode(hash.finalize()) })
}

fn is_uuid(text: &str) -> bool {
    text.parse::<SessionId>().is_ok_and(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_its_id_and_by_all_of_its_body() {
        let id = "01234567-89ab-4cde-8f01-23456789abcd";
        let key = request_key(id, "create", &[b"ab", b"c"]).expect("a key");
        assert_eq!(key, request_key(id, "create", &[b"ab", b"c"]).expect("the same"));
        for (method, body) in [("close", [&b"ab"[..], b"c"]), ("create", [b"a", b"bc"]), ("create", [b"ab", b"d"])] {
            assert_ne!(key, request_key(id, method, &body).expect("another"));
        }
        for id in ["", "x", "01234567-89AB-4cde-8f01-23456789abcd", "0123456789ab4cde8f0123456789abcd"] {
            assert!(request_key(id, "create", &[]).is_err(), "{id}");
        }
    }

    #[test]
    fn phases_keep_their_order_as_messages() {
        let all = [
            Phase::Requested,
            Phase::Scheduled,
            Phase::Launching,
            Phase::Attesting,
            Phase::Ready,
            Phase::Draining,
            Phase::Sealing,
            Phase::Scrubbing,
            Phase::Closed,
        ];
        let numbers: Vec<i32> = all.iter().map(|p| phase(*p).into()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert!(all.is_sorted_by(|a, b| a < b));
    }
}
