//! Bad images of each kind, made for the purpose, and what the lint says of them; the reader of erofs images against the
//! trees that `mkfs.erofs` was given; and the images that the other tests boot, where they are named.

#[path = "module/mod.rs"]
mod smallest;
mod warm;

use coffer_evidence::manifest::Profile;
use coffer_image::cmdline::command_line;
use coffer_image::inspect::{Kind, erofs, initramfs};
use coffer_image::kit::Kit;
use coffer_image::lint::{self, Files, Finding, Limits, LintError, Rule};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Budgets of the base image, in bytes.
const IMAGE_MAX: u64 = 150 << 20;
const INITRAMFS_MAX: u64 = 12 << 20;

const SIMULATED: Profile = Profile::Simulated;

/// As `coffer-image build` makes a root, but with attributes, so that a test can have some.
fn mkfs(tools: &Kit, tree: &Path, options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("root.erofs");
    let mut command = tools.command("usr/bin/mkfs.erofs");
    command.args(["-zlz4hc", "-T0", "--quiet"]).args(options).arg(&image).arg(tree);
    tools.run(&mut command).unwrap();
    fs::read(image).unwrap()
}

/// A root without findings.
fn good_tree(directory: &Path) {
    for name in ["usr/bin", "etc", "tmp", "var"] {
        fs::create_dir_all(directory.join(name)).unwrap();
        fs::set_permissions(directory.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    put(&directory.join("usr/bin/bash"), 0o755);
    symlink("../tmp", directory.join("var/tmp")).unwrap();
}

fn put(path: &Path, mode: u32) {
    fs::write(path, "content\n".repeat(1000)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A module of this name, with `symbols` in it.
fn module(name: &str, symbols: &[u8]) -> Vec<u8> {
    smallest::module(format!("depends=\0name={name}\0").as_bytes(), symbols)
}

/// Mode and content of an entry.
type Entries = BTreeMap<String, (u32, Vec<u8>)>;

fn good_entries() -> Entries {
    let mut entries = Entries::new();
    for name in ["dev", "etc", "etc/coffer", "lib", "lib/modules", "proc"] {
        entries.insert(name.into(), (0o040_755, Vec::new()));
    }
    for name in ["coffer-agent", "init"] {
        entries.insert(name.into(), (0o100_755, b"a program".to_vec()));
    }
    entries.insert("etc/coffer/svn".into(), (0o100_644, b"1\n".to_vec()));
    entries.insert("lib/modules/erofs.ko".into(), (0o100_644, module("erofs", b"")));
    entries
}

fn archive(entries: &Entries, uid: u32) -> Vec<u8> {
    archive_with(entries, |entry| entry.uid(uid), Vec::new())
}

/// With each entry changed, and these bytes behind the last.
fn archive_with(
    entries: &Entries,
    change: impl Fn(cpio::newc::Builder) -> cpio::newc::Builder,
    last: Vec<u8>,
) -> Vec<u8> {
    let mut archive = Vec::new();
    for (number, (name, (mode, content))) in entries.iter().enumerate() {
        let builder = change(cpio::newc::Builder::new(name).ino(number as u32 + 1).mode(*mode));
        archive = one_entry(archive, builder, content);
    }
    archive.extend(last);
    cpio::newc::trailer(archive).unwrap()
}

fn one_entry(archive: Vec<u8>, builder: cpio::newc::Builder, content: &[u8]) -> Vec<u8> {
    let mut writer = builder.write(archive, content.len() as u32);
    std::io::Write::write_all(&mut writer, content).unwrap();
    writer.finish().unwrap()
}

fn compressed(archive: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(archive, ruzstd::encoding::CompressionLevel::Fastest)
}

fn good_line() -> String {
    command_line(&[0xab; 32], SIMULATED)
}

/// What is found in an image of these parts.
fn found(root: &[u8], initramfs: &[u8], line: &str) -> Vec<Finding> {
    lint::lint(Files { root, initramfs, command_line: line.as_bytes() }, Limits::IMAGE).unwrap()
}

fn rules(findings: &[Finding]) -> Vec<Rule> {
    findings.iter().map(|finding| finding.rule).collect()
}

type Change = fn(&Path);

/// What is made in a good tree, and what is then found where.
const ROOTS: [(Change, Rule, &str); 14] = [
    (|root| put(&root.join("usr/bin/agetty"), 0o755), Rule::NoGetty, "/usr/bin/agetty"),
    (|root| put(&root.join("etc/getty@.service"), 0o644), Rule::NoGetty, "/etc/getty@.service"),
    (|root| symlink("x", root.join("usr/bin/sshd")).unwrap(), Rule::NoSshd, "/usr/bin/sshd"),
    (|root| put(&root.join("usr/bin/qemu-ga"), 0o755), Rule::NoGuestAgent, "/usr/bin/qemu-ga"),
    (|root| fs::create_dir(root.join("etc/cloud-init")).unwrap(), Rule::NoCloudInit, "/etc/cloud-init"),
    (|root| put(&root.join("usr/bin/su"), 0o4755), Rule::NoSetId, "/usr/bin/su"),
    (|root| put(&root.join("usr/bin/write"), 0o2755), Rule::NoSetId, "/usr/bin/write"),
    (|root| put(&root.join("etc/open"), 0o646), Rule::NoWorldWritable, "/etc/open"),
    (
        |root| fs::set_permissions(root.join("var"), Permissions::from_mode(0o1777)).unwrap(),
        Rule::NoWorldWritable,
        "/var",
    ),
    (
        |root| fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o777)).unwrap(),
        Rule::NoWorldWritable,
        "/tmp",
    ),
    (|root| put(&root.join("etc/e1000.ko.xz"), 0o644), Rule::KernelModules, "/etc/e1000.ko.xz"),
    (|root| drop(std::os::unix::net::UnixListener::bind(root.join("etc/s")).unwrap()), Rule::NoSpecialFile, "/etc/s"),
    (|root| attribute(&root.join("usr/bin/bash"), CAPABILITY), Rule::NoFileCapabilities, "/usr/bin/bash"),
    (|root| attribute(&root.join("usr/bin/bash"), ATTRIBUTE), Rule::NoAttributes, "/usr/bin/bash"),
];

const CAPABILITY: &str = "security.capability";
const ATTRIBUTE: &str = "user.x";

/// Sets an attribute, if the file system and the user's rights allow it: the test asks whether it is there.
fn attribute(path: &Path, name: &str) {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let value: &[u8] = if name.starts_with("security") { &capability } else { b"y" };
    let _ = rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty());
}

fn has_attribute(path: &Path, name: &str) -> bool {
    rustix::fs::getxattr(path, name, &mut [0_u8; 64]).is_ok()
}

#[test]
fn each_kind_of_bad_root_is_found_and_a_good_one_has_no_findings() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tools = warm::tools(dir.path(), &warm);
    let initramfs = compressed(&archive(&good_entries(), 0));
    let looked_into = |tree: &Path| found(&mkfs(&tools, tree, &["--all-root"]), &initramfs, &good_line());
    let changed = |change: &dyn Fn(&Path)| {
        let tree = tempfile::tempdir().unwrap();
        good_tree(tree.path());
        change(tree.path());
        tree
    };
    let made = |change: &dyn Fn(&Path)| looked_into(changed(change).path());
    assert_eq!(made(&|_| {}), []);
    assert_eq!(made(&|root| fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777)).unwrap()), []);
    for (change, rule, place) in ROOTS {
        let tree = changed(&change);
        let attribute = match rule {
            Rule::NoFileCapabilities => Some(CAPABILITY),
            Rule::NoAttributes => Some(ATTRIBUTE),
            _ => None,
        };
        if attribute.is_some_and(|name| !has_attribute(&tree.path().join("usr/bin/bash"), name)) {
            println!("NOT RUN: the temporary directory takes no such attribute from this user ({})", rule.name());
            continue;
        }
        let findings = looked_into(tree.path());
        assert_eq!(rules(&findings), [rule], "{findings:?}");
        assert_eq!(findings[0].place, format!("root.erofs: {place}"));
    }
    // Of another owner: everything.
    let tree = tempfile::tempdir().unwrap();
    good_tree(tree.path());
    let owned = mkfs(&tools, tree.path(), &["--force-uid=10000", "--force-gid=0"]);
    let findings = found(&owned, &initramfs, &good_line());
    assert!(findings.len() > 5 && findings.iter().all(|finding| finding.rule == Rule::NoOtherOwner), "{findings:?}");
    // A sticky directory for all is let be only under its names.
    assert_eq!(
        rules(&made(&|root| fs::set_permissions(root.join("etc"), Permissions::from_mode(0o1777)).unwrap())),
        [Rule::NoWorldWritable]
    );
}

