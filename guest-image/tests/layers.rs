//! A whole image of an OCI layout: built, signed, verified, looked into; its lock says what it is made of.

mod warm;

use coffer_evidence::manifest::ImageManifest;
use coffer_image::cache::Cache;
use coffer_image::debian::lock::{Lock, Set};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use warm::coffer_image;

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A layout with one layer, in which one file has this name. Its manifest's digest.
fn layout(directory: &Path, name: &str) -> String {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_mode(0o4755);
    header.set_size(4);
    header.set_cksum();
    archive.append(&header, &b"tool"[..]).unwrap();
    let layer = archive.into_inner().unwrap();
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        fs::write(directory.join("blobs/sha256").join(sha256(bytes)), bytes).unwrap();
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
    };
    let diff_ids = [format!("sha256:{}", sha256(&layer))];
    let config =
        json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let layer = blob("layer.v1.tar", &layer);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
    let index = json!({ "schemaVersion": 2, "manifests": [blob("manifest.v1+json", manifest.as_bytes())] });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    sha256(manifest.as_bytes())
}

#[test]
fn an_oci_image_becomes_an_image_of_its_own_that_verifies() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let cache = warm::own_cache(dir.path(), &warm);
    let locked = format!("--locked={}", warm::lock_of(&warm).display());
    let (out, key) = (at("images"), at("publisher.key"));
    let build = |layout: &Path| {
        let mut build: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"build", &locked, &"--cache", &cache, &"--out", &out];
        build.extend::<[&dyn AsRef<std::ffi::OsStr>; 8]>([
            &"--publisher-key",
            &key,
            &"--agent",
            &"/bin/true",
            &"--shim",
            &"/bin/false",
            &"--from-oci",
            &layout,
        ]);
        coffer_image(&build)
    };
    let manifest = layout(&at("layout"), "usr/bin/tool");
    let built = build(&at("layout"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(said.contains("dropped of the OCI image: set-id bits of 1 files, attributes of 0"), "{said}");
    let image = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim_end());
    let publisher = fs::read_to_string(key.with_extension("pub")).unwrap();
    let verified = coffer_image(&[&"verify", &image, &"--publisher", &publisher.trim_end()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let looked = coffer_image(&[&"lint", &image, &"--json"]);
    assert_eq!(String::from_utf8(looked.stdout).unwrap(), "{\"clean\":true,\"findings\":[]}\n");
    let root = fs::File::open(image.join("root.erofs")).unwrap();
    let entries = coffer_image::inspect::erofs::entries(&root, coffer_image::inspect::erofs::Limits::ROOT).unwrap();
    let tool = entries.iter().find(|entry| entry.path == "usr/bin/tool").unwrap();
    assert_eq!(tool.permissions, 0o755);
    assert!(
        entries.iter().any(|entry| entry.path == "workspace")
            && !entries.iter().any(|entry| entry.path == "usr/bin/bash")
    );
    let lock: serde_json::Value = serde_json::from_slice(&fs::read(image.join("image.lock")).unwrap()).unwrap();
    let agent = sha256(&fs::read("/bin/true").unwrap());
    let shim = sha256(&fs::read("/bin/false").unwrap());
    assert_eq!(
        lock["sources"],
        json!([
            { "name": "coffer-agent", "sha256": agent },
            { "name": "coffer-tdx-shim", "sha256": shim },
            { "name": "oci-manifest", "sha256": manifest },
        ])
    );
    // Packages of a root that this image does not have are not in its lock and do not prolong its time of trust.
    let lock = Lock::parse(&fs::read(image.join("image.lock")).unwrap()).unwrap();
    assert_eq!((lock.set(Set::Root).count(), lock.set(Set::Kernel).count() > 0), (0, true));
    let store = Cache::open(&cache, || ()).unwrap().store().unwrap();
    let booted = lock.set(Set::Firmware).chain(lock.set(Set::Kernel));
    let newest = booted.map(|package| store.built_at(package).unwrap()).max().unwrap();
    let manifest = ImageManifest::parse(coffer_image::check::open(&image).unwrap().unverified_payload()).unwrap();
    assert_eq!(manifest.not_after, newest + 365 * 24 * 3600);

    // Another content is another image; what no guest may have is none.
    layout(&at("other"), "usr/bin/other");
    let other = build(&at("other"));
    assert_ne!(PathBuf::from(String::from_utf8(other.stdout).unwrap().trim_end()), image);
    layout(&at("bad"), "usr/sbin/sshd");
    let refused = build(&at("bad"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(74) && said.contains("no-sshd: root.erofs: /usr/sbin/sshd"), "{said}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "a refused image was left");
}
