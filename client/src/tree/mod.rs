//! Trees of files as tar streams, both ways. Packing is in name order and never follows a link; unpacking refuses
//! whatever would leave its directory: it comes from a session that the user does not trust.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use tokio::sync::mpsc;

use crate::calls::CHUNK;
use crate::error::ClientError;

/// What of a tree to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// In a git work tree: what git tracks, what it does not ignore, and `.git` itself. Elsewhere everything.
    NotIgnored,
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files and links.
    pub files: u64,
    /// Entries at the top that were left out because git ignores them.
    pub left_out: u64,
}

/// The last component of a remote path, or `workspace`.
#[must_use]
pub fn base_name(remote: &str) -> String {
    let last = remote.split('/').rfind(|c| !c.is_empty() && *c != ".");
    last.unwrap_or("workspace").to_owned()
}

/// Packs `local` into chunks. A directory gives its entries at the top of the archive, a file gives itself.
///
/// # Errors
/// [`ClientError::File`] when something cannot be read. It stops quietly when `give` says that nobody takes more.
pub fn pack(
    local: &Path,
    selection: Selection,
    give: impl FnMut(Vec<u8>) -> bool,
) -> Result<Packed, ClientError> {
    let metadata = fs::symlink_metadata(local).map_err(ClientError::file("read", local))?;
    let mut builder = tar::Builder::new(Chunks { give, buffer: Vec::with_capacity(CHUNK) });
    builder.follow_symlinks(false);
    let mut packed = Packed::default();
    let result = if metadata.is_dir() {
        let chosen = match selection {
            Selection::NotIgnored => git_selection(local),
            Selection::All => None,
        };
        pack_directory(&mut builder, local, Path::new(""), chosen.as_ref(), &mut packed)
    } else {
        let name = PathBuf::from(local.file_name().unwrap_or_default());
        pack_entry(&mut builder, local, &name, &metadata, &mut packed)
    };
    match result.and_then(|()| builder.into_inner().and_then(Chunks::finish).map_err(ClientError::file("pack", local))) {
        // Nobody takes more: the other side has its own, better, error.
        Err(ClientError::File { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(packed),
        Err(error) => Err(error),
        Ok(()) => Ok(packed),
    }
}

/// Every path that git would take, and every directory above one. `None` where git does not answer.
fn git_selection(root: &Path) -> Option<BTreeSet<PathBuf>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = std::process::Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .ok()
        .filter(|o| o.status.success())?;
    let mut chosen = BTreeSet::new();
    for name in output.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let path = PathBuf::from(OsString::from_vec(name.to_vec()));
        chosen.extend(path.ancestors().map(Path::to_path_buf));
    }
    Some(chosen)
}

fn pack_directory<W: Write>(
    builder: &mut tar::Builder<W>,
    root: &Path,
    below: &Path,
    chosen: Option<&BTreeSet<PathBuf>>,
    packed: &mut Packed,
) -> Result<(), ClientError> {
    let here = root.join(below);
    let mut names: Vec<OsString> = fs::read_dir(&here)
        .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
        .map_err(ClientError::file("read", &here))?;
    names.sort();
    for name in names {
        let path = below.join(&name);
        let in_git = path.starts_with(".git");
        if !in_git && chosen.is_some_and(|chosen| !chosen.contains(&path)) {
            packed.left_out += 1;
            continue;
        }
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).map_err(ClientError::file("read", &full))?;
        pack_entry(builder, &full, &path, &metadata, packed)?;
        if metadata.is_dir() {
            pack_directory(builder, root, &path, chosen, packed)?;
        }
    }
    Ok(())
}

fn pack_entry<W: Write>(
    builder: &mut tar::Builder<W>,
    full: &Path,
    name: &Path,
    metadata: &fs::Metadata,
    packed: &mut Packed,
) -> Result<(), ClientError> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let kind = metadata.file_type();
    let result = if kind.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        builder.append_data(&mut header, name, io::empty())
    } else if kind.is_symlink() {
        packed.files += 1;
        header.set_entry_type(tar::EntryType::Symlink);
        fs::read_link(full).and_then(|target| builder.append_link(&mut header, name, target))
    } else if kind.is_file() {
        packed.files += 1;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(metadata.len());
        // A file that grows or shrinks meanwhile must not shift what follows.
        fs::File::open(full)
            .and_then(|file| builder.append_data(&mut header, name, Exactly { file, left: metadata.len() }))
    } else {
        // Sockets, pipes and devices have no content to carry.
        return Ok(());
    };
    result.map_err(ClientError::file("pack", full))
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

/// Gathers what the archive writes into chunks.
struct Chunks<G> {
    give: G,
    buffer: Vec<u8>,
}

