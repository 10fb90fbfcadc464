//! What `cofferd` refuses to start in: its exit status, what it says, and that it leaves everything as it was.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use coffer_tests::host::binaries;

use crate::needs_root;
use crate::place::{Place, Refused, chmod, refused};

const USAGE: i32 = 64;
const LOCKED: i32 = 73;
const INPUT_OUTPUT: i32 = 74;
const PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

/// Expects this status and each of these words, and no panic.
fn assert_refused(what: &str, found: &Refused, status: i32, words: &[&str]) {
    assert_eq!(found.status, Some(status), "{what}: {found:?}");
    for word in words {
        assert!(found.said.contains(word), "{what}: no {word:?} in {}", found.said);
    }
    for bad in ["panicked", "stack backtrace", "RUST_BACKTRACE"] {
        assert!(!found.said.contains(bad), "{what}: {}", found.said);
    }
    let last = found.said.lines().rfind(|line| line.starts_with("cofferd: ")).unwrap_or_default();
    assert!(status == USAGE || !last.is_empty(), "{what}: the last word is cofferd's: {}", found.said);
}

/// Every file below, with its kind, mode and bytes: the lock's own text apart, which names whoever last held it.
fn snapshot(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let bytes = if metadata.is_file() && !name.ends_with("lock") {
            std::fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        found.insert(name, (metadata.mode(), bytes));
    }
    found
}

fn state_with(mode: u32) -> anyhow::Result<Place> {
    let place = Place::new()?;
    std::fs::create_dir(place.state())?;
    chmod(&place.state(), mode)?;
    Ok(place)
}

/// A place in which a `cofferd` has been before.
fn used() -> anyhow::Result<Place> {
    let mut place = Place::new()?;
    place.start()?;
    assert_eq!(place.stop()?, Some(0));
    Ok(place)
}

#[test]
fn a_state_directory_that_cannot_serve_is_refused_by_name() -> anyhow::Result<()> {
    let words = ["expected a directory or nothing", "move it away", "--state"];
    let place = Place::new()?;
    std::fs::write(place.state(), "precious")?;
    assert_refused("a file", &place.refused()?, CONFIGURATION, &[&words[..], &["found a file"]].concat());
    assert_eq!(std::fs::read(place.state())?, b"precious");

    let place = Place::new()?;
    std::os::unix::fs::symlink(place.path("nowhere"), place.state())?;
    assert_refused("a dangling link", &place.refused()?, CONFIGURATION, &[&words[..], &["symbolic link"]].concat());
    assert!(!place.path("nowhere").exists());

    let place = state_with(0o750)?;
    let found = place.refused()?;
    assert_refused("too open", &found, PERMISSION, &["expected", "alone", "mode 750", "chmod 0700"]);
    assert_eq!(std::fs::read_dir(place.state())?.count(), 0);

    let place = state_with(0o700)?;
    std::fs::write(place.state().join("evidence"), "precious")?;
    assert_refused("evidence is a file", &place.refused()?, CONFIGURATION, &["state/evidence", "found a file"]);

    // A link to a directory of ours is as good as the directory.
    let mut place = Place::new()?;
    std::fs::create_dir(place.path("elsewhere"))?;
    chmod(&place.path("elsewhere"), 0o700)?;
    std::os::unix::fs::symlink(place.path("elsewhere"), place.state())?;
    place.start()?;
    assert!(place.path("elsewhere/coffer.redb").is_file());

    let place = Place::new()?;
    let long = place.path(&"x".repeat(60));
    let found = refused(Command::new(binaries().join("cofferd")).arg("serve").arg("--state").arg(&long))?;
    assert_refused("too long", &found, CONFIGURATION, &["at most 41 bytes", "choose a shorter one"]);
    assert!(!long.exists(), "nothing is made at a path that cannot serve");
    Ok(())
}

