//! The state directory: who may use it (one `cofferd` at a time, its owner alone), and where things are in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::file_kind::what_it_is;

/// The longest path of a unix socket in bytes, without the final zero.
pub(crate) const SOCKET_PATH_MAX: usize = 107;
/// The longest path below the state directory that a socket has: `/sessions/<uuid>/run/vsock.sock_1024`.
const SOCKET_BELOW_STATE: usize = "/sessions/".len() + 36 + "/run/vsock.sock_1024".len();

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("expected HOME or XDG_STATE_HOME to be an absolute path, found neither: set one, or use --state")]
    NoHome,
    #[error("{what} {} (give the state directory room and write access, or choose another with --state)", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected a directory or nothing at {}, found {found}: move it away, or choose another with --state", path.display())]
    InTheWay { path: PathBuf, found: &'static str },
    #[error(
        "expected the state directory {} to belong to uid {expected} alone, found owner {found} and mode {mode:o}: \
         choose another with --state, or chown and chmod 0700 it",
        path.display()
    )]
    NotOurs { path: PathBuf, expected: u32, found: u32, mode: u32 },
    #[error(
        "the state directory {} is in use by another cofferd{}: stop that one, or choose another with --state",
        path.display(),
        holder.as_deref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked { path: PathBuf, holder: Option<String> },
    #[error(
        "expected a state directory of at most {most} bytes, because unix sockets below it have at most \
         {SOCKET_PATH_MAX}; {} has {found}: choose a shorter one with --state",
        path.display()
    )]
    TooLong { path: PathBuf, most: usize, found: usize },
}

/// The state directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    _lock: File,
}

/// `/var/lib/coffer` as root, else `$XDG_STATE_HOME/coffer`.
pub(crate) fn default_state() -> Result<PathBuf, StateError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/coffer"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("coffer"))
        .ok_or(StateError::NoHome)
}

fn error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError::Io { what, path, source }
}

impl StateDir {
    /// Makes the directory if need be, insists that it is ours, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        // Before anything is made, and again by its real name.
        let named = std::path::absolute(path).map_err(error("expected to find the state directory", path))?;
        short_enough(&named)?;
        make_directory(path, "expected to make the state directory")?;
        let root = path.canonicalize().map_err(error("expected to find the state directory", path))?;
        short_enough(&root)?;
        let metadata = root.metadata().map_err(error("expected to look at the state directory", &root))?;
        let expected = rustix::process::geteuid().as_raw();
        if metadata.uid() != expected || metadata.mode() & 0o077 != 0 {
            let (found, mode) = (metadata.uid(), metadata.mode() & 0o7777);
            return Err(StateError::NotOurs { path: root, expected, found, mode });
        }
        let lock = lock(&root)?;
        for name in ["sessions", "evidence", "images"] {
            make_directory(&root.join(name), "expected to make the directory")?;
        }
        Ok(Self { root, _lock: lock })
    }

    /// `coffer.redb`
    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("coffer.redb")
    }

    /// `host.key`
    pub(crate) fn host_key(&self) -> PathBuf {
        self.root.join("host.key")
    }

    /// `evidence`
    pub(crate) fn evidence(&self) -> PathBuf {
        self.root.join("evidence")
    }

    /// `images`
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// `collateral`, which is made when there is something to keep in it
    pub(crate) fn collateral(&self) -> PathBuf {
        self.root.join("collateral")
    }

    /// `sessions`
    pub(crate) fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

fn short_enough(root: &Path) -> Result<(), StateError> {
    let most = SOCKET_PATH_MAX - SOCKET_BELOW_STATE;
    let found = root.as_os_str().len();
    if found > most { Err(StateError::TooLong { path: root.to_path_buf(), most, found }) } else { Ok(()) }
}

/// Makes a directory that may be there already.
fn make_directory(path: &Path, what: &'static str) -> Result<(), StateError> {
    let mut builder = std::fs::DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(source) => match path.symlink_metadata() {
            Ok(found) => Err(StateError::InTheWay { path: path.to_path_buf(), found: what_it_is(found.file_type()) }),
            Err(_) => Err(error(what, path)(source)),
        },
    }
}

fn lock(root: &Path) -> Result<File, StateError> {
    let path = root.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(error("expected to open the lock", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = std::fs::read_to_string(&path).ok().map(|text| text.trim().to_owned());
            return Err(StateError::Locked { path: root.to_path_buf(), holder: holder.filter(|h| !h.is_empty()) });
        }
        Err(errno) => return Err(error("expected to lock", &path)(errno.into())),
    }
    // Only for the message above; the lock itself is the kernel's.
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(error("expected to write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_second_cofferd_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let first = StateDir::open(&path).expect("first");
        assert_eq!(path.metadata().expect("state").permissions().mode() & 0o777, 0o700);
        let error = StateDir::open(&path).expect_err("second").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        StateDir::open(&path).expect("after the first is gone");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        std::fs::create_dir(&path).expect("mkdir");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(matches!(StateDir::open(&path), Err(StateError::NotOurs { mode: 0o755, .. })));
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_at_the_edge() {
        let dir = tempfile::Builder::new().prefix("s").tempdir_in("/tmp").expect("a directory");
        let base = dir.path().as_os_str().len() + 1;
        let most = SOCKET_PATH_MAX - SOCKET_BELOW_STATE;
        let fits = dir.path().join("x".repeat(most - base));
        StateDir::open(&fits).expect("at the edge");
        let over = dir.path().join("x".repeat(most - base + 1));
        assert!(matches!(StateDir::open(&over), Err(StateError::TooLong { .. })));
        assert!(!over.exists(), "nothing is made at a path that cannot serve");
    }
}