impl<G: FnMut(Vec<u8>) -> bool> Chunks<G> {
    fn give(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        if (self.give)(chunk) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn finish(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.give() }
    }
}

impl<G: FnMut(Vec<u8>) -> bool> Write for Chunks<G> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.buffer.len() == CHUNK {
            self.give()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of chunks as a reader.
struct Incoming {
    chunks: mpsc::Receiver<bytes::Bytes>,
    rest: bytes::Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        let taken = self.rest.split_to(length);
        buffer.get_mut(..length).unwrap_or_default().copy_from_slice(&taken);
        Ok(length)
    }
}

/// Unpacks a stream. An archive of one file named `name` becomes `local` itself (or goes into it when it is a
/// directory); a tree becomes the directory `local`.
pub(crate) fn unpack(
    chunks: mpsc::Receiver<bytes::Bytes>,
    local: &Path,
    name: &str,
) -> Result<u64, ClientError> {
    let mut incoming = Incoming { chunks, rest: bytes::Bytes::new() };
    let files = unpack_from(&mut incoming, local, name);
    if files.is_ok() {
        // Padding after the archive's end is drained, so that the sender is not cut off.
        let _ = io::copy(&mut incoming, &mut io::sink());
    }
    files
}

fn unpack_from(incoming: &mut Incoming, local: &Path, name: &str) -> Result<u64, ClientError> {
    let mut archive = tar::Archive::new(incoming);
    let mut files = 0;
    let entries = archive.entries().map_err(ClientError::file("unpack into", local))?;
    for entry in entries {
        let mut entry = entry.map_err(ClientError::file("unpack into", local))?;
        let path = entry.path().map_err(ClientError::file("unpack into", local))?.into_owned();
        let kind = entry.header().entry_type();
        let plain = plain_path(&path)?;
        let alone = files == 0 && plain == Path::new(name) && kind.is_file() && !local.is_dir();
        let target = if alone { local.to_owned() } else { local.join(&plain) };
        if !alone {
            parents_are_directories(local, &plain)?;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(ClientError::file("make", parent))?;
        }
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        match kind {
            tar::EntryType::Directory => {
                fs::create_dir_all(&target).map_err(ClientError::file("make", &target))?;
            }
            tar::EntryType::Regular => {
                remove(&target)?;
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&target)
                    .map_err(ClientError::file("make", &target))?;
                io::copy(&mut entry, &mut file).map_err(ClientError::file("write", &target))?;
                file.set_permissions(fs::Permissions::from_mode(mode))
                    .map_err(ClientError::file("set the mode of", &target))?;
                files += 1;
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name().map_err(ClientError::file("unpack into", local))?.unwrap_or_default();
                link_stays_inside(&plain, &link)?;
                remove(&target)?;
                std::os::unix::fs::symlink(&link, &target).map_err(ClientError::file("make", &target))?;
                files += 1;
            }
            _ => {
                return Err(ClientError::Unsafe {
                    entry: path.display().to_string(),
                    why: "a file, directory or symbolic link",
                });
            }
        }
    }
    Ok(files)
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
            _ => {
                return Err(ClientError::Unsafe {
                    entry: path.display().to_string(),
                    why: "relative and without ..",
                });
            }
        }
    }
    Ok(plain)
}

/// No directory on the way may be a link that the archive (or anybody) put there.
fn parents_are_directories(local: &Path, plain: &Path) -> Result<(), ClientError> {
    let mut here = local.to_owned();
    for component in plain.parent().into_iter().flat_map(Path::components) {
        here.push(component);
        if fs::symlink_metadata(&here).is_ok_and(|m| m.file_type().is_symlink()) {
            return Err(ClientError::Unsafe { entry: plain.display().to_string(), why: "not through a link" });
        }
    }
    Ok(())
}