#[test]
fn a_state_directory_of_another_or_without_write_access_is_refused_and_left_alone() -> anyhow::Result<()> {
    needs_root!("give directories away and mount");
    let place = state_with(0o700)?;
    std::os::unix::fs::chown(place.state(), Some(65_534), None)?;
    assert_refused("of another", &place.refused()?, PERMISSION, &["uid 0 alone", "found owner 65534", "chown"]);

    // Another user on a directory of root's.
    let place = state_with(0o700)?;
    chmod(place.path("").as_path(), 0o755)?;
    let mut nobody = Command::new("setpriv");
    // The programs may stand where only root can go.
    std::fs::copy(binaries().join("cofferd"), place.path("cofferd"))?;
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(place.path("cofferd"));
    nobody.arg("serve").arg("--state").arg(place.state()).arg("--socket").arg(place.path("s"));
    let found = refused(&mut nobody)?;
    assert_refused("root's", &found, PERMISSION, &["expected", "uid 65534 alone", "found owner 0", "--state"]);

    let mut place = used()?;
    let before = snapshot(&place.state());
    let state = place.state().display().to_string();
    place.mounts = format!("mount --bind {state} {state}\nmount -o remount,bind,ro {state}");
    let found = place.refused()?;
    assert_refused(
        "read-only",
        &found,
        PERMISSION,
        &["expected to open the lock", "write access", "Read-only file system"],
    );
    assert_eq!(snapshot(&place.state()), before);
    place.mounts = format!("mount -t tmpfs -o ro,mode=700 none {state}");
    let found = place.refused()?;
    assert_refused("an empty read-only one", &found, PERMISSION, &["expected", "--state", "Read-only file system"]);

    Ok(())
}

