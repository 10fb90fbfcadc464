//! What an earlier `coffer-image build` has left in the user's cache: packages, and the tools unpacked from them.

#![allow(dead_code, reason = "each test uses its part")]

use coffer_image::cache::Cache;
use coffer_image::debian::lock::{Lock, Set};
use coffer_image::kit::Kit;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the command to its end.
pub(crate) fn coffer_image(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coffer-image")).args(arguments.iter().map(AsRef::as_ref)).output().unwrap()
}

/// The user's cache, where an earlier build has left packages and the lock that names them. Without it a test says so and
/// does nothing, or fails where the tests with guests are insisted on: `scripts/test` builds before it tests.
pub(crate) fn warm_cache() -> Option<PathBuf> {
    let cache = find();
    if cache.is_none() {
        let required = std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required");
        assert!(
            !required,
            "expected the packages of an earlier `coffer-image build` in the user's cache, found not all"
        );
        println!("NOT RUN: needs the packages of an earlier `coffer-image build` in the user's cache");
    }
    cache
}

fn find() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let cache = base.join("coffer");
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(lock_of(&cache)).ok()?).ok()?;
    let there = |package: &serde_json::Value| {
        let (name, hash) = (package["name"].as_str()?, package["sha256"].as_str()?);
        cache.join("debs").join(format!("{name}_{}.deb", &hash[..16])).exists().then_some(())
    };
    lock["packages"].as_array()?.iter().try_for_each(there)?;
    Some(cache)
}

pub(crate) fn lock_of(cache: &Path) -> PathBuf {
    cache.join("lists/resolved.lock")
}

/// A cache of the test's own with the packages of the warm one.
pub(crate) fn own_cache(directory: &Path, warm: &Path) -> PathBuf {
    let cache = directory.join("cache");
    fs::create_dir_all(&cache).unwrap();
    symlink(warm.join("debs"), cache.join("debs")).unwrap();
    cache
}

/// mkfs.erofs, zstd and xz of the package set, unpacked below `directory`.
pub(crate) fn tools(directory: &Path, warm: &Path) -> Kit {
    let cache = Cache::open(&own_cache(directory, warm), || ()).unwrap();
    let lock = Lock::parse(&fs::read(lock_of(warm)).unwrap()).unwrap();
    let target = cache.directory().join("root/tools-of-test");
    Kit::unpack(&lock, Set::Tools, &cache.store().unwrap(), target).unwrap().0
}
