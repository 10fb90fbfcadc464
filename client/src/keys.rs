//! The user's keys in `$XDG_CONFIG_HOME/coffer`: `owner.key` signs intents, `identity.key` and `identity-NAME.key` will sign
//! calls, each as one identity of a session. A key file is one line, 64 hex digits of the Ed25519 seed, mode 0600. Made on first use.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use coffer_evidence::ids::Identity;
use coffer_evidence::sign::PublicKey;
use ed25519_dalek::SigningKey;
use thiserror::Error;
use zeroize::Zeroizing;

/// Which of the user's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyName {
    /// Signs intents.
    Owner,
    /// The key of an identity, in every session that has one of that name.
    Identity(Identity),
}

impl KeyName {
    fn file(&self) -> String {
        match self {
            Self::Owner => "owner.key".to_owned(),
            Self::Identity(name) if *name == Identity::default_name() => "identity.key".to_owned(),
            Self::Identity(name) => format!("identity-{name}.key"),
        }
    }
}

/// Whether the key was there or had to be made: the caller tells the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Found,
    /// It was made now, in this file.
    Made(PathBuf),
}

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// No place for it.
    #[error("expected XDG_CONFIG_HOME or HOME to be set, found neither")]
    NoHome,
    /// Others could read it.
    #[error("expected {} to be readable by its owner alone, found mode {mode:04o}: run chmod 600 on it, and make a new key if others may have read it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error("expected 64 hex digits in {}, found something else", .0.display())]
    Form(PathBuf),
    /// File system.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No randomness.
    #[error("expected randomness from the kernel, found none")]
    Random,
}

/// The directory of the keys.
///
/// # Errors
/// [`KeyError::NoHome`].
pub fn directory() -> Result<PathBuf, KeyError> {
    let config = match std::env::var_os("XDG_CONFIG_HOME").filter(|d| !d.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").ok_or(KeyError::NoHome)?).join(".config"),
    };
    Ok(config.join("coffer"))
}

/// Reads the key, or makes it.
///
/// # Errors
/// [`KeyError`].
pub fn load_or_make(directory: &Path, name: &KeyName) -> Result<(SigningKey, Origin), KeyError> {
    let path = directory.join(name.file());
    match OpenOptions::new().read(true).open(&path) {
        Ok(mut file) => Ok((read(&path, &mut file)?, Origin::Found)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match make(directory, &path)? {
            Some(key) => Ok((key, Origin::Made(path))),
            // Another program was faster: there is one key, and this is it.
            None => open(&path).map(|key| (key, Origin::Found)),
        },
        Err(source) => Err(KeyError::Io { what: "open", path, source }),
    }
}

fn open(path: &Path) -> Result<SigningKey, KeyError> {
    let file = OpenOptions::new().read(true).open(path);
    read(path, &mut file.map_err(|source| KeyError::Io { what: "open", path: path.to_owned(), source })?)
}

/// The public half alone.
///
/// # Errors
/// [`KeyError`].
pub fn public(directory: &Path, name: &KeyName) -> Result<(PublicKey, Origin), KeyError> {
    load_or_make(directory, name).map(|(key, origin)| (PublicKey::of(&key), origin))
}

fn read(path: &Path, file: &mut std::fs::File) -> Result<SigningKey, KeyError> {
    let io = |what| move |source| KeyError::Io { what, path: path.to_owned(), source };
    let mode = file.metadata().map_err(io("stat"))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text).map_err(io("read"))?;
    let form = || KeyError::Form(path.to_owned());
    let mut seed = Zeroizing::new([0; 32]);
    hex_seed(text.trim_end_matches('\n'), &mut seed).ok_or_else(form)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn hex_seed(text: &str, seed: &mut [u8; 32]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(nibble(*high)? << 4 | nibble(*low)?).ok()?;
    }
    Some(())
}

/// Makes a key in a file that appears whole or not at all; `None` when the name was taken meanwhile.
fn make(directory: &Path, path: &Path) -> Result<Option<SigningKey>, KeyError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| KeyError::Io { what, path, source }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("make", directory))?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|_| KeyError::Random)?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in seed.iter() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    let fresh = directory.join(format!(".{}", uuid::Uuid::new_v4()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(io("make", &fresh))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // Unlike a rename, a link never takes the place of what is there.
    let named = written.and_then(|()| std::fs::hard_link(&fresh, path));
    let removed = std::fs::remove_file(&fresh);
    match named {
        Ok(()) => removed.map_err(io("remove", &fresh)).map(|()| Some(SigningKey::from_bytes(&seed))),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(io("write", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("coffer");
        let (made, origin) = load_or_make(&dir, &KeyName::Owner).expect("a new key");
        assert_eq!(origin, Origin::Made(dir.join("owner.key")));
        let mode = std::fs::metadata(dir.join("owner.key")).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (again, origin) = load_or_make(&dir, &KeyName::Owner).expect("the same key");
        assert_eq!((made.to_bytes(), origin), (again.to_bytes(), Origin::Found));
        let mut keys = vec![made.to_bytes()];
        for (name, file) in [("default", "identity.key"), ("reviewer", "identity-reviewer.key")] {
            let name = KeyName::Identity(Identity::new(name).expect("a name"));
            let (other, origin) = load_or_make(&dir, &name).expect("another key");
            assert_eq!(origin, Origin::Made(dir.join(file)));
            assert!(!keys.contains(&other.to_bytes()));
            keys.push(other.to_bytes());
        }
    }

    #[test]
    fn a_link_to_nowhere_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("nowhere", dir.path().join("owner.key")).expect("a link");
        assert!(matches!(load_or_make(dir.path(), &KeyName::Owner), Err(KeyError::Io { .. })));
    }

    #[test]
    fn many_at_once_make_one_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let make = || load_or_make(dir.path(), &KeyName::Owner).expect("a key").0.to_bytes();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        load_or_make(dir.path(), &KeyName::Owner).expect("a new key");
        let path = dir.path().join("owner.key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(load_or_make(dir.path(), &KeyName::Owner), Err(KeyError::Exposed { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        for text in ["", "zz", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            std::fs::write(&path, text).expect("write");
            assert!(matches!(load_or_make(dir.path(), &KeyName::Owner), Err(KeyError::Form(_))), "{text:?}");
        }
    }
}
