//! The host key: signs receipts, named in every configuration. One line of hex in `host.key`, made on first use.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// Why there is no host key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostKeyError {
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected the host key {} to be a file of 64 hex digits, found another form: restore it, or move it away for a new one", path.display())]
    Form { path: PathBuf },
    #[error("expected the host key {} to be readable by its owner alone (mode 600), found mode {found:o}: whoever read it can sign receipts; chmod 600 it, or move it away for a new one", path.display())]
    Mode { path: PathBuf, found: u32 },
    #[error("the system gave no randomness")]
    Random,
}

/// Where a key came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was there.
    Kept,
    /// It was made just now.
    Made,
}

/// Reads the key, or makes it.
pub(crate) fn load_or_make(path: &Path) -> Result<(SigningKey, Origin), HostKeyError> {
    let error = |what| {
        let path = path.to_path_buf();
        move |source| HostKeyError::Io { what, path, source }
    };
    match File::open(path) {
        Ok(file) => read(path, file).map(|key| (key, Origin::Kept)),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            let mut seed = Zeroizing::new([0_u8; 32]);
            getrandom::fill(seed.as_mut_slice()).map_err(|_| HostKeyError::Random)?;
            let text = Zeroizing::new(format!("{}\n", hex::encode(seed.as_slice())));
            // Whole or not at all: a torn key would be refused for ever.
            let fresh = path.with_extension("key.new");
            let _ = std::fs::remove_file(&fresh);
            let _unfinished = RemoveOnDrop(&fresh);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&fresh)
                .map_err(error("expected to make"))?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(error("expected to write"))?;
            std::fs::rename(&fresh, path).map_err(error("expected to put in place"))?;
            tracing::info!(path = %path.display(), "made a host key");
            Ok((SigningKey::from_bytes(&seed), Origin::Made))
        }
        Err(source) => Err(error("expected to open")(source)),
    }
}

/// A key that is not in place is nobody's; once it is, there is nothing under this name.
struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

fn read(path: &Path, file: File) -> Result<SigningKey, HostKeyError> {
    let form = || HostKeyError::Form { path: path.to_path_buf() };
    let metadata = file.metadata().map_err(|_| form())?;
    let mode = metadata.mode() & 0o7777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(HostKeyError::Mode { path: path.to_path_buf(), found: mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(128).read_to_string(&mut text).map_err(|_| form())?;
    let mut seed = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim_end(), seed.as_mut_slice()).map_err(|_| form())?;
    Ok(SigningKey::from_bytes(&seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("host.key");
        let (first, origin) = load_or_make(&path).expect("made");
        assert_eq!(origin, Origin::Made);
        let (again, origin) = load_or_make(&path).expect("read");
        assert_eq!((again.to_bytes(), origin), (first.to_bytes(), Origin::Kept));
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1, "nothing is left of the making");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(load_or_make(&path), Err(HostKeyError::Mode { found: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, "not a key").expect("write");
        assert!(matches!(load_or_make(&path), Err(HostKeyError::Form { .. })));
    }
}
