//! Every error that a client can get, in one place: gRPC code, reason, text. The reason travels as
//! `google.rpc.ErrorInfo` in the status details (domain `coffer.dev`), and in front of the text for people.

use crate::tool::{DEPTH_MAX, ENTRIES_MAX, PATH_MAX, TRANSFER_MAX, WATCHED_MAX};
use prost::Message as _;
use rustix::io::Errno;
use tonic::{Code, Status};

/// The kernel's error numbers are below this.
const ERRNO_END: i32 = 4096;
const DOMAIN: &str = "coffer.dev";
/// Bytes of git's own words that a status tells; it travels in a header of bounded size.
const GIT_TOLD: usize = 600;

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
    /// The session's policy does not allow it.
    PolicyDenied,
    /// The call id was used before.
    CallIdReused,
    /// The call that the client has something of is not known.
    CallUnknown,
    /// Another client attached to the call.
    AttachedElsewhere,
    /// Output from that offset is kept no longer.
    OutputGone,
    /// The call ran; how it ended is kept in the action log alone.
    OutcomeForgotten,
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
    /// Another thing has the name than the writer expects.
    EtagMismatch,
    /// The file is changed or locked by others just then.
    FileBusy,
    /// Git did not do it, or the repository is not as it must be for that.
    GitFailed,
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
            Reason::PolicyDenied => (Code::PermissionDenied, "POLICY_DENIED"),
            Reason::CallIdReused => (Code::AlreadyExists, "CALL_ID_REUSED"),
            Reason::CallUnknown => (Code::NotFound, "CALL_UNKNOWN"),
            Reason::AttachedElsewhere => (Code::Aborted, "ATTACHED_ELSEWHERE"),
            Reason::OutputGone => (Code::OutOfRange, "OUTPUT_GONE"),
            Reason::OutcomeForgotten => (Code::FailedPrecondition, "OUTCOME_FORGOTTEN"),
            Reason::TooManyCalls => (Code::ResourceExhausted, "TOO_MANY_CALLS"),
            Reason::SessionFull => (Code::ResourceExhausted, "SESSION_FULL"),
            Reason::SessionClosing => (Code::FailedPrecondition, "SESSION_CLOSING"),
            Reason::FileNotFound => (Code::NotFound, "FILE_NOT_FOUND"),
            Reason::AccessDenied => (Code::PermissionDenied, "ACCESS_DENIED"),
            Reason::WrongKind => (Code::FailedPrecondition, "WRONG_KIND"),
            Reason::EtagMismatch => (Code::FailedPrecondition, "ETAG_MISMATCH"),
            Reason::FileBusy => (Code::Aborted, "FILE_BUSY"),
            Reason::GitFailed => (Code::FailedPrecondition, "GIT_FAILED"),
            Reason::NoSpace => (Code::ResourceExhausted, "NO_SPACE"),
            Reason::NotStarted => (Code::Internal, "NOT_STARTED"),
            Reason::Ended => (Code::Aborted, "CALL_ENDED"),
            Reason::Internal => (Code::Internal, "INTERNAL"),
            Reason::OutcomeUnknown => (Code::Unknown, "OUTCOME_UNKNOWN"),
        }
    }

    /// The status, with its reason in the details.
    pub fn status(self, text: impl Into<String>) -> Status {
        self.status_with(text, &[])
    }

    /// The status, with its reason and these numbers in the details.
    pub fn status_with(self, text: impl Into<String>, numbers: &[(&str, u64)]) -> Status {
        let (code, word) = self.row();
        let message = format!("{word}: {}", text.into());
        let metadata = numbers.iter().map(|(name, number)| ((*name).to_owned(), number.to_string())).collect();
        let info = ErrorInfo { reason: word.into(), domain: DOMAIN.into(), metadata };
        let any = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: info.encode_to_vec() };
        let details = RpcStatus { code: code as i32, message: message.clone(), details: vec![any] };
        Status::with_details(code, message, details.encode_to_vec().into())
    }

    /// The reason that fits what the system answered to a file operation.
    pub fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::XDEV | Errno::LOOP => Reason::PathEscape,
            Errno::NOENT => Reason::FileNotFound,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Reason::AccessDenied,
            // Not every file system makes files without a name.
            Errno::OPNOTSUPP => Reason::WrongKind,
            // No such device or address: that is how a socket answers to being opened.
            Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::NXIO => Reason::WrongKind,
            Errno::AGAIN | Errno::STALE | Errno::BUSY => Reason::FileBusy,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM | Errno::MFILE => Reason::NoSpace,
            Errno::INVAL | Errno::NAMETOOLONG => Reason::InvalidArgument,
            _ => Reason::Internal,
        }
    }
}

