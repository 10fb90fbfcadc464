//! Reading a bundle from a file that anyone may have made: where a rule needs it, and nothing that is not a regular file, because a
//! pipe may never begin and a device never end.

use std::fs::{File, FileType};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

use coffer_evidence::bundle::{BUNDLE_MAX, ReadError, Source};
use coffer_evidence::verify::{Options, Report, verify_source};

use crate::exit::{INPUT_OUTPUT, failure};
use crate::file::open_at_once;

/// A bundle in a file, read where a rule needs it and never held whole.
pub(crate) struct BundleFile(File);

impl BundleFile {
    /// Opens it, if it is a regular file that is not too large.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        open(path).map(Self)
    }

    /// In bytes.
    pub(super) fn size(&self) -> Result<u64, ReadError> {
        let failed = |error: std::io::Error| ReadError::Failed { at: 0, why: error.to_string() };
        Ok(self.0.metadata().map_err(failed)?.len())
    }

    /// Its first bytes, up to so many.
    pub(super) fn first(&self, size: u64) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let found = Source::read_at(self, 0, &mut bytes)?;
        bytes.truncate(found);
        Ok(bytes)
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
fn unread(path: &Path, error: &ReadError) -> anyhow::Error {
    failure(INPUT_OUTPUT, format!("read the bundle {}: {error}", path.display()))
}

/// The same, of an error that may be one.
pub(super) fn told_unread(path: &Path) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| match error.downcast_ref() {
        Some(cause) => unread(path, cause),
        None => error,
    }
}

/// Two readings of a file were of two bundles.
pub(super) fn changed() -> ReadError {
    ReadError::Changed { name: "the bundle".to_owned() }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let wrong = |error: std::io::Error| failure(INPUT_OUTPUT, format!("read the bundle {}: {error}", path.display()));
    let unfit = |expected: &str, found: &str| {
        let message = format!("expected a bundle {expected}, found {found}: {}", path.display());
        failure(INPUT_OUTPUT, message)
    };
    let file = open_at_once(path).map_err(wrong)?;
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
