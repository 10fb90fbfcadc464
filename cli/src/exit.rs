//! Exit statuses (DESIGN section 14): which failure ends the command with which, in one place.

use std::io::Write as _;
use std::process::ExitCode;

use coffer_client::ClientError;
use coffer_client::keys::KeyError;
use coffer_proto::guest::v1::{ExitCause, Exited};
use tonic::Code;

use crate::output::printable;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u8);

impl Status {
    pub(crate) const DONE: Self = Self(0);
    pub(crate) const FAILED: Self = Self(1);
    /// A deadline ended the command that was run.
    pub(crate) const TIMED_OUT: Self = Self(124);
    /// Coffer failed, not the command.
    pub(crate) const COFFER_FAILED: Self = Self(125);
    const NOT_EXECUTABLE: Self = Self(126);
    const NOT_FOUND: Self = Self(127);

    /// As a shell says it.
    pub(crate) fn of_signal(signal: i32) -> Self {
        Self(u8::try_from(signal).unwrap_or(0).saturating_add(128))
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.0)
    }
}

pub(crate) const USAGE: Status = Status(64);
pub(crate) const UNAVAILABLE: Status = Status(69);
const LOCKED: Status = Status(73);
pub(crate) const INPUT_OUTPUT: Status = Status(74);
const PERMISSION: Status = Status(77);
pub(crate) const CONFIGURATION: Status = Status(78);
const SIGPIPE: i32 = 13;

/// A failure that knows its status.
#[derive(Debug)]
pub(crate) struct Failure {
    status: Status,
    message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with its own status.
pub(crate) fn failure(status: Status, message: impl Into<String>) -> anyhow::Error {
    Failure { status, message: message.into() }.into()
}

/// Whoever read stdout is gone: the reason to end, and nothing to say.
#[derive(Debug)]
pub(crate) struct OutputClosed;

impl std::fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("expected somebody to read standard output, found it closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Tells the error on stderr, and gives its status.
pub(crate) fn told(error: &anyhow::Error) -> ExitCode {
    let status = status_of(error);
    if !is_closed_output(error) {
        // Nobody may be left to read it.
        drop(writeln!(std::io::stderr(), "coffer: {}", causes(error)));
    }
    status.into()
}

/// The error and its causes in one line, each said once: some libraries repeat the cause in the message. The words may be
/// a host's or a guest's.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.last().is_none_or(|last| !last.ends_with(&cause)) {
            told.push(cause);
        }
    }
    printable(&told.join(": "))
}

/// What the client calls the two outputs.
const OUTPUTS: [&str; 2] = ["standard output", "standard error"];

/// Whether the error is only that nobody reads the output any more.
pub(crate) fn is_closed_output(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<OutputClosed>()
            || matches!(cause.downcast_ref::<ClientError>(), Some(ClientError::File { path, source, .. })
                if source.kind() == std::io::ErrorKind::BrokenPipe && OUTPUTS.iter().any(|output| path.as_os_str() == *output))
    })
}

/// The status of an error: the first of its causes that has one.
pub(crate) fn status_of(error: &anyhow::Error) -> Status {
    if is_closed_output(error) {
        return Status::of_signal(SIGPIPE);
    }
    let found = error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Failure>().map(|failure| failure.status);
        own.or_else(|| cause.downcast_ref::<ClientError>().map(of_client)).or_else(|| {
            cause.downcast_ref::<KeyError>().map(|error| match error {
                KeyError::Exposed { .. } => PERMISSION,
                KeyError::NoHome | KeyError::Form(_) => CONFIGURATION,
                KeyError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => PERMISSION,
                KeyError::Io { .. } => INPUT_OUTPUT,
                KeyError::Random => Status::FAILED,
            })
        })
    });
    found.unwrap_or(Status::FAILED)
}

fn of_client(error: &ClientError) -> Status {
    match error {
        ClientError::Unreachable { .. } => UNAVAILABLE,
        ClientError::Forbidden { .. } => PERMISSION,
        ClientError::Refused { reason: Some(reason), .. } if reason.contains("LOCKED") => LOCKED,
        ClientError::Refused { code, .. } => match code {
            Code::Unavailable | Code::ResourceExhausted => UNAVAILABLE,
            Code::PermissionDenied | Code::Unauthenticated => PERMISSION,
            Code::InvalidArgument => USAGE,
            _ => Status::FAILED,
        },
        ClientError::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => PERMISSION,
        ClientError::File { .. } | ClientError::Special { .. } => INPUT_OUTPUT,
        ClientError::OutcomeUnknown { .. }
        | ClientError::Unexpected { .. }
        | ClientError::Git { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Unsafe { .. }
        | ClientError::Random => Status::FAILED,
    }
}

/// What was asked to run, for the words about a start that failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) program: String,
    /// Below /workspace.
    pub(crate) cwd: String,
}