/// What a built-in tool said of its failure, as its client hears it. Stage and errno are an identity's words: whatever
/// they are, there is a status.
pub fn of_tool(stage: &str, errno: i32) -> Status {
    // Other numbers are no errno, and would end us.
    let errno = if (1..ERRNO_END).contains(&errno) { errno } else { libc::EIO };
    let told = Errno::from_raw_os_error(errno);
    let (reason, text) = match (stage, told) {
        ("limit", _) => (Reason::LimitExceeded, format!("expected at most {TRANSFER_MAX} bytes in at most {ENTRIES_MAX} entries, found more; move them in parts")),
        ("depth", _) => (Reason::LimitExceeded, format!("expected directories at most {DEPTH_MAX} deep, found deeper ones; move what is in them by itself")),
        ("archive", _) => (Reason::InvalidArgument, "expected a whole tar archive that is not compressed, found one that is malformed, cut off, or followed by more".into()),
        ("member", _) => (Reason::InvalidArgument, "expected files, directories and links in the archive, found a device, a pipe, a sparse file or the like; leave it out".into()),
        ("match", errno) => (Reason::EtagMismatch, of_match(errno).into()),
        ("move", errno) => (Reason::WrongKind, of_move(errno).into()),
        ("watch", _) => (Reason::LimitExceeded, format!("expected at most {WATCHED_MAX} directories beneath a watched one, found more, or deeper ones than a path can name; watch less")),
        ("git-program", errno) => (Reason::AccessDenied, of_program(errno).into()),
        ("git-remote", _) => (Reason::GitFailed, "expected a repository whose configuration leaves a remote's path alone, found `url.….insteadOf` or a remote of that name; remove them".into()),
        ("git-merge", _) => (Reason::GitFailed, "expected a repository that nothing is half done in, found a merge, a pick or a revert; end it with git itself".into()),
        ("git-unchanged", _) => (Reason::GitFailed, "expected something staged, found nothing to commit; add what has changed".into()),
        ("git-sign", _) => (Reason::Internal, "expected a signature for the commit, found that the notary does not sign it".into()),
        (_, errno) => (Reason::of_errno(errno), of_file(errno)),
    };
    let system = std::io::Error::from_raw_os_error(errno);
    reason.status(format!("{text} (at `{}`: {system})", super::call::stage(stage)))
}

/// Why git could not be run.
fn of_program(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "expected git in the image, found none; use an image that has it",
        _ => {
            "expected that the policy lets the identity execute git, found that it does not; permit `exec` on /usr/bin/git"
        }
    }
}

/// What git said of a failure, as its client hears it: an identity's words, whatever they are.
pub fn of_git(said: &[u8]) -> Status {
    let text: String = String::from_utf8_lossy(said).trim().chars().flat_map(told).collect();
    let cut = &text[..text.floor_char_boundary(GIT_TOLD)];
    let said = if cut.is_empty() { "and says nothing".to_owned() } else { format!("and says: {cut}") };
    Reason::GitFailed.status(format!("expected that git does it, found that it does not, {said}"))
}

/// A character as it can stand in a line.
fn told(c: char) -> impl Iterator<Item = char> {
    let plain = c == ' ' || !(c.is_control() || c.is_whitespace());
    let (itself, escaped) = if plain { (Some(c), None) } else { (None, Some(c.escape_default())) };
    itself.into_iter().chain(escaped.into_iter().flatten())
}

/// What has the name instead of what a writer expects. Nothing was changed.
fn of_match(errno: Errno) -> &'static str {
    match errno {
        Errno::EXIST => {
            "expected that nothing has the name, found that something does; read it, and write with its digest"
        }
        Errno::NOENT => {
            "expected a file with the named content, found nothing; write without it, or with `must_not_exist`"
        }
        Errno::STALE => {
            "expected a file with the named content, found another content; read it, and write with its digest"
        }
        _ => "expected a regular file of at most 1 GiB with the named content, found something else in its place",
    }
}

/// Why there is no such move, though either path is good.
fn of_move(errno: Errno) -> &'static str {
    match errno {
        Errno::XDEV => "expected two paths on one file system, found two file systems; copy it and remove the old one",
        Errno::EXIST => "expected two files, found two names of one; remove the one that is not needed",
        _ => "expected a new place outside of what is moved, found one inside; name another",
    }
}

/// What the system's answer to a file operation means.
fn of_file(errno: Errno) -> String {
    match errno {
        Errno::XDEV | Errno::LOOP => "expected a path that stays beneath its directory, found one that leads out of it, or in circles: by a link, by `..`, or from the root".into(),
        Errno::NOENT => "expected something at the path, found nothing; look with a listing of its directory".into(),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => "expected a file that the identity may use like this, found one whose mode or directory forbids it".into(),
        Errno::NOTDIR => "expected a directory, found something else in its place".into(),
        Errno::ISDIR => "expected a file or a free name, found a directory; only `recursive` removes one".into(),
        Errno::OPNOTSUPP => "expected a directory of ordinary files, found one of the kernel's own".into(),
        Errno::EXIST | Errno::NOTEMPTY => "expected a free name, found it taken; remove what is there".into(),
        Errno::NXIO => "expected a regular file, found a pipe, a socket or a device".into(),
        Errno::AGAIN | Errno::STALE | Errno::BUSY => "expected a file that keeps still, found one that others change or lock; try again".into(),
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM | Errno::MFILE => "expected room in the workspace, found it used up; remove what is not needed".into(),
        Errno::NAMETOOLONG => format!("expected names of at most 255 bytes in paths of less than {PATH_MAX}, found a longer one; shorten it"),
        Errno::INVAL => "expected an operation that the file system knows, found that it refuses it".into(),
        _ => "the system failed".into(),
    }
}

