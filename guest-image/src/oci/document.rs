//! The JSON documents of a layout: from `index.json` to the one manifest for this architecture and its layers.

use super::{BLOB_MAX, Blob, DOCUMENT_MAX, Layer, OciError, Packing, blob_path, io_error, open_plain};
use crate::digest::is_sha256;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::path::Path;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index may point to another one, which then has one manifest for each platform; no deeper.
const INDEXES_MAX: usize = 2;

/// The manifest's digest, and its layers from the lowest on.
pub(super) struct Found {
    pub(super) manifest: String,
    pub(super) layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Config {
    architecture: String,
    os: String,
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Vec<String>,
}

impl Descriptor {
    fn blob(&self) -> Result<Blob, OciError> {
        let sha256 = sha256_of(&self.digest)?;
        if self.size > BLOB_MAX {
            return Err(OciError::Limit { what: "bytes in a blob", most: BLOB_MAX });
        }
        Ok(Blob { sha256, size: self.size })
    }

    fn is_for_us(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| platform.architecture == "amd64" && platform.os == "linux")
    }
}

pub(super) fn read(directory: &Path) -> Result<Found, OciError> {
    let layout: LayoutFile = parse(&small(&directory.join("oci-layout"), DOCUMENT_MAX)?, "oci-layout")?;
    if !layout.image_layout_version.starts_with("1.") {
        return Err(wrong("imageLayoutVersion 1", layout.image_layout_version));
    }
    let mut index: Index = parse(&small(&directory.join("index.json"), DOCUMENT_MAX)?, "index.json")?;
    for _ in 0..INDEXES_MAX {
        let mut ours = index.manifests.iter().filter(|descriptor| descriptor.is_for_us());
        let (Some(one), None) = (ours.next(), ours.next()) else {
            return Err(wrong("one manifest for linux/amd64", format!("{} manifests in all", index.manifests.len())));
        };
        let blob = one.blob()?;
        match one.media_type.as_str() {
            MANIFEST => return manifest(directory, blob),
            INDEX => index = parse(&document(directory, &blob)?, "an index")?,
            other => return Err(wrong("an OCI manifest or index", other.to_owned())),
        }
    }
    Err(wrong("at most one index below index.json", "more".into()))
}

fn manifest(directory: &Path, blob: Blob) -> Result<Found, OciError> {
    let manifest: Manifest = parse(&document(directory, &blob)?, "a manifest")?;
    let config: Config = parse(&document(directory, &manifest.config.blob()?)?, "a configuration")?;
    if (config.architecture.as_str(), config.os.as_str()) != ("amd64", "linux") {
        return Err(wrong("an image for linux/amd64", format!("{}/{}", config.os, config.architecture)));
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() || manifest.layers.is_empty() {
        let found =
            format!("{} layers and {} in the configuration", manifest.layers.len(), config.rootfs.diff_ids.len());
        return Err(wrong("as many layers in the manifest as in the configuration, one at least", found));
    }
    let layer = |(descriptor, unpacked): (&Descriptor, &String)| {
        let packing = match descriptor.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar" => Packing::Plain,
            "application/vnd.oci.image.layer.v1.tar+gzip" => Packing::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd" => Packing::Zstd,
            other => return Err(wrong("layers as tar, tar+gzip or tar+zstd", other.to_owned())),
        };
        Ok(Layer { blob: descriptor.blob()?, packing, unpacked: sha256_of(unpacked)? })
    };
    let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).map(layer).collect::<Result<_, _>>()?;
    Ok(Found { manifest: blob.sha256, layers })
}

/// A small blob, checked.
fn document(directory: &Path, blob: &Blob) -> Result<Vec<u8>, OciError> {
    let bytes = small(&blob_path(directory, &blob.sha256), DOCUMENT_MAX)?;
    if bytes.len() as u64 != blob.size || hex::encode(Sha256::digest(&bytes)) != blob.sha256 {
        return Err(OciError::Blob { name: blob.sha256.clone() });
    }
    Ok(bytes)
}

fn small(path: &Path, most: u64) -> Result<Vec<u8>, OciError> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(most + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > most {
        return Err(OciError::Limit { what: "bytes in a document", most });
    }
    Ok(bytes)
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|error| wrong("documents of the specification", format!("{what}: {error}")))
}

fn sha256_of(digest: &str) -> Result<String, OciError> {
    let name = digest.strip_prefix("sha256:").filter(|name| is_sha256(name));
    name.map(str::to_owned)
        .ok_or_else(|| wrong("digests sha256: with 64 hex digits", digest.chars().take(100).collect()))
}

fn wrong(expected: &'static str, found: String) -> OciError {
    OciError::Layout { expected, found }
}
