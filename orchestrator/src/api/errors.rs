//! Every error that a client can get from `cofferd`, in one place: gRPC code, reason, text. UNAVAILABLE only before
//! anything was sent to the guest, UNKNOWN with `OUTCOME_UNKNOWN` after.

use std::collections::HashMap;

use coffer_evidence::config::AdmissionError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::session::admission::Refusal;
use crate::session::gate::Shut;
use crate::session::perform::chain;
use crate::session::registry::SessionError;
use crate::session::types::Ending;
use crate::store::StoreError;

const DOMAIN: &str = "coffer.dev";

/// What is wrong with a request before anybody is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("{field}: expected {expected}")]
    Field { field: &'static str, expected: &'static str },
    #[error("expected the session's id in the request metadata `coffer-session`, as a UUID")]
    NoSession,
}

/// A status with its reason in the details and in front of the text.
pub(crate) fn status(code: Code, reason: &str, text: impl std::fmt::Display) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, format!("{reason}: {text}"), details)
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        status(Code::InvalidArgument, "INVALID_ARGUMENT", error)
    }
}

impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        let (code, reason) = of_session(&error);
        if code == Code::Internal {
            tracing::error!(error = chain(&error), "a request failed");
        }
        status(code, reason, chain(&error))
    }
}

fn of_session(error: &SessionError) -> (Code, &'static str) {
    match error {
        SessionError::Refused(refusal) => of_refusal(refusal),
        SessionError::Image(_) => (Code::FailedPrecondition, "IMAGE_UNUSABLE"),
        SessionError::Unknown(_) => (Code::NotFound, "SESSION_NOT_FOUND"),
        SessionError::RequestReused => (Code::FailedPrecondition, "REQUEST_ID_REUSED"),
        SessionError::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
        SessionError::Store(StoreError::NoUid) => (Code::ResourceExhausted, "NO_UID"),
        SessionError::Store(StoreError::NotCommitted(_) | StoreError::Stopped) => {
            (Code::Unavailable, "STORE_UNAVAILABLE")
        }
        SessionError::Store(
            StoreError::Backend(_)
            | StoreError::Record(_)
            | StoreError::Form { .. }
            | StoreError::Format { .. }
            | StoreError::Unreadable { .. },
        ) => (Code::Internal, "STORE_FAILED"),
        SessionError::Task(_) => (Code::Internal, "INTERNAL"),
    }
}

fn of_refusal(refusal: &Refusal) -> (Code, &'static str) {
    match refusal {
        Refusal::SignatureLength(_) | Refusal::Intent(_) => (Code::InvalidArgument, "INTENT_MALFORMED"),
        Refusal::Labels => (Code::InvalidArgument, "INVALID_ARGUMENT"),
        Refusal::Config(error) => of_admission(error),
        Refusal::Policy(_) => (Code::InvalidArgument, "POLICY_INVALID"),
        Refusal::UnknownImage(_) => (Code::NotFound, "IMAGE_NOT_FOUND"),
        Refusal::ProfileNotServed { .. } => (Code::FailedPrecondition, "PROFILE_NOT_SERVED"),
        Refusal::ImageTooOld { .. } => (Code::FailedPrecondition, "IMAGE_TOO_OLD"),
        Refusal::ImageExpired { .. } => (Code::FailedPrecondition, "IMAGE_EXPIRED"),
        Refusal::ShapeNotMeasured(_) => (Code::FailedPrecondition, "SHAPE_NOT_MEASURED"),
        Refusal::SessionIdReused(_) => (Code::AlreadyExists, "SESSION_ID_REUSED"),
        Refusal::HostFull(_) => (Code::ResourceExhausted, "HOST_FULL"),
    }
}

fn of_admission(error: &AdmissionError) -> (Code, &'static str) {
    match error {
        AdmissionError::Owner(_) => (Code::PermissionDenied, "OWNER_SIGNATURE"),
        AdmissionError::Expired { .. } => (Code::FailedPrecondition, "INTENT_EXPIRED"),
        _ => (Code::InvalidArgument, "INTENT_REFUSED"),
    }
}

/// Why a call is not relayed.
pub(crate) fn of_shut(shut: Shut) -> Status {
    match shut {
        Shut::NotReady => {
            let text =
                "the session is not ready yet: wait until it is (`coffer session wait --for ready`, WaitSession)";
            status(Code::FailedPrecondition, "SESSION_NOT_READY", text)
        }
        Shut::Closing => status(Code::FailedPrecondition, "SESSION_CLOSING", "the session takes no more calls"),
        Shut::Ended => session_closed(None),
    }
}

/// A call to a session that is over, with why it ended where that is known.
pub(crate) fn session_closed(ending: Option<Ending>) -> Status {
    let why = ending.map(|e| format!(" ({} by {})", e.reason, e.closed_by)).unwrap_or_default();
    status(Code::FailedPrecondition, "SESSION_CLOSED", format!("the session is closed{why}: create another"))
}

/// What the transport says of bytes that are no message of ours. Its own code for that is the one of our failures.
pub(crate) fn of_transport(said: Status) -> Status {
    match said.code() {
        Code::Internal if said.details().is_empty() => {
            let text = format!("expected a message of this service, found bytes that are none: {}", said.message());
            status(Code::InvalidArgument, "INVALID_ARGUMENT", text)
        }
        Code::OutOfRange if said.details().is_empty() => {
            let text = format!("expected a message within its limit, found another: {}", said.message());
            status(Code::InvalidArgument, "LIMIT_EXCEEDED", text)
        }
        _ => said,
    }
}

/// A call that may have been carried out.
pub(crate) fn outcome_unknown() -> Status {
    let text = "the guest went away while the call ran: nobody knows how it ended";
    status(Code::Unknown, "OUTCOME_UNKNOWN", text)
}

/// A call that never reached the guest.
pub(crate) fn not_sent() -> Status {
    status(Code::Unavailable, "LINK_LOST", "the guest cannot be reached; the call was not sent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_for_programs_and_the_text_for_people() {
        let status = Status::from(SessionError::Refused(Refusal::HostFull(3)));
        assert_eq!(status.code(), Code::ResourceExhausted);
        let info = status.get_details_error_info().expect("details");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("HOST_FULL", "coffer.dev"));
        assert!(status.message().starts_with("HOST_FULL: this host has 3 open sessions"), "{}", status.message());
    }

    #[test]
    fn bytes_that_are_no_message_are_the_clients_fault_and_our_own_words_stay() {
        assert_eq!(of_transport(Status::internal("failed to decode")).code(), Code::InvalidArgument);
        assert!(of_transport(Status::out_of_range("too large")).message().starts_with("LIMIT_EXCEEDED: "));
        assert_eq!(of_transport(status(Code::Internal, "STORE_FAILED", "ours")).code(), Code::Internal);
        assert_eq!(of_transport(Status::cancelled("gone")).code(), Code::Cancelled);
    }
}
