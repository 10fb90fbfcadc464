//! Every error that a client can get, in one place: gRPC code, reason, text. The reason travels as
//! `google.rpc.ErrorInfo` in the status details (domain `coffer.dev`), and in front of the text for people.

use prost::Message as _;
use rustix::io::Errno;
use tonic::{Code, Status};

const DOMAIN: &str = "coffer.dev";

/// Why a call was refused or failed. Each has one code and one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The request does not say what it must, or says it wrongly.
    InvalidArgument,
    /// A size, count or time is above its limit.
    LimitExceeded,
    /// The path leaves the workspace.
    PathEscape,
    /// The identity is not one of the session.
    IdentityUnknown,
    /// The call id was used before.
    CallIdReused,
    /// Too many calls run at once.
    TooManyCalls,
    /// The session has used up its calls or its log.
    SessionFull,
    /// The session is closing.
    SessionClosing,
    /// There is no such file or directory.
    FileNotFound,
    /// The identity may not do that to this file.
    AccessDenied,
    /// The file is not of the kind that the operation needs, or is in the way.
    WrongKind,
    /// No space or no inodes are left.
    NoSpace,
    /// The tool could not be started.
    NotStarted,
    /// The call was ended: by its client, by its time, by the memory limit or by the end of the session.
    Ended,
    /// Something failed that should not.
    Internal,
    /// The effect may have happened; its outcome is not known.
    OutcomeUnknown,
}

impl Reason {
    /// The word that programs compare.
    pub fn word(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (Code, &'static str) {
        match self {
            Reason::InvalidArgument => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Reason::LimitExceeded => (Code::InvalidArgument, "LIMIT_EXCEEDED"),
            Reason::PathEscape => (Code::PermissionDenied, "PATH_ESCAPE"),
            Reason::IdentityUnknown => (Code::PermissionDenied, "IDENTITY_UNKNOWN"),
            Reason::CallIdReused => (Code::AlreadyExists, "CALL_ID_REUSED"),
            Reason::TooManyCalls => (Code::ResourceExhausted, "TOO_MANY_CALLS"),
            Reason::SessionFull => (Code::ResourceExhausted, "SESSION_FULL"),
            Reason::SessionClosing => (Code::FailedPrecondition, "SESSION_CLOSING"),
            Reason::FileNotFound => (Code::NotFound, "FILE_NOT_FOUND"),
            Reason::AccessDenied => (Code::PermissionDenied, "ACCESS_DENIED"),
            Reason::WrongKind => (Code::FailedPrecondition, "WRONG_KIND"),
            Reason::NoSpace => (Code::ResourceExhausted, "NO_SPACE"),
            Reason::NotStarted => (Code::Internal, "NOT_STARTED"),
            Reason::Ended => (Code::Aborted, "CALL_ENDED"),
            Reason::Internal => (Code::Internal, "INTERNAL"),
            Reason::OutcomeUnknown => (Code::Unknown, "OUTCOME_UNKNOWN"),
        }
    }

    /// The status, with its reason in the details.
    pub fn status(self, text: impl Into<String>) -> Status {
        let (code, word) = self.row();
        let message = format!("{word}: {}", text.into());
        let info = ErrorInfo { reason: word.into(), domain: DOMAIN.into() };
        let any = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: info.encode_to_vec() };
        let details = RpcStatus { code: code as i32, message: message.clone(), details: vec![any] };
        Status::with_details(code, message, details.encode_to_vec().into())
    }

    /// The reason that fits what the system answered to a file operation.
    pub fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::XDEV | Errno::LOOP => Reason::PathEscape,
            Errno::NOENT => Reason::FileNotFound,
            Errno::ACCESS | Errno::PERM => Reason::AccessDenied,
            Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::STALE => Reason::WrongKind,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM => Reason::NoSpace,
            Errno::INVAL | Errno::NAMETOOLONG => Reason::InvalidArgument,
            _ => Reason::Internal,
        }
    }
}

// The three messages of google.rpc that are needed, field for field as in `google/rpc/status.proto` and
// `error_details.proto`.

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_in_the_details_and_in_the_text() {
        let status = Reason::PathEscape.status("a/../../b");
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().starts_with("PATH_ESCAPE: "));
        let details = RpcStatus::decode(status.details()).unwrap();
        let info = ErrorInfo::decode(details.details[0].value.as_slice()).unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PATH_ESCAPE", "coffer.dev"));
    }

    #[test]
    fn a_path_that_left_the_workspace_is_told_from_a_missing_file() {
        assert_eq!(Reason::of_errno(Errno::XDEV), Reason::PathEscape);
        assert_eq!(Reason::of_errno(Errno::NOENT), Reason::FileNotFound);
        assert_eq!(Reason::of_errno(Errno::NOSPC), Reason::NoSpace);
    }
}
