//! Unpacks a tar stream beneath a directory. The archive is hostile: it may name any path, link anywhere, repeat
//! itself and lie about sizes. Links in it are made and never followed; what is in the way is replaced, not written
//! through; set-user-id and its kin are dropped; devices, FIFOs and sparse files are refused.

use super::beneath::{Beneath, Links};
use super::headers::Said;
use super::{ENTRIES_MAX, PATH_MAX, TRANSFER_MAX, Tell, ToolError, told};
use crate::frames::tool::{Report, Rest};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use tar::{Archive, EntryType};

/// Unpacks `stream` beneath `path`, which is made when missing.
pub(super) fn unpack(base: &Beneath, path: &[u8], stream: impl io::Read, tell: Tell<'_>) -> Result<(), ToolError> {
    let target = if path.is_empty() { None } else { Some(make_directories(base, path, Links::Follow)?) };
    let target = target.map(Beneath::at);
    let mut work = Unpack { base: target.as_ref().unwrap_or(base), files: 0, bytes: 0, directories: BTreeMap::new() };
    let mut archive = Archive::new(stream);
    let mut said = Said::default();
    // Raw: what tar would do by itself for long names and extended headers it does without a limit.
    for entry in archive.entries().map_err(|error| ToolError::data(&error))?.raw(true) {
        let mut entry = entry.map_err(|_| ToolError::new("data", Errno::INVAL))?;
        if !said.takes(&mut entry)? {
            work.entry(&mut entry, &mut said)?;
        }
    }
    if said.waits() {
        return Err(ToolError::new("data", Errno::INVAL));
    }
    work.finish_directories()?;
    // The padding after the end, so that whoever writes to us can finish.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|error| ToolError::data(&error))?;
    told(tell(Report::Done { files: work.files, bytes: work.bytes, rest: Rest::Nothing }))
}

struct Unpack<'a> {
    base: &'a Beneath,
    files: u64,
    bytes: u64,
    /// Modes of the archive's directories, set at the end: a directory may forbid writing to itself.
    directories: BTreeMap<Vec<u8>, Mode>,
}

impl Unpack<'_> {
    fn entry<R: io::Read>(&mut self, entry: &mut tar::Entry<'_, R>, said: &mut Said) -> Result<(), ToolError> {
        let header = entry.header();
        let kind = header.entry_type();
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o644) & 0o777);
        let modified = header.mtime().unwrap_or(0);
        let size = entry.size();
        if kind == EntryType::XGlobalHeader {
            // Comments, such as the commit that `git archive` names. Nothing of it applies to a file, nor ends what was said
            // of the next one.
            return Ok(());
        }
        let named = said.name(entry)?;
        let path = inside(&named.path)?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.files > ENTRIES_MAX || self.bytes > TRANSFER_MAX {
            return Err(ToolError::new("limit", Errno::FBIG));
        }
        if path.is_empty() {
            // The directory itself: it is there, and its mode is not the archive's to choose.
            return if kind == EntryType::Directory { Ok(()) } else { Err(ToolError::path(Errno::ISDIR)) };
        }
        match kind {
            EntryType::Directory => {
                make_directories(self.base, &path, Links::Refuse)?;
                self.directories.insert(path, mode);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => self.file(&path, mode, modified, size, entry),
            EntryType::Symlink | EntryType::Link => {
                let target = named.target.ok_or(ToolError::new("type", Errno::INVAL))?;
                if target.is_empty() || target.contains(&0) {
                    return Err(ToolError::path(Errno::INVAL));
                }
                if kind == EntryType::Symlink { self.symlink(&path, &target) } else { self.hardlink(&path, &target) }
            }
            _ => Err(ToolError::new("type", Errno::PERM)),
        }
    }

    fn file(
        &self,
        path: &[u8],
        mode: Mode,
        modified: u64,
        size: u64,
        content: &mut impl io::Read,
    ) -> Result<(), ToolError> {
        let (parent, last) = self.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, last, flags, Mode::from_raw_mode(0o600)).map_err(ToolError::path)?;
        let mut file = File::from(file);
        let written = io::copy(content, &mut file).map_err(|error| ToolError::data(&error))?;
        if written != size {
            return Err(ToolError::new("data", Errno::INVAL));
        }
        rustix::fs::fchmod(&file, mode).map_err(ToolError::path)?;
        let time = Timespec { tv_sec: modified.try_into().unwrap_or(0), tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).map_err(ToolError::path)
    }

    fn symlink(&self, path: &[u8], target: &[u8]) -> Result<(), ToolError> {
        let (parent, last) = self.place(path)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, last).map_err(ToolError::path)
    }

    /// A second name for a file that is inside already, reached without following a link.
    fn hardlink(&self, path: &[u8], target: &[u8]) -> Result<(), ToolError> {
        let target = inside(target)?;
        let (from, old) = self.base.parent(&target, Links::Refuse).map_err(ToolError::path)?;
        if target == path {
            return Ok(());
        }
        let (parent, last) = self.place(path)?;
        rustix::fs::linkat(from.as_fd(), OsStr::from_bytes(old), &parent, last, AtFlags::empty())
            .map_err(ToolError::path)
    }

    /// The directory for a new entry, made when missing, and its name there, made free.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), ToolError> {
        let at = path.iter().rposition(|&byte| byte == b'/');
        let last = OsStr::from_bytes(&path[at.map_or(0, |at| at + 1)..]);
        let directory = make_directories(self.base, &path[..at.unwrap_or(0)], Links::Refuse)?;
        match rustix::fs::unlinkat(&directory, last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((directory, last)),
            Err(errno) => Err(ToolError::path(errno)),
        }
    }

    fn finish_directories(&self) -> Result<(), ToolError> {
        // The deepest first: a parent may be closed by its own mode.
        for (path, mode) in self.directories.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = self.base.open(path, flags, Links::Refuse).map_err(ToolError::path)?;
            rustix::fs::fchmod(&directory, *mode).map_err(ToolError::path)?;
        }
        Ok(())
    }
}

