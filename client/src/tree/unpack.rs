//! From a tar stream of a session to files. The stream is hostile: it may name any path, link anywhere, repeat itself
//! and never end. It is refused where an honest archive cannot be what it is; links out of the target, which an honest
//! workspace may well hold, are left out and told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::chunks::Incoming;
use super::{CONTENT_MAX, DOWNLOAD_MAX, ENTRIES_MAX, PATH_MAX};
use crate::error::ClientError;

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and links.
    pub files: u64,
    /// Links that lead out of the target: they were not made.
    pub left_out: Vec<PathBuf>,
    /// Entries of the archive, directories included.
    pub(crate) entries: u64,
}

/// Unpacks a stream. An archive of one file or link named `name` becomes `local` itself (or goes into it when it is a
/// directory); a tree becomes the directory `local`. An empty archive makes nothing: only the caller can know of what it is.
pub(crate) fn unpack(chunks: mpsc::Receiver<bytes::Bytes>, local: &Path, name: &str) -> Result<Unpacked, ClientError> {
    let mut incoming = Incoming::new(chunks);
    let name = Path::new(name);
    let mut work = Unpack { local, name, entries: 0, content: 0, made: BTreeMap::new(), done: Unpacked::default() };
    work.archive(&mut incoming)?;
    work.close_directories()?;
    // Padding after the archive's end is drained, so that the sender is not cut off.
    io::copy(&mut incoming, &mut io::sink()).map_err(|error| work.stream(error))?;
    Ok(Unpacked { entries: work.entries, ..work.done })
}

struct Unpack<'a> {
    local: &'a Path,
    name: &'a Path,
    entries: u64,
    content: u64,
    /// Directories that were not there before, and the mode that they get when everything is in them.
    made: BTreeMap<PathBuf, u32>,
    done: Unpacked,
}

