//! What a request may contain: DESIGN §14's limits, checked before anything is logged or started.

use super::errors::Reason;
use crate::frames::start::SIGNALS;
use crate::tool::{LISTING_DEPTH_MAX, LISTING_MAX, page};
use coffer_evidence::call::TerminalSize;
use coffer_proto::guest::v1 as pb;
use tonic::Status;

/// Arguments of one exec.
pub const ARGUMENTS_MAX: usize = 1024;
/// Bytes of arguments and environment together, terminators included.
pub const ARGUMENT_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a path with the NUL at its end, as arguments are counted.
pub const PATH_MAX: usize = crate::tool::PATH_MAX;
/// Bytes of a chunk.
pub const CHUNK_MAX: usize = 64 * 1024;
/// Bytes of a message.
pub const MESSAGE_MAX: usize = 4 << 20;
/// Bytes of one upload, written file or download.
pub const TRANSFER_MAX: u64 = crate::tool::TRANSFER_MAX;
/// Bytes of stdout plus stderr that one exec delivers at most.
pub const OUTPUT_MAX: u64 = 64 << 20;
/// Calls that run at once.
pub const CALLS_AT_ONCE: usize = 32;
/// Default and longest run of an exec, milliseconds: the longest is that of a session.
pub const TIMEOUT_DEFAULT_MS: u64 = 10 * 60 * 1000;
/// See [`TIMEOUT_DEFAULT_MS`].
pub const TIMEOUT_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// Default grace, milliseconds.
pub const GRACE_DEFAULT_MS: u64 = 2000;
/// Longest grace, milliseconds: the end of a session waits for it.
pub const GRACE_MAX_MS: u64 = 30_000;

/// Default and longest time that a call runs on without a client, milliseconds.
pub const REATTACH_DEFAULT_MS: u64 = 60 * 1000;
/// See [`REATTACH_DEFAULT_MS`].
pub const REATTACH_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// Bytes of stdin that wait in the guest for the program of a client that acknowledges.
pub const STDIN_WAITING_MAX: usize = 256 * 1024;

/// A path as the API takes it: relative to the workspace, or absolute where that is granted; no `..`, no NUL. Returns it
/// without `.` and doubled slashes. Links are not looked at here: the kernel refuses those that lead out when the path is
/// opened.
pub fn path(text: &str) -> Result<String, Status> {
    let bytes = text.len() + 1;
    if bytes > PATH_MAX {
        return Err(Reason::LimitExceeded.status(format!(
            "expected a path of at most {PATH_MAX} bytes with the NUL at its end, found {bytes}; shorten it"
        )));
    }
    if text.contains('\0') {
        return Err(Reason::InvalidArgument.status("expected a path without NUL; remove it"));
    }
    if text.split('/').any(|component| component == "..") {
        return Err(Reason::InvalidArgument.status("expected a path without `..`; name the file from /workspace"));
    }
    let parts: Vec<&str> = text.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
    let start = if text.starts_with('/') { "/" } else { "" };
    Ok(format!("{start}{}", parts.join("/")))
}

/// A path that must name something beneath the workspace, or beneath the root.
pub fn file_path(text: &str) -> Result<String, Status> {
    let path = path(text)?;
    if matches!(path.as_str(), "" | "/") {
        return Err(Reason::InvalidArgument.status("expected the path of a file, found the workspace itself"));
    }
    Ok(path)
}

/// The permission bits of what is made; those at zero are the default.
pub fn mode(mode: u32, default: u32) -> Result<u32, Status> {
    match mode {
        0 => Ok(default),
        1..=0o777 => Ok(mode),
        _ => Err(Reason::InvalidArgument.status(format!("expected permission bits up to 0777, found {mode:o}"))),
    }
}

/// How deep a listing goes: as the request is logged, nothing for the directory's own entries.
pub fn depth(depth: u32) -> Result<Option<u64>, Status> {
    match u64::from(depth) {
        0 | 1 => Ok(None),
        depth @ 2..=LISTING_DEPTH_MAX => Ok(Some(depth)),
        depth => {
            let text = format!(
                "expected a depth of at most {LISTING_DEPTH_MAX}, found {depth}; list what is deeper by itself"
            );
            Err(Reason::LimitExceeded.status(text))
        }
    }
}

/// Entries of a page, nothing for as many as there may be.
pub fn page_size(size: u32) -> Result<Option<u64>, Status> {
    match u64::from(size) {
        0 => Ok(None),
        size if size <= LISTING_MAX as u64 => Ok(Some(size)),
        size => {
            Err(Reason::LimitExceeded.status(format!("expected pages of at most {LISTING_MAX} entries, found {size}")))
        }
    }
}

/// The token of the page before, nothing for the first page.
pub fn page_token(token: String, path: &str, depth: Option<u64>) -> Result<Option<String>, Status> {
    match page::place(&token, path.as_bytes(), depth.unwrap_or(1)) {
        Some(None) => Ok(None),
        Some(Some(_)) => Ok(Some(token)),
        None => Err(Reason::InvalidArgument.status(
            "expected the token of the page before, of the same path and depth, found another text; begin with an empty one",
        )),
    }
}