/// A link may point anywhere below the target, not above it.
fn link_stays_inside(plain: &Path, link: &Path) -> Result<(), ClientError> {
    let wrong = || ClientError::Unsafe { entry: plain.display().to_string(), why: "no link out of the target" };
    let mut depth = plain.components().count().saturating_sub(1);
    for component in link.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(wrong)?,
            Component::RootDir | Component::Prefix(_) => return Err(wrong()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(local: &Path, selection: Selection) -> (Vec<u8>, Packed) {
        let mut out = Vec::new();
        let packed = pack(local, selection, |chunk| {
            out.extend(chunk);
            true
        });
        (out, packed.expect("packs"))
    }

    fn unpacked(archive: Vec<u8>, local: &Path, name: &str) -> Result<u64, ClientError> {
        let (sender, receiver) = mpsc::channel(1);
        let sending = std::thread::spawn(move || {
            for chunk in archive.chunks(1000) {
                if sender.blocking_send(bytes::Bytes::copy_from_slice(chunk)).is_err() {
                    return;
                }
            }
        });
        let result = unpack(receiver, local, name);
        sending.join().expect("the sender");
        result
    }

    #[test]
    fn a_tree_comes_back_as_it_went_and_packs_to_the_same_bytes() {
        let work = tempfile::tempdir().expect("a directory");
        let from = work.path().join("from");
        fs::create_dir_all(from.join("deep/er")).expect("directories");
        fs::write(from.join("deep/er/file"), vec![7; 200_000]).expect("a file");
        fs::set_permissions(from.join("deep/er/file"), fs::Permissions::from_mode(0o755)).expect("chmod");
        std::os::unix::fs::symlink("deep/er/file", from.join("link")).expect("a link");
        fs::write(from.join("empty"), "").expect("a file");
        let (archive, counted) = packed(&from, Selection::All);
        assert_eq!(counted, Packed { files: 3, left_out: 0 });
        assert_eq!(packed(&from, Selection::All).0, archive);
        let to = work.path().join("to");
        assert_eq!(unpacked(archive, &to, "x").expect("unpacks"), 3);
        assert_eq!(fs::read(to.join("deep/er/file")).expect("the file"), vec![7; 200_000]);
        assert_eq!(fs::metadata(to.join("deep/er/file")).expect("the file").mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(to.join("link")).expect("the link"), Path::new("deep/er/file"));
    }

    #[test]
    fn one_file_becomes_the_target_itself() {
        let work = tempfile::tempdir().expect("a directory");
        fs::write(work.path().join("a"), "one").expect("a file");
        let (archive, _) = packed(&work.path().join("a"), Selection::All);
        unpacked(archive.clone(), &work.path().join("b"), "a").expect("unpacks");
        assert_eq!(fs::read_to_string(work.path().join("b")).expect("the file"), "one");
        fs::create_dir(work.path().join("dir")).expect("a directory");
        unpacked(archive, &work.path().join("dir"), "a").expect("unpacks");
        assert_eq!(fs::read_to_string(work.path().join("dir/a")).expect("the file"), "one");
    }

    #[test]
    fn what_git_ignores_is_left_out_and_git_itself_is_not() {
        let work = tempfile::tempdir().expect("a directory");
        let git = |arguments: &[&str]| {
            let status = std::process::Command::new("git").arg("-C").arg(work.path()).args(arguments).status();
            assert!(status.expect("git").success());
        };
        git(&["init", "--quiet"]);
        fs::write(work.path().join(".gitignore"), "target\n").expect("a file");
        fs::create_dir(work.path().join("target")).expect("a directory");
        fs::write(work.path().join("target/big"), "x").expect("a file");
        fs::write(work.path().join("new"), "x").expect("a file");
        let (archive, counted) = packed(work.path(), Selection::NotIgnored);
        assert_eq!(counted.left_out, 1);
        let to = tempfile::tempdir().expect("a directory");
        unpacked(archive, to.path(), "x").expect("unpacks");
        assert!(to.path().join("new").exists() && to.path().join(".git/HEAD").exists());
        assert!(!to.path().join("target").exists());
    }

    #[test]
    fn archives_that_would_leave_their_directory_are_refused() {
        type Make = fn(&mut tar::Builder<Vec<u8>>);
        fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, link: &str) {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            if !link.is_empty() {
                header.set_link_name_literal(link).expect("a link name");
            }
            header.set_cksum();
            builder.append(&header, io::empty()).expect("an entry");
        }
        let cases: [(&str, Make); 8] = [
            ("up", |b| entry(b, b"../up", tar::EntryType::Regular, "")),
            ("middle", |b| entry(b, b"a/../../up", tar::EntryType::Regular, "")),
            ("absolute", |b| entry(b, b"/tmp/coffer-absolute", tar::EntryType::Regular, "")),
            ("device", |b| entry(b, b"null", tar::EntryType::Char, "")),
            ("hard link", |b| entry(b, b"passwd", tar::EntryType::Link, "/etc/passwd")),
            ("link up", |b| entry(b, b"out", tar::EntryType::Symlink, "../x")),
            ("link absolute", |b| entry(b, b"out", tar::EntryType::Symlink, "/etc")),
            ("through a link", |b| {
                entry(b, b"d/e", tar::EntryType::Symlink, ".");
                entry(b, b"d/e/file", tar::EntryType::Regular, "");
            }),
        ];
        for (what, make) in cases {
            let work = tempfile::tempdir().expect("a directory");
            let mut builder = tar::Builder::new(Vec::new());
            make(&mut builder);
            let archive = builder.into_inner().expect("an archive");
            let result = unpacked(archive, &work.path().join("target"), "x");
            assert!(matches!(result, Err(ClientError::Unsafe { .. })), "{what}: {result:?}");
            assert!(!work.path().join("up").exists(), "{what}");
        }
    }
}
