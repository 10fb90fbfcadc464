//! The unix socket of the API: where it is, who may have it, and that it goes with its owner. Nothing of it is served here.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::file_kind::what_it_is;
use super::state_dir::SOCKET_PATH_MAX;

/// What the name gets while the socket is not ready yet.
const FRESH: &str = ".new";

/// Why the API cannot be listened for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("expected XDG_RUNTIME_DIR to be an absolute path: set it, or name a socket with --socket")]
    NoRuntimeDirectory,
    #[error("the socket {} is in use by another cofferd: stop that one, or name another with --socket", path.display())]
    InUse { path: PathBuf },
    #[error(
        "expected a socket or nothing at {}, found {found}: move it away, or name another with --socket",
        path.display()
    )]
    InTheWay { path: PathBuf, found: &'static str },
    #[error(
        "expected a socket's path of at most {most} bytes, {} has {found}: name a shorter one with --socket",
        path.display()
    )]
    TooLong { path: PathBuf, most: usize, found: usize },
    #[error("{what} {} (or name another with --socket)", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The socket, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ApiSocket(PathBuf);

impl Drop for ApiSocket {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// `/run/coffer/cofferd.sock` as root, else `$XDG_RUNTIME_DIR/coffer/cofferd.sock`.
pub(crate) fn default_path() -> Result<PathBuf, ListenError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/run/coffer/cofferd.sock"));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.map(|path| path.join("coffer/cofferd.sock")).ok_or(ListenError::NoRuntimeDirectory)
}

/// Listens; a socket that an earlier life left behind makes way, one that somebody answers on and everything else does not.
pub(crate) async fn listen(path: &Path) -> Result<(UnixListener, ApiSocket), ListenError> {
    let failed = |what| {
        let path = path.to_path_buf();
        move |source| ListenError::Io { what, path, source }
    };
    let (most, found) = (SOCKET_PATH_MAX - FRESH.len(), path.as_os_str().len());
    if found > most {
        return Err(ListenError::TooLong { path: path.to_path_buf(), most, found });
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("expected to make the directory of the socket"))?;
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("expected to look at the socket")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            let found = what_it_is(found.file_type());
            return Err(ListenError::InTheWay { path: path.to_path_buf(), found });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(ListenError::InUse { path: path.to_path_buf() }),
            // Nobody listens: any other answer does not say that.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed("expected to remove the stale socket"))?;
            }
            Err(error) => return Err(failed("expected to learn whether anybody listens on")(error)),
        },
    }
    // Ready with its mode before anybody can find it by its name.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(FRESH);
    let fresh = PathBuf::from(fresh);
    drop(std::fs::remove_file(&fresh));
    let listener = UnixListener::bind(&fresh).map_err(failed("expected to listen on"))?;
    let unfinished = ApiSocket(fresh.clone());
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660)).map_err(failed("expected to chmod"))?;
    std::fs::rename(&fresh, path).map_err(failed("expected to put in place"))?;
    // Its name is another now: there is nothing left to remove.
    drop(unfinished);
    Ok((listener, ApiSocket(path.to_path_buf())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_makes_way_and_a_live_one_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/cofferd.sock");
        let (first, socket) = listen(&path).await.expect("listen");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o660);
        assert!(matches!(listen(&path).await, Err(ListenError::InUse { .. })));
        drop(first);
        std::mem::forget(socket);
        let (_second, socket) = listen(&path).await.expect("the stale one is replaced");
        drop(socket);
        assert_eq!(std::fs::read_dir(dir.path().join("run")).expect("read").count(), 0, "nothing is left of it");
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_where_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "precious").expect("write");
        std::os::unix::fs::symlink(&file, &link).expect("link");
        for (path, kind) in [(&file, "a file"), (&link, "a symbolic link"), (&dir.path().to_path_buf(), "a directory")]
        {
            let refused = listen(path).await;
            assert!(
                matches!(refused, Err(ListenError::InTheWay { found, .. }) if found == kind),
                "{kind}: {refused:?}"
            );
        }
        assert_eq!(std::fs::read(&file).expect("read"), b"precious");
    }

    #[tokio::test]
    async fn a_path_too_long_is_refused_at_the_edge() {
        let dir = tempfile::Builder::new().prefix("s").tempdir_in("/tmp").expect("a directory");
        let most = SOCKET_PATH_MAX - FRESH.len();
        let of = |length: usize| dir.path().join("x".repeat(length - dir.path().as_os_str().len() - 1));
        listen(&of(most)).await.expect("at the edge");
        assert!(matches!(listen(&of(most + 1)).await, Err(ListenError::TooLong { .. })));
    }
}