impl Asked {
    /// What the stage of a start was about.
    fn at(&self, stage: &str) -> String {
        let thing = match stage {
            "program" | "exec" => &self.program,
            "cwd" => &self.cwd,
            _ => return String::new(),
        };
        if thing.is_empty() { String::new() } else { format!(" ({})", printable(thing)) }
    }
}

/// The status of a program that ran, or did not, and what to tell about it.
pub(crate) fn of_exited(exited: &Exited, asked: &Asked) -> (Status, Option<String>) {
    const ENOENT: i32 = 2;
    const ENOTDIR: i32 = 20;
    const SIGKILL: i32 = 9;
    match exited.cause() {
        ExitCause::Exited => match u8::try_from(exited.code) {
            Ok(code) => (Status(code), None),
            Err(_) => {
                (Status::COFFER_FAILED, Some(format!("expected an exit status of 0 to 255, found {}", exited.code)))
            }
        },
        ExitCause::Signalled => (Status::of_signal(exited.signal), None),
        ExitCause::TimedOut => (Status::TIMED_OUT, Some("the command's time was up: it was ended".to_owned())),
        ExitCause::OutOfMemory => {
            (Status::of_signal(SIGKILL), Some("the command used up its memory: the guest killed it".to_owned()))
        }
        ExitCause::Cancelled => (Status::COFFER_FAILED, Some("the command was cancelled".to_owned())),
        ExitCause::SessionClosing => {
            (Status::COFFER_FAILED, Some("the session was closed while the command ran".to_owned()))
        }
        ExitCause::RecordIncomplete => {
            let why =
                "what the command did with files could not be recorded in full: it was ended, as the session demands";
            (Status::COFFER_FAILED, Some(why.to_owned()))
        }
        ExitCause::FailedToStart => {
            let why = std::io::Error::from_raw_os_error(exited.errno);
            let (stage, thing) = (exited.stage.escape_default(), asked.at(&exited.stage));
            let told = Some(format!("the command did not start, at `{stage}`{thing}: {why}"));
            match (exited.stage.as_str(), exited.errno) {
                ("program" | "exec", ENOENT | ENOTDIR) => (Status::NOT_FOUND, told),
                ("program" | "exec" | "cwd", _) => (Status::NOT_EXECUTABLE, told),
                _ => (Status::COFFER_FAILED, told),
            }
        }
        ExitCause::Unspecified => {
            (Status::COFFER_FAILED, Some("expected the cause of the command's end, found none".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(cause: ExitCause, code: i32, signal: i32, errno: i32, stage: &str) -> u8 {
        let exited = Exited { cause: cause.into(), code, signal, errno, stage: stage.to_owned(), ..Exited::default() };
        of_exited(&exited, &Asked::default()).0.0
    }

    #[test]
    fn a_commands_end_is_told_as_a_shell_tells_it() {
        assert_eq!(status(ExitCause::Exited, 0, 0, 0, ""), 0);
        assert_eq!(status(ExitCause::Exited, 255, 0, 0, ""), 255);
        assert_eq!(status(ExitCause::Exited, 256, 0, 0, ""), 125);
        assert_eq!(status(ExitCause::Signalled, 0, 9, 0, ""), 137);
        assert_eq!(status(ExitCause::TimedOut, 0, 15, 0, ""), 124);
        assert_eq!(status(ExitCause::OutOfMemory, 0, 9, 0, ""), 137);
        assert_eq!(status(ExitCause::Cancelled, 0, 15, 0, ""), 125);
        assert_eq!(status(ExitCause::SessionClosing, 0, 15, 0, ""), 125);
        assert_eq!(status(ExitCause::Unspecified, 0, 0, 0, ""), 125);
        assert_eq!(status(ExitCause::FailedToStart, 0, 0, 2, "program"), 127);
        assert_eq!(status(ExitCause::FailedToStart, 0, 0, 13, "exec"), 126);
        assert_eq!(status(ExitCause::FailedToStart, 0, 0, 2, "cwd"), 126);
        assert_eq!(status(ExitCause::FailedToStart, 0, 0, 28, "cgroup"), 125);
    }
}
