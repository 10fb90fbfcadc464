//! Headers that say something of the entry after them: long names of GNU tar, extended headers of pax. The archive is hostile,
//! so none is held before its size is known to be small, and none may contradict another.

use super::{PATH_MAX, ToolError};
use rustix::io::Errno;
use std::io::{self, Read as _};
use tar::{Entry, EntryType, PaxExtensions};

/// Bytes of one extended header: two paths and what else people write.
pub(super) const HEADER_MAX: u64 = 64 * 1024;

/// What was said so far of the entry that comes next.
#[derive(Debug, Default)]
pub(super) struct Said {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
}

/// Where an entry goes, and where it points if it is a link.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) path: Vec<u8>,
    pub(super) target: Option<Vec<u8>>,
}

impl Said {
    /// Takes a header about the next entry; false when this is the entry itself.
    pub(super) fn takes<R: io::Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<bool, ToolError> {
        let place = match entry.header().entry_type() {
            EntryType::GNULongName => &mut self.long_name,
            EntryType::GNULongLink => &mut self.long_link,
            EntryType::XHeader => &mut self.pax,
            _ => return Ok(false),
        };
        let size = entry.size();
        if place.is_some() {
            return Err(ToolError::new("data", Errno::INVAL));
        }
        if size > HEADER_MAX {
            return Err(ToolError::new("limit", Errno::FBIG));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| ToolError::data(&error))?;
        if bytes.len() as u64 != size {
            return Err(ToolError::new("data", Errno::INVAL));
        }
        *place = Some(bytes);
        Ok(true)
    }

    /// Whether something was said and no entry has come.
    pub(super) fn waits(&self) -> bool {
        self.long_name.is_some() || self.long_link.is_some() || self.pax.is_some()
    }

    /// Gives the entry its names, and starts anew.
    pub(super) fn name<R: io::Read>(&mut self, entry: &Entry<'_, R>) -> Result<Named, ToolError> {
        let said = std::mem::take(self);
        let (mut path, mut target) = (said.long_name.map(without_nul), said.long_link.map(without_nul));
        for record in PaxExtensions::new(said.pax.as_deref().unwrap_or_default()) {
            let record = record.map_err(|_| ToolError::new("data", Errno::INVAL))?;
            let place = match record.key_bytes() {
                b"path" => &mut path,
                b"linkpath" => &mut target,
                // Only files beyond every limit need it, and two sizes of one file are a trap for readers.
                b"size" if record.value_bytes() != entry.size().to_string().as_bytes() => {
                    return Err(ToolError::new("data", Errno::INVAL));
                }
                _ => continue,
            };
            // A long name of GNU tar goes before, as in tar itself.
            place.get_or_insert_with(|| record.value_bytes().to_vec());
        }
        let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let target = target.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
        if path.len() > PATH_MAX || target.as_ref().is_some_and(|target| target.len() > PATH_MAX) {
            return Err(ToolError::path(Errno::NAMETOOLONG));
        }
        Ok(Named { path, target })
    }
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}