/// Opens a directory beneath `base`, making what is missing of it.
fn make_directories(base: &Beneath, path: &[u8], links: Links) -> Result<OwnedFd, ToolError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match base.open(path, flags, links) {
        Err(Errno::NOENT) => {}
        result => return result.map_err(ToolError::path),
    }
    let (above, last) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let parent = make_directories(base, above, links)?;
    match rustix::fs::mkdirat(&parent, OsStr::from_bytes(last), Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => base.open(path, flags, links).map_err(ToolError::path),
        Err(errno) => Err(ToolError::path(errno)),
    }
}

/// A path of the archive as one beneath the target: `.` and empty components dropped, `..` and `/` refused.
fn inside(path: &[u8]) -> Result<Vec<u8>, ToolError> {
    if path.len() > PATH_MAX || path.contains(&0) {
        return Err(ToolError::path(Errno::INVAL));
    }
    if path.starts_with(b"/") || path.split(|&byte| byte == b'/').any(|component| component == b"..") {
        return Err(ToolError::path(Errno::XDEV));
    }
    let components: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b".")).collect();
    Ok(components.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use tar::Header;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_path("x").expect("a short path");
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn entry(kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut bytes = [header(kind, content.len() as u64).as_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// Unpacks into a fresh directory; what is in it then.
    fn unpacked(stream: impl io::Read) -> (Result<(), ToolError>, Vec<String>) {
        let dir = tempfile::tempdir().expect("a directory");
        let base = Beneath::at(File::open(dir.path()).expect("open").into());
        let result = unpack(&base, b"", stream, &mut |_| Ok(()));
        let names = std::fs::read_dir(dir.path()).expect("list");
        let mut names: Vec<String> =
            names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        (result, names)
    }

    #[test]
    fn a_header_that_never_ends_is_refused_unread() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let mut stream =
                io::Cursor::new(header(kind, TRANSFER_MAX).as_bytes().to_vec()).chain(io::repeat(b'n').take(1 << 30));
            let (result, names) = unpacked(&mut stream);
            assert_eq!(result, Err(ToolError::new("limit", Errno::FBIG)), "{kind:?}");
            assert!(names.is_empty());
            let left = stream.into_inner().1.limit();
            assert!(left > (1 << 30) - (1 << 20), "{kind:?}: {left} bytes were left unread");
        }
    }

    #[test]
    fn headers_about_an_entry_name_it_once_and_not_out_of_the_target() {
        let archive = |headers: &[(EntryType, &[u8])]| {
            let headers = headers.iter().flat_map(|(kind, content)| entry(*kind, content));
            headers.chain(entry(EntryType::Regular, b"content")).chain([0; 1024]).collect::<Vec<u8>>()
        };
        let invalid = || Err(ToolError::new("data", Errno::INVAL));
        let long = &b"long\0"[..];
        for (headers, expected, name) in [
            (&[(EntryType::GNULongName, long)][..], Ok(()), "long"),
            (&[(EntryType::XHeader, b"12 path=pax\n")], Ok(()), "pax"),
            (&[(EntryType::XHeader, b"12 path=pax\n"), (EntryType::GNULongName, long)], Ok(()), "long"),
            (&[(EntryType::XHeader, b"12 path=pax\n"), (EntryType::XGlobalHeader, b"")], Ok(()), "pax"),
            (&[(EntryType::XHeader, b"10 size=7\n")], Ok(()), "x"),
            (&[(EntryType::XHeader, b"13 size=4096\n")], invalid(), ""),
            (&[(EntryType::XHeader, b"nonsense")], invalid(), ""),
            (&[(EntryType::GNULongName, long), (EntryType::GNULongName, long)], invalid(), ""),
            (&[(EntryType::XHeader, b"13 path=../x\n")], Err(ToolError::path(Errno::XDEV)), ""),
        ] {
            let (result, names) = unpacked(&archive(headers)[..]);
            assert_eq!(result, expected, "{headers:?}");
            assert_eq!(names.concat(), name, "{headers:?}");
        }
        let (result, _) = unpacked(&[entry(EntryType::GNULongName, long), vec![0; 1024]].concat()[..]);
        assert_eq!(result, invalid(), "a name of nothing");
    }

    #[test]
    fn paths_of_an_archive_stay_inside_or_are_refused() {
        for (path, expected) in [
            (&b"a"[..], Ok(&b"a"[..])),
            (b"./a//b/", Ok(b"a/b")),
            (b"./", Ok(b"")),
            (b"..a/b..", Ok(b"..a/b..")),
            (b"/etc/passwd", Err(Errno::XDEV)),
            (b"../a", Err(Errno::XDEV)),
            (b"a/../../b", Err(Errno::XDEV)),
            (b"a/..", Err(Errno::XDEV)),
            (b"a\0b", Err(Errno::INVAL)),
        ] {
            let found = inside(path);
            assert_eq!(found.map_err(|error| error.errno), expected.map(<[u8]>::to_vec), "{path:?}");
        }
    }
}
