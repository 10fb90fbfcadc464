//! The guest's root file system: Debian packages made into an erofs image with a dm-verity tree beside it.
//! The same packages give the same bytes, whoever builds and wherever.

mod accounts;
pub mod tree;

use crate::debian::lock::{Lock, Set};
use crate::debian::store::{Store, StoreError};
use crate::kit::{Kit, KitError, Made};
use crate::oci::{Dropped, OciError, OciImage};
use crate::verity::{self, VerityError};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

/// Raised whenever the same packages would give another root: it is part of the cache key.
const RECIPE: &str = "3";
const MKFS: &str = "usr/bin/mkfs.erofs";
/// The file system's UUID, fixed so that the bytes are.
const UUID: &str = "636f6666-6572-2d72-6f6f-742d76310000";
/// All that decides about the bytes besides the tree. Two workers, whatever the machine has: their number decides how
/// large files are cut.
const OPTIONS: [&str; 6] = ["-zlz4hc", "-T0", "-x-1", "--all-root", "--workers=2", "--quiet"];

/// Why the root file system could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// See [`tree::TreeError`].
    #[error(transparent)]
    Tree(#[from] tree::TreeError),
    /// See [`KitError`].
    #[error(transparent)]
    Kit(#[from] KitError),
    /// See [`OciError`].
    #[error(transparent)]
    Oci(#[from] OciError),
    /// See [`VerityError`].
    #[error(transparent)]
    Verity(#[from] VerityError),
    /// Reading or writing.
    #[error("building the root file system in {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A root file system in the cache.
#[derive(Debug)]
pub struct Root {
    directory: PathBuf,
    /// The root hash of its verity tree.
    pub hash: [u8; 32],
    /// What was left out of an OCI image, if it was unpacked in this run.
    pub dropped: Dropped,
}

impl Root {
    /// The erofs image.
    pub fn erofs(&self) -> PathBuf {
        self.directory.join("root.erofs")
    }

    /// Superblock and hash tree.
    pub fn verity(&self) -> PathBuf {
        self.directory.join("root.verity")
    }
}

/// What a root is made of.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// The packages of the lock.
    Packages,
    /// The layers of an image of another kind, and nothing else.
    Oci(&'a OciImage),
}

/// Builds the root of `lock`'s packages, or of an OCI image, under `cache`/root, or takes the one that is there.
pub fn build(
    lock: &Lock,
    content: Content<'_>,
    store: &Store,
    tools: &Kit,
    cache: &Path,
) -> Result<(Root, Made), RootError> {
    let mut key = Sha256::new();
    let made_of = match content {
        Content::Packages => lock.set_digest(Set::Root),
        Content::Oci(image) => format!("oci {}", image.manifest_digest()),
    };
    for part in [RECIPE, &made_of, &lock.set_digest(Set::Tools)] {
        key.update(part);
    }
    let directory = cache.join("root").join(&hex::encode(key.finalize())[..16]);
    if let Some(hash) = remembered_hash(&directory) {
        return Ok((Root { directory, hash, dropped: Dropped::default() }, Made::Before));
    }
    let parent = cache.join("root");
    fs::create_dir_all(&parent).map_err(io_error(&parent))?;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&parent).map_err(io_error(&parent))?;
    let tree = partial.path().join("tree");
    fs::create_dir(&tree).map_err(io_error(&tree))?;
    let dropped = match content {
        Content::Packages => {
            store.unpack(lock.set(Set::Root), &tree)?;
            tree::finish(&tree)?;
            Dropped::default()
        }
        Content::Oci(image) => {
            let dropped = image.unpack(&tree)?;
            tree::adapt(&tree)?;
            dropped
        }
    };
    let image = partial.path().join("root.erofs");
    let mut mkfs = tools.command(MKFS);
    mkfs.args(OPTIONS).arg("-U").arg(UUID).arg(&image).arg(&tree);
    tools.run(&mut mkfs)?;
    fs::remove_dir_all(&tree).map_err(io_error(&tree))?;
    let hash = hash_image(&image, &partial.path().join("root.verity"))?;
    let text = partial.path().join("root.hash");
    fs::write(&text, hex::encode(hash)).map_err(io_error(&text))?;
    drop(fs::remove_dir_all(&directory));
    fs::rename(partial.keep(), &directory).map_err(io_error(&directory))?;
    Ok((Root { directory, hash, dropped }, Made::Now))
}

/// Writes the verity tree of the file `image` to `tree` and gives back its root hash.
pub fn hash_image(image: &Path, tree: &Path) -> Result<[u8; 32], RootError> {
    let data = fs::File::open(image).map_err(io_error(image))?;
    let out = fs::File::create(tree).map_err(io_error(tree))?;
    Ok(verity::build(BufReader::with_capacity(1 << 20, data), BufWriter::new(out))?)
}

fn remembered_hash(directory: &Path) -> Option<[u8; 32]> {
    let text = fs::read_to_string(directory.join("root.hash")).ok()?;
    hex::decode(text).ok()?.try_into().ok()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |source| RootError::Io { path, source }
}
