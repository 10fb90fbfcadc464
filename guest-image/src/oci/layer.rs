//! Lays one layer over a tree. Nothing is made or removed but below real directories of the tree: a link is never walked
//! through, `..` and absolute paths are refused. Modes keep only who may execute, owners and attributes are not taken.
//! Removals (`.wh.NAME`, `.wh..wh..opq`) are done before the layer's own entries, wherever they stand in it: they speak of what lies
//! below the layer.

use super::{Dropped, Limits, OciError, headers, io_error};
use std::fs;
use std::io::{self, BufReader, Seek as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
const DEPTH_MAX: usize = 256;
/// Extended attributes in a PAX header.
const ATTRIBUTE: &str = "SCHILY.xattr.";

/// What happens to a file or link where a directory is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InTheWay {
    Replaced,
    Refused,
}

/// The tree and what may still be put into it.
pub(super) struct Applying<'a> {
    tree: &'a Path,
    limits: Limits,
    entries: u64,
    bytes: u64,
    pub(super) dropped: Dropped,
}

impl<'a> Applying<'a> {
    pub(super) fn new(tree: &'a Path, limits: Limits) -> Self {
        Self { tree, limits, entries: 0, bytes: 0, dropped: Dropped::default() }
    }

    pub(super) fn bytes_left(&self) -> u64 {
        self.limits.bytes.saturating_sub(self.bytes)
    }

    /// `archive` is the layer, uncompressed.
    pub(super) fn apply(&mut self, archive: &fs::File) -> Result<(), OciError> {
        self.bytes += archive.metadata().map_err(io_error(self.tree))?.len();
        headers::check(archive, self.tree)?;
        self.each(archive, Self::remove)?;
        self.each(archive, Self::add)
    }

    fn each(
        &mut self,
        mut archive: &fs::File,
        mut act: impl FnMut(&mut Self, &mut tar::Entry<'_, BufReader<&fs::File>>, &Path) -> Result<(), OciError>,
    ) -> Result<(), OciError> {
        let failed = io_error(self.tree);
        archive.rewind().map_err(&failed)?;
        let mut archive = tar::Archive::new(BufReader::new(archive));
        for entry in archive.entries().map_err(&failed)? {
            let mut entry = entry.map_err(&failed)?;
            let path = plain(&entry.path_bytes())?;
            act(self, &mut entry, &path)?;
        }
        Ok(())
    }

    fn remove(&mut self, _: &mut tar::Entry<'_, BufReader<&fs::File>>, path: &Path) -> Result<(), OciError> {
        self.count()?;
        let Some(hidden) = file_name(path).strip_prefix(WHITEOUT) else { return Ok(()) };
        if file_name(path) != OPAQUE && ["", ".", ".."].contains(&hidden) {
            return Err(refused("removals of a name", path));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        // What is not there needs no removal.
        let Some(directory) = self.directory(parent)? else { return Ok(()) };
        if file_name(path) == OPAQUE {
            for entry in fs::read_dir(&directory).map_err(io_error(&directory))? {
                clear(&entry.map_err(io_error(&directory))?.path())?;
            }
            return Ok(());
        }
        clear(&directory.join(hidden))
    }

    /// One more entry, or a directory that a path implies: what the tree gets, named or not.
    fn count(&mut self) -> Result<(), OciError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(OciError::Limit { what: "entries", most: self.limits.entries });
        }
        Ok(())
    }