impl Unpack<'_> {
    fn stream(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::FileTooLarge => ClientError::TooLarge { most: DOWNLOAD_MAX, unit: "bytes" },
            _ => ClientError::file("unpack into", self.local)(source),
        }
    }

    /// Entries as they are in the stream: what tar would do by itself for long names it does without a limit.
    fn archive(&mut self, incoming: &mut Incoming) -> Result<(), ClientError> {
        let mut archive = tar::Archive::new(incoming);
        let (mut long_name, mut long_link) = (None, None);
        for entry in archive.entries().map_err(|e| self.stream(e))?.raw(true) {
            let mut entry = entry.map_err(|e| self.stream(e))?;
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(ClientError::TooLarge { most: ENTRIES_MAX, unit: "entries" });
            }
            match entry.header().entry_type() {
                tar::EntryType::GNULongName => long_name = Some(self.long(&mut entry)?),
                tar::EntryType::GNULongLink => long_link = Some(self.long(&mut entry)?),
                _ => {
                    let path = long_name.take().unwrap_or_else(|| bytes_path(&entry.path_bytes()));
                    let link = long_link.take().or_else(|| entry.link_name_bytes().map(|link| bytes_path(&link)));
                    self.entry(&mut entry, &path, link.as_deref())?;
                }
            }
        }
        Ok(())
    }

    fn long<R: Read>(&self, entry: &mut tar::Entry<'_, R>) -> Result<PathBuf, ClientError> {
        let mut name = Vec::new();
        let most = PATH_MAX as u64 + 1;
        entry.take(most + 1).read_to_end(&mut name).map_err(|e| self.stream(e))?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.len() > PATH_MAX {
            return Err(refused(&bytes_path(&name), "a path of at most 4096 bytes"));
        }
        Ok(bytes_path(&name))
    }

    fn entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &Path,
        link: Option<&Path>,
    ) -> Result<(), ClientError> {
        let plain = plain_path(path)?;
        let kind = entry.header().entry_type();
        let leaf = matches!(kind, tar::EntryType::Regular | tar::EntryType::Symlink);
        if leaf && plain.as_os_str().is_empty() {
            return Err(refused(path, "a name"));
        }
        let alone = leaf && self.done.files == 0 && plain == self.name && !self.local.is_dir();
        let target = if alone { self.local.to_owned() } else { self.local.join(&plain) };
        if !alone {
            self.parents_are_directories(&plain)?;
        }
        match kind {
            tar::EntryType::Directory => self.directory(entry, &plain, target),
            tar::EntryType::Regular => {
                make_parent(&target)?;
                self.file(entry, &target)
            }
            tar::EntryType::Symlink => self.link(&plain, &target, link.unwrap_or(Path::new(""))),
            _ => Err(refused(path, "files, directories and symbolic links")),
        }
    }

    /// For nobody else until it has its own mode: what is private in the session is so here from the beginning.
    fn directory<R: Read>(
        &mut self,
        entry: &tar::Entry<'_, R>,
        plain: &Path,
        target: PathBuf,
    ) -> Result<(), ClientError> {
        // The mode of the target itself is its user's, and so is that of what was there.
        if plain.as_os_str().is_empty() {
            return fs::create_dir_all(&target).map_err(ClientError::file("make", &target));
        }
        make_parent(&target)?;
        match fs::DirBuilder::new().mode(0o700).create(&target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && target.is_dir() => {
                if !self.made.contains_key(&target) {
                    return Ok(());
                }
            }
            result => result.map_err(ClientError::file("make", &target))?,
        }
        self.made.insert(target, entry.header().mode().unwrap_or(0o755) & 0o777);
        Ok(())
    }

    /// Gives the directories their modes. Their owner can always enter them, and remove what is in them.
    fn close_directories(&mut self) -> Result<(), ClientError> {
        for (path, mode) in std::mem::take(&mut self.made) {
            let permissions = fs::Permissions::from_mode(mode | 0o700);
            fs::set_permissions(&path, permissions).map_err(ClientError::file("set the mode of", &path))?;
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, target: &Path) -> Result<(), ClientError> {
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let modified = Duration::from_secs(entry.header().mtime().unwrap_or(0));
        self.content = self.content.saturating_add(entry.header().size().unwrap_or(0));
        if self.content > CONTENT_MAX {
            return Err(ClientError::TooLarge { most: CONTENT_MAX, unit: "bytes" });
        }
        remove(target)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(target)
            .map_err(ClientError::file("make", target))?;
        io::copy(entry, &mut file).map_err(ClientError::file("write", target))?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(ClientError::file("set the mode of", target))?;
        if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(modified) {
            // Some file systems hold fewer years than others; the file is right without its date.
            let _ = file.set_modified(time);
        }
        self.done.files += 1;
        Ok(())
    }

    fn link(&mut self, plain: &Path, target: &Path, link: &Path) -> Result<(), ClientError> {
        if !stays_inside(plain, link) {
            self.done.left_out.push(plain.to_owned());
            return Ok(());
        }
        make_parent(target)?;
        remove(target)?;
        std::os::unix::fs::symlink(link, target).map_err(ClientError::file("make", target))?;
        self.done.files += 1;
        Ok(())
    }

    /// No directory on the way may be a link that the archive (or anybody) put there.
    fn parents_are_directories(&self, plain: &Path) -> Result<(), ClientError> {
        let mut here = self.local.to_owned();
        for component in plain.parent().into_iter().flat_map(Path::components) {
            here.push(component);
            if fs::symlink_metadata(&here).is_ok_and(|m| m.file_type().is_symlink()) {
                return Err(refused(plain, "no link on the way to it"));
            }
        }
        Ok(())
    }
}

fn refused(entry: &Path, expected: &'static str) -> ClientError {
    ClientError::Unsafe { entry: entry.display().to_string(), expected }
}

fn bytes_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

fn make_parent(target: &Path) -> Result<(), ClientError> {
    let Some(parent) = target.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(ClientError::file("make", parent))
}

fn remove(target: &Path) -> Result<(), ClientError> {
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ClientError::file("replace", target)(error)),
        _ => Ok(()),
    }
}

/// Only normal components.
fn plain_path(path: &Path) -> Result<PathBuf, ClientError> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return Err(refused(path, "a relative path without ..")),
        }
    }
    Ok(plain)
}

/// Whether a link leads nowhere but below the target. `..` counts only at the front, where what is above is known to be
/// directories; after a name it would be relative to whatever that name leads to.
fn stays_inside(plain: &Path, link: &Path) -> bool {
    let mut above = plain.components().count().saturating_sub(1);
    let mut descended = false;
    for component in link.components() {
        match component {
            Component::Normal(_) => descended = true,
            Component::CurDir => {}
            Component::ParentDir if descended || above == 0 => return false,
            Component::ParentDir => above -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !link.as_os_str().is_empty()
}
