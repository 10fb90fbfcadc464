//! Reading a bundle from a file that anyone may have made: never more of it than its own headers account for, and nothing
//! that is not a regular file, because a pipe may never begin and a device never end.

use std::fs::{File, FileType};
use std::io::Read;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use coffer_evidence::bundle::{BLOCK, BUNDLE_MAX, ReadError, Source, Step, Walk};

use coffer_evidence::verify::{Options, Report, verify_source};

use crate::exit::{INPUT_OUTPUT, failure};

/// A bundle in a file, read where a rule needs it and never held whole.
pub(crate) struct BundleFile(File);

impl BundleFile {
    /// Opens it, if it is a regular file that is not too large.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        open(path).map(Self)
    }
}

impl Source for BundleFile {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let from = at.saturating_add(filled as u64);
            match self.0.read_at(rest, from) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Failed { at: from, why: error.to_string() }),
            }
        }
        Ok(filled)
    }
}

/// Verifies a bundle in a file.
pub(crate) fn verify_file(path: &Path, options: &Options) -> anyhow::Result<Report> {
    verify_source(&BundleFile::open(path)?, options).map_err(|error| unread(path, &error))
}

/// What the command says of a bundle that cannot be read.
pub(crate) fn unread(path: &Path, error: &ReadError) -> anyhow::Error {
    failure(INPUT_OUTPUT, format!("read the bundle {}: {error}", path.display()))
}

/// Two readings of a file were of two bundles.
pub(super) fn changed() -> ReadError {
    ReadError::Changed { name: "the bundle".to_owned() }
}

/// The same, of an error that may be one.
pub(crate) fn told_unread(path: &Path) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| match error.downcast_ref() {
        Some(cause) => unread(path, cause),
        None => error,
    }
}

/// Reads a bundle as far as its framing holds. What is left out stands behind the byte that the verifier refuses, so the
/// verdict on these bytes is that on the file.
pub(crate) fn read_bundle(path: &Path) -> anyhow::Result<Vec<u8>> {
    let wrong = |error: std::io::Error| failure(INPUT_OUTPUT, format!("read the bundle {}: {error}", path.display()));
    framed(open(path)?).map_err(wrong)
}

fn open(path: &Path) -> anyhow::Result<File> {
    let wrong = |error: std::io::Error| failure(INPUT_OUTPUT, format!("read the bundle {}: {error}", path.display()));
    let unfit = |expected: &str, found: &str| {
        let message = format!("expected a bundle {expected}, found {found}: {}", path.display());
        failure(INPUT_OUTPUT, message)
    };
    // Opening a pipe without a writer would wait for one.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if let Some(found) = special(metadata.file_type()) {
        return Err(unfit("in a regular file", found));
    }
    if metadata.len() > BUNDLE_MAX {
        return Err(unfit(&format!("of at most {BUNDLE_MAX} bytes"), &format!("{} bytes", metadata.len())));
    }
    Ok(file)
}

fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else {
        Some("a device")
    }
}

fn framed(mut source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut walk = Walk::default();
    loop {
        let start = bytes.len();
        (&mut source).take(BLOCK as u64).read_to_end(&mut bytes)?;
        let Some(block) = bytes.get(start..).and_then(|block| block.first_chunk()) else { return Ok(bytes) };
        let next = match walk.next(block) {
            Ok(Step::Member { padded, .. }) => padded,
            // The second block, and one byte to show that more follows.
            Ok(Step::End) => {
                source.take(BLOCK as u64 + 1).read_to_end(&mut bytes)?;
                return Ok(bytes);
            }
            Err(_) => return Ok(bytes),
        };
        let found = (&mut source).take(next).read_to_end(&mut bytes)?;
        if (found as u64) < next {
            return Ok(bytes);
        }
    }
}