/// What the transport says of bytes that are no message of ours. Its own code for that is the one of our failures.
pub fn of_transport(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    match status.code() {
        Code::Internal => Reason::InvalidArgument
            .status(format!("expected a message of this service, found bytes that are none: {}", status.message())),
        Code::OutOfRange => Reason::LimitExceeded
            .status(format!("expected a message within its limit, found another: {}", status.message())),
        _ => status,
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
    #[prost(map = "string, string", tag = "3")]
    metadata: std::collections::HashMap<String, String>,
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
    fn numbers_that_a_client_goes_on_with_are_in_the_details() {
        let status = Reason::OutputGone.status_with("gone", &[("stdout", 7)]);
        let details = RpcStatus::decode(status.details()).unwrap();
        let info = ErrorInfo::decode(details.details[0].value.as_slice()).unwrap();
        assert_eq!((status.code(), info.metadata["stdout"].as_str()), (Code::OutOfRange, "7"));
    }

    #[test]
    fn a_path_that_left_the_workspace_is_told_from_a_missing_file() {
        assert_eq!(Reason::of_errno(Errno::XDEV), Reason::PathEscape);
        assert_eq!(Reason::of_errno(Errno::NOENT), Reason::FileNotFound);
        assert_eq!(Reason::of_errno(Errno::NOSPC), Reason::NoSpace);
    }

    #[test]
    fn whatever_a_tool_says_its_client_hears_what_was_expected() {
        for stage in [
            "path",
            "type",
            "data",
            "archive",
            "member",
            "limit",
            "depth",
            "match",
            "move",
            "watch",
            "git",
            "git-program",
            "git-remote",
            "git-merge",
            "git-unchanged",
            "git-sign",
            "arguments",
            "",
            "\u{0}",
            &"ä".repeat(999),
        ] {
            for errno in [i32::MIN, -1, 0, 1, 2, 6, 11, 13, 18, 20, 21, 22, 27, 28, 36, 40, 116, 4095, 4096, i32::MAX] {
                let status = of_tool(stage, errno);
                assert!(status.message().contains(": expected ") || status.code() == Code::Internal, "{status:?}");
            }
        }
        let of =
            |stage, errno: Errno| RpcStatus::decode(of_tool(stage, errno.raw_os_error()).details()).unwrap().message;
        assert!(of("limit", Errno::FBIG).starts_with("LIMIT_EXCEEDED: "));
        assert!(of("data", Errno::FBIG).starts_with("NO_SPACE: "));
        assert!(of("path", Errno::NXIO).starts_with("WRONG_KIND: "));
        assert!(of("path", Errno::AGAIN).starts_with("FILE_BUSY: "));
        assert!(of("match", Errno::NOENT).starts_with("ETAG_MISMATCH: "));
        assert!(of("move", Errno::XDEV).starts_with("WRONG_KIND: "));
        assert!(
            of("git-program", Errno::ACCESS).starts_with("ACCESS_DENIED: ")
                && of("git-sign", Errno::PERM).starts_with("INTERNAL: ")
        );
        assert!(of("watch", Errno::NOSPC).starts_with("LIMIT_EXCEEDED: "));
    }

    #[test]
    fn what_git_says_is_told_on_one_line_and_cut() {
        let status = of_git(b"fatal: not a git repository\nhint: \x1b[2J\n");
        assert_eq!(status.code(), Code::FailedPrecondition);
        let text = status.message();
        assert!(text.ends_with("and says: fatal: not a git repository\\nhint: \\u{1b}[2J"), "{text}");
        assert!(
            of_git(&[b'a'; 9000]).message().len() < 700 && of_git("é".repeat(400).as_bytes()).message().len() < 700
        );
        assert!(of_git(&[0xff]).message().ends_with('\u{fffd}') && of_git(b"").message().ends_with("says nothing"));
    }

    #[test]
    fn bytes_that_are_no_message_are_the_clients_fault_and_our_own_words_stay() {
        assert_eq!(of_transport(Status::internal("failed to decode")).code(), Code::InvalidArgument);
        assert!(of_transport(Status::out_of_range("too large")).message().starts_with("LIMIT_EXCEEDED: "));
        assert_eq!(of_transport(Reason::Internal.status("ours")).code(), Code::Internal);
        assert_eq!(of_transport(Status::cancelled("gone")).code(), Code::Cancelled);
    }
}
