//! What lies where a bundle is expected: nothing waits, nothing fills memory, and each has its status.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use coffer_evidence::bundle::{self, BUNDLE_MAX};

use crate::session::{AT, Ending, Recipe, parts, sealed};
use crate::{code, coffer, stderr, stdout};

/// Far more than a small bundle takes, far less than any of the files here would: KiB of address space.
const MEMORY_KIB: u32 = 1024 * 1024;
/// Nothing here takes a second; what waits, waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// `coffer evidence verb FILE` with little memory. Its output, or nothing when it does not come to an end.
fn on(home: &Path, verb: &str, file: &OsStr) -> Option<Output> {
    let mut command = Command::new("sh");
    let real = coffer(home);
    command.env_clear().envs(real.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(home);
    // Each arena of the allocator would reserve address space that it does not use.
    command.env("MALLOC_ARENA_MAX", "1");
    command.args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$@\""), "sh"]).arg(real.get_program());
    command.args(["evidence", verb]);
    if verb == "verify" {
        command.args(["--accept-simulated", "--at", &AT.to_string()]);
    }
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("start the command");
    let pid = rustix::process::Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || drop(done.send(child.wait_with_output())));
    let output = ended.recv_timeout(PATIENCE).ok();
    if output.is_none() {
        // It is still a child of this process, so its number is still its own.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("end the command");
    }
    waiting.join().expect("the waiting thread");
    output.map(|output| output.expect("the command's output"))
}

/// A header that claims more than there is, in a file that is mostly a hole.
fn with_hole(path: &Path, name: &str, size: u64) {
    let mut small = Vec::new();
    let archive = bundle::write(&parts(&Recipe::default(), Ending::Killed));
    small.extend_from_slice(&archive[..512]);
    small[..100].fill(0);
    small[..name.len()].copy_from_slice(name.as_bytes());
    small[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    small[148..156].fill(b' ');
    let sum: u32 = small.iter().map(|byte| u32::from(*byte)).sum();
    small[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut file = File::create(path).expect("create");
    file.write_all(&small).expect("write");
    file.set_len(BUNDLE_MAX).expect("a hole");
}

#[test]
fn whatever_lies_where_a_bundle_is_expected_has_its_status_in_bounded_memory_and_time() {
    let home = tempfile::tempdir().expect("a directory");
    let at = |name: &str| home.path().join(name);
    std::fs::write(at("genuine"), sealed(&Recipe::default())).expect("write");
    symlink("genuine", at("link")).expect("a link");
    std::fs::write(at("empty"), b"").expect("write");
    std::fs::write(at("block"), [0; 512]).expect("write");
    std::fs::write(at("text"), b"no bundle").expect("write");
    std::fs::create_dir(at("directory")).expect("a directory");
    symlink("loop", at("loop")).expect("a link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a pipe");
    File::create(at("sparse")).and_then(|file| file.set_len(BUNDLE_MAX)).expect("a hole");
    File::create(at("larger")).and_then(|file| file.set_len(BUNDLE_MAX + 1)).expect("a hole");
    with_hole(&at("giant-index"), "index.cbor", BUNDLE_MAX - 1024);
    with_hole(&at("giant-unknown"), "notes.txt", BUNDLE_MAX - 4096);
    std::fs::copy(at("genuine"), at("longer")).expect("copy");
    let longer = OpenOptions::new().write(true).open(at("longer")).expect("open");
    longer.set_len(BUNDLE_MAX).expect("a hole");

    let cases = [
        ("genuine", 0, "sealed"),
        ("link", 0, "sealed"),
        ("empty", 1, "expected a whole archive, found its end at 0"),
        ("block", 1, "expected two zero blocks at the end and nothing after, at 0"),
        ("text", 1, "expected a whole archive, found its end at 9"),
        ("sparse", 1, "expected two zero blocks at the end and nothing after, at 0"),
        ("longer", 1, "expected two zero blocks at the end and nothing after, at "),
        ("giant-index", 1, "index.cbor: expected at most 67108864 bytes, found 8589933568"),
        ("giant-unknown", 1, "expected members that a bundle has, found notes.txt"),
        ("larger", 74, "expected a bundle of at most 8589934592 bytes, found 8589934593 bytes: "),
        ("directory", 74, "expected a bundle in a regular file, found a directory: "),
        ("pipe", 74, "expected a bundle in a regular file, found a pipe: "),
        ("/dev/zero", 74, "expected a bundle in a regular file, found a device: /dev/zero"),
        ("/dev/null", 74, "expected a bundle in a regular file, found a device: /dev/null"),
        ("/proc/self/mem", 74, "read the bundle /proc/self/mem: "),
        ("loop", 74, "read the bundle loop: "),
        ("genuine/below", 74, "read the bundle genuine/below: "),
        ("none", 74, "read the bundle none: No such file"),
    ];
    for (name, status, told) in cases {
        for verb in ["verify", "show"] {
            let output = on(home.path(), verb, OsStr::new(name)).unwrap_or_else(|| panic!("{verb} {name} did not end"));
            let text = [stdout(&output), stderr(&output)].concat();
            assert_eq!(code(&output), Some(status), "{verb} {name}: {text}");
            assert!(verb == "show" && status == 0 || text.contains(told), "{verb} {name}: {text}");
            assert!(!text.contains("panicked"), "{verb} {name}: {text}");
        }
    }
}

#[test]
fn a_bundle_that_may_not_be_read_exits_74() {
    if rustix::process::geteuid().is_root() {
        println!("NOT RUN: a bundle that may not be read: root may read everything");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("closed");
    std::fs::write(&path, sealed(&Recipe::default())).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).expect("close it");
    let output = on(home.path(), "verify", path.as_os_str()).expect("an end");
    assert_eq!(code(&output), Some(74), "{}", stderr(&output));
    assert!(stderr(&output).contains("Permission denied"), "{}", stderr(&output));
}
