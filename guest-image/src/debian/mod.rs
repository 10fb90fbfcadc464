//! Debian packages without root and without touching the host's package state: which ones, from where, and their bytes.

pub mod apt;
pub mod deb822;
pub mod lock;
pub mod mirror;
pub mod resolve;
pub mod store;

use apt::{Apt, Expiry, Suite, Updated};
use lock::{Lock, Set};
use mirror::Mirror;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use store::Store;

/// The keyring that every Debian has; the chain of trust starts here.
const HOST_KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];
/// The suite that the host's keyring must know: it brings the newest keyring, which knows the others.
const FIRST: [Suite; 1] = [Suite { name: "trixie", priority: 500 }];
/// Backports are chosen only where asked for, forky only by name.
const SUITES: [Suite; 5] = [
    Suite { name: "trixie", priority: 500 },
    Suite { name: "trixie-updates", priority: 500 },
    Suite { name: "trixie-security", priority: 500 },
    Suite { name: "trixie-backports", priority: 100 },
    Suite { name: "forky", priority: -1 },
];

/// A keyring younger than this is used as it is: keys are added years before they sign alone.
const KEYRING_FRESH: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why Debian's packages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// The host names no Debian mirror.
    #[error(
        "expected a Debian archive in /etc/apt/sources.list or /etc/apt/sources.list.d, found none: name one with --mirror URL"
    )]
    NoMirror,
    /// The host has no Debian keyring.
    #[error("expected Debian's archive keyring at {}, found none: install debian-archive-keyring", HOST_KEYRINGS[0])]
    NoKeyring,
    /// See [`apt::AptError`].
    #[error(transparent)]
    Apt(#[from] apt::AptError),
    /// See [`resolve::ResolveError`].
    #[error(transparent)]
    Resolve(#[from] resolve::ResolveError),
    /// See [`store::StoreError`].
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

/// Access to the archive, set up when it is first needed: a build whose packages are all in the cache needs none.
#[derive(Debug)]
pub struct Archive {
    lists: PathBuf,
    mirror: Option<String>,
    store: Store,
    expiry: Expiry,
}

impl Archive {
    /// Keeps indexes in `lists` and packages in `store`. `mirror` replaces the host's own.
    pub fn new(lists: PathBuf, mirror: Option<String>, store: Store, expiry: Expiry) -> Self {
        Self { lists, mirror, store, expiry }
    }

    /// The newest packages, as the archive's indexes name them; the indexes are at most a day old.
    ///
    /// `added` go into the root besides its own packages.
    pub fn resolve(&self, added: &[String]) -> Result<Lock, DebianError> {
        let (apt, updated) = self.apt()?;
        let remembered = self.lists.join(remembered_name(added));
        if updated == Updated::NotNeeded
            && let Some(lock) = fs::read(&remembered).ok().and_then(|bytes| Lock::parse(&bytes).ok())
        {
            return Ok(lock);
        }
        let lock = resolve::resolve(&apt, added)?;
        // Only a memory of what the same indexes gave: without it the next build asks apt again.
        drop(fs::write(&remembered, lock.to_bytes()));
        Ok(lock)
    }

    /// Puts every package of `lock` into the store.
    pub fn fetch(&self, lock: &Lock) -> Result<Fetched, DebianError> {
        let missing = self.store.missing(lock.packages());
        if missing.is_empty() {
            return Ok(Fetched { packages: 0, bytes: 0 });
        }
        let (apt, _) = self.apt()?;
        self.store.download(&apt, &missing)?;
        Ok(Fetched { packages: missing.len(), bytes: missing.iter().map(|package| package.size).sum() })
    }

    /// apt with fresh lists of all suites. The host's keyring vouches for trixie, whose own keyring package vouches for
    /// the rest: an older host does not know the keys of suites that came after it.
    fn apt(&self) -> Result<(Apt, Updated), DebianError> {
        let mirror = self.mirror()?;
        let keyring = self.lists.join("debian-archive-keyring.gpg");
        if !younger_than(&keyring, KEYRING_FRESH) {
            let host = HOST_KEYRINGS.iter().map(Path::new).find(|path| path.exists()).ok_or(DebianError::NoKeyring)?;
            let first = Apt::prepare(&self.lists.join("first"), &mirror, &FIRST, host, self.expiry)?;
            first.update()?;
            self.take_keyring(&first, &keyring)?;
        }
        let apt = Apt::prepare(&self.lists.join("all"), &mirror, &SUITES, &keyring, self.expiry)?;
        let updated = apt.update()?;
        Ok((apt, updated))
    }

    fn take_keyring(&self, first: &Apt, keyring: &Path) -> Result<(), DebianError> {
        let lock = resolve::resolve_keyring(first)?;
        self.store.download(first, &self.store.missing(lock.packages()))?;
        let io = |source| store::StoreError::Io { path: keyring.into(), source };
        let unpacked = tempfile::tempdir_in(&self.lists).map_err(io)?;
        self.store.unpack(lock.set(Set::Keyring), unpacked.path())?;
        let names = HOST_KEYRINGS.iter().map(|path| unpacked.path().join(path.trim_start_matches('/')));
        let found = names.into_iter().find(|path| path.exists()).ok_or(DebianError::NoKeyring)?;
        fs::copy(found, keyring).map_err(io)?;
        Ok(())
    }

    fn mirror(&self) -> Result<Mirror, DebianError> {
        if let Some(archive) = &self.mirror {
            return Ok(Mirror { archive: archive.trim_end_matches('/').to_owned(), security: None });
        }
        let read = |path: &Path| fs::read_to_string(path).ok();
        let parts = |extension: &str| {
            let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
            let mut paths: Vec<_> = entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|e| e == extension))
                .collect();
            paths.sort();
            paths.iter().filter_map(|path| read(path)).collect::<Vec<_>>()
        };
        let mut lists = parts("list");
        lists.splice(0..0, read(Path::new("/etc/apt/sources.list")));
        mirror::find(&lists, &parts("sources")).ok_or(DebianError::NoMirror)
    }
}

/// The name of the lock that an earlier run with the same packages left.
fn remembered_name(added: &[String]) -> String {
    if added.is_empty() {
        return "resolved.lock".into();
    }
    format!("resolved-{}.lock", &hex::encode(Sha256::digest(added.join(" ")))[..16])
}

fn younger_than(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|file| file.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|found| found < age))
}

/// What a fetch brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Packages that were not in the cache.
    pub packages: usize,
    /// Their size in bytes.
    pub bytes: u64,
}
