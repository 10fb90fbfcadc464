//! What can go wrong between a user and `cofferd`, in the words of the user's side. One conversion from gRPC.

use std::path::PathBuf;

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

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
    /// `cofferd` or the agent refused or failed.
    #[error("{message}{}", reason.as_ref().map(|r| format!(" [{r}]")).unwrap_or_default())]
    Refused {
        /// gRPC code.
        code: Code,
        /// The reason of its `ErrorInfo`.
        reason: Option<String>,
        /// Its message.
        message: String,
    },
    /// The answer is not what the interface promises.
    #[error("expected {expected} from cofferd, found {found}")]
    Unexpected {
        /// Promised.
        expected: &'static str,
        /// Came.
        found: String,
    },
    /// A file of the user.
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
    /// A tar stream from a session that would leave its directory, or is not one.
    #[error("refused to unpack {entry:?}: expected a plain path below the target, {why}")]
    Unsafe {
        /// The entry.
        entry: String,
        /// Why.
        why: &'static str,
    },
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
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason);
        Self::Refused { code: status.code(), reason, message: status.message().to_owned() }
    }
}
