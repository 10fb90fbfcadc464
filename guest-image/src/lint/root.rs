//! The rules for the root file system: by names, modes, owners and attributes of its entries.

use super::{Finding, Rule};
use crate::inspect::{Entry, Kind};

/// Directories that everybody may write, if sticky: only these.
const TEMPORARY: [&str; 2] = ["tmp", "var/tmp"];
const STICKY: u32 = 0o1000;
const SET_ID: u32 = 0o6000;
const WORLD_WRITE: u32 = 0o002;
const CAPABILITIES: &str = "security.capability";

/// Programs and services by name, wherever they lie.
fn by_name(name: &str) -> Option<Rule> {
    // `getty@.service` and `cloud-init.target` are as good as the programs.
    let stem = name.split(['@', '.']).next().unwrap_or(name);
    if stem.ends_with("getty") {
        return Some(Rule::NoGetty);
    }
    if ["sshd", "sshd-session", "sshd-auth", "dropbear", "tinysshd"].contains(&stem) {
        return Some(Rule::NoSshd);
    }
    if ["qemu-ga", "qemu-guest-agent"].contains(&stem) {
        return Some(Rule::NoGuestAgent);
    }
    if stem.starts_with("cloud-init") || stem == "cloud-id" {
        return Some(Rule::NoCloudInit);
    }
    None
}

/// Is it a kernel module, compressed or not?
fn is_module(name: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|end| name.ends_with(end))
}

/// What is wrong with the entries of `root.erofs`.
pub(super) fn findings(entries: &[Entry]) -> impl Iterator<Item = Finding> {
    entries.iter().flat_map(of_entry)
}

fn of_entry(entry: &Entry) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find =
        |rule, found: String| findings.push(Finding { rule, place: format!("root.erofs: /{}", entry.path), found });
    let Entry { path, kind, permissions, uid, gid, attributes } = entry;
    let name = path.rsplit('/').next().unwrap_or(path);
    if let Some(rule) = by_name(name) {
        find(rule, format!("expected nothing of that name, found {name}"));
    }
    if is_module(name) {
        find(Rule::KernelModules, "expected kernel modules in the initramfs alone, found one".into());
    }
    if permissions & SET_ID != 0 {
        find(Rule::NoSetId, format!("expected no set-id bit, found mode {permissions:04o}"));
    }
    // The mode of a link means nothing.
    let temporary = *kind == Kind::Directory && permissions & STICKY != 0 && TEMPORARY.contains(&path.as_str());
    if *kind != Kind::Link && permissions & WORLD_WRITE != 0 && !temporary {
        find(Rule::NoWorldWritable, format!("expected a mode without write access for all, found {permissions:04o}"));
    }
    if (*uid, *gid) != (0, 0) {
        find(Rule::NoOtherOwner, format!("expected owner 0:0, found {uid}:{gid}"));
    }
    if *kind == Kind::Special {
        find(Rule::NoSpecialFile, "expected a file, directory or link, found a device, pipe or socket".into());
    }
    for attribute in attributes {
        if attribute == CAPABILITIES {
            find(Rule::NoFileCapabilities, "expected a file without capabilities, found some".into());
        } else {
            find(Rule::NoAttributes, format!("expected no extended attribute, found {attribute}"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_others_let_be() {
        for (name, rule) in [
            ("agetty", Rule::NoGetty),
            ("getty@.service", Rule::NoGetty),
            ("sshd", Rule::NoSshd),
            ("sshd.service", Rule::NoSshd),
            ("qemu-ga", Rule::NoGuestAgent),
            ("cloud-init-local.service", Rule::NoCloudInit),
            ("cloud-id", Rule::NoCloudInit),
        ] {
            assert_eq!(by_name(name), Some(rule), "{name}");
        }
        for name in ["ssh", "gettyps.py", "cloud", "git", "qemu", "spaghetti"] {
            assert_eq!(by_name(name), None, "{name}");
        }
        assert!(is_module("e1000.ko.xz") && is_module("a.ko") && !is_module("a.kox") && !is_module("ko"));
    }
}
