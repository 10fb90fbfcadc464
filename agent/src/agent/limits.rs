//! What a request may contain: DESIGN §14's limits, checked before anything is logged or started.

use super::errors::Reason;
use tonic::Status;

/// Arguments of one exec.
pub const ARGUMENTS_MAX: usize = 1024;
/// Bytes of arguments and environment together, terminators included.
pub const ARGUMENT_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a path.
pub const PATH_MAX: usize = 4096;
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

/// A path as the API takes it: relative to the workspace, no `..`, no NUL. Returns it without `.` and doubled
/// slashes. Links are not looked at here: the kernel refuses those that lead out when the path is opened.
pub fn path(text: &str) -> Result<String, Status> {
    if text.len() > PATH_MAX {
        return Err(Reason::LimitExceeded
            .status(format!("expected a path of at most {PATH_MAX} bytes, found {}; shorten it", text.len())));
    }
    if text.contains('\0') {
        return Err(Reason::InvalidArgument.status("expected a path without NUL; remove it"));
    }
    if text.starts_with('/') {
        return Err(Reason::InvalidArgument.status("expected a path relative to /workspace, found an absolute one"));
    }
    if text.split('/').any(|component| component == "..") {
        return Err(Reason::InvalidArgument.status("expected a path without `..`; name the file from /workspace"));
    }
    let parts: Vec<&str> = text.split('/').filter(|component| !matches!(*component, "" | ".")).collect();
    Ok(parts.join("/"))
}

/// A path that must name something beneath the workspace.
pub fn file_path(text: &str) -> Result<String, Status> {
    let path = path(text)?;
    if path.is_empty() {
        return Err(Reason::InvalidArgument.status("expected the path of a file, found the workspace itself"));
    }
    Ok(path)
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
            ("/workspace/a", None),
            ("/", None),
            ("a\0b", None),
        ] {
            assert_eq!(path(text).ok().as_deref(), expected, "{text:?}");
        }
        assert_eq!(path("../a").unwrap_err().code(), Code::InvalidArgument);
        assert!(path(&"a".repeat(4096)).is_ok());
        assert!(path(&"a".repeat(4097)).is_err());
        assert!(file_path("./").is_err());
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
    }
}