type EntryChange = fn(&mut Entries);

/// What is changed in a good initramfs, and what is then found where.
const INITRAMFSES: [(EntryChange, &[Rule], &str); 9] = [
    (
        |e| drop(e.insert("lib/modules/e1000.ko".into(), (0o100_644, module("e1000", b"")))),
        &[Rule::KernelModules],
        "/lib/modules/e1000.ko",
    ),
    (
        |e| drop(e.insert("lib/modules/erofs.ko".into(), (0o100_644, module("e1000", b"")))),
        &[Rule::KernelModules],
        "/lib/modules/erofs.ko",
    ),
    (
        |e| drop(e.insert("lib/modules/overlay.ko".into(), (0o100_644, module("overlay", b"\0alloc_etherdev_mqs\0")))),
        &[Rule::NoNetworkDriver],
        "/lib/modules/overlay.ko",
    ),
    (
        |e| drop(e.insert("lib/modules/dm_mod.ko".into(), (0o100_644, b"no module".to_vec()))),
        &[Rule::KernelModules],
        "/lib/modules/dm_mod.ko",
    ),
    (|e| drop(e.insert("bin/sh".into(), (0o100_755, b"a shell".to_vec()))), &[Rule::InitramfsFiles], "/bin/sh"),
    (|e| drop(e.insert("dev/mem".into(), (0o020_600, Vec::new()))), &[Rule::InitramfsFiles], "/dev/mem"),
    (|e| drop(e.insert("init".into(), (0o120_777, b"/bin/sh".to_vec()))), &[Rule::InitramfsFiles], "/init"),
    (|e| e.get_mut("coffer-agent").unwrap().0 = 0o104_755, &[Rule::NoSetId], "/coffer-agent"),
    (|e| e.get_mut("etc/coffer/svn").unwrap().0 = 0o100_666, &[Rule::NoWorldWritable], "/etc/coffer/svn"),
];

