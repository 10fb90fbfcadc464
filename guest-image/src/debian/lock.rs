//! `image.lock`: every Debian package that an image, its tools and its QEMU kit are made of, with version and SHA-256.
//!
//! JSON, sorted, one form only: the same packages give the same bytes. With it a build needs no package index, only the
//! packages; and whatever fetched them, they are the same bytes or they are refused.

use crate::digest::is_sha256;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The one version of the format.
const FORMAT: u32 = 1;
/// A lock is at most this long, in bytes.
pub const LOCK_MAX: usize = 1 << 20;

/// What a package is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// The guest's firmware.
    Firmware,
    /// The guest's kernel and its modules.
    Kernel,
    /// Debian's archive keyring, with which the indexes of newer suites are checked.
    Keyring,
    /// QEMU and its libraries, for the host.
    Qemu,
    /// The guest's root file system.
    Root,
    /// What makes the file systems, with its libraries, on the host that builds.
    Tools,
}

/// One package of the lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// What it is for.
    pub set: Set,
    /// Its name.
    pub name: String,
    /// Debian version, with epoch and revision.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// The suite whose signed index named it.
    pub suite: String,
    /// SHA-256 of the .deb, in lower-case hex.
    pub sha256: String,
    /// Size of the .deb in bytes.
    pub size: u64,
}

impl Package {
    /// Its file name in the package cache.
    pub fn file_name(&self) -> String {
        format!("{}_{}.deb", self.name, &self.sha256[..16])
    }
}

/// The parsed lock: checked, sorted, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    format: u32,
    packages: Vec<Package>,
    /// What else an image was made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<Source>,
}

/// Something that an image was made of and that is no package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What it is: `coffer-agent`, `coffer-tdx-shim`, `oci-manifest`.
    pub name: String,
    /// SHA-256 of its bytes, in lower-case hex.
    pub sha256: String,
}

/// What is wrong with a lock file.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not JSON of this shape.
    #[error(
        "expected an image.lock of format {FORMAT}, found something else: make it anew by a build without --locked"
    )]
    Json(#[from] serde_json::Error),
    /// JSON of this shape with a wrong content.
    #[error("expected {expected} in the image.lock, found {found}: make it anew by a build without --locked")]
    Content {
        /// What was expected.
        expected: &'static str,
        /// What was there.
        found: String,
    },
}

impl Lock {
    /// Makes a lock of packages in any order.
    pub fn new(mut packages: Vec<Package>) -> Self {
        packages.sort();
        packages.dedup();
        Self { format: FORMAT, packages, sources: Vec::new() }
    }

    /// The same packages, and these sources instead of those it had.
    #[must_use]
    pub fn with_sources(&self, mut sources: Vec<Source>) -> Self {
        sources.sort();
        Self { sources, ..self.clone() }
    }

    /// Without the packages of a set.
    #[must_use]
    pub fn without(&self, set: Set) -> Self {
        let packages = self.packages.iter().filter(|package| package.set != set).cloned().collect();
        Self { packages, ..self.clone() }
    }

    /// What an image was made of besides packages.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Parses the bytes of a lock file.
    pub fn parse(bytes: &[u8]) -> Result<Self, LockError> {
        if bytes.len() > LOCK_MAX {
            return Err(wrong("at most 1 MiB", format!("{} bytes", bytes.len())));
        }
        let lock: Self = serde_json::from_slice(bytes)?;
        if lock.format != FORMAT {
            return Err(wrong("format 1", format!("format {}", lock.format)));
        }
        for package in &lock.packages {
            check(package)?;
        }
        for Source { name, sha256 } in &lock.sources {
            if name.is_empty()
                || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
                || !is_sha256(sha256)
            {
                return Err(wrong("sources with a name and a SHA-256", format!("{name:?} {sha256:?}")));
            }
        }
        if !lock.sources.is_sorted_by(|one, other| one.name < other.name) {
            return Err(wrong("sources sorted by name, each once", "another order".into()));
        }
        if !lock.packages.is_sorted_by(|one, other| (one.set, &one.name) < (other.set, &other.name)) {
            return Err(wrong("packages sorted by set and name, each once", "another order".into()));
        }
        Ok(lock)
    }

    /// The bytes of the lock file.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serialising strings and numbers to memory cannot fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The packages of one set, by name.
    pub fn set(&self, set: Set) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(move |package| package.set == set)
    }

    /// All packages.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Identifies what is in one set: hex SHA-256 over the hashes of its packages.
    pub fn set_digest(&self, set: Set) -> String {
        let mut hash = Sha256::new();
        for package in self.set(set) {
            hash.update(package.sha256.as_bytes());
        }
        hex::encode(hash.finalize())
    }

    /// The version of the package called `name` in `set`.
    pub fn version(&self, set: Set, name: &str) -> Option<&str> {
        self.set(set).find(|package| package.name == name).map(|package| package.version.as_str())
    }
}