/// The arguments of an exec.
pub fn arguments(argv: &[String], environment: &[(String, String)]) -> Result<(), Status> {
    if argv.is_empty() || argv[0].is_empty() {
        return Err(Reason::InvalidArgument.status("expected a program as first argument, found none"));
    }
    if argv.len() > ARGUMENTS_MAX {
        let found = argv.len();
        return Err(Reason::LimitExceeded.status(format!("expected at most {ARGUMENTS_MAX} arguments, found {found}")));
    }
    let bytes: usize = argv.iter().map(|argument| argument.len() + 1).sum::<usize>()
        + environment.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
    if bytes > ARGUMENT_BYTES_MAX {
        return Err(Reason::LimitExceeded.status(format!(
            "expected at most {ARGUMENT_BYTES_MAX} bytes of arguments and environment, found {bytes}; \
             pass large input as a file or on stdin"
        )));
    }
    let texts = argv.iter().chain(environment.iter().flat_map(|(key, value)| [key, value]));
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Reason::InvalidArgument.status("expected arguments and environment without NUL; remove it"));
    }
    if environment.iter().any(|(key, _)| key.is_empty() || key.contains('=')) {
        return Err(Reason::InvalidArgument.status("expected names of variables without `=`, and not empty"));
    }
    Ok(())
}

/// A number with a default at zero and a largest value.
pub fn bounded(name: &str, value: i64, default: u64, most: u64) -> Result<u64, Status> {
    match u64::try_from(value) {
        Ok(0) => Ok(default),
        Ok(value) if value <= most => Ok(value),
        _ => Err(Reason::LimitExceeded.status(format!("expected {name} between 0 and {most}, found {value}"))),
    }
}

/// The size of a terminal.
pub fn terminal(size: pb::TerminalSize) -> Result<TerminalSize, Status> {
    TerminalSize::new(size.rows.into(), size.columns.into()).ok_or_else(|| {
        let pb::TerminalSize { rows, columns } = size;
        Reason::InvalidArgument
            .status(format!("expected rows and columns of a terminal from 1 to 65535, found {rows} and {columns}"))
    })
}

/// A signal that a client may send.
pub fn signal(number: i32) -> Result<i32, Status> {
    if SIGNALS.contains(&number) {
        return Ok(number);
    }
    Err(Reason::InvalidArgument.status(format!(
        "expected HUP, INT, QUIT, KILL, USR1, USR2, TERM, CONT, STOP, TSTP or WINCH, found signal {number}"
    )))
}

/// What a transfer may grow to: `sent` bytes and another chunk.
pub fn transfer(sent: u64, chunk: usize) -> Result<(), Status> {
    if sent.saturating_add(chunk as u64) <= TRANSFER_MAX {
        return Ok(());
    }
    Err(Reason::LimitExceeded.status(format!("expected at most {TRANSFER_MAX} bytes, found more; send them in parts")))
}

/// Where reading may begin: at any byte that a file can have.
pub fn offset(offset: u64) -> Result<(), Status> {
    match i64::try_from(offset) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(Reason::LimitExceeded.status(format!("expected an offset of at most {}, found {offset}", i64::MAX)))
        }
    }
}

