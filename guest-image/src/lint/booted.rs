//! The rules for what the kernel starts with: the initramfs and the command line. Both are closed lists.

use super::{Finding, Rule};
use crate::cmdline;
use crate::digest::is_sha256;
use crate::inspect::Kind;
use crate::inspect::initramfs::Entry;
use crate::kernel::{modinfo, modules};
use coffer_evidence::manifest::Profile;

const MODULES: &str = "lib/modules/";
/// Files of ours besides modules.
const FILES: [&str; 5] = ["coffer-agent", "init", "etc/coffer/modules", "etc/coffer/shapes", "etc/coffer/svn"];
/// What drivers of network devices ask the kernel for, as names in their symbol tables: a device of their own, or that
/// another module makes one for them (USB, wireless). A module that carries none of these names is not found.
const NETWORK_SYMBOLS: [&[u8]; 9] = [
    b"\0register_netdev\0",
    b"\0register_netdevice\0",
    b"\0alloc_netdev_mqs\0",
    b"\0alloc_etherdev_mqs\0",
    b"\0devm_alloc_etherdev_mqs\0",
    b"\0devm_register_netdev\0",
    b"\0usbnet_probe\0",
    b"\0wiphy_register\0",
    b"\0ieee80211_register_hw\0",
];

pub(super) fn of_initramfs(entries: &[Entry], profile: Profile) -> Vec<Finding> {
    let allowed = modules::allowed(profile);
    let mut findings = Vec::new();
    for entry in entries {
        let mut find = |rule, found: String| {
            findings.push(Finding { rule, place: format!("initrd.img: /{}", entry.path), found });
        };
        let module = entry.path.strip_prefix(MODULES);
        match (entry.kind, module) {
            (Kind::File, Some(file)) => {
                let name = modules::canonical_of_path(file).unwrap_or_else(|| file.to_owned());
                if !allowed.contains(&name.as_str()) {
                    find(Rule::KernelModules, format!("expected one of {}, found {name}", allowed.join(" ")));
                }
                match modinfo::name(&entry.content) {
                    Ok(own) if own == name => {}
                    Ok(own) => {
                        find(Rule::KernelModules, format!("expected the module {name}, found {own} under its name"));
                    }
                    Err(error) => find(Rule::KernelModules, error.to_string()),
                }
                let symbol = NETWORK_SYMBOLS.iter().find(|symbol| contains(&entry.content, symbol));
                if let Some(symbol) = symbol {
                    let symbol = String::from_utf8_lossy(symbol).replace('\0', "");
                    find(
                        Rule::NoNetworkDriver,
                        format!("expected no driver that makes a network device, found a use of {symbol}"),
                    );
                }
            }
            (Kind::Directory, _) if crate::initramfs::DIRECTORIES.contains(&entry.path.as_str()) => {}
            (Kind::File, None) if FILES.contains(&entry.path.as_str()) => {}
            (Kind::Link, None) if entry.path == "init" && entry.content == b"/coffer-agent" => {}
            _ => find(
                Rule::InitramfsFiles,
                "expected agent, init, modules and what the guest is told of its image, found another entry".into(),
            ),
        }
        if entry.permissions & 0o6022 != 0 && entry.kind != Kind::Link {
            let rule = if entry.permissions & 0o6000 != 0 { Rule::NoSetId } else { Rule::NoWorldWritable };
            find(
                rule,
                format!(
                    "expected a mode that only root may write, without set-id bits, found {:04o}",
                    entry.permissions
                ),
            );
        }
        if (entry.uid, entry.gid) != (0, 0) {
            find(Rule::NoOtherOwner, format!("expected owner 0:0, found {}:{}", entry.uid, entry.gid));
        }
    }
    findings
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

pub(super) fn of_command_line(text: &str, profile: Profile) -> Vec<Finding> {
    let finding = |found: String| Finding { rule: Rule::CommandLine, place: "cmdline".into(), found };
    let mut findings = Vec::new();
    let (roots, words): (Vec<&str>, Vec<&str>) = text.split(' ').partition(|word| word.starts_with("coffer.root="));
    let is_root = |word: &str| word.strip_prefix("coffer.root=").is_some_and(is_sha256);
    if !matches!(roots[..], [root] if is_root(root)) {
        findings.push(finding(format!("expected coffer.root= and 64 hex digits once, found {:?}", roots.join(" "))));
    }
    let expected = cmdline::words(profile);
    for word in &expected {
        match words.iter().filter(|found| *found == word).count() {
            1 => {}
            count => findings.push(finding(format!("expected {word} once, found it {count} times"))),
        }
    }
    for word in words.iter().filter(|word| !expected.iter().any(|known| known == *word)) {
        findings.push(finding(format!("expected no other word, found {word:?}")));
    }
    findings
}