#[test]
fn each_kind_of_bad_initramfs_is_found_and_a_good_one_has_no_findings() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tools = warm::tools(dir.path(), &warm);
    let tree = tempfile::tempdir().unwrap();
    good_tree(tree.path());
    let root = mkfs(&tools, tree.path(), &["--all-root"]);
    let look = |entries: &Entries, uid| found(&root, &compressed(&archive(entries, uid)), &good_line());
    assert_eq!(look(&good_entries(), 0), []);
    let mut tdx = good_entries();
    tdx.insert("init".into(), (0o120_777, b"/coffer-agent".to_vec()));
    assert_eq!(look(&tdx, 0), []);
    for (change, expected, place) in INITRAMFSES {
        let mut entries = good_entries();
        change(&mut entries);
        let findings = look(&entries, 0);
        assert_eq!(rules(&findings), expected, "{findings:?}");
        assert_eq!(findings[0].place, format!("initrd.img: {place}"));
    }
    for symbol in ["register_netdev", "usbnet_probe", "wiphy_register", "ieee80211_register_hw"] {
        let mut entries = good_entries();
        let content = module("overlay", format!("\0{symbol}\0").as_bytes());
        entries.insert("lib/modules/overlay.ko".into(), (0o100_644, content));
        assert_eq!(rules(&look(&entries, 0)), [Rule::NoNetworkDriver], "{symbol}");
    }
    let owned = |findings: Vec<Finding>| {
        assert_eq!(rules(&findings), vec![Rule::NoOtherOwner; good_entries().len()], "{findings:?}");
    };
    owned(look(&good_entries(), 1));
    owned(found(&root, &compressed(&archive_with(&good_entries(), |entry| entry.gid(1), Vec::new())), &good_line()));

    // The module of the other platform is none of the list.
    let mut entries = good_entries();
    entries.insert("lib/modules/fuse.ko".into(), (0o100_644, module("fuse", b"")));
    let initramfs = compressed(&archive(&entries, 0));
    assert_eq!(found(&root, &initramfs, &good_line()), []);
    assert_eq!(rules(&found(&root, &initramfs, &command_line(&[1; 32], Profile::Tdx))), [Rule::KernelModules]);

    // A second archive behind the first would be unpacked over it.
    let good = compressed(&archive(&good_entries(), 0));
    let two = [good.clone(), good.clone()].concat();
    let unreadable = |initramfs: &[u8]| {
        lint::lint(Files { root: &root[..], initramfs, command_line: good_line().as_bytes() }, Limits::IMAGE)
            .unwrap_err()
    };
    unreadable(&two);
    unreadable(&compressed(&[archive(&good_entries(), 0), archive(&good_entries(), 0)].concat()));
    unreadable(&good[..good.len() - 10]);
    unreadable(b"");

    // Where the kernel would read another file than the lint: hard links, a path twice, names and numbers that end early.
    let svn = |name: &str| cpio::newc::Builder::new(name).mode(0o100_644).ino(777);
    let overlay = one_entry(Vec::new(), svn("lib/modules/overlay.ko").nlink(2), &module("overlay", b""));
    let linked = one_entry(overlay, svn("etc/coffer/shapes").nlink(2), b"another content");
    let alone = one_entry(Vec::new(), svn("etc/coffer/shapes"), b"s1\n");
    let signed = String::from_utf8(alone.clone()).unwrap().replacen("00000309", "+0000309", 1).into_bytes();
    assert_ne!(signed, alone);
    let summed = [b"070702", &alone[6..]].concat();
    let with = |last: &[u8]| compressed(&archive_with(&good_entries(), |entry| entry, last.to_vec()));
    assert_eq!(found(&root, &with(&alone), &good_line()), []);
    for (last, words) in [
        (&linked, "without hard links"),
        (&one_entry(Vec::new(), svn("etc/coffer/svn"), b"2\n"), "each path once"),
        (&one_entry(Vec::new(), svn("etc/coffer/shapes\0"), b"2\n"), "one NUL"),
        (&one_entry(Vec::new(), svn("init\0/coffer/shapes"), b"2\n"), "one NUL"),
        (&signed, "hex digits"),
        (&summed, "070701"),
    ] {
        let error = unreadable(&with(last));
        let said = std::error::Error::source(&error).unwrap().to_string();
        assert!(said.contains(words), "{words}: {said}");
    }

    let cases = [
        (good_line().replace(" mce=off", ""), 1),
        (good_line().replace("oops=panic", "oops=continue"), 2),
        (good_line() + " init=/bin/sh", 1),
        (good_line() + " random.trust_cpu=on", 1),
        (good_line().replace("abab", "xyxy"), 1),
        (good_line() + " coffer.root=00", 1),
        (good_line().replace("coffer.root=", "coffer.root=coffer.root="), 1),
        (good_line().replace("console=ttyS0", "8250.nr_uarts=0"), 2),
    ];
    for (line, count) in cases {
        let findings = found(&root, &good, &line);
        assert_eq!(rules(&findings), vec![Rule::CommandLine; count], "{line}: {findings:?}");
    }
    for line in ["", "coffer.profile=other", "coffer.profile=tdx coffer.profile=simulated"] {
        assert!(
            lint::lint(Files { root: &root[..], initramfs: &good, command_line: line.as_bytes() }, Limits::IMAGE)
                .is_err(),
            "{line}"
        );
    }
}

