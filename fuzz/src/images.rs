//! What goes into a guest and what has been put there: images of others that become a root, and the bytes of built images that the lint
//! reads.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use coffer_image::inspect::{erofs, initramfs};
use coffer_image::oci::{Limits, OciImage};
use sha2::{Digest as _, Sha256};

use crate::trees::Ground;

/// Far less than of a real root, so that limits are met.
const ROOT: erofs::Limits = erofs::Limits {
    entries: 64,
    directory: 8 << 10,
    path: 256,
    paths: 4 << 10,
    attribute_bytes: 1 << 10,
    attributes: 8,
    all_attributes: 32,
};
const GUEST: initramfs::Limits = initramfs::Limits { unpacked: 64 << 10, entries: 64 };
const LAYERS: Limits = Limits { layers: 3, entries: 64, bytes: 64 << 10 };

/// The reader of the root's erofs image.
pub fn erofs(data: &[u8]) {
    let Ok(entries) = erofs::entries(data, ROOT) else { return };
    assert!(entries.len() as u64 <= ROOT.entries && entries[0].path.is_empty());
    assert!(entries.iter().map(|entry| entry.path.len() as u64).sum::<u64>() <= ROOT.paths);
    assert!(entries.iter().map(|entry| entry.attributes.len() as u64).sum::<u64>() <= ROOT.all_attributes);
    // Whatever is in a directory comes behind it.
    let mut known = HashSet::from([""]);
    for entry in &entries[1..] {
        assert!(entry.path.len() as u64 <= ROOT.path && entry.permissions <= 0o7777);
        let parent = entry.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        assert!(known.contains(parent), "{:?} is in no directory", entry.path);
        known.insert(&entry.path);
    }
}

/// The reader of the initramfs, packed.
pub fn initramfs(data: &[u8]) {
    let Ok(entries) = initramfs::entries(data, GUEST) else { return };
    assert!(entries.len() as u64 <= GUEST.entries);
    assert!(entries.iter().map(|entry| entry.content.len() as u64).sum::<u64>() <= GUEST.unpacked);
    let paths: HashSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths.len(), entries.len(), "a path that the kernel would make twice");
}

/// A layout as a tar file.
pub fn oci_layout(data: &[u8]) {
    let scratch = Ground::new(&[]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), data).expect("write");
    if let Ok(image) = OciImage::open(file.path(), &scratch.inside(), LAYERS) {
        unpack(&image);
    }
    scratch.nothing_outside_changed();
}

/// A layer that its layout names by the right digests. The first byte says how it is packed.
pub fn oci_layer(data: &[u8]) {
    let Some((packing, layer)) = data.split_first() else { return };
    let kind = ["tar", "tar+gzip", "tar+zstd"][usize::from(packing % 3)];
    let layout = tempfile::tempdir().expect("a directory");
    // Of a packed layer only the reader that unpacks it knows the second digest: it is read up to there.
    write_layout(layout.path(), kind, layer);
    let scratch = tempfile::tempdir().expect("a directory");
    if let Ok(image) = OciImage::open(layout.path(), scratch.path(), LAYERS) {
        unpack(&image);
    }
}

/// Lays an image over a place that has a way out; nothing outside of it may change.
fn unpack(image: &OciImage) {
    let ground = Ground::new(&[]);
    let done = image.unpack(&ground.inside());
    ground.nothing_outside_changed();
    let (entries, bytes) = ground.walk();
    // An entry makes the directories on its way; what is left of an image that was refused is as bounded.
    assert!(bytes <= LAYERS.bytes, "{bytes} bytes");
    assert!(done.is_err() || entries as u64 <= LAYERS.entries * 64, "{entries} entries");
}

/// A layout of one layer.
pub fn write_layout(directory: &Path, kind: &str, layer: &[u8]) {
    let digest = |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    fs::create_dir_all(directory.join("blobs/sha256")).expect("a directory");
    let blob = |media: &str, bytes: &[u8]| {
        fs::write(directory.join("blobs/sha256").join(digest(bytes)), bytes).expect("write");
        let digest = format!("sha256:{}", digest(bytes));
        serde_json::json!({ "mediaType": media, "digest": digest, "size": bytes.len() })
    };
    let unpacked = format!("sha256:{}", digest(layer));
    let rootfs = serde_json::json!({ "type": "layers", "diff_ids": [unpacked] });
    let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
    let config = blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let layer = blob(&format!("application/vnd.oci.image.layer.v1.{kind}"), layer);
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
    fs::write(directory.join("index.json"), index).expect("write");
}