fn check(package: &Package) -> Result<(), LockError> {
    if !is_sha256(&package.sha256) {
        return Err(wrong("a SHA-256 of 64 lower-case hex digits", format!("{:?}", package.sha256)));
    }
    if !is_package_name(&package.name) {
        return Err(wrong("a Debian package name", format!("{:?}", package.name)));
    }
    let version = |byte: u8| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte);
    if !package.version.starts_with(|first: char| first.is_ascii_digit()) || !package.version.bytes().all(version) {
        return Err(wrong("a Debian version", format!("{:?}", package.version)));
    }
    if !["amd64", "all"].contains(&package.architecture.as_str()) {
        return Err(wrong("architecture amd64 or all", format!("{:?}", package.architecture)));
    }
    Ok(())
}

/// Names become arguments of apt and names of files.
#[must_use]
pub fn is_package_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(known)
}

fn wrong(expected: &'static str, found: String) -> LockError {
    LockError::Content { expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(set: Set, name: &str) -> Package {
        Package {
            set,
            name: name.into(),
            version: "1:2.0-1+deb13u1~x".into(),
            architecture: "amd64".into(),
            suite: "trixie".into(),
            sha256: "0a".repeat(32),
            size: 7,
        }
    }

    #[test]
    fn a_lock_is_the_same_bytes_whatever_the_order_and_reads_back() {
        let (a, b, c) = (package(Set::Root, "a"), package(Set::Root, "b"), package(Set::Firmware, "c"));
        let lock = Lock::new(vec![b.clone(), a.clone(), c.clone(), a.clone()]);
        assert_eq!(lock.to_bytes(), Lock::new(vec![c, a, b]).to_bytes());
        assert_eq!(Lock::parse(&lock.to_bytes()).unwrap(), lock);
        assert_eq!(lock.set(Set::Root).count(), 2);
    }

    #[test]
    fn a_changed_hash_changes_the_digest_of_its_set_alone() {
        let mut other = package(Set::Root, "a");
        other.sha256 = "0b".repeat(32);
        let one = Lock::new(vec![package(Set::Root, "a"), package(Set::Tools, "t")]);
        let two = Lock::new(vec![other, package(Set::Tools, "t")]);
        assert_ne!(one.set_digest(Set::Root), two.set_digest(Set::Root));
        assert_eq!(one.set_digest(Set::Tools), two.set_digest(Set::Tools));
    }

    #[test]
    fn the_sources_of_an_image_stand_in_its_lock_and_have_one_form() {
        let source = |name: &str, sha256: &str| Source { name: name.into(), sha256: sha256.into() };
        let hash = "0c".repeat(32);
        let lock = Lock::new(vec![package(Set::Root, "a")]);
        let with = lock.with_sources(vec![source("oci-manifest", &hash), source("coffer-agent", &hash)]);
        assert_eq!(Lock::parse(&with.to_bytes()).unwrap(), with);
        assert_eq!(with.sources()[0].name, "coffer-agent");
        assert_eq!(with.set_digest(Set::Root), lock.set_digest(Set::Root));
        assert!(
            !String::from_utf8(lock.to_bytes()).unwrap().contains("sources"),
            "an older lock reads and writes as before"
        );
        for odd in [vec![source("", &hash)], vec![source("a", "0c")], vec![source("A/b", &hash)]] {
            assert!(Lock::parse(&lock.with_sources(odd).to_bytes()).is_err());
        }
        let twice = lock.with_sources(vec![source("a", &hash), source("a", &hash)]);
        assert!(Lock::parse(&twice.to_bytes()).is_err());
    }

    #[test]
    fn a_lock_with_anything_odd_in_it_is_refused() {
        let good = package(Set::Root, "a");
        let odd = |change: &dyn Fn(&mut Package)| {
            let mut package = good.clone();
            change(&mut package);
            Lock { format: 1, packages: vec![package], sources: vec![] }.to_bytes()
        };
        assert!(Lock::parse(&odd(&|_| {})).is_ok());
        assert!(Lock::parse(&odd(&|package| package.name = "../x".into())).is_err());
        assert!(Lock::parse(&odd(&|package| package.name = "-o".into())).is_err());
        assert!(Lock::parse(&odd(&|package| package.version = "1 2".into())).is_err());
        assert!(Lock::parse(&odd(&|package| package.sha256 = "0A".repeat(32))).is_err());
        assert!(Lock::parse(&odd(&|package| package.architecture = "i386".into())).is_err());
        assert!(Lock::parse(br#"{"format":2,"packages":[]}"#).is_err());
        assert!(Lock::parse(br#"{"format":1,"packages":[],"x":1}"#).is_err());
        let two = vec![package(Set::Root, "b"), package(Set::Root, "a")];
        let unsorted = Lock { format: 1, packages: two, sources: vec![] };
        assert!(Lock::parse(&unsorted.to_bytes()).is_err());
    }
}