/// Every word that Intel's guest hardening asks for, as the lint insists on it.
#[test]
fn the_hardening_set_of_intels_specification_is_insisted_on() {
    for profile in [Profile::Simulated, Profile::Tdx] {
        let words = coffer_image::cmdline::words(profile);
        for word in [
            "mce=off",
            "oops=panic",
            "pci=noearly",
            "pci=nommconf",
            "no-kvmclock",
            "random.trust_cpu=on",
            "random.trust_bootloader=off",
        ] {
            assert!(words.iter().any(|found| found == word), "{word}");
        }
    }
}

/// What stands in a tree, as the reader should see it.
fn on_disk(root: &Path) -> BTreeMap<String, (Kind, u32)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        found.insert(name, (Kind::of_mode(mode).unwrap(), mode & 0o7777));
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

#[test]
fn the_reader_sees_what_mkfs_was_given_and_survives_every_changed_byte() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tools = warm::tools(dir.path(), &warm);
    let tree = tempfile::tempdir().unwrap();
    good_tree(tree.path());
    // Directories of several blocks, of one, of none; long names, deep ones, hard links, empty and large files.
    let many = tree.path().join("etc/many");
    fs::create_dir(&many).unwrap();
    for number in 0..700 {
        put(&many.join(format!("{number}-{}", "n".repeat(number % 200))), 0o640);
    }
    let deep = (0..40).fold(tree.path().join("var"), |path, number| path.join(format!("d{number}")));
    fs::create_dir_all(&deep).unwrap();
    fs::hard_link(many.join("0-"), deep.join("hard")).unwrap();
    fs::write(deep.join("empty"), "").unwrap();
    fs::write(deep.join("large"), vec![7; 300_000]).unwrap();
    fs::create_dir(tree.path().join("etc/none")).unwrap();
    let image = mkfs(&tools, tree.path(), &["--all-root"]);
    let found = erofs::entries(&image[..], erofs::Limits::ROOT).unwrap();
    let seen: BTreeMap<String, (Kind, u32)> =
        found.iter().map(|entry| (entry.path.clone(), (entry.kind, entry.permissions))).collect();
    assert_eq!(seen.len(), found.len(), "a path twice");
    assert_eq!(seen, on_disk(tree.path()));

    let small = tempfile::tempdir().unwrap();
    good_tree(small.path());
    let image = mkfs(&tools, small.path(), &["--all-root"]);
    for at in (0..image.len()).filter(|at| *at < 1024 + 128 || image[*at] != 0) {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = image.clone();
            changed[at] = value;
            drop(erofs::entries(&changed[..], erofs::Limits::ROOT));
        }
    }
    for length in (0..image.len()).step_by(97) {
        drop(erofs::entries(&image[..length], erofs::Limits::ROOT));
    }
    // A feature that hides things from this reader is refused, and so is another block size.
    for (at, value) in [(1024 + 80, 0x20), (1024 + 80, 2), (1024 + 12, 9), (1024, 0)] {
        let mut changed = image.clone();
        changed[at] = value;
        assert!(
            matches!(erofs::entries(&changed[..], erofs::Limits::ROOT), Err(erofs::ErofsError::Format { .. })),
            "{at}"
        );
    }
}

