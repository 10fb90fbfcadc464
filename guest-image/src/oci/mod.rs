//! An OCI image layout as the content of a guest's root: its layers laid over each other. Format: OCI image specification 1.1
//! (image-layout.md, manifest.md, layer.md). The layout is hostile: every blob has the digest that names it or is refused,
//! sizes end at named limits, and no entry of a layer gets outside the tree (`layer.rs`).

mod document;
mod headers;
mod layer;
mod zstd;

use crate::digest::{is_sha256, sha256_file};
use layer::Applying;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

/// Most of everything that an image may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Layers.
    pub layers: usize,
    /// Entries of all layers together.
    pub entries: u64,
    /// Bytes of all layers together, unpacked.
    pub bytes: u64,
}

impl Limits {
    /// Those of a build.
    pub const BUILD: Self = Self { layers: 128, entries: 1_000_000, bytes: 8 << 30 };
}

/// Largest JSON document of a layout, in bytes.
const DOCUMENT_MAX: u64 = 4 << 20;
/// Largest blob as it lies there, in bytes.
const BLOB_MAX: u64 = 4 << 30;
/// Most entries of a layout that comes as a tar file.
const TAR_ENTRIES_MAX: usize = 10_000;

/// Why an image is not taken.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The layout or one of its documents.
    #[error("expected {expected} in the OCI image layout, found {found}")]
    Layout {
        /// What was expected.
        expected: &'static str,
        /// What was there.
        found: String,
    },
    /// A blob is not what its name says.
    #[error("expected the blob {name} to have that digest and size, found another: the layout is damaged")]
    Blob {
        /// Its name.
        name: String,
    },
    /// An entry of a layer.
    #[error("expected {expected} in a layer of the OCI image, found {path:?}: it is refused")]
    Entry {
        /// What was expected.
        expected: &'static str,
        /// Of the entry.
        path: String,
    },
    /// Too much of something.
    #[error("expected an OCI image of at most {most} {what}, found more")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is taken.
        most: u64,
    },
    /// Reading or writing.
    #[error("unpacking the OCI image: {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A blob by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob {
    sha256: String,
    size: u64,
}

#[derive(Debug, Clone)]
struct Layer {
    blob: Blob,
    packing: Packing,
    /// SHA-256 of the layer unpacked, as the configuration names it.
    unpacked: String,
}

/// What was left out of an image when it was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Files whose set-user-id or set-group-id bit was dropped.
    pub set_id: u64,
    /// Entries whose extended attributes were dropped, file capabilities among them.
    pub attributes: u64,
}

/// An image whose documents were read and checked; its layers are checked when they are unpacked.
#[derive(Debug)]
pub struct OciImage {
    directory: PathBuf,
    /// Where layers are unpacked: the system's own directory for that may be memory.
    scratch: PathBuf,
    /// Holds what was unpacked of a tar file.
    _unpacked: Option<tempfile::TempDir>,
    manifest: String,
    layers: Vec<Layer>,
    limits: Limits,
}

impl OciImage {
    /// Opens a layout: a directory, or a tar file of one. `scratch` takes what is unpacked of the latter, and each layer.
    ///
    /// # Errors
    /// [`OciError`].
    pub fn open(path: &Path, scratch: &Path, limits: Limits) -> Result<Self, OciError> {
        let (directory, unpacked) = if path.is_dir() {
            (path.to_owned(), None)
        } else {
            let unpacked =
                tempfile::Builder::new().prefix(".partial-").tempdir_in(scratch).map_err(io_error(scratch))?;
            unpack_layout(path, unpacked.path())?;
            (unpacked.path().to_owned(), Some(unpacked))
        };
        let document::Found { manifest, layers } = document::read(&directory)?;
        if layers.len() > limits.layers {
            return Err(OciError::Limit { what: "layers", most: limits.layers as u64 });
        }
        Ok(Self { directory, scratch: scratch.to_owned(), _unpacked: unpacked, manifest, layers, limits })
    }

    /// SHA-256 of its manifest, hex: its identity.
    #[must_use]
    pub fn manifest_digest(&self) -> &str {
        &self.manifest
    }

