//! Reading a bundle from a file that anyone may have made: never more of it than its own headers account for, and nothing
//! that is not a regular file, because a pipe may never begin and a device never end.

use std::fs::{File, FileType};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use coffer_evidence::bundle::{BLOCK, BUNDLE_MAX, Step, Walk};

use crate::exit::{INPUT_OUTPUT, failure};

/// Reads a bundle as far as its framing holds. What is left out stands behind the byte that the verifier refuses, so the
/// verdict on these bytes is that on the file.
pub(crate) fn read_bundle(path: &Path) -> anyhow::Result<Vec<u8>> {
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
    framed(file).map_err(wrong)
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
