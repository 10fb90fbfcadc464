//! Both ways together, and archives that nobody honest would send.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::{Packed, Selection, Unpacked, pack, unpack};
use crate::error::ClientError;

fn packed(local: &Path, selection: Selection) -> (Vec<u8>, Packed) {
    let mut out = Vec::new();
    let name = PathBuf::from(local.file_name().expect("a name"));
    let packed = pack(local, &name, selection, |chunk| {
        out.extend(chunk);
        true
    });
    (out, packed.expect("packs"))
}

fn unpacked(archive: Vec<u8>, local: &Path, name: &str) -> Result<Unpacked, ClientError> {
    let (sender, receiver) = mpsc::channel(1);
    let sending = std::thread::spawn(move || {
        for chunk in archive.chunks(1000) {
            if sender.blocking_send(bytes::Bytes::copy_from_slice(chunk)).is_err() {
                return;
            }
        }
    });
    let result = unpack(receiver, local, name);
    sending.join().expect("the sender");
    result
}

#[test]
fn a_tree_comes_back_as_it_went_and_packs_to_the_same_bytes() {
    let work = tempfile::tempdir().expect("a directory");
    let from = work.path().join("from");
    fs::create_dir_all(from.join("deep/er")).expect("directories");
    fs::write(from.join("deep/er/file"), vec![7; 200_000]).expect("a file");
    fs::set_permissions(from.join("deep/er/file"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(from.join("deep/er"), fs::Permissions::from_mode(0o700)).expect("chmod");
    std::os::unix::fs::symlink("deep/er/file", from.join("link")).expect("a link");
    fs::write(from.join("empty"), "").expect("a file");
    let (archive, counted) = packed(&from, Selection::All);
    assert_eq!(counted, Packed { files: 3, ..Packed::default() });
    assert_eq!(packed(&from, Selection::All).0, archive);
    let to = work.path().join("to");
    assert_eq!(unpacked(archive, &to, "x").expect("unpacks"), Unpacked { files: 3, left_out: vec![], entries: 5 });
    assert_eq!(fs::read(to.join("deep/er/file")).expect("the file"), vec![7; 200_000]);
    assert_eq!(fs::metadata(to.join("deep/er/file")).expect("the file").mode() & 0o777, 0o755);
    let mode = |path: &str| fs::metadata(to.join(path)).expect("a directory").mode() & 0o777;
    assert_eq!((mode("deep"), mode("deep/er")), (0o755, 0o700));
    assert_eq!(fs::read_link(to.join("link")).expect("the link"), Path::new("deep/er/file"));
}

#[test]
fn directories_get_their_modes_when_all_is_in_them_and_stay_open_to_their_owner() {
    let work = tempfile::tempdir().expect("a directory");
    let to = work.path().join("to");
    fs::create_dir_all(to.join("there")).expect("a directory");
    fs::set_permissions(to.join("there"), fs::Permissions::from_mode(0o711)).expect("chmod");
    let mut archive = tar::Builder::new(Vec::new());
    for (name, mode) in [("./", 0o700), ("shut/", 0o055), ("there/", 0o777), ("twice/", 0o777), ("twice/", 0o7750)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        archive.append_data(&mut header, name, &[][..]).expect("an entry");
        if name == "shut/" {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o600);
            archive.append_data(&mut header, "shut/in", &[][..]).expect("an entry");
        }
    }
    let archive = archive.into_inner().expect("an archive");
    unpacked(archive, &to, "x").expect("unpacks");
    let mode = |path: &str| fs::metadata(to.join(path)).expect("a directory").mode() & 0o7777;
    // What was there keeps its own.
    assert_eq!((mode("shut"), mode("there"), mode("twice")), (0o755, 0o711, 0o750));
}

#[test]
fn one_file_becomes_the_target_itself() {
    let work = tempfile::tempdir().expect("a directory");
    fs::write(work.path().join("a"), "one").expect("a file");
    let (archive, _) = packed(&work.path().join("a"), Selection::All);
    unpacked(archive.clone(), &work.path().join("b"), "a").expect("unpacks");
    assert_eq!(fs::read_to_string(work.path().join("b")).expect("the file"), "one");
    fs::create_dir(work.path().join("dir")).expect("a directory");
    unpacked(archive, &work.path().join("dir"), "a").expect("unpacks");
    assert_eq!(fs::read_to_string(work.path().join("dir/a")).expect("the file"), "one");
}

#[test]
fn what_git_ignores_is_left_out_and_git_itself_is_not() {
    let work = tempfile::tempdir().expect("a directory");
    let git = |arguments: &[&str]| {
        let status = std::process::Command::new("git").arg("-C").arg(work.path()).args(arguments).status();
        assert!(status.expect("git").success());
    };
    git(&["init", "--quiet"]);
    fs::write(work.path().join(".gitignore"), "target\n").expect("a file");
    fs::create_dir(work.path().join("target")).expect("a directory");
    fs::write(work.path().join("target/big"), "x").expect("a file");
    fs::write(work.path().join("new"), "x").expect("a file");
    let (archive, counted) = packed(work.path(), Selection::NotIgnored);
    assert_eq!(counted.left_out, 1);
    let to = tempfile::tempdir().expect("a directory");
    unpacked(archive, to.path(), "x").expect("unpacks");
    assert!(to.path().join("new").exists() && to.path().join(".git/HEAD").exists());
    assert!(!to.path().join("target").exists());
}

fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    if !link.is_empty() {
        header.set_link_name_literal(link).expect("a link name");
    }
    header.set_cksum();
    builder.append(&header, io::empty()).expect("an entry");
}

