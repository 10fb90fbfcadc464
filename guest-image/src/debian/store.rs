//! The cache of downloaded packages. A package is used only when its bytes have the SHA-256 of the lock; where they came
//! from does not matter then.

use super::apt::{Apt, AptError};
use super::lock::Package;
use crate::digest::sha256_file;
use crate::process::{self, CommandError};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// apt could not download.
    #[error(
        "downloading {count} Debian packages. Older versions leave the archive when newer ones arrive: if a package has \
         vanished, build without --locked, or name a mirror that keeps old packages with --mirror"
    )]
    Download {
        /// How many were asked for.
        count: usize,
        /// apt's error.
        #[source]
        source: AptError,
    },
    /// The archive gave another file under the same name and version.
    #[error(
        "expected {name} {version} with SHA-256 {expected}, found none with it among what the mirror gave: do not use this mirror, or build without --locked"
    )]
    Digest {
        /// Package name.
        name: String,
        /// Package version.
        version: String,
        /// The SHA-256 in the lock.
        expected: String,
    },
    /// Reading or writing the cache.
    #[error("using the package cache {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// dpkg-deb.
    #[error("unpacking {name}")]
    Unpack {
        /// Package name.
        name: String,
        /// dpkg-deb's error.
        #[source]
        source: CommandError,
    },
}

/// The cache directory of packages.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Uses `directory`, made if it is not there.
    pub fn open(directory: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir_all(&directory).map_err(io_error(&directory))?;
        Ok(Self { directory })
    }

    /// Those of `packages` that are not in the cache with the right length.
    pub fn missing<'a>(&self, packages: &'a [Package]) -> Vec<&'a Package> {
        let mut missing: Vec<_> = packages.iter().filter(|package| !self.has(package)).collect();
        missing.sort_by_key(|package| &package.sha256);
        missing.dedup_by_key(|package| &package.sha256);
        missing
    }

    fn has(&self, package: &Package) -> bool {
        fs::metadata(self.directory.join(package.file_name()))
            .is_ok_and(|file| file.is_file() && file.len() == package.size)
    }

    /// Downloads `packages` and takes in those whose bytes are the right ones.
    pub fn download(&self, apt: &Apt, packages: &[&Package]) -> Result<(), StoreError> {
        let partial = tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(&self.directory)
            .map_err(io_error(&self.directory))?;
        let names: Vec<String> =
            packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
        apt.download(partial.path(), &names).map_err(|source| StoreError::Download { count: names.len(), source })?;
        let mut arrived = HashMap::new();
        for entry in fs::read_dir(partial.path()).map_err(io_error(partial.path()))? {
            let path = entry.map_err(io_error(partial.path()))?.path();
            arrived.insert(sha256_of_file(&path)?, path);
        }
        for package in packages {
            let path = arrived.get(&package.sha256).ok_or_else(|| StoreError::Digest {
                name: package.name.clone(),
                version: package.version.clone(),
                expected: package.sha256.clone(),
            })?;
            fs::rename(path, self.directory.join(package.file_name())).map_err(io_error(path))?;
        }
        Ok(())
    }

    /// Unpacks `packages` over each other into `directory`, each checked first.
    pub fn unpack<'a>(&self, packages: impl Iterator<Item = &'a Package>, directory: &Path) -> Result<(), StoreError> {
        for package in packages {
            let path = self.checked(package)?;
            let mut command = Command::new("dpkg-deb");
            command.arg("-x").arg(&path).arg(directory).env("LC_ALL", "C");
            process::run(&mut command, "dpkg")
                .map_err(|source| StoreError::Unpack { name: package.name.clone(), source })?;
        }
        Ok(())
    }

    /// When `package` was built, in seconds since 1970: the time its archive's first member carries.
    pub fn built_at(&self, package: &Package) -> Result<u64, StoreError> {
        let path = self.checked(package)?;
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        Ok(member_time(&bytes))
    }

    fn checked(&self, package: &Package) -> Result<PathBuf, StoreError> {
        let path = self.directory.join(package.file_name());
        if sha256_of_file(&path)? == package.sha256 {
            return Ok(path);
        }
        // Damaged in the cache: the next build downloads it again.
        drop(fs::remove_file(&path));
        Err(StoreError::Digest {
            name: package.name.clone(),
            version: package.version.clone(),
            expected: package.sha256.clone(),
        })
    }
}

/// `ar`: `!<arch>\n`, then a header per member: name 16, modification time 12, ...
fn member_time(deb: &[u8]) -> u64 {
    let field = deb.get(24..36).and_then(|field| std::str::from_utf8(field).ok());
    field.and_then(|text| text.trim_end().parse().ok()).unwrap_or(0)
}

fn sha256_of_file(path: &Path) -> Result<String, StoreError> {
    sha256_file(path).map(hex::encode).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::lock::Set;
    use sha2::{Digest as _, Sha256};

    fn package(bytes: &[u8]) -> Package {
        Package {
            set: Set::Root,
            name: "some".into(),
            version: "1".into(),
            architecture: "all".into(),
            suite: "trixie".into(),
            sha256: hex::encode(Sha256::digest(bytes)),
            size: bytes.len() as u64,
        }
    }

    #[test]
    fn a_package_damaged_in_the_cache_is_refused_and_fetched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("debs")).unwrap();
        let wanted = package(b"right");
        let path = dir.path().join("debs").join(wanted.file_name());
        fs::write(&path, b"wrong").unwrap();
        let error = store.unpack([&wanted].into_iter(), dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Digest { .. }), "{error}");
        assert_eq!(store.missing(std::slice::from_ref(&wanted)).len(), 1, "the damaged file stayed");
    }

    #[test]
    fn the_time_of_a_package_is_read_from_its_archive_header() {
        let deb = b"!<arch>\ndebian-binary   1763000000  0     0     100644  4         `\n2.0\n";
        assert_eq!(member_time(deb), 1_763_000_000);
        assert_eq!(member_time(b"!<arch>\n"), 0);
    }
}
