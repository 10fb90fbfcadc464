//! What can go wrong between a user and `cofferd`, in the words of the user's side. One conversion from gRPC.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coffer_proto::guest::v1::Offsets;
use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The word for a call that was started and of which nobody knows how it ended.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";

/// Why something did not work.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("expected cofferd on {}, found nobody: start it with `cofferd serve`, or name its socket with --socket", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// Somebody may be there, but not for this user.
    #[error("expected to be allowed to use {}, found that this user is not: join its group, or name another socket with --socket", socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// `cofferd` or the agent refused or failed.
    #[error("{}", with_reason(message, reason.as_deref()))]
    Refused {
        /// gRPC code.
        code: Code,
        /// The reason of its `ErrorInfo`.
        reason: Option<String>,
        /// Its message.
        message: String,
        /// The numbers of its `ErrorInfo`.
        numbers: BTreeMap<String, u64>,
    },
    /// A call was sent, and nobody said how it ended: it may have had its effect.
    #[error(
        "{OUTCOME_UNKNOWN}: the call was sent and its outcome never came ({why}); the action log holds what the guest knew"
    )]
    OutcomeUnknown {
        /// What came instead.
        why: String,
    },
    /// The answer is not what the interface promises.
    #[error("expected {expected} from cofferd, found {found}")]
    Unexpected {
        /// Promised.
        expected: &'static str,
        /// Came.
        found: String,
    },
    /// A file or stream of the user.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something that has no content to carry.
    #[error(
        "expected a file or a directory, found a pipe, a socket or a device at {path}: only files, directories and links are copied"
    )]
    Special {
        /// What was named.
        path: String,
    },
    /// `git` did not say what it ignores.
    #[error("expected git to list what it does not ignore in {}, found: {found}; correct that, or take everything with --all", path.display())]
    Git {
        /// The work tree.
        path: PathBuf,
        /// What git said.
        found: String,
    },
    /// More than a transfer may carry.
    #[error("expected at most {most} {unit} in one transfer, found more: move less at a time")]
    TooLarge {
        /// The limit.
        most: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A tar stream from a session that would leave its directory, or is not one.
    #[error("refused to unpack {entry:?}: expected {expected}; what came before it stays where it is")]
    Unsafe {
        /// The entry.
        entry: String,
        /// What an honest archive has.
        expected: &'static str,
    },
    /// No randomness.
    #[error("expected randomness from the kernel, found none")]
    Random,
}

/// The agent puts the word in front of its message; `cofferd` may leave it to the details.
fn with_reason(message: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) if !message.contains(reason) => format!("{reason}: {message}"),
        _ => message.to_owned(),
    }
}

impl ClientError {
    /// A file operation that failed.
    pub fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// The reason that `cofferd` or the agent gave, a stable word such as `OUTCOME_UNKNOWN`.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => reason.as_deref(),
            Self::OutcomeUnknown { .. } => Some(OUTCOME_UNKNOWN),
            _ => None,
        }
    }

    /// The gRPC code, where there is one.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether only the connection failed: the same call may be reached again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::OutcomeUnknown { .. } => true,
            // Of a cofferd that has just come back.
            Self::Refused { reason, .. } => {
                reason.as_deref().is_some_and(|reason| ["LINK_LOST", "SESSION_NOT_READY"].contains(&reason))
            }
            _ => false,
        }
    }

    /// From where the guest still has output, when this says that it has no more what was asked for.
    #[must_use]
    pub fn output_from(&self) -> Option<Offsets> {
        match self {
            Self::Refused { reason, numbers, .. } if reason.as_deref() == Some("OUTPUT_GONE") => {
                Some(Offsets { stdout: *numbers.get("stdout")?, stderr: *numbers.get("stderr")? })
            }
            _ => None,
        }
    }

    /// A failure of a call that had been sent. Coffer's own refusals carry a reason; what carries none was made by the
    /// transport, which cannot know what happened.
    pub(crate) fn after_dispatch(status: Status) -> Self {
        match Self::from(status) {
            Self::Refused { reason: None, message, .. } => Self::OutcomeUnknown { why: message },
            other => other,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let (reason, numbers) = match status.get_details_error_info() {
            Some(info) => {
                let number = |(name, text): (String, String)| Some((name, text.parse().ok()?));
                (Some(info.reason), info.metadata.into_iter().filter_map(number).collect())
            }
            None => (None, BTreeMap::new()),
        };
        Self::Refused { code: status.code(), reason, message: status.message().to_owned(), numbers }
    }
}

impl From<getrandom::Error> for ClientError {
    fn from(_: getrandom::Error) -> Self {
        Self::Random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn status(reason: Option<&str>, message: &str) -> Status {
        match reason {
            Some(reason) => {
                let details = ErrorDetails::with_error_info(reason, "coffer.dev", []);
                Status::with_error_details(Code::PermissionDenied, message, details)
            }
            None => Status::unavailable(message),
        }
    }

    #[test]
    fn the_reason_is_told_once() {
        let told = |reason, message| ClientError::from(status(reason, message)).to_string();
        assert_eq!(told(Some("PATH_ESCAPE"), "PATH_ESCAPE: a/../../b"), "PATH_ESCAPE: a/../../b");
        assert_eq!(told(Some("PATH_ESCAPE"), "a/../../b"), "PATH_ESCAPE: a/../../b");
        assert_eq!(told(None, "gone"), "gone");
    }

    #[test]
    fn only_coffer_itself_can_say_that_a_sent_call_had_no_effect() {
        let refused = ClientError::after_dispatch(status(Some("SESSION_CLOSING"), "closing"));
        assert_eq!(refused.reason(), Some("SESSION_CLOSING"));
        let broken = ClientError::after_dispatch(status(None, "connection reset"));
        assert_eq!(broken.reason(), Some(OUTCOME_UNKNOWN));
        assert!(broken.to_string().contains("connection reset"));
    }
}