type Limit = fn(&mut Limits) -> &mut u64;

/// What is too much, and by how much: each limit is tried at what the image has, and one below.
#[test]
fn what_is_read_of_an_image_ends_at_its_limits() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tools = warm::tools(dir.path(), &warm);
    let tree = tempfile::tempdir().unwrap();
    good_tree(tree.path());
    let bash = tree.path().join("usr/bin/bash");
    attribute(&bash, ATTRIBUTE);
    for number in 0..2 {
        fs::hard_link(&bash, tree.path().join(format!("usr/bin/{number}"))).unwrap();
    }
    let root = mkfs(&tools, tree.path(), &["--all-root"]);
    let unpacked = archive(&good_entries(), 0);
    let initramfs = compressed(&unpacked);
    let look = |limits| {
        lint::lint(Files { root: &root[..], initramfs: &initramfs, command_line: good_line().as_bytes() }, limits)
    };
    let names = on_disk(tree.path());
    let paths: Vec<u64> = names.keys().map(|path| path.len() as u64).collect();
    // Twelve bytes for each name, the names, and the two of itself and its parent; none here is longer than a block.
    let directory = |names: &[&str]| names.iter().map(|name| 12 + name.len() as u64).sum::<u64>();
    let mut rows: Vec<(&str, Limit, u64)> = vec![
        ("entries in the erofs", |limits| &mut limits.root.entries, names.len() as u64),
        ("bytes in a path", |limits| &mut limits.root.path, *paths.iter().max().unwrap()),
        ("bytes in all paths", |limits| &mut limits.root.paths, paths.iter().sum()),
        (
            "bytes in a directory",
            |limits| &mut limits.root.directory,
            directory(&[".", "..", "etc", "tmp", "usr", "var"]),
        ),
        ("entries in the initramfs", |limits| &mut limits.initramfs.entries, good_entries().len() as u64),
        ("bytes, unpacked", |limits| &mut limits.initramfs.unpacked, unpacked.len() as u64),
    ];
    let attributes = has_attribute(&bash, ATTRIBUTE);
    if attributes {
        rows.extend::<[(&str, Limit, u64); 3]>([
            ("attributes of an inode", |limits| &mut limits.root.attributes, 1),
            // A header of twelve bytes, and the place of the one that `mkfs.erofs` takes for shared by the names.
            ("bytes of extended attributes", |limits| &mut limits.root.attribute_bytes, 16),
            // Once for each name of the file.
            ("attributes in all", |limits| &mut limits.root.all_attributes, 3),
        ]);
    } else {
        println!("NOT RUN: the temporary directory takes no attributes");
    }
    for (what, limit, most) in rows {
        let with = |value| {
            let mut limits = Limits::IMAGE;
            assert!(*limit(&mut limits) > most, "{what}");
            *limit(&mut limits) = value;
            look(limits)
        };
        assert_eq!(with(most).unwrap().len(), if attributes { 3 } else { 0 }, "{what}");
        let error = with(most - 1).expect_err(what);
        let said = std::error::Error::source(&error).unwrap().to_string();
        assert!(said.contains(what) && said.contains(&format!("at most {} ", most - 1)), "{what}: {said}");
    }

    let bad = good_line().replace(" mce=off", " a b c");
    let look = |findings| {
        let root = mkfs(&tools, tree.path(), &["--all-root", "-x-1"]);
        let files = Files { root: &root[..], initramfs: &initramfs, command_line: bad.as_bytes() };
        lint::lint(files, Limits { findings, ..Limits::IMAGE })
    };
    assert_eq!(look(4).unwrap().len(), 4);
    assert!(matches!(look(3), Err(LintError::Findings { most: 3, .. })));
}