    fn add(&mut self, entry: &mut tar::Entry<'_, BufReader<&fs::File>>, path: &Path) -> Result<(), OciError> {
        if file_name(path).starts_with(WHITEOUT) {
            return Ok(());
        }
        if path.as_os_str().is_empty() {
            // The root itself.
            return Ok(());
        }
        let mode = entry.header().mode().map_err(|_| refused("entries with a mode", path))?;
        if has_attributes(entry)? {
            self.dropped.attributes += 1;
        }
        let parent = self.make_directories(path.parent().unwrap_or(Path::new("")), InTheWay::Refused)?;
        let target = parent.join(file_name(path));
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory {
            return self.make_directories(path, InTheWay::Replaced).map(drop);
        }
        if mode & 0o6000 != 0 && kind == EntryType::Regular {
            self.dropped.set_id += 1;
        }
        match kind {
            EntryType::Regular => {
                clear(&target)?;
                let mut out = fs::File::create_new(&target).map_err(io_error(&target))?;
                io::copy(entry, &mut out).map_err(io_error(&target))?;
                let mode = if mode & 0o111 != 0 { 0o755 } else { 0o644 };
                out.set_permissions(fs::Permissions::from_mode(mode)).map_err(io_error(&target))
            }
            EntryType::Symlink => {
                let to = entry.link_name_bytes().ok_or_else(|| refused("links with a target", path))?;
                let to = String::from_utf8(to.into_owned()).map_err(|_| refused("targets in UTF-8", path))?;
                if to.is_empty() || to.len() > PATH_MAX {
                    return Err(refused("links with a target of at most 4096 bytes", path));
                }
                clear(&target)?;
                // Where it points is only looked at in the guest, whose root this is.
                symlink(to, &target).map_err(io_error(&target))
            }
            EntryType::Link => {
                let to = entry.link_name_bytes().ok_or_else(|| refused("links with a target", path))?;
                let to = plain(&to)?;
                let directory = self.directory(to.parent().unwrap_or(Path::new("")))?;
                let source = directory.map(|directory| directory.join(file_name(&to)));
                let source = source.filter(|source| source.symlink_metadata().is_ok_and(|found| found.is_file()));
                let source = source.ok_or_else(|| refused("hard links to a file of the image", path))?;
                if source == target {
                    return Ok(());
                }
                clear(&target)?;
                fs::hard_link(&source, &target).map_err(io_error(&target))
            }
            _ => Err(refused("files, directories and links", path)),
        }
    }

    /// Where a directory of the tree is; nothing if it, or one above it, is missing or no directory.
    fn directory(&self, path: &Path) -> Result<Option<PathBuf>, OciError> {
        let mut found = self.tree.to_owned();
        for part in path {
            found.push(part);
            match found.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(refused("paths that do not lead through a link or file", path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(io_error(&found)(error)),
            }
        }
        Ok(Some(found))
    }

    /// Makes a directory and those above it. One above it never takes the place of what is no directory.
    fn make_directories(&mut self, path: &Path, last: InTheWay) -> Result<PathBuf, OciError> {
        let mut made = self.tree.to_owned();
        let parts = path.iter().count();
        for (number, part) in path.iter().enumerate() {
            made.push(part);
            let there = made.symlink_metadata();
            if there.as_ref().is_ok_and(fs::Metadata::is_dir) {
                continue;
            }
            if there.is_ok() {
                if number + 1 < parts || last == InTheWay::Refused {
                    return Err(refused("paths that do not lead through a link or file", path));
                }
                clear(&made)?;
            }
            // An entry of its own has been counted.
            if number + 1 < parts || last == InTheWay::Refused {
                self.count()?;
            }
            fs::create_dir(&made).map_err(io_error(&made))?;
            fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).map_err(io_error(&made))?;
        }
        Ok(made)
    }
}

/// A relative path of plain names. `./` before it is how most programs write them.
fn plain(bytes: &[u8]) -> Result<PathBuf, OciError> {
    let shown = || String::from_utf8_lossy(bytes).chars().take(200).collect::<String>();
    let refuse = |expected| Err(OciError::Entry { expected, path: shown() });
    let Ok(text) = std::str::from_utf8(bytes) else { return refuse("paths in UTF-8") };
    if text.len() > PATH_MAX || text.contains('\0') {
        return refuse("paths of at most 4096 bytes without NUL");
    }
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) if name.len() <= NAME_MAX => path.push(name),
            Component::Normal(_) => return refuse("names of at most 255 bytes"),
            _ => return refuse("relative paths that stay inside the image"),
        }
    }
    if path.iter().count() > DEPTH_MAX {
        return refuse("paths of at most 256 names");
    }
    Ok(path)
}

fn has_attributes(entry: &mut tar::Entry<'_, BufReader<&fs::File>>) -> Result<bool, OciError> {
    let shown = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let malformed = |_| OciError::Entry { expected: "well-formed extended headers", path: shown.clone() };
    let Some(extensions) = entry.pax_extensions().map_err(malformed)? else { return Ok(false) };
    for extension in extensions {
        if extension.map_err(malformed)?.key_bytes().starts_with(ATTRIBUTE.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn clear(path: &Path) -> Result<(), OciError> {
    let result = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(io_error(path))
}

fn refused(expected: &'static str, path: &Path) -> OciError {
    OciError::Entry { expected, path: path.display().to_string() }
}
