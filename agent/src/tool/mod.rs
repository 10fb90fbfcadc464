//! Built-in tools: file operations and tar streams, run like any other program: as the identity, in the call's
//! cgroup, with the workspace as working directory. `coffer-agent tool NAME ARGUMENTS...`; init makes the arguments
//! from the canonical request. Contents go through stdin and stdout, reports (see `frames::tool`) through stderr.
//!
//! Every path is opened by openat2 beneath the working directory; none is ever joined and trusted.

mod archive;
pub mod beneath;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod pack;
mod unpack;

use crate::frames::Frame as _;
use crate::frames::tool::Report;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;

/// Bytes of one upload, of one range that is read, and of the files of one download.
pub const TRANSFER_MAX: u64 = 1 << 30;
/// Entries of one tar stream: as many as the workspace has inodes.
pub const ENTRIES_MAX: u64 = 200_000;
/// Depth of directories in one download: a tool may nest them deeper than any path can name.
pub const DEPTH_MAX: usize = 256;
/// Entries of one listing.
pub const LISTING_MAX: usize = 10_000;
/// Bytes of names and link targets in one listing, so that it fits a message.
pub const LISTING_BYTES_MAX: usize = 3 << 20;
/// Bytes of one path, the NUL at its end included: the kernel takes no longer one.
pub const PATH_MAX: usize = 4096;

/// A failed operation: what was being done, and the errno to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolError {
    /// One word: `path`, `type`, `data`, `archive`, `member`, `limit`, `depth`, `arguments`.
    pub stage: &'static str,
    /// The system's answer, or the one that fits best.
    pub errno: Errno,
}

impl ToolError {
    fn new(stage: &'static str, errno: Errno) -> Self {
        Self { stage, errno }
    }

    fn path(errno: Errno) -> Self {
        Self::new("path", errno)
    }

    fn data(error: &io::Error) -> Self {
        Self::new("data", Errno::from_io_error(error).unwrap_or(Errno::IO))
    }
}

/// Runs a tool and answers its exit status.
pub fn run(arguments: &[OsString]) -> u8 {
    let mut reports = io::BufWriter::new(io::stderr().lock());
    let result = dispatch(arguments, &mut |report| reports.write_all(&report.encode()).and_then(|()| reports.flush()));
    let Err(error) = result else { return 0 };
    let failed = Report::Failed { stage: error.stage.into(), errno: error.errno.raw_os_error().unsigned_abs().into() };
    drop(reports.write_all(&failed.encode()).and_then(|()| reports.flush()));
    1
}

/// Where a tool sends its reports.
type Tell<'a> = &'a mut dyn FnMut(Report) -> io::Result<()>;

fn dispatch(arguments: &[OsString], tell: Tell<'_>) -> Result<(), ToolError> {
    let base = beneath::Beneath::here().map_err(ToolError::path)?;
    let words: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    match words.as_slice() {
        [name, path] if *name == "stat" => files::stat(&base, path.as_bytes(), tell),
        [name, path] if *name == "list" => files::list(&base, path.as_bytes(), tell),
        [name, path, offset, length] if *name == "read" => {
            files::read(&base, path.as_bytes(), number(offset)?, number(length)?, tell)
        }
        [name, path, mode] if *name == "write" => files::write(&base, path.as_bytes(), number(mode)?, tell),
        [name, path] if *name == "unpack" => unpack::unpack(&base, path.as_bytes(), io::stdin().lock(), tell),
        [name, path] if *name == "pack" => pack::pack(&base, path.as_bytes(), io::stdout().lock(), tell),
        _ => Err(ToolError::new("arguments", Errno::INVAL)),
    }
}

fn number(word: &OsStr) -> Result<u64, ToolError> {
    word.to_str().and_then(|text| text.parse().ok()).ok_or(ToolError::new("arguments", Errno::INVAL))
}

fn told(result: io::Result<()>) -> Result<(), ToolError> {
    result.map_err(|error| ToolError::data(&error))
}