    /// Lays its layers over each other in the empty directory `tree`.
    ///
    /// # Errors
    /// [`OciError`]; what is in `tree` then is of no use.
    pub fn unpack(&self, tree: &Path) -> Result<Dropped, OciError> {
        let mut applying = Applying::new(tree, self.limits);
        for layer in &self.layers {
            let archive = self.unpacked_layer(layer, applying.bytes_left())?;
            applying.apply(&archive)?;
        }
        Ok(applying.dropped)
    }

    /// The layer as an uncompressed tar file, checked against both digests.
    fn unpacked_layer(&self, layer: &Layer, most: u64) -> Result<fs::File, OciError> {
        let path = blob_path(&self.directory, &layer.blob.sha256);
        let failed = io_error(&path);
        let damaged = || OciError::Blob { name: layer.blob.sha256.clone() };
        let blob = open_plain(&path)?;
        if blob.metadata().map_err(&failed)?.len() != layer.blob.size
            || hex::encode(sha256_file(&path).map_err(&failed)?) != layer.blob.sha256
        {
            return Err(damaged());
        }
        let blob = BufReader::with_capacity(1 << 16, blob);
        let unpacked: Box<dyn Read> = match layer.packing {
            Packing::Plain => Box::new(blob),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
            Packing::Zstd => Box::new(zstd::Frames::new(blob)),
        };
        let mut archive = tempfile::tempfile_in(&self.scratch).map_err(io_error(&self.scratch))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let (mut unpacked, mut length) = (unpacked, 0);
        loop {
            let filled = match unpacked.read(&mut buffer) {
                Ok(0) => break,
                Ok(filled) => filled,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {
                    return Err(OciError::Layout { expected: "an undamaged layer", found: layer.blob.sha256.clone() });
                }
            };
            length += filled as u64;
            if length > most {
                return Err(OciError::Limit { what: "bytes, unpacked", most: self.limits.bytes });
            }
            hash.update(&buffer[..filled]);
            archive.write_all(&buffer[..filled]).map_err(&failed)?;
        }
        if hex::encode(hash.finalize()) != layer.unpacked {
            return Err(damaged());
        }
        Ok(archive)
    }
}

fn blob_path(directory: &Path, sha256: &str) -> PathBuf {
    directory.join("blobs/sha256").join(sha256)
}

/// Opens a file that is neither a link nor anything else.
fn open_plain(path: &Path) -> Result<fs::File, OciError> {
    let found = path.symlink_metadata().map_err(io_error(path))?;
    if !found.is_file() {
        return Err(OciError::Layout { expected: "plain files", found: path.display().to_string() });
    }
    fs::File::open(path).map_err(io_error(path))
}

/// Takes the files of a layout out of a tar file: those that a layout has, and nothing else of it.
fn unpack_layout(tar: &Path, into: &Path) -> Result<(), OciError> {
    let file = open_plain(tar)?;
    headers::check(&file, tar)?;
    let blobs = into.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(io_error(&blobs))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    for (number, entry) in archive.entries().map_err(io_error(tar))?.enumerate() {
        let mut entry = entry.map_err(io_error(tar))?;
        if number >= TAR_ENTRIES_MAX {
            return Err(OciError::Limit { what: "files in its tar file", most: TAR_ENTRIES_MAX as u64 });
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        let kind = entry.header().entry_type();
        let blob = name.strip_prefix("blobs/sha256/").filter(|name| is_sha256(name));
        let target = match (kind, name, blob) {
            (tar::EntryType::Regular, "oci-layout" | "index.json", _) => into.join(name),
            (tar::EntryType::Regular, _, Some(name)) => blobs.join(name),
            // `manifest.json` and `repositories` are another tool's; nothing of them is read.
            (tar::EntryType::Directory, ..) | (tar::EntryType::Regular, "manifest.json" | "repositories", None) => {
                continue;
            }
            _ => {
                return Err(OciError::Layout {
                    expected: "oci-layout, index.json and blobs/sha256",
                    found: name.to_owned(),
                });
            }
        };
        if entry.size() > BLOB_MAX {
            return Err(OciError::Limit { what: "bytes in a blob", most: BLOB_MAX });
        }
        let mut out = fs::File::create_new(&target).map_err(io_error(&target))?;
        io::copy(&mut entry, &mut out).map_err(io_error(&target))?;
    }
    Ok(())
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OciError + use<> {
    let path = path.to_owned();
    move |source| OciError::Io { path: path.clone(), source }
}
