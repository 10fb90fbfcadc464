//! The cache directory: one build at a time, and nothing half made survives.

use crate::debian::store::{Store, StoreError};
use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Reading or writing.
    #[error("using the cache directory {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The cache, locked for this process until it is dropped.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    _lock: fs::File,
}

impl Cache {
    /// Opens `directory`, made if it is not there; waits for another build to end, after saying so by `wait`.
    pub fn open(directory: &Path, wait: impl FnOnce()) -> Result<Self, CacheError> {
        fs::create_dir_all(directory).map_err(io_error(directory))?;
        let directory = directory.canonicalize().map_err(io_error(directory))?;
        let path = directory.join("lock");
        let lock = fs::File::create(&path).map_err(io_error(&path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            wait();
            flock(&lock, FlockOperation::LockExclusive).map_err(|errno| io_error(&path)(errno.into()))?;
        }
        let cache = Self { directory, _lock: lock };
        for part in ["debs", "lists", "root", "qemu", "acpi"] {
            let path = cache.directory.join(part);
            fs::create_dir_all(&path).map_err(io_error(&path))?;
            remove_partial(&path).map_err(io_error(&path))?;
        }
        Ok(cache)
    }

    /// Its path, absolute.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The downloaded packages.
    pub fn store(&self) -> Result<Store, CacheError> {
        Ok(Store::open(self.directory.join("debs"))?)
    }
}

/// What a build that was killed left: nobody else is at work, the lock is ours.
fn remove_partial(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".partial-") && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_is_removed_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["root/.partial-x/tree", "root/0123", "debs/.partial-y"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Cache::open(dir.path(), || {}).unwrap();
        assert!(dir.path().join("root/0123").exists());
        assert!(!dir.path().join("root/.partial-x").exists() && !dir.path().join("debs/.partial-y").exists());
    }
}