#[test]
fn files_of_an_image_are_read_up_to_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    for (initramfs, line, expected) in
        [(12 << 20, 4096, None), ((12 << 20) + 1, 4096, Some("initrd.img")), (12 << 20, 4097, Some("cmdline"))]
    {
        for (name, length) in [("initrd.img", initramfs), ("cmdline", line), ("root.erofs", 0)] {
            fs::File::create(dir.path().join(name)).unwrap().set_len(length).unwrap();
        }
        let found = match lint::directory(dir.path()).unwrap_err() {
            LintError::TooLong { path, .. } => Some(path),
            LintError::Profile { .. } => None,
            other => panic!("{other}"),
        };
        assert_eq!(found, expected.map(|name| dir.path().join(name)));
    }
}

fn named(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join(path))
}

/// The images that the other tests boot; and that they differ by the simulator's shim alone.
#[test]
fn the_two_built_images_have_no_findings_and_differ_by_the_shim_alone() {
    let (Some(simulated), Some(tdx)) = (named("COFFER_TEST_IMAGE"), named("COFFER_TEST_TDX_IMAGE")) else {
        let required = std::env::var_os("COFFER_TEST_GUESTS").is_some_and(|value| value == "required");
        assert!(!required, "COFFER_TEST_IMAGE and COFFER_TEST_TDX_IMAGE are not set");
        println!("NOT RUN: COFFER_TEST_IMAGE and COFFER_TEST_TDX_IMAGE are not set; `scripts/test` builds both");
        return;
    };
    for image in [&simulated, &tdx] {
        assert_eq!(lint::directory(image).unwrap(), [], "{}", image.display());
        let sizes =
            |names: &[&str]| names.iter().map(|name| fs::metadata(image.join(name)).unwrap().len()).sum::<u64>();
        let all = ["firmware.fd", "vmlinuz", "initrd.img", "root.erofs", "root.verity"];
        println!("{}: {} bytes, initramfs {}", image.display(), sizes(&all), sizes(&["initrd.img"]));
        assert!(sizes(&all) <= IMAGE_MAX && sizes(&["initrd.img"]) <= INITRAMFS_MAX, "{}", image.display());
    }
    let bytes = |image: &Path, name: &str| fs::read(image.join(name)).unwrap();
    for name in ["firmware.fd", "vmlinuz", "root.erofs", "root.verity"] {
        assert!(bytes(&simulated, name) == bytes(&tdx, name), "{name} differs");
    }
    let entries = |image: &Path| {
        let found = initramfs::entries(&bytes(image, "initrd.img"), Limits::IMAGE.initramfs).unwrap();
        found.into_iter().map(|entry| (entry.path.clone(), entry)).collect::<BTreeMap<_, _>>()
    };
    let (ours, theirs) = (entries(&simulated), entries(&tdx));
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differ: Vec<&str> =
        names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).map(String::as_str).collect();
    // The shim is /init of the one; the other loads the driver whose files the shim serves.
    assert_eq!(differ, ["etc/coffer/modules", "init", "lib/modules/tdx_guest.ko"]);
    assert!(!ours.contains_key("lib/modules/tdx_guest.ko"));
    assert_eq!((ours["init"].kind, theirs["init"].kind), (Kind::File, Kind::Link));
    assert_eq!(theirs["init"].content, b"/coffer-agent");
    let words = |image: &Path| {
        let text = String::from_utf8(bytes(image, "cmdline")).unwrap();
        text.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let (ours, theirs) = (words(&simulated), words(&tdx));
    let only =
        |one: &[String], other: &[String]| one.iter().filter(|word| !other.contains(word)).cloned().collect::<Vec<_>>();
    assert_eq!(only(&ours, &theirs), ["coffer.profile=simulated", "console=ttyS0"]);
    assert_eq!(only(&theirs, &ours), ["coffer.profile=tdx", "8250.nr_uarts=0"]);
}