/// Full for the lock, and at every later moment of the start, until there is room enough.
#[test]
fn a_full_state_directory_is_refused_and_nothing_half_made_is_left() -> anyhow::Result<()> {
    needs_root!("mount");
    for room in [0, 4, 20, 60, 120, 300, 900] {
        let mut place = state_with(0o700)?;
        let (state, list) = (place.state().display().to_string(), place.path("left").display().to_string());
        place.mounts = format!(
            "mount -t tmpfs -o size=1m,mode=700 none {state}\n\
             head -c $((1024 * (1024 - {room}))) /dev/zero >{state}/fill\n\
             export STATE={state} LIST={list}"
        );
        // The shell stays: to tell what is left in a file system that goes with it, and to make room and try again.
        place.run = "status=0; timeout --preserve-status 1 \"$@\" || status=$?; ls $STATE >$LIST
                     [ $status = 0 ] || { rm $STATE/fill; timeout --preserve-status 1 \"$@\" 2>/dev/null; echo again $? >>$LIST; }
                     exit $status";
        let found = place.refused()?;
        let left = std::fs::read_to_string(&list)?;
        assert!(!left.contains(".new"), "{room} KiB: something half-made is left: {left}");
        if found.status == Some(0) {
            assert!(room >= 60, "{room} KiB is no room for a store: {found:?}");
            return Ok(());
        }
        assert_refused(&format!("{room} KiB of room"), &found, INPUT_OUTPUT, &["No space left on device"]);
        assert!(left.ends_with("again 0\n"), "{room} KiB: with room it does not start: {left}");
    }
    panic!("it does not start where there is room");
}

#[test]
fn a_second_cofferd_is_told_who_has_the_state_and_the_socket() -> anyhow::Result<()> {
    let mut first = Place::new()?;
    first.start()?;
    let pid = first.pid().to_string();
    let found = first.refused()?;
    assert_refused("the state", &found, LOCKED, &["in use by another cofferd", &format!("process {pid}"), "--state"]);

    let second = Place::new()?;
    let found = second.refused_at(&first.path("cofferd.sock"))?;
    assert_refused("the socket", &found, LOCKED, &["cofferd.sock", "in use by another cofferd", "--socket"]);
    first.ok(&["session", "list"])?;
    Ok(())
}

#[test]
fn whatever_stands_where_the_socket_should_be_stays_and_is_named() -> anyhow::Result<()> {
    let place = Place::new()?;
    let file = place.path("file");
    std::fs::write(&file, "precious")?;
    let words = ["expected a socket or nothing", "move it away", "--socket"];
    let found = place.refused_at(&file)?;
    assert_refused("a file", &found, CONFIGURATION, &[&words[..], &["found a file"]].concat());
    assert_eq!(std::fs::read(&file)?, b"precious");
    let found = place.refused_at(&place.path(""))?;
    assert_refused("a directory", &found, CONFIGURATION, &words);
    let found = place.refused_at(&file.join("below/a.sock"))?;
    assert_refused("below a file", &found, INPUT_OUTPUT, &["expected to make the directory of the socket", "--socket"]);
    let found = place.refused_at(&place.path(&"y".repeat(100)))?;
    assert_refused("too long", &found, CONFIGURATION, &["at most 103 bytes", "name a shorter one"]);

    // A stale one makes way, and a directory that is missing is made.
    let mut place = Place::new()?;
    drop(UnixListener::bind(place.path("cofferd.sock"))?);
    place.start()?;
    assert!(place.path("cofferd.sock").symlink_metadata()?.file_type().is_socket());
    place.ok(&["session", "list"])?;
    assert_eq!(place.stop()?, Some(0));
    assert!(!place.path("cofferd.sock").exists(), "it goes with its cofferd");
    Ok(())
}

#[test]
fn a_store_that_is_none_or_damaged_is_refused_and_not_touched() -> anyhow::Result<()> {
    let original = used()?;
    let good = std::fs::read(original.state().join("coffer.redb"))?;
    let mut rows: Vec<(String, Vec<u8>)> =
        vec![("empty".into(), Vec::new()), ("text".into(), b"not a store\n".repeat(999))];
    for length in [1, 64, 4_096, good.len() / 2, good.len() - 1] {
        rows.push((format!("cut to {length}"), good[..length].to_vec()));
    }
    rows.push(("its first page lost".into(), [&[0; 4_096][..], &good[4_096..]].concat()));
    let place = original;
    for (what, bytes) in rows {
        let path = place.state().join("coffer.redb");
        std::fs::write(&path, &bytes)?;
        let before = snapshot(&place.state());
        let found = place.refused()?;
        let words = ["expected the store", "coffer.redb to be a database of cofferd, found", "move it away"];
        assert_refused(&what, &found, INPUT_OUTPUT, &words);
        assert!(snapshot(&place.state()) == before, "{what}: something was changed");
    }
    // Moved away, as the words say, it starts.
    let mut place = place;
    std::fs::remove_file(place.state().join("coffer.redb"))?;
    place.start()
}

#[test]
fn a_host_key_that_is_none_or_open_to_others_is_refused_and_a_missing_one_is_made() -> anyhow::Result<()> {
    let mut place = used()?;
    let path = place.state().join("host.key");
    let key = std::fs::read(&path)?;
    for (what, bytes, mode, status, word) in [
        ("open", &key[..], 0o640, PERMISSION, "found mode 640"),
        ("short", &key[..40], 0o600, CONFIGURATION, "64 hex digits"),
        ("empty", b"", 0o600, CONFIGURATION, "64 hex digits"),
        ("text", b"not a key", 0o600, CONFIGURATION, "64 hex digits"),
    ] {
        std::fs::write(&path, bytes)?;
        chmod(&path, mode)?;
        let before = snapshot(&place.state());
        let found = place.refused()?;
        assert_refused(what, &found, status, &["expected the host key", word, "move it away for a new one"]);
        assert_eq!(snapshot(&place.state()), before, "{what}");
        let secret = String::from_utf8_lossy(&key[..32]).into_owned();
        assert!(!found.said.contains(&secret), "{what}: the key is in the diagnostics");
    }
    std::fs::remove_file(&path)?;
    place.start()?;
    assert_eq!(std::fs::metadata(&path)?.mode() & 0o7777, 0o600);
    assert_ne!(std::fs::read(&path)?, key);
    Ok(())
}

#[test]
fn a_configuration_that_is_wrong_is_refused_by_the_key_that_is() -> anyhow::Result<()> {
    let place = Place::new()?;
    for (text, words) in [
        ("[listen]\nport = 1\n", &["unknown field `port`", "expected `socket`"][..]),
        ("[pool]\nsize = 1\n", &["unknown field `pool`", "expected one of"]),
        ("[limits]\nsessions = \"many\"\n", &["line 2", "expected usize"]),
        ("[limits]\nsessions = 0\n", &["limits.sessions: expected 1 to 1024, found 0"]),
        ("[limits]\nseal_s = 3601\n", &["limits.seal_s: expected 1 to 3600 seconds, found 3601"]),
        ("[vmm]\nqemu = \"qemu\"\n", &["vmm.qemu: expected an absolute path, found qemu"]),
        ("[vmm]\naccelerator = \"hvf\"\n", &["unknown variant `hvf`", "expected one of `auto`, `kvm`, `tcg`"]),
        ("[image]\ndefault = \"latest\"\n", &["image.default: expected 64 hex digits", "found latest"]),
        ("[listen\n", &["line 1", "expected"]),
        ("\u{0}", &["line 1"]),
    ] {
        let path = place.path("c.toml");
        std::fs::write(&path, text)?;
        let serve = |what: &[&str]| {
            let mut command = Command::new(binaries().join("cofferd"));
            refused(command.args(what).arg(&path).env("XDG_STATE_HOME", place.path("none")))
        };
        assert_refused(text, &serve(&["serve", "--state", "/dev/null", "--config"])?, CONFIGURATION, words);
        assert_refused(text, &serve(&["check-config"])?, CONFIGURATION, words);
    }
    let cofferd = |arguments: &[&str]| refused(Command::new(binaries().join("cofferd")).args(arguments));
    let missing = place.path("none.toml").display().to_string();
    assert_refused("missing", &cofferd(&["check-config", &missing])?, CONFIGURATION, &["expected to read", &missing]);
    assert_refused("usage", &cofferd(&["sreve"])?, USAGE, &["unrecognized subcommand"]);
    assert_refused("usage", &cofferd(&["serve", "--stat", "/x"])?, USAGE, &["unexpected argument"]);
    assert_eq!(std::fs::read_dir(place.path(""))?.count(), 1, "nothing but the configuration was made");
    Ok(())
}

#[test]
fn a_cofferd_without_its_programs_and_images_starts_and_says_what_is_missing() -> anyhow::Result<()> {
    let mut place = Place::new()?;
    let none = place.path("none").display().to_string();
    place.config = format!("[simulator]\ncommand = {none:?}\n[image]\ndirectory = {none:?}\n");
    place.vmm += &format!("qemu = {none:?}\naccelerator = \"kvm\"\nlink = \"vhost-user\"\nvsock_device = {none:?}\n");
    place.mounts = if crate::place::is_root() {
        // A host without /dev/kvm.
        "mount -t tmpfs none /dev\nmknod /dev/null c 1 3".to_owned()
    } else {
        String::new()
    };
    place.start()?;
    place.says("no image can be used")?;
    for words in [
        format!("expected QEMU at {none}: correct vmm.qemu"),
        format!("expected coffer-vsock at {none}: install it beside cofferd, or set vmm.vsock_device"),
        "simulator.command names no program".to_owned(),
        format!("expected to read {none} (build or copy the image again)"),
    ] {
        assert!(place.diagnostics().contains(&words), "no {words:?} in {}", place.diagnostics());
    }
    if !place.mounts.is_empty() {
        place.says("expected a KVM that can run guests, found /dev/kvm that cannot be opened").context("KVM")?;
    }
    Ok(())
}
