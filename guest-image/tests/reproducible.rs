//! The same packages and programs give the same image, whoever builds it, where, and under which umask.
//!
//! Two whole builds out of the packages in the user's cache, without the network: one to two minutes on two cores.

mod warm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds under `directory` and gives back the image's directory.
fn build(directory: &Path, warm: &Path, umask: &str) -> PathBuf {
    let cache = warm::own_cache(directory, warm);
    let output = Command::new("sh")
        .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_coffer-image"), "build"])
        .arg("--cache")
        .arg(&cache)
        .arg("--out")
        .arg(directory.join("images"))
        .arg("--publisher-key")
        .arg(directory.parent().unwrap().join("publisher.key"))
        .arg(format!("--locked={}", warm::lock_of(warm).display()))
        // Any two programs will do: the image does not look into them.
        .args(["--agent", "/bin/true", "--shim", "/bin/false"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

#[test]
fn two_builds_in_different_directories_give_the_same_bytes() {
    let Some(warm) = warm::warm_cache() else { return };
    let dir = tempfile::tempdir().unwrap();
    let one = build(&dir.path().join("one"), &warm, "022");
    let two = build(&dir.path().join("another place"), &warm, "027");
    assert_eq!(one.file_name(), two.file_name(), "another image digest");
    let mut names: Vec<_> = fs::read_dir(&one).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["cmdline", "firmware.fd", "image.dsse", "image.lock", "initrd.img", "root.erofs", "root.verity", "vmlinuz"]
    );
    for name in names {
        assert!(fs::read(one.join(&name)).unwrap() == fs::read(two.join(&name)).unwrap(), "{name:?} differs");
    }
}
