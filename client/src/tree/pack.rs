//! From files to a tar stream.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::UPLOAD_MAX;
use super::chunks::Chunks;
use super::git::{self, Judgement, Listed};
use crate::error::ClientError;

/// What of a tree to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// At the top of a git work tree: what git tracks, what it does not ignore, and `.git` itself. Elsewhere everything.
    NotIgnored,
}

/// How many of the pipes, sockets and devices that were left out are named.
pub const SPECIAL_NAMED_MAX: usize = 10;

/// What was packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files and links.
    pub files: u64,
    /// Files and directories that were left out because git ignores them; what is in the directories is not counted.
    pub left_out: u64,
    /// Pipes, sockets and devices: they have no content to carry.
    pub special: u64,
    /// The first [`SPECIAL_NAMED_MAX`] of them, below what was packed.
    pub special_named: Vec<PathBuf>,
}

/// Packs `local` into chunks. A directory gives its entries at the top of the archive, a file gives itself as `name`.
/// A link that `local` itself is is followed: the user named what it leads to.
///
/// # Errors
/// [`ClientError::File`] when something cannot be read, [`ClientError::Special`] when `local` is neither file nor directory.
/// It stops quietly when `give` says that nobody takes more.
pub(crate) fn pack(
    local: &Path,
    name: &Path,
    selection: Selection,
    give: impl FnMut(Vec<u8>) -> bool,
) -> Result<Packed, ClientError> {
    let metadata = fs::metadata(local).map_err(ClientError::file("read", local))?;
    if is_special(metadata.file_type()) {
        return Err(ClientError::Special { path: local.display().to_string() });
    }
    let mut builder = tar::Builder::new(Chunks::new(give));
    builder.follow_symlinks(false);
    let mut work = Pack { builder, root: local, content: 0, packed: Packed::default() };
    let result = if metadata.is_dir() {
        let listed = match selection {
            Selection::NotIgnored => git::listed(local)?,
            Selection::All => None,
        };
        work.directory(Path::new(""), listed.as_ref())
    } else {
        work.entry(local, name, &metadata)
    };
    let packed = work.packed;
    let finished = result
        .and_then(|()| work.builder.into_inner().and_then(Chunks::finish).map_err(ClientError::file("pack", local)));
    match finished {
        Ok(()) => Ok(packed),
        Err(ClientError::File { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(packed),
        Err(ClientError::File { source, .. }) if source.kind() == io::ErrorKind::FileTooLarge => Err(too_large()),
        Err(error) => Err(error),
    }
}

/// Pipes, sockets and devices.
pub(crate) fn is_special(kind: fs::FileType) -> bool {
    !(kind.is_file() || kind.is_dir() || kind.is_symlink())
}

fn too_large() -> ClientError {
    ClientError::TooLarge { most: UPLOAD_MAX, unit: "bytes" }
}

struct Pack<'a, W: Write> {
    builder: tar::Builder<W>,
    root: &'a Path,
    content: u64,
    packed: Packed,
}

impl<W: Write> Pack<'_, W> {
    fn directory(&mut self, below: &Path, listed: Option<&Listed>) -> Result<(), ClientError> {
        let here = self.root.join(below);
        let mut names: Vec<OsString> = fs::read_dir(&here)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .map_err(ClientError::file("read", &here))?;
        names.sort();
        for name in names {
            let path = below.join(&name);
            let full = self.root.join(&path);
            let inside = match listed.map_or(Judgement::TakeWhole, |listed| listed.judge(&path)) {
                Judgement::Leave => {
                    // Git does not list them, whether it ignores them or not.
                    if fs::symlink_metadata(&full).is_ok_and(|metadata| is_special(metadata.file_type())) {
                        self.special(&path);
                    } else {
                        self.packed.left_out += 1;
                    }
                    continue;
                }
                Judgement::Take => listed,
                Judgement::TakeWhole => None,
            };
            let metadata = fs::symlink_metadata(&full).map_err(ClientError::file("read", &full))?;
            self.entry(&full, &path, &metadata)?;
            if metadata.is_dir() {
                self.directory(&path, inside)?;
            }
        }
        Ok(())
    }

    fn special(&mut self, path: &Path) {
        self.packed.special += 1;
        if self.packed.special_named.len() < SPECIAL_NAMED_MAX {
            self.packed.special_named.push(path.to_owned());
        }
    }

    fn entry(&mut self, full: &Path, name: &Path, metadata: &fs::Metadata) -> Result<(), ClientError> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.mode() & 0o777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let kind = metadata.file_type();
        let builder = &mut self.builder;
        let result = if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, name, io::empty())
        } else if kind.is_symlink() {
            self.packed.files += 1;
            header.set_entry_type(tar::EntryType::Symlink);
            fs::read_link(full).and_then(|target| builder.append_link(&mut header, name, target))
        } else if kind.is_file() {
            self.packed.files += 1;
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(metadata.len());
            // Told before it is sent, not after a gigabyte.
            self.content = self.content.saturating_add(metadata.len());
            if self.content > UPLOAD_MAX {
                return Err(too_large());
            }
            // A file that grows or shrinks meanwhile must not shift what follows.
            fs::File::open(full)
                .and_then(|file| builder.append_data(&mut header, name, Exactly { file, left: metadata.len() }))
        } else {
            self.special(name);
            return Ok(());
        };
        result.map_err(ClientError::file("pack", PathBuf::from(full)))
    }
}

/// Exactly this many bytes of a file: zeros where it shrank, nothing more where it grew.
struct Exactly {
    file: fs::File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let room = buffer.get_mut(..most).unwrap_or_default();
        let mut length = self.file.read(room)?;
        if length == 0 && most > 0 {
            room.fill(0);
            length = most;
        }
        self.left -= length as u64;
        Ok(length)
    }
}
