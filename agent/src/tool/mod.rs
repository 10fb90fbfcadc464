//! Built-in tools: file operations and tar streams, run like any other program: as the identity, in the call's
//! cgroup, with the workspace as working directory. `coffer-agent tool NAME ARGUMENTS...`; init makes the arguments
//! from the canonical request. Contents go through stdin and stdout, reports (see `frames::tool`) through stderr.
//!
//! Every path is opened by openat2 beneath the working directory, an absolute one beneath the root; none is ever joined
//! and trusted.

mod archive;
pub mod beneath;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod git;
mod listing;
mod names;
mod pack;
pub mod page;
mod remove;
mod unpack;
mod watch;
mod watched;
mod write;

use crate::frames::Frame as _;
use crate::frames::tool::Report;
use coffer_evidence::call::Reach;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// Bytes of one upload, of one range that is read, and of the files of one download.
pub const TRANSFER_MAX: u64 = 1 << 30;
/// Entries of one tar stream: as many as the workspace has inodes.
pub const ENTRIES_MAX: u64 = 200_000;
/// Depth of directories in one download or removal: a tool may nest them deeper than any path can name.
pub const DEPTH_MAX: usize = 256;
/// Entries of one page of a listing.
pub const LISTING_MAX: usize = 10_000;
/// Bytes of paths and link targets in one page, so that it fits a message.
pub const LISTING_BYTES_MAX: usize = 3 << 20;
/// Depth of one listing.
pub const LISTING_DEPTH_MAX: u64 = 64;
/// Directories of one watch.
pub const WATCHED_MAX: usize = 8192;
/// Bytes of one path, the NUL at its end included: the kernel takes no longer one.
pub const PATH_MAX: usize = 4096;

/// Bytes of git's own words that are told.
pub const SAID_MAX: usize = 4096;
/// Bytes of a git request: its tool gets it as one argument, in hex.
pub const GIT_REQUEST_MAX: usize = 60 * 1024;

/// A failed operation: what was being done, and the errno to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolError {
    /// One word: `path`, `type`, `data`, `archive`, `member`, `limit`, `depth`, `match`, `move`, `watch`, `git`
    /// and what begins so, `arguments`.
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
    let words: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let Some((path, words)) = words.get(1).map(|path| (path.as_bytes(), [&words[..1], &words[2..]].concat())) else {
        return Err(ToolError::new("arguments", Errno::INVAL));
    };
    let (base, beneath) = beneath::Beneath::start(path).map_err(ToolError::path)?;
    match words.as_slice() {
        [name] if *name == "stat" => files::stat(&base, beneath, path, tell),
        [name, depth, size, token] if *name == "list" => {
            let after = page::place(token.to_str().unwrap_or("-"), path, number(depth)?);
            let after = after.ok_or(ToolError::new("arguments", Errno::INVAL))?;
            listing::list(&base, beneath, &listing::Page { depth: number(depth)?, size: number(size)?, after }, tell)
        }
        [name, offset, length] if *name == "read" => {
            files::read(&base, beneath, path, number(offset)?, number(length)?, tell)
        }
        [name, mode, wanted] if *name == "write" => {
            write::write(&base, beneath, number(mode)?, write::Wanted::parse(wanted)?, io::stdin().lock(), tell)
        }
        [name] if *name == "unpack" => unpack::unpack(&base, beneath, io::stdin().lock(), tell),
        [name] if *name == "pack" => pack::pack(&base, beneath, io::stdout().lock(), tell),
        [name, reach] if *name == "remove" => remove::remove(&base, beneath, reach_of(reach)?, tell),
        [name, destination, taken] if *name == "move" => {
            let (to, destination) = beneath::Beneath::start(destination.as_bytes()).map_err(ToolError::path)?;
            names::rename((&base, beneath), (&to, destination), names::taken(taken)?, tell)
        }
        [name, mode, above] if *name == "mkdir" => {
            names::make(&base, beneath, number(mode)?, names::above(above)?, tell)
        }
        [name, request] if *name == "git" => git::git(&base, beneath, request, tell),
        [name, reach, timeout, idle] if *name == "watch" => {
            let times = watch::Times { timeout: milliseconds(timeout)?, idle: milliseconds(idle)? };
            watch::watch(&base, beneath, reach_of(reach)?, times, tell)
        }
        _ => Err(ToolError::new("arguments", Errno::INVAL)),
    }
}

fn reach_of(word: &OsStr) -> Result<Reach, ToolError> {
    match word.as_bytes() {
        b"one" => Ok(Reach::One),
        b"tree" => Ok(Reach::Tree),
        _ => Err(ToolError::new("arguments", Errno::INVAL)),
    }
}

fn milliseconds(word: &OsStr) -> Result<Duration, ToolError> {
    number(word).map(Duration::from_millis)
}

fn number(word: &OsStr) -> Result<u64, ToolError> {
    word.to_str().and_then(|text| text.parse().ok()).ok_or(ToolError::new("arguments", Errno::INVAL))
}

fn told(result: io::Result<()>) -> Result<(), ToolError> {
    result.map_err(|error| ToolError::data(&error))
}

fn done(tell: Tell<'_>, files: u64, bytes: u64, left_out: u64) -> Result<(), ToolError> {
    told(tell(Report::Done { files, bytes, left_out }))
}
