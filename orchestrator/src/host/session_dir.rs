//! A session's directory on the host. Its files are root's; the session's uid may make sockets in it and read what it
//! is given, and cannot replace or remove what is not its own (sticky, like /tmp). Names are made once and never
//! followed through a link.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use coffer_evidence::ids::SessionId;

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

    /// Makes it. It must not exist: a session id serves once.
    pub(crate) fn create(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path)?;
        if let Some(uid) = self.uid {
            std::os::unix::fs::lchown(&self.path, None, Some(uid))?;
            std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o1770))?;
        }
        Ok(())
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

    /// Puts these bytes in place of a file of ours, whole or not at all.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = format!("{name}.new");
        match std::fs::remove_file(self.join(&fresh)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.create_file(&fresh, Readers::Host)?.write_all(bytes)?;
        std::fs::rename(self.join(&fresh), self.join(name))
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
