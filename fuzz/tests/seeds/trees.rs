//! Seeds of archives: what an honest packer writes, and what none would.

use tar::{Builder, EntryType, Header};

use crate::{Seed, seed};

/// One entry with a name and target that are not looked at.
pub(crate) fn entry(kind: EntryType, name: &[u8], target: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name);
    old.linkname[..target.len()].copy_from_slice(target);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [&entries.concat()[..], &[0; 1024]].concat()
}

fn honest() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(5);
    builder.append_data(&mut header.clone(), "tree/deep/file", &b"hello"[..]).expect("append");
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    builder.append_data(&mut header, long, &b"hello"[..]).expect("append");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "tree/link", "deep/file").expect("append");
    builder.into_inner().expect("an archive")
}

/// Archives by what is in them.
pub(crate) fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let file = |name: &[u8]| entry(EntryType::Regular, name, b"", b"content");
    let link = |name: &[u8], target: &[u8]| entry(EntryType::Symlink, name, target, b"");
    let pax = |records: &[u8]| entry(EntryType::XHeader, b"pax", b"", records);
    vec![
        ("honest", honest()),
        ("one-file", archive(&[file(b"new")])),
        ("up", archive(&[file(b"../outside/secret")])),
        ("absolute", archive(&[file(b"/tmp/coffer-fuzz-outside")])),
        ("through-a-laid-link", archive(&[file(b"out/secret"), file(b"abs/x"), file(b"up/x")])),
        ("through-an-own-link", archive(&[link(b"way", b".."), file(b"way/outside/secret")])),
        ("a-link-replaced", archive(&[link(b"a", b"../outside/secret"), file(b"a")])),
        ("onto-a-laid-link", archive(&[file(b"file"), file(b"out")])),
        ("hard-link-out", archive(&[entry(EntryType::Link, b"hard", b"../outside/secret", b"")])),
        ("hard-link-by-link", archive(&[entry(EntryType::Link, b"hard", b"file", b""), file(b"hard")])),
        ("hard-link-inside", archive(&[file(b"a"), entry(EntryType::Link, b"b", b"a", b""), file(b"b")])),
        ("a-directory-closed", archive(&[entry(EntryType::Directory, b"d/", b"", b""), file(b"d/x")])),
        ("a-file-in-the-way", archive(&[file(b"x"), file(b"x/y")])),
        ("fifo", archive(&[entry(EntryType::Fifo, b"fifo", b"", b"")])),
        ("device", archive(&[entry(EntryType::Char, b"null", b"", b"")])),
        ("pax-path", archive(&[pax(b"30 path=../outside/secret-too\n"), file(b"x")])),
        ("pax-size", archive(&[pax(b"12 size=4096\n"), file(b"x")])),
        ("pax-link", archive(&[pax(b"19 linkpath=../out\n"), link(b"x", b"y")])),
        ("pax-global", archive(&[entry(EntryType::XGlobalHeader, b"g", b"", b"18 comment=0123456\n"), file(b"x")])),
        ("long-name", archive(&[entry(EntryType::GNULongName, b"././@LongLink", b"", &[b'n'; 600]), file(b"x")])),
        ("long-name-alone", archive(&[entry(EntryType::GNULongName, b"././@LongLink", b"", b"../x\0")])),
        ("sparse", archive(&[entry(EntryType::GNUSparse, b"s", b"", b"content")])),
        ("size-that-lies", [&file(b"x")[..520], &[]].concat()),
        ("a-dot", archive(&[entry(EntryType::Directory, b"./", b"", b""), file(b".")])),
    ]
}

pub(crate) fn all() -> Vec<Seed> {
    let (archives, mut seeds) = (archives(), Vec::new());
    for (name, bytes) in &archives {
        for target in ["tree_upload", "tree_download"] {
            seeds.push(seed(target, name, [&[0], &bytes[..]].concat()));
        }
    }
    for (choice, name) in [(1, "beneath"), (2, "through-the-target"), (3, "through-two")] {
        seeds.push(seed("tree_upload", name, [&[choice], &archives[1].1[..]].concat()));
    }
    for (choice, name) in [(4, "to-a-new-place"), (7, "in-small-chunks")] {
        seeds.push(seed("tree_download", name, [&[choice], &archives[1].1[..]].concat()));
    }
    seeds
}
