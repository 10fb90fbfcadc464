//! A session's directory on the host. It is `cofferd`'s alone: no process of the session sees it. Beside the files in it
//! is `run`, which those processes do see: sockets and the console, nothing that is ever read by its name. For a session
//! with a uid of its own `run` is a small file system in memory, so that a hostile machine can fill only that.

use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use coffer_evidence::ids::SessionId;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Name of the part that the session's processes see.
const RUN: &str = "run";
/// What they can put there: a few sockets.
const RUN_LIMITS: &str = "size=256k,nr_inodes=64";

/// The directory of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionDir {
    path: PathBuf,
    uid: Option<u32>,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// `cofferd` alone.
    Host,
    /// The session's processes, too.
    Session,
}

impl SessionDir {
    /// Where it is; makes nothing.
    pub(crate) fn at(sessions: &Path, id: SessionId, uid: Option<u32>) -> Self {
        Self { path: sessions.join(id.to_string()), uid }
    }

    /// Makes it and `run`. It must not exist: a session id serves once.
    pub(crate) fn create(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.create(&self.path)?;
        builder.create(self.run())?;
        if let Some(uid) = self.uid {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            // Sticky: the session's processes make sockets in it, and replace none of ours.
            let options = CString::new(format!("mode=1770,uid=0,gid={uid},{RUN_LIMITS}"))?;
            mount("coffer", self.run(), "tmpfs", flags, Some(options.as_c_str()))?;
        }
        Ok(())
    }

    /// Removes it with all that is in it. Nothing to do when it is not there.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match unmount(self.run(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Not mounted, or not there, or not ours to unmount: then it is a directory like others.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The part that the session's processes see.
    pub(crate) fn run(&self) -> PathBuf {
        self.path.join(RUN)
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a file that is not there yet.
    pub(crate) fn create_file(&self, name: &str, readers: Readers) -> io::Result<File> {
        let path = self.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        if let (Readers::Session, Some(uid)) = (readers, self.uid) {
            std::os::unix::fs::fchown(&file, None, Some(uid))?;
            file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
        }
        Ok(file)
    }

    /// Makes a file with these bytes, on disk before this returns.
    pub(crate) fn write_new(&self, name: &str, bytes: &[u8], readers: Readers) -> io::Result<()> {
        let mut file = self.create_file(name, readers)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// The same, in place of one that an earlier life of this process made.
    pub(crate) fn write_anew(&self, name: &str, bytes: &[u8], readers: Readers) -> io::Result<()> {
        remove_if_there(&self.join(name))?;
        self.write_new(name, bytes, readers)
    }

    /// A file of ours that an earlier life of this process made, at its end, and what is in it.
    pub(crate) fn reopen(&self, name: &str) -> io::Result<(File, Vec<u8>)> {
        let mut file = OpenOptions::new().read(true).append(true).open(self.join(name))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((file, bytes))
    }

    /// Puts these bytes in place of a file of ours, whole or not at all.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = format!("{name}.new");
        remove_if_there(&self.join(&fresh))?;
        self.create_file(&fresh, Readers::Host)?.write_all(bytes)?;
        std::fs::rename(self.join(&fresh), self.join(name))
    }
}

/// Removes a name, and follows no link. One that is not there is removed already.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, SessionDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let session = SessionDir::at(dir.path(), SessionId::new([7; 16]), None);
        session.create().expect("create");
        (dir, session)
    }

    #[test]
    fn a_session_directory_and_its_files_are_made_once() {
        let (_dir, session) = directory();
        assert_eq!(session.create().expect_err("twice").kind(), io::ErrorKind::AlreadyExists);
        session.write_new("boot.img", b"x", Readers::Session).expect("write");
        let again = session.write_new("boot.img", b"y", Readers::Session);
        assert_eq!(again.expect_err("twice").kind(), io::ErrorKind::AlreadyExists);
        session.replace("note", b"1").expect("first");
        session.replace("note", b"2").expect("second");
        assert_eq!(std::fs::read(session.join("note")).expect("read"), b"2");
    }

    #[test]
    fn what_the_session_sees_is_small_its_own_and_gone_with_the_rest() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: only root can mount");
            return;
        }
        let root = tempfile::tempdir().expect("a directory");
        let session = SessionDir::at(root.path(), SessionId::new([8; 16]), Some(200_007));
        session.create().expect("create");
        let filled = std::fs::write(session.run().join("big"), vec![1; 1 << 20]);
        assert_eq!(filled.expect_err("it is small").kind(), io::ErrorKind::StorageFull);
        let mode = session.run().metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o1770);
        assert_eq!(session.path().metadata().expect("there").permissions().mode() & 0o777, 0o700);
        session.remove().expect("remove");
        assert!(!session.path().exists());
        session.remove().expect("nothing left to do");
    }

    #[test]
    fn a_link_laid_in_the_way_is_not_followed() {
        let (dir, session) = directory();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, b"precious").expect("write");
        for name in ["leaves", "note.new"] {
            std::os::unix::fs::symlink(&victim, session.join(name)).expect("link");
        }
        assert!(session.create_file("leaves", Readers::Host).is_err());
        session.replace("note", b"n").expect("the link is removed, not followed");
        assert_eq!(std::fs::read(&victim).expect("read"), b"precious");
    }
}
