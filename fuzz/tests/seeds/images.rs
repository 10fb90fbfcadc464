//! Seeds of images: a root and an initramfs as small as they can be, a layout in a tar file, and layers honest and not.

use coffer_fuzz::images::write_layout;
use coffer_image::inspect::{erofs, initramfs};
use flate2::{Compression, write::GzEncoder};
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

use super::trees::{archive, archives, entry};
use crate::{Seed, seed};

/// A block of erofs (`fs/erofs/erofs_fs.h`): the superblock at 1024, behind it inodes with their directories inside.
fn root() -> Vec<u8> {
    let mut image = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &0xe0f5_e1e2_u32.to_le_bytes());
    put(1024 + 12, &[12]);
    put(1024 + 14, &36_u16.to_le_bytes());
    put(1024 + 80, &1_u32.to_le_bytes());
    let inode = |format: u16, attributes: u16, mode: u16, size: usize| {
        let mut inode = [0; 32];
        inode[..2].copy_from_slice(&format.to_le_bytes());
        inode[2..4].copy_from_slice(&attributes.to_le_bytes());
        inode[4..6].copy_from_slice(&mode.to_le_bytes());
        inode[8..12].copy_from_slice(&u32::try_from(size).expect("a size").to_le_bytes());
        inode
    };
    let directory = |names: &[(&str, u64)]| {
        let (mut table, mut text) = (Vec::new(), Vec::new());
        for (name, number) in names {
            table.extend(number.to_le_bytes());
            table.extend(u16::try_from(12 * names.len() + text.len()).expect("an offset").to_le_bytes());
            table.extend([0, 0]);
            text.extend(name.as_bytes());
        }
        [table, text].concat()
    };
    let top = directory(&[(".", 36), ("..", 36), ("a", 44), ("d", 48)]);
    put(36 * 32, &[&inode(4, 0, 0o40755, top.len())[..], &top].concat());
    // An attribute of its own: `user.x`.
    let attributes = [&[0; 12][..], &[1, 1, 0, 0], b"x\0\0\0"].concat();
    put(44 * 32, &[&inode(0, 3, 0o100_644, 0)[..], &attributes].concat());
    let below = directory(&[(".", 48), ("..", 36)]);
    put(48 * 32, &[&inode(4, 0, 0o40700, below.len())[..], &below].concat());
    let found = erofs::entries(&image[..], erofs::Limits::ROOT).expect("a root");
    let paths: Vec<&str> = found.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!((paths, found[1].attributes.as_slice()), (vec!["", "a", "d"], &["user.x".to_owned()][..]));
    image
}

/// An entry of the `newc` form (cpio(5)).
fn newc(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let (size, length) = (u32::try_from(content.len()).expect("a size"), name.len() as u32 + 1);
    let mut bytes = b"070701".to_vec();
    for field in [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0] {
        bytes.extend(format!("{field:08X}").bytes());
    }
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One zstd frame (RFC 8878) of one block that is not packed.
fn frame(content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len()).expect("a size");
    let header = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &size.to_le_bytes(), &(size << 3 | 1).to_le_bytes()[..3]];
    [header.concat(), content.to_vec()].concat()
}

fn guest() -> Vec<u8> {
    let entries = [
        newc("d", 0o40755, b""),
        newc("d/init", 0o100_755, b"program"),
        newc("way", 0o120_777, b"d"),
        newc("TRAILER!!!", 0, b""),
    ];
    let packed = frame(&entries.concat());
    assert_eq!(initramfs::entries(&packed, initramfs::Limits::GUEST).expect("an initramfs").len(), 3);
    packed
}

/// A layout in a tar file, each of whose files comes in the same order.
fn layout(layer: &[u8]) -> Vec<u8> {
    let place = tempfile::tempdir().expect("a directory");
    write_layout(place.path(), "tar", layer);
    let blobs = std::fs::read_dir(place.path().join("blobs/sha256")).expect("blobs");
    let blobs = blobs.map(|blob| format!("blobs/sha256/{}", blob.expect("a blob").file_name().to_string_lossy()));
    let mut files: Vec<String> = blobs.chain(["index.json", "oci-layout"].map(str::to_owned)).collect();
    files.sort();
    let mut builder = Builder::new(Vec::new());
    for file in files {
        let content = std::fs::read(place.path().join(&file)).expect("a file");
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, &file, &content[..]).expect("append");
    }
    builder.into_inner().expect("an archive")
}

pub(crate) fn all() -> Vec<Seed> {
    let file = |name: &[u8]| entry(EntryType::Regular, name, b"", b"content");
    let mut seeds = vec![seed("erofs", "root", root()), seed("initramfs", "guest", guest())];
    seeds.extend(archives().iter().map(|(name, layer)| seed("oci_layer", name, [&[0], &layer[..]].concat())));
    let taken = [file(b"x"), file(b"d/.wh.x"), file(b".wh.x"), file(b"d/.wh..wh..opq"), file(b".wh...")];
    seeds.push(seed("oci_layer", "taken-away", [&[0], &archive(&taken)[..]].concat()));
    let mut packed = GzEncoder::new(vec![1], Compression::none());
    packed.write_all(&archive(&taken)).expect("pack");
    seeds.push(seed("oci_layer", "gzip", packed.finish().expect("pack")));
    seeds.push(seed("oci_layer", "zstd", [&[2][..], &frame(&archive(&taken))].concat()));
    seeds.push(seed("oci_layout", "one-layer", layout(&archive(&[file(b"x")]))));
    seeds.push(seed("oci_layout", "none", archive(&[file(b"oci-layout")])));
    seeds
}
