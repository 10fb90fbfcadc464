//! The publisher's key: it signs image manifests, and whoever verifies pins its public half. Ed25519, kept as 64 hex
//! digits of seed in a file that only its owner can read; the public half lies beside it as `publisher.pub`.

use ed25519_dalek::SigningKey;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A key file is at most this long, in bytes.
const FILE_MAX: u64 = 1024;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// Reading or writing the file.
    #[error("using the publisher key {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not a key.
    #[error("expected 64 hex digits in the publisher key {}, found something else: restore it, or remove it to make a new key", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("expected the publisher key {} to be readable by its owner alone (mode 0600), found mode {mode:04o}: chmod 600 it, or make a new key if others used it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No randomness.
    #[error("expected randomness from the system, found none: {0}")]
    Random(getrandom::Error),
}

/// Whether the key was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Read from its file.
    Read,
    /// Made now.
    Made,
}

/// Reads the key in `path`, or makes one there.
pub fn key(path: &Path) -> Result<(SigningKey, Origin), PublisherError> {
    match read(path) {
        Err(PublisherError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = make(path)?;
            Ok((key, Origin::Made))
        }
        other => other.map(|key| (key, Origin::Read)),
    }
}

fn read(path: &Path) -> Result<SigningKey, PublisherError> {
    let file = fs::File::open(path).map_err(io_error(path))?;
    let metadata = file.metadata().map_err(io_error(path))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(PublisherError::Mode { path: path.into(), mode: metadata.mode() & 0o7777 });
    }
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(file, FILE_MAX), &mut text).map_err(io_error(path))?;
    let mut seed = Zeroizing::new([0_u8; 32]);
    hex::decode_to_slice(text.trim_end(), &mut seed[..]).map_err(|_| PublisherError::Format { path: path.into() })?;
    Ok(SigningKey::from_bytes(&seed))
}

fn make(path: &Path) -> Result<SigningKey, PublisherError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(io_error(directory))?;
    }
    let mut seed = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut seed[..]).map_err(PublisherError::Random)?;
    let key = SigningKey::from_bytes(&seed);
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex::encode(&seed[..]))));
    // create_new: of two programs that start at once, one makes the key and the other fails with "exists".
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error(path))?;
    let public = path.with_extension("pub");
    fs::write(&public, format!("{}\n", hex::encode(key.verifying_key().as_bytes()))).map_err(io_error(&public))?;
    Ok(key)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PublisherError {
    let path = path.to_owned();
    move |source| PublisherError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_kept_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/publisher.key");
        let (made, origin) = key(&path).unwrap();
        assert_eq!(origin, Origin::Made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let (read, origin) = key(&path).unwrap();
        assert_eq!((read.to_bytes(), origin), (made.to_bytes(), Origin::Read));
        let public = fs::read_to_string(dir.path().join("new/publisher.pub")).unwrap();
        assert_eq!(public.trim_end(), hex::encode(made.verifying_key().as_bytes()));
    }

    #[test]
    fn a_key_others_can_read_or_that_is_none_is_refused_and_its_bytes_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("publisher.key");
        key(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(key(&path), Err(PublisherError::Mode { mode: 0o640, .. })));
        fs::write(&path, "secret but no key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = key(&path).unwrap_err();
        assert!(matches!(error, PublisherError::Format { .. }));
        assert!(!error.to_string().contains("secret"));
    }
}
