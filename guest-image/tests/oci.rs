//! OCI image layouts, made here byte by byte, as roots: layers over each other, removals, and everything that is refused.

use coffer_image::oci::{Limits, OciError, OciImage};
use coffer_image::rootfs::tree;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// One entry of a layer: type, path as it stands in the header, mode, content or target of a link.
type Row<'a> = (EntryType, &'a str, u32, &'a str);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;

/// A tar file of these entries; paths are written as they are, however they are.
fn layer(rows: &[Row<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, mode, content) in rows {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(1234);
        let links = matches!(kind, EntryType::Symlink | EntryType::Link);
        if links {
            header.set_link_name_literal(content).unwrap();
        }
        header.set_size(if links { 0 } else { content.len() as u64 });
        header.set_cksum();
        archive.append(&header, if links { &b""[..] } else { content.as_bytes() }).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A layout with these layers: media type's ending, blob, what it is unpacked.
struct Layout {
    directory: tempfile::TempDir,
}

impl Layout {
    fn of(layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Self {
        Self::with(layers, "amd64", |descriptor| json!({ "schemaVersion": 2, "manifests": [descriptor] }))
    }

    fn plain(layers: &[&[Row<'_>]]) -> Self {
        Self::of(&layers.iter().map(|rows| ("tar", layer(rows), layer(rows))).collect::<Vec<_>>())
    }

    fn with(
        layers: &[(&str, Vec<u8>, Vec<u8>)],
        architecture: &str,
        index: impl Fn(serde_json::Value) -> serde_json::Value,
    ) -> Self {
        let layout = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(layout.path().join("blobs/sha256")).unwrap();
        fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let diff_ids: Vec<String> =
            layers.iter().map(|(_, _, unpacked)| format!("sha256:{}", sha256(unpacked))).collect();
        let config = json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, blob, _)| layout.blob(&format!("application/vnd.oci.image.layer.v1.{kind}"), blob))
            .collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
        let manifest = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        fs::write(layout.path().join("index.json"), index(manifest).to_string()).unwrap();
        layout
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        fs::write(self.path().join("blobs/sha256").join(sha256(bytes)), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
    }
}

fn open(path: &Path, limits: Limits) -> Result<(tempfile::TempDir, OciImage), OciError> {
    let scratch = tempfile::tempdir().unwrap();
    let image = OciImage::open(path, scratch.path(), limits)?;
    Ok((scratch, image))
}

/// The tree that a layout becomes.
fn unpacked(layout: &Path) -> Result<tempfile::TempDir, OciError> {
    let (_scratch, image) = open(layout, Limits::BUILD)?;
    let tree = tempfile::tempdir().unwrap();
    image.unpack(tree.path()).map(|_| tree)
}

fn refused(layout: &Path) -> String {
    match unpacked(layout) {
        Ok(tree) => panic!("expected a refusal, found {:?}", fs::read_dir(tree.path()).unwrap().collect::<Vec<_>>()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn layers_lie_over_each_other_and_take_away_what_they_say() {
    let layout = Layout::plain(&[
        &[
            (DIR, "./", 0o755, ""),
            (DIR, "./etc/", 0o700, ""),
            (FILE, "./etc/kept", 0o600, "kept"),
            (FILE, "./etc/changed", 0o644, "old"),
            (FILE, "./etc/removed", 0o644, "x"),
            (FILE, "./opaque/below", 0o644, "x"),
            (FILE, "./tree/a/b", 0o644, "x"),
            (LINK, "./link", 0o777, "/etc/passwd"),
            (FILE, "./becomes-directory", 0o644, "x"),
            (DIR, "./becomes-file", 0o755, ""),
            (FILE, "./becomes-file/in", 0o644, "x"),
        ],
        &[
            // The removals stand behind what the layer itself brings.
            (FILE, "opaque/own", 0o644, "own"),
            (FILE, "opaque/.wh..wh..opq", 0o644, ""),
            (FILE, "etc/changed", 0o755, "new"),
            (FILE, "etc/.wh.removed", 0o644, ""),
            (FILE, ".wh.tree", 0o644, ""),
            (FILE, "nowhere/.wh.nothing", 0o644, ""),
            (FILE, "link", 0o644, "a file now"),
            (EntryType::Link, "hard", 0o644, "etc/kept"),
            (DIR, "becomes-directory/", 0o755, ""),
            (FILE, "becomes-file", 0o644, "y"),
        ],
    ]);
    let tree = unpacked(layout.path()).unwrap();
    let read = |name: &str| fs::read_to_string(tree.path().join(name)).unwrap();
    let mode = |name: &str| fs::metadata(tree.path().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((read("etc/kept"), mode("etc/kept"), mode("etc")), ("kept".into(), 0o644, 0o755));
    assert_eq!((read("etc/changed"), mode("etc/changed")), ("new".into(), 0o755));
    assert_eq!(read("opaque/own"), "own");
    for gone in ["etc/removed", "opaque/below", "opaque/.wh..wh..opq", "tree", "nowhere", "becomes-file/in"] {
        assert!(tree.path().join(gone).symlink_metadata().is_err(), "{gone}");
    }
    assert!(tree.path().join("link").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::metadata(tree.path().join("hard")).unwrap().nlink(), 2);
    assert!(tree.path().join("becomes-directory").is_dir());
    assert_eq!(read("becomes-file"), "y");
}

#[test]
fn every_packing_of_a_layer_and_a_layout_in_a_tar_file_give_the_same() {
    let rows: &[Row<'_>] = &[(FILE, "a", 0o644, "content"), (FILE, "b/c", 0o755, "more")];
    let tar = layer(rows);
    let zstd = ruzstd::encoding::compress_to_vec(&tar[..], ruzstd::encoding::CompressionLevel::Fastest);
    // Several frames, cut where no entry ends, and skippable ones before, between and behind them.
    let frame = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let skippable = b"\x5f\x2a\x4d\x18\x05\0\0\0table";
    let (one, other) = (frame(&tar[..700]), frame(&tar[700..]));
    let frames = [skippable, &one[..], skippable, &other, skippable].concat();
    let two = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    for (kind, blob) in [
        ("tar", tar.clone()),
        ("tar+gzip", gzip(&tar)),
        ("tar+gzip", two),
        ("tar+zstd", zstd),
        ("tar+zstd", [&one[..], &other].concat()),
        ("tar+zstd", frames),
    ] {
        let layout = Layout::of(&[(kind, blob, tar.clone())]);
        let packed = tempfile::NamedTempFile::new().unwrap();
        let mut archive = tar::Builder::new(packed.reopen().unwrap());
        archive.append_dir_all(".", layout.path()).unwrap();
        archive.finish().unwrap();
        for path in [layout.path(), packed.path()] {
            let tree = unpacked(path).unwrap();
            assert_eq!(fs::read_to_string(tree.path().join("b/c")).unwrap(), "more", "{kind}");
        }
    }
    // An index of one platform each.
    let layout = Layout::with(&[("tar", tar.clone(), tar.clone())], "amd64", |manifest| {
        let mut ours = manifest.clone();
        ours["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        let mut other = manifest;
        other["platform"] = json!({ "architecture": "arm64", "os": "linux" });
        json!({ "schemaVersion": 2, "manifests": [other, ours] })
    });
    unpacked(layout.path()).unwrap();
}

#[test]
fn set_id_bits_owners_and_attributes_are_dropped_and_counted() {
    let mut archive = tar::Builder::new(layer(&[(FILE, "su", 0o4755, "x"), (FILE, "wall", 0o2755, "x")]));
    // The two blocks at the end of the first archive make place for more.
    let mut bytes = std::mem::take(archive.get_mut());
    bytes.truncate(bytes.len() - 1024);
    let mut archive = tar::Builder::new(bytes);
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &b"\x01\0\0\x02"[..])]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("ping").unwrap();
    header.set_mode(0o755);
    header.set_size(1);
    header.set_cksum();
    archive.append(&header, &b"x"[..]).unwrap();
    let tar = archive.into_inner().unwrap();
    let layout = Layout::of(&[("tar", tar.clone(), tar)]);
    let (_scratch, image) = open(layout.path(), Limits::BUILD).unwrap();
    let tree = tempfile::tempdir().unwrap();
    let dropped = image.unpack(tree.path()).unwrap();
    assert_eq!((dropped.set_id, dropped.attributes), (2, 1));
    for name in ["su", "wall", "ping"] {
        let found = fs::metadata(tree.path().join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o755, "{name}");
        assert_ne!(found.uid(), 1234);
        let mut names = [0_u8; 256];
        assert_eq!(rustix::fs::listxattr(tree.path().join(name), &mut names).unwrap_or(0), 0, "{name}");
    }
}

#[test]
fn no_entry_leads_out_of_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().display().to_string();
    let through_absolute = format!("{out}/file");
    let target = outside.path().join("target");
    fs::write(&target, "theirs").unwrap();
    let target = target.display().to_string();
    let rows: [(&str, Vec<Row<'_>>); 11] = [
        ("stay inside", vec![(FILE, "../escaped", 0o644, "x")]),
        ("stay inside", vec![(FILE, "a/../../escaped", 0o644, "x")]),
        ("stay inside", vec![(FILE, &through_absolute, 0o644, "x")]),
        ("through a link", vec![(LINK, "out", 0o777, &out), (FILE, "out/file", 0o644, "x")]),
        ("through a link", vec![(LINK, "out", 0o777, &out), (DIR, "out/d", 0o755, "")]),
        ("through a link", vec![(LINK, "out", 0o777, &out), (FILE, "out/a/b/c", 0o644, "x")]),
        ("hard links to a file", vec![(EntryType::Link, "hard", 0o644, "missing")]),
        ("stay inside", vec![(EntryType::Link, "hard", 0o644, &target)]),
        ("hard links to a file", vec![(LINK, "soft", 0o777, &target), (EntryType::Link, "hard", 0o644, "soft")]),
        ("files, directories and links", vec![(EntryType::Char, "null", 0o666, "")]),
        ("files, directories and links", vec![(EntryType::Fifo, "pipe", 0o666, "")]),
    ];
    for (expected, rows) in rows {
        let said = refused(Layout::plain(&[&rows]).path());
        assert!(said.contains(expected), "{rows:?}: {said}");
    }
    // Removals, too; the link lies in the layer below.
    for removal in ["out/.wh.target", "out/.wh..wh..opq", "../.wh.target", "a/.wh..", ".wh."] {
        let said = refused(Layout::plain(&[&[(LINK, "out", 0o777, &out)], &[(FILE, removal, 0o644, "")]]).path());
        assert!(
            ["through a link", "stay inside", "removals of a name"].iter().any(|word| said.contains(word)),
            "{removal}: {said}"
        );
    }
    // A directory takes the place of a link; it does not become the link's target.
    let tree = unpacked(
        Layout::plain(&[&[(LINK, "out", 0o777, &out)], &[(DIR, "out/", 0o755, ""), (FILE, "out/file", 0o644, "x")]])
            .path(),
    );
    assert!(tree.unwrap().path().join("out/file").is_file());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "something got out");
    assert_eq!(fs::read_to_string(outside.path().join("target")).unwrap(), "theirs");
}

#[test]
fn layers_entries_and_bytes_end_at_their_limits() {
    let layout = Layout::plain(&[&[(FILE, "a", 0o644, "x")], &[(FILE, "b", 0o644, "x")]]);
    let bytes = 2 * layer(&[(FILE, "a", 0o644, "x")]).len() as u64;
    let with = |layers, entries, bytes| {
        let (_scratch, image) = open(layout.path(), Limits { layers, entries, bytes })?;
        image.unpack(tempfile::tempdir().unwrap().path())
    };
    with(2, 2, bytes).unwrap();
    for (what, result) in
        [("layers", with(1, 2, bytes)), ("entries", with(2, 1, bytes)), ("bytes, unpacked", with(2, 2, bytes - 1))]
    {
        assert!(matches!(&result, Err(OciError::Limit { what: found, .. }) if *found == what), "{what}: {result:?}");
    }
    // Directories that are only implied count, too: one entry could make 256.
    let deep = Layout::plain(&[&[(FILE, "d/d/d/d/file", 0o644, "x"), (FILE, "d/d/d/d/other", 0o644, "x")]]);
    let deep = |entries| {
        let (_scratch, image) = open(deep.path(), Limits { layers: 1, entries, bytes }).unwrap();
        image.unpack(tempfile::tempdir().unwrap().path())
    };
    deep(6).unwrap();
    let named = Layout::plain(&[&[(DIR, "d/", 0o755, ""), (DIR, "d/d/", 0o755, ""), (FILE, "d/d/file", 0o644, "x")]]);
    let (_scratch, image) = open(named.path(), Limits { layers: 1, entries: 3, bytes }).unwrap();
    image.unpack(tempfile::tempdir().unwrap().path()).unwrap();
    assert!(matches!(deep(5), Err(OciError::Limit { what: "entries", most: 5 })));
    // A small blob that would be large: stopped on its way.
    let zeros = vec![0; 4 << 20];
    let bomb = Layout::of(&[("tar+gzip", gzip(&zeros), zeros)]);
    let (_scratch, image) = open(bomb.path(), Limits { layers: 1, entries: 10, bytes: 1 << 20 }).unwrap();
    let result = image.unpack(tempfile::tempdir().unwrap().path());
    assert!(matches!(result, Err(OciError::Limit { .. })), "{result:?}");
}

/// An entry that says something about the next one.
fn extension(kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).unwrap();
    let mut bytes = archive.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

/// A PAX record of `key`, so long in all.
fn record(key: &str, length: usize) -> Vec<u8> {
    let start = format!("{length} {key}=");
    format!("{start}{}\n", "7".repeat(length - start.len() - 1)).into_bytes()
}

#[test]
fn long_names_and_extended_headers_end_at_their_limit_before_they_are_read() {
    const MOST: usize = 64 << 10;
    let tar = |extension: Vec<u8>| [extension, layer(&[(FILE, "a", 0o644, "x")])].concat();
    let layout = |tar: &[u8]| Layout::of(&[("tar", tar.to_vec(), tar.to_vec())]);
    unpacked(layout(&tar(extension(EntryType::XHeader, &record("comment", MOST)))).path()).unwrap();
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink] {
        let long = tar(extension(kind, &record("comment", MOST + 1)));
        let said = refused(layout(&long).path());
        assert!(said.contains("at most 65536 bytes in an extended header"), "{kind:?}: {said}");
        // Of a layout that is a tar file, too.
        let packed = tempfile::NamedTempFile::new().unwrap();
        fs::write(packed.path(), &long).unwrap();
        let error = open(packed.path(), Limits::BUILD).unwrap_err();
        assert!(matches!(error, OciError::Limit { most: 65536, .. }), "{kind:?}: {error}");
    }
    // What would hide a header from the look ahead: another size for the next entry, a map that goes on behind it.
    for (hidden, words) in [
        (extension(EntryType::XHeader, &record("size", 12)), "sizes in plain headers"),
        (extension(EntryType::GNUSparse, b""), "files, directories and links"),
    ] {
        let said = refused(layout(&tar(hidden)).path());
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn layers_are_unpacked_where_the_build_says() {
    let layout = Layout::plain(&[&[(FILE, "a", 0o644, "x")]]);
    let (scratch, image) = open(layout.path(), Limits::BUILD).unwrap();
    let place = scratch.path().to_owned();
    drop(scratch);
    let result = image.unpack(tempfile::tempdir().unwrap().path());
    assert!(matches!(&result, Err(OciError::Io { path, .. }) if *path == place), "{result:?}");
}

#[test]
fn a_changed_blob_and_a_document_of_another_form_are_refused() {
    let rows: &[Row<'_>] = &[(FILE, "a", 0o644, "x")];
    // Every blob in turn, and the index.
    let names = |layout: &Layout| -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(layout.path().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    let count = names(&Layout::plain(&[rows])).len();
    assert_eq!(count, 3);
    for number in 0..count {
        let layout = Layout::plain(&[rows]);
        let path = &names(&layout)[number];
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
        assert!(refused(layout.path()).contains("blob"), "{}", path.display());
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        assert!(refused(layout.path()).contains("plain files"));
    }
    // A layer that is unpacked something else than the configuration says.
    let tar = layer(rows);
    assert!(refused(Layout::of(&[("tar+gzip", gzip(&tar), b"other".to_vec())]).path()).contains("blob"));
    assert!(refused(Layout::of(&[("tar+gzip", gzip(&tar)[..20].to_vec(), tar.clone())]).path()).contains("undamaged"));
    let zstd = ruzstd::encoding::compress_to_vec(&tar[..], ruzstd::encoding::CompressionLevel::Fastest);
    for damaged in
        [&zstd[..20], &[&zstd[..], b"more"].concat(), &[&zstd[..], b"\x50\x2a\x4d\x18\x05\0\0\0tab"].concat()]
    {
        let said = refused(Layout::of(&[("tar+zstd", damaged.to_vec(), tar.clone())]).path());
        assert!(said.contains("undamaged"), "{said}");
    }
    assert!(refused(Layout::of(&[("tar+bzip2", tar.clone(), tar.clone())]).path()).contains("tar+gzip"));
    assert!(
        refused(
            Layout::with(&[("tar", tar.clone(), tar.clone())], "arm64", |one| json!({ "manifests": [one] })).path()
        )
        .contains("linux/amd64")
    );
    for (text, words) in [
        (json!({ "manifests": [] }).to_string(), "one manifest for linux/amd64"),
        ("not json".into(), "index.json"),
        (
            json!({ "manifests": [{ "mediaType": "x", "digest": "sha256:../../x", "size": 1 }] }).to_string(),
            "64 hex digits",
        ),
        (
            json!({ "manifests": [{ "mediaType": "x", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1 }] })
                .to_string(),
            "manifest or index",
        ),
    ] {
        let layout = Layout::plain(&[rows]);
        fs::write(layout.path().join("index.json"), &text).unwrap();
        let said = refused(layout.path());
        assert!(said.contains(words), "{text}: {said}");
    }
    let two = Layout::with(&[("tar", tar.clone(), tar)], "amd64", |one| json!({ "manifests": [one.clone(), one] }));
    assert!(refused(two.path()).contains("one manifest"));
}

#[test]
fn a_foreign_root_gets_the_guests_mount_points_and_users_and_no_mode_of_its_own() {
    let layout = Layout::plain(&[&[
        (FILE, "etc/passwd", 0o666, "root::0:0::/:/bin/sh\n"),
        (FILE, "etc/shadow", 0o640, "root::"),
        (FILE, "dev/left", 0o644, "x"),
        (FILE, "tmp/left", 0o666, "x"),
        (DIR, "var/run/", 0o777, ""),
        (FILE, "bin/tool", 0o4777, "x"),
    ]]);
    let dir = unpacked(layout.path()).unwrap();
    tree::adapt(dir.path()).unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(fs::read_to_string(at("etc/passwd")).unwrap().starts_with("root:*:0:0::/root:/bin/false\n"));
    for gone in ["etc/shadow", "dev/left", "tmp/left"] {
        assert!(!at(gone).exists(), "{gone}");
    }
    for made in ["dev", "proc", "sys", "tmp", "run", "workspace", "root"] {
        assert!(at(made).is_dir(), "{made}");
    }
    assert_eq!(fs::read_link(at("var/run")).unwrap(), Path::new("../run"));
    assert_eq!(fs::metadata(at("bin/tool")).unwrap().permissions().mode() & 0o7777, 0o755);

    // Where a mount point or what is written would lead elsewhere.
    for rows in [&[(LINK, "etc", 0o777, "/etc")][..], &[(LINK, "var", 0o777, "/var")], &[(FILE, "usr", 0o644, "x")]] {
        let dir = unpacked(Layout::plain(&[rows]).path()).unwrap();
        assert!(matches!(tree::adapt(dir.path()), Err(tree::TreeError::Layout { .. })), "{rows:?}");
    }
}