#[test]
fn archives_that_would_leave_their_directory_are_refused() {
    type Make = fn(&mut tar::Builder<Vec<u8>>);
    let cases: [(&str, Make); 6] = [
        ("up", |b| entry(b, b"../up", tar::EntryType::Regular, "")),
        ("middle", |b| entry(b, b"a/../../up", tar::EntryType::Regular, "")),
        ("absolute", |b| entry(b, b"/tmp/coffer-absolute", tar::EntryType::Regular, "")),
        ("device", |b| entry(b, b"null", tar::EntryType::Char, "")),
        ("hard link", |b| entry(b, b"passwd", tar::EntryType::Link, "/etc/passwd")),
        ("through a link", |b| {
            entry(b, b"d/e", tar::EntryType::Symlink, ".");
            entry(b, b"d/e/file", tar::EntryType::Regular, "");
        }),
    ];
    for (what, make) in cases {
        let work = tempfile::tempdir().expect("a directory");
        let mut builder = tar::Builder::new(Vec::new());
        make(&mut builder);
        let archive = builder.into_inner().expect("an archive");
        let result = unpacked(archive, &work.path().join("target"), "x");
        assert!(matches!(result, Err(ClientError::Unsafe { .. })), "{what}: {result:?}");
        assert!(!work.path().join("up").exists(), "{what}");
    }
}

fn archive(make: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    make(&mut builder);
    builder.into_inner().expect("an archive")
}

#[test]
fn links_out_of_the_target_are_left_out_and_told_and_others_are_made() {
    let work = tempfile::tempdir().expect("a directory");
    let links = [
        ("a/up", "../../x", false),
        ("absolute", "/etc/passwd", false),
        ("here", ".", true),
        ("a/inside", "../b", true),
        // Through `here` this would lead two levels up, although its components seem to balance.
        ("balanced", "here/here/../..", false),
        ("empty", "", false),
    ];
    let archive = archive(|builder| {
        for (name, link, _) in links {
            entry(builder, name.as_bytes(), tar::EntryType::Symlink, link);
        }
        entry(builder, b"file", tar::EntryType::Regular, "");
    });
    let target = work.path().join("target");
    let done = unpacked(archive, &target, "x").expect("unpacks");
    assert_eq!(done.files, 3);
    for (name, _, made) in links {
        assert_eq!(fs::symlink_metadata(target.join(name)).is_ok(), made, "{name}");
        assert_eq!(done.left_out.contains(&PathBuf::from(name)), !made, "{name}");
    }
}

#[test]
fn long_names_come_through_and_too_long_ones_are_refused() {
    let work = tempfile::tempdir().expect("a directory");
    let long = ["d".repeat(120), "e".repeat(120), "f".repeat(120)].join("/");
    let archive = archive(|builder| {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o600);
        builder.append_data(&mut header, &long, &b"abc"[..]).expect("an entry");
    });
    let target = work.path().join("target");
    unpacked(archive, &target, "x").expect("unpacks");
    assert_eq!(fs::read_to_string(target.join(long)).expect("the file"), "abc");

    // A name that never ends is not gathered in memory.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(64 << 20);
    header.set_cksum();
    let mut endless = header.as_bytes().to_vec();
    endless.resize(endless.len() + (1 << 20), b'n');
    assert!(matches!(unpacked(endless, &target, "x"), Err(ClientError::Unsafe { .. })));
}

#[test]
fn an_archive_that_ends_early_is_an_error() {
    let work = tempfile::tempdir().expect("a directory");
    fs::write(work.path().join("a"), vec![7; 10_000]).expect("a file");
    let (archive, _) = packed(&work.path().join("a"), Selection::All);
    let result = unpacked(archive[..4_000].to_vec(), &work.path().join("b"), "a");
    assert!(matches!(result, Err(ClientError::File { .. })), "{result:?}");
}

#[test]
fn an_empty_archive_makes_nothing_and_is_known_as_one() {
    let work = tempfile::tempdir().expect("a directory");
    let to = work.path().join("to");
    assert_eq!(unpacked(archive(|_| {}), &to, "x").expect("unpacks"), Unpacked::default());
    assert!(!to.exists());
}

#[test]
fn a_repository_inside_a_repository_is_taken_whole() {
    let work = tempfile::tempdir().expect("a directory");
    for root in [work.path().to_owned(), work.path().join("nested")] {
        let status = std::process::Command::new("git").args(["init", "--quiet"]).arg(&root).status();
        assert!(status.expect("git").success());
    }
    fs::write(work.path().join("nested/file"), "x").expect("a file");
    let (archive, counted) = packed(work.path(), Selection::NotIgnored);
    assert_eq!(counted.left_out, 0);
    let to = tempfile::tempdir().expect("a directory");
    unpacked(archive, to.path(), "x").expect("unpacks");
    assert!(to.path().join("nested/file").exists() && to.path().join("nested/.git/HEAD").exists());
}

#[test]
fn a_git_that_does_not_answer_is_an_error_and_everything_can_still_be_asked_for() {
    let work = tempfile::tempdir().expect("a directory");
    fs::write(work.path().join(".git"), "gitdir: /no/such/place\n").expect("a file");
    let name = Path::new("x");
    let result = pack(work.path(), name, Selection::NotIgnored, |_| true);
    assert!(matches!(result, Err(ClientError::Git { .. })), "{result:?}");
    assert!(pack(work.path(), name, Selection::All, |_| true).is_ok());
}

#[test]
fn a_link_named_by_the_user_is_followed() {
    let work = tempfile::tempdir().expect("a directory");
    fs::create_dir(work.path().join("real")).expect("a directory");
    fs::write(work.path().join("real/file"), "x").expect("a file");
    std::os::unix::fs::symlink("real", work.path().join("link")).expect("a link");
    assert_eq!(packed(&work.path().join("link"), Selection::All).1, Packed { files: 1, ..Packed::default() });
}
