//! The guest's kernel: Debian's split packages, unpacked in the cache.

pub mod modinfo;
pub mod modules;

use crate::debian::lock::{Lock, Set};
use crate::debian::store::Store;
use crate::kit::{Kit, KitError};
use coffer_evidence::manifest::Profile;
use modules::{Kernel, Module, ModulesError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The first kernel with the RTMR files in sysfs.
const LEAST: (u32, u32) = (6, 16);

/// Why there is no kernel to build with.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// See [`KitError`].
    #[error(transparent)]
    Kit(#[from] KitError),
    /// See [`ModulesError`].
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// The packages hold no kernel, or several.
    #[error("expected one kernel of version {}.{} or newer in the kernel packages, found {found}: use a mirror with a current trixie-backports", LEAST.0, LEAST.1)]
    Version {
        /// The version directories that were there.
        found: String,
    },
    /// Reading.
    #[error("reading the kernel in {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// An unpacked kernel.
#[derive(Debug)]
pub struct Unpacked {
    directory: PathBuf,
    /// What `uname -r` says in the guest.
    pub version: String,
}

impl Unpacked {
    /// Unpacks the kernel packages of `lock` under `cache`.
    pub fn get(lock: &Lock, store: &Store, cache: &Path) -> Result<Self, KernelError> {
        let target = cache.join("root").join(format!("kernel-{}", &lock.set_digest(Set::Kernel)[..16]));
        let (kit, _) = Kit::unpack(lock, Set::Kernel, store, target)?;
        let modules = kit.directory().join("usr/lib/modules");
        let mut versions = Vec::new();
        for entry in fs::read_dir(&modules).map_err(io_error(&modules))? {
            versions.push(entry.map_err(io_error(&modules))?.file_name().to_string_lossy().into_owned());
        }
        match &versions[..] {
            [version] if is_new_enough(version) => {
                Ok(Self { directory: modules.join(version), version: version.clone() })
            }
            found => {
                Err(KernelError::Version { found: if found.is_empty() { "none".into() } else { found.join(", ") } })
            }
        }
    }

    /// The kernel image, as the package holds it.
    pub fn vmlinuz(&self) -> Result<Vec<u8>, KernelError> {
        let path = self.directory.join("vmlinuz");
        fs::read(&path).map_err(io_error(&path))
    }

    /// The modules that the guest of a profile loads, in order. They are uncompressed with the tools' own xz.
    pub fn modules(&self, tools: &Kit, profile: Profile) -> Result<Vec<Module>, KernelError> {
        let builtin = self.directory.join("modules.builtin");
        let text = fs::read_to_string(&builtin).map_err(io_error(&builtin))?;
        let mut kernel = Kernel { builtin: modules::parse_builtin(&text), files: Default::default() };
        collect(&self.directory.join("kernel"), &mut kernel)?;
        let read = |path: &PathBuf| match path.extension() {
            Some(extension) if extension == "xz" => {
                tools.run(tools.command("usr/bin/xz").arg("-dc").arg("--").arg(path))
            }
            Some(extension) if extension == "zst" => {
                tools.run(tools.command("usr/bin/zstd").arg("-dcq").arg("--").arg(path))
            }
            _ => fs::read(path).map_err(|source| KitError::Io { path: path.clone(), source }),
        };
        Ok(modules::load_order(&kernel, &modules::wanted(profile), read)?)
    }
}

fn collect(directory: &Path, kernel: &mut Kernel<PathBuf>) -> Result<(), KernelError> {
    for entry in fs::read_dir(directory).map_err(io_error(directory))? {
        let path = entry.map_err(io_error(directory))?.path();
        if path.is_dir() {
            collect(&path, kernel)?;
        } else if let Some(name) = path.to_str().and_then(modules::canonical_of_path) {
            kernel.files.insert(name, path);
        }
    }
    Ok(())
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= LEAST
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_rtmr_files_is_too_old() {
        for (version, new_enough) in
            [("7.3.4+deb13-cloud-amd64", true), ("6.16-1", true), ("6.15.9", false), ("6.1.0-9", false), ("x", false)]
        {
            assert_eq!(is_new_enough(version), new_enough, "{version}");
        }
    }
}