/// A chunk of a stream.
pub fn chunk(bytes: &[u8]) -> Result<(), Status> {
    if bytes.len() <= CHUNK_MAX {
        return Ok(());
    }
    let found = bytes.len();
    Err(Reason::LimitExceeded.status(format!("expected chunks of at most {CHUNK_MAX} bytes, found {found}; split it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tonic::Code;

    #[test]
    fn paths_are_taken_apart_before_anything_is_opened() {
        for (text, expected) in [
            ("", Some("")),
            (".", Some("")),
            ("a", Some("a")),
            ("./a//b/./c/", Some("a/b/c")),
            ("..a/b..", Some("..a/b..")),
            ("%2e%2e/a", Some("%2e%2e/a")),
            ("..", None),
            ("../a", None),
            ("a/../b", None),
            ("a/..", None),
            ("/workspace/a", Some("/workspace/a")),
            ("//etc/./passwd/", Some("/etc/passwd")),
            ("/", Some("/")),
            ("a\0b", None),
        ] {
            assert_eq!(path(text).ok().as_deref(), expected, "{text:?}");
        }
        assert_eq!(path("../a").unwrap_err().code(), Code::InvalidArgument);
        for text in ["/..", "/a\0"] {
            assert_eq!(path(text).unwrap_err().code(), Code::InvalidArgument, "{text:?}");
        }
        assert!(path(&"a".repeat(4095)).is_ok());
        assert!(path(&"a".repeat(4096)).is_err());
        assert!(file_path("./").is_err());
    }

    #[test]
    fn depth_page_and_mode_end_at_their_limits() {
        assert_eq!([0, 1, 2, 64].map(|depth| super::depth(depth).unwrap()), [None, None, Some(2), Some(64)]);
        assert!(depth(65).is_err() && depth(u32::MAX).is_err());
        assert_eq!([0, 1, 10_000].map(|size| page_size(size).unwrap()), [None, Some(1), Some(10_000)]);
        assert!(page_size(10_001).is_err() && page_size(u32::MAX).is_err());
        assert_eq!([0, 1, 0o777].map(|mode| super::mode(mode, 0o755).unwrap()), [0o755, 1, 0o777]);
        assert!(mode(0o1000, 0o755).is_err() && mode(u32::MAX, 0o755).is_err());
        let token = page::token(b"a", 2, b"b");
        assert_eq!(page_token(token.clone(), "a", Some(2)).unwrap(), Some(token.clone()));
        assert_eq!(page_token(String::new(), "a", Some(2)).unwrap(), None);
        assert_eq!(page_token(token, "a", None).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn arguments_have_a_number_and_a_size() {
        let argv = |n: usize, size: usize| vec!["a".repeat(size); n];
        assert!(arguments(&argv(1024, 1), &[]).is_ok());
        assert!(arguments(&argv(1025, 1), &[]).is_err());
        assert!(arguments(&argv(2, 65_535), &[]).is_ok());
        assert!(arguments(&argv(2, 65_535), &[("k".into(), String::new())]).is_err());
        assert!(arguments(&[], &[]).is_err());
        assert!(arguments(&["a\0".into()], &[]).is_err());
        assert!(arguments(&argv(1, 1), &[("a=b".into(), "c".into())]).is_err());
    }

    #[test]
    fn zero_is_the_default_and_the_maximum_is_kept() {
        assert_eq!(bounded("x", 0, 7, 9).unwrap(), 7);
        assert_eq!(bounded("x", 9, 7, 9).unwrap(), 9);
        assert!(bounded("x", 10, 7, 9).is_err());
        assert!(bounded("x", -1, 7, 9).is_err());
        assert!(bounded("x", i64::MIN, 7, u64::MAX).is_err());
        assert!(bounded("x", i64::MAX, 7, 9).is_err());
    }

    #[test]
    fn a_terminal_has_lines_and_columns_and_a_signal_is_one_of_the_list() {
        for (rows, columns, good) in
            [(1, 1, true), (65_535, 65_535, true), (0, 80, false), (24, 0, false), (65_536, 80, false)]
        {
            assert_eq!(terminal(pb::TerminalSize { rows, columns }).is_ok(), good, "{rows} {columns}");
        }
        let allowed: Vec<i32> = (-1..=64).filter(|number| signal(*number).is_ok()).collect();
        assert_eq!(allowed, SIGNALS);
    }

    #[test]
    fn a_transfer_ends_at_its_limit_however_it_is_cut() {
        assert!(transfer(TRANSFER_MAX - 1, 1).is_ok());
        assert!(transfer(TRANSFER_MAX, 0).is_ok());
        assert!(transfer(TRANSFER_MAX, 1).is_err());
        assert!(transfer(u64::MAX, CHUNK_MAX).is_err());
        assert!(chunk(&[0; CHUNK_MAX]).is_ok());
        assert!(chunk(&[0; CHUNK_MAX + 1]).is_err());
        assert!(offset(i64::MAX as u64).is_ok());
        assert!(offset(i64::MAX as u64 + 1).is_err());
    }

    proptest! {
        /// What is let through stays beneath its start however the kernel reads it, names what was asked for, and is
        /// in its one form; what is refused leaves, or is no path.
        #[test]
        fn a_path_that_is_let_through_is_plain(text in "([a-c./%\\x00]|\\.\\.){0,24}") {
            let components = || text.split('/').filter(|part| !matches!(*part, "" | "."));
            match path(&text) {
                Ok(plain) => {
                    let start = if text.starts_with('/') { "/" } else { "" };
                    prop_assert_eq!(&plain, &format!("{start}{}", components().collect::<Vec<_>>().join("/")));
                    prop_assert!(!plain.split('/').any(|part| part == ".." || part == "."));
                    prop_assert!(!text.contains('\0'));
                    prop_assert_eq!(path(&plain).ok(), Some(plain));
                }
                Err(_) => prop_assert!(text.contains('\0') || components().any(|part| part == "..")),
            }
        }

        /// Any strings: they are counted as the kernel counts them, and none is let through that it could not take.
        #[test]
        fn arguments_that_are_let_through_can_be_executed(
            argv in proptest::collection::vec("[a=\\x00]{0,3}", 0..4),
            environment in proptest::collection::vec(("[a=\\x00]{0,2}", "[a=\\x00]{0,2}"), 0..3),
        ) {
            let good = argv.first().is_some_and(|program| !program.is_empty())
                && !argv.iter().chain(environment.iter().flat_map(|(key, value)| [key, value])).any(|text| text.contains('\0'))
                && !environment.iter().any(|(key, _)| key.is_empty() || key.contains('='));
            prop_assert_eq!(arguments(&argv, &environment).is_ok(), good);
        }
    }
}
