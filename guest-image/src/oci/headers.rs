//! What a tar file says before an entry about the entry: long names and PAX headers. `tar` reads each whole into memory, so
//! they are looked at before it does. Whatever would make it find the next entry elsewhere than this walk does is refused.

use super::{OciError, io_error};
use std::fs;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::Path;
use tar::{EntryType, PaxExtensions};

/// Longest of them, in bytes.
const EXTENSION_MAX: u64 = 64 << 10;

/// Refuses `archive` where one of its headers is too long; it is read from its beginning, and left there.
pub(super) fn check(mut archive: &fs::File, path: &Path) -> Result<(), OciError> {
    let failed = io_error(path);
    archive.rewind().map_err(&failed)?;
    let mut entries = tar::Archive::new(BufReader::new(archive));
    for entry in entries.entries_with_seek().map_err(&failed)?.raw(true) {
        let mut entry = entry.map_err(&failed)?;
        let refuse = |expected| OciError::Entry { expected, path: "an extended header".into() };
        match entry.header().entry_type() {
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XGlobalHeader | EntryType::XHeader => {
                if entry.size() > EXTENSION_MAX {
                    return Err(OciError::Limit { what: "bytes in an extended header", most: EXTENSION_MAX });
                }
            }
            // Its map may go on behind the header.
            EntryType::GNUSparse => return Err(refuse("files, directories and links")),
            _ => continue,
        }
        if entry.header().entry_type() == EntryType::XHeader {
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(&failed)?;
            for extension in PaxExtensions::new(&text) {
                let extension = extension.map_err(|_| refuse("well-formed extended headers"))?;
                if extension.key_bytes() == b"size" {
                    return Err(refuse("sizes in plain headers alone"));
                }
            }
        }
    }
    archive.rewind().map_err(failed)
}
