//! Which packages an image is made of today: the closure apt computes for each set, found again in the signed indexes.

use super::apt::{Apt, AptError, Index};
use super::deb822;
use super::lock::{Lock, Package, Set};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

/// What goes into the root file system (DESIGN §14), and two packages that Debian installs everywhere and these rely
/// on: libc-bin holds the locale C.UTF-8, ncurses-base the terminal descriptions.
const ROOT: [&str; 21] = [
    "bash",
    "dash",
    "base-files",
    "base-passwd",
    "coreutils",
    "findutils",
    "grep",
    "sed",
    "gawk",
    "diffutils",
    "patch",
    "tar",
    "gzip",
    "xz-utils",
    "less",
    "procps",
    "git",
    "python3",
    "ca-certificates",
    "libc-bin",
    "ncurses-base",
];
const TOOLS: [&str; 3] = ["erofs-utils", "xz-utils", "zstd"];
/// Where kernel and QEMU come from: trixie's own are too old (no RTMR files, no TDX).
const BACKPORTS: &str = "trixie-backports";
/// The suite whose package is looked up by name, without its dependencies.
const FIRMWARE_SUITE: &str = "forky";
const FIRMWARE: &str = "ovmf-inteltdx";

/// Why the packages of an image could not be named.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// apt.
    #[error("resolving the packages of the image")]
    Apt(#[from] AptError),
    /// An index could not be read.
    #[error("reading the package index {}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A package is in no index.
    #[error(
        "expected the package {name} {version} in the package indexes of the mirror, found none: use another mirror (--mirror URL)"
    )]
    Absent {
        /// Its name.
        name: String,
        /// Its version, or `in any version`.
        version: String,
    },
}

/// Computes the lock of today's newest packages; `added` go into the root besides its own.
pub fn resolve(apt: &Apt, added: &[String]) -> Result<Lock, ResolveError> {
    let mut wanted: Vec<(Set, String, String)> = Vec::new();
    let mut want = |set, closure: Vec<(String, String)>, keep: &dyn Fn(&str) -> bool| {
        wanted.extend(closure.into_iter().filter(|(name, _)| keep(name)).map(|(name, version)| (set, name, version)));
    };
    let root: Vec<&str> = ROOT.into_iter().chain(added.iter().map(String::as_str)).collect();
    want(Set::Root, apt.closure(&root, None)?, &|_| true);
    want(Set::Tools, apt.closure(&TOOLS, None)?, &|_| true);
    want(Set::Qemu, apt.closure(&["qemu-system-x86", "seabios"], Some(BACKPORTS))?, &|_| true);
    want(Set::Kernel, apt.closure(&["linux-image-cloud-amd64"], Some(BACKPORTS))?, &is_kernel);
    let names: HashSet<&str> = wanted.iter().map(|(_, name, _)| name.as_str()).chain([FIRMWARE]).collect();
    let known = Known::read(&apt.indexes()?, &names)?;
    let mut packages = Vec::with_capacity(wanted.len() + 1);
    for (set, name, version) in &wanted {
        packages.push(known.package(*set, name, version)?);
    }
    packages.push(known.newest_of_suite(Set::Firmware, FIRMWARE, FIRMWARE_SUITE)?);
    Ok(Lock::new(packages))
}

/// The keyring package alone, for an apt that knows only one suite.
pub fn resolve_keyring(apt: &Apt) -> Result<Lock, ResolveError> {
    let name = "debian-archive-keyring";
    let (_, version) = apt
        .closure(&[name], None)?
        .into_iter()
        .find(|(found, _)| found == name)
        .ok_or_else(|| ResolveError::Absent { name: name.into(), version: "in any version".into() })?;
    let known = Known::read(&apt.indexes()?, &HashSet::from([name]))?;
    Ok(Lock::new(vec![known.package(Set::Keyring, name, &version)?]))
}

/// Debian splits its kernel: of the closure only the image, the modules and the list of what is built in are wanted,
/// not the tools that would install them.
fn is_kernel(name: &str) -> bool {
    ["linux-base-", "linux-binary-", "linux-modules-"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    })
}

/// What the indexes say about the packages asked for.
struct Known {
    packages: HashMap<(String, String), Package>,
}

impl Known {
    fn read(indexes: &[Index], names: &HashSet<&str>) -> Result<Self, ResolveError> {
        let mut packages = HashMap::new();
        for index in indexes {
            let text = fs::read_to_string(&index.path)
                .map_err(|source| ResolveError::Index { path: index.path.clone(), source })?;
            for package in parse_index(&text, &index.suite, names) {
                packages.entry((package.name.clone(), package.version.clone())).or_insert(package);
            }
        }
        Ok(Self { packages })
    }

    fn package(&self, set: Set, name: &str, version: &str) -> Result<Package, ResolveError> {
        let found = self.packages.get(&(name.to_owned(), version.to_owned()));
        let found = found.ok_or_else(|| ResolveError::Absent { name: name.into(), version: version.into() })?;
        Ok(Package { set, ..found.clone() })
    }

    fn newest_of_suite(&self, set: Set, name: &str, suite: &str) -> Result<Package, ResolveError> {
        // A suite's index holds one version of a package for one architecture.
        let found = self.packages.values().find(|package| package.name == name && package.suite == suite);
        let found = found
            .ok_or_else(|| ResolveError::Absent { name: name.into(), version: format!("in any version of {suite}") })?;
        Ok(Package { set, ..found.clone() })
    }
}

fn parse_index(text: &str, suite: &str, names: &HashSet<&str>) -> Vec<Package> {
    // Indexes are tens of megabytes: only the paragraphs asked for are taken apart.
    let wanted = text.split("\n\n").filter(|paragraph| {
        let name = paragraph.trim_start().strip_prefix("Package: ").and_then(|rest| rest.lines().next());
        name.is_some_and(|name| names.contains(name))
    });
    wanted
        .filter_map(|paragraph| {
            let fields = deb822::paragraphs(paragraph).next()?;
            Some(Package {
                set: Set::Root,
                name: fields.get("Package")?.to_owned(),
                version: fields.get("Version")?.to_owned(),
                architecture: fields.get("Architecture")?.to_owned(),
                suite: suite.to_owned(),
                sha256: fields.get("SHA256").filter(|hash| hash.len() == 64)?.to_owned(),
                size: fields.get("Size")?.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gives_the_packages_asked_for_and_no_other() {
        let hash = "ab".repeat(32);
        let text = format!(
            "Package: wanted\nVersion: 1:2-3\nArchitecture: amd64\nDescription: text\n more: text\nSize: 12\nSHA256: {hash}\n\n\
             Package: wanted-not\nVersion: 1\nArchitecture: amd64\nSize: 1\nSHA256: {hash}\n\n\
             Package: broken\nVersion: 1\nArchitecture: amd64\nSize: x\nSHA256: {hash}\n"
        );
        let found = parse_index(&text, "trixie", &HashSet::from(["wanted", "broken"]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str(), found[0].size), ("wanted", "1:2-3", 12));
        assert_eq!((found[0].sha256.as_str(), found[0].suite.as_str()), (hash.as_str(), "trixie"));
    }

    #[test]
    fn of_the_kernels_closure_only_image_modules_and_the_list_of_what_is_built_in_are_kept() {
        for name in [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
            "linux-base-7.3.4+deb13-cloud-amd64",
        ] {
            assert!(is_kernel(name), "{name}");
        }
        for name in ["linux-base", "linux-modules-cloud-amd64", "linux-image-7.3.4+deb13-cloud-amd64", "dracut"] {
            assert!(!is_kernel(name), "{name}");
        }
    }
}
