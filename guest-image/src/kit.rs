//! Programs from Debian packages, run on any host: unpacked into the cache and started through their own loader with
//! their own libraries. The QEMU kit is one such tree, with a description beside it for the programs that start VMs.

use crate::debian::lock::{Lock, Set};
use crate::debian::store::{Store, StoreError};
use crate::process::{self, CommandError};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 1] = ["usr/lib/x86_64-linux-gnu"];
const QEMU: &str = "usr/bin/qemu-system-x86_64";
const QEMU_DATA: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
/// Where what it loads on demand lies: the path that it was built with is the host's own.
const QEMU_MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";
/// The first QEMU with the tdx-guest object and the unpatched kernel in fw_cfg, as Debian packages it.
const QEMU_LEAST: (u32, u32) = (11, 1);

/// Why a kit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program of the kit does not run.
    #[error("starting a program of the unpacked kit {}: remove that directory and build again", directory.display())]
    Run {
        /// The kit.
        directory: PathBuf,
        /// What happened.
        #[source]
        source: CommandError,
    },
    /// Reading or writing.
    #[error("making the kit {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The archive offers an older QEMU.
    #[error("expected QEMU {}.{} or newer, found {found}: use a mirror with a current trixie-backports", QEMU_LEAST.0, QEMU_LEAST.1)]
    Old {
        /// What `--version` printed.
        found: String,
    },
}

/// An unpacked tree of programs with all their libraries.
#[derive(Debug, Clone)]
pub struct Kit {
    directory: PathBuf,
}

impl Kit {
    /// Unpacks the packages of `set` into `directory`, or takes it as it is if that was done before.
    pub fn unpack(lock: &Lock, set: Set, store: &Store, directory: PathBuf) -> Result<(Self, Made), KitError> {
        if directory.exists() {
            return Ok((Self { directory }, Made::Before));
        }
        let parent = directory.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(io_error(parent))?;
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent).map_err(io_error(parent))?;
        store.unpack(lock.set(set), partial.path())?;
        for unused in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"] {
            drop(fs::remove_dir_all(partial.path().join(unused)));
        }
        let unpacked = partial.keep();
        fs::rename(&unpacked, &directory).map_err(io_error(&directory))?;
        Ok((Self { directory }, Made::Now))
    }

    /// One that was made before.
    #[must_use]
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// A command that runs the kit's `program`, a path inside the kit.
    pub fn command(&self, program: &str) -> Command {
        let libraries: Vec<_> = LIBRARIES.iter().map(|path| self.directory.join(path).into_os_string()).collect();
        let mut command = Command::new(self.directory.join(LOADER));
        command.arg("--library-path").arg(libraries.join(":".as_ref())).arg(self.directory.join(program));
        // What the host preloads was built for the host's C library.
        command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH").env("LC_ALL", "C");
        command
    }

    /// A command that runs the kit's QEMU with its own data and modules.
    pub fn qemu(&self) -> Command {
        let mut command = self.command(QEMU);
        for data in QEMU_DATA {
            command.arg("-L").arg(self.directory.join(data));
        }
        command.env("QEMU_MODULE_DIR", self.directory.join(QEMU_MODULES));
        command
    }

    /// Runs a program of the kit to its end.
    pub fn run(&self, command: &mut Command) -> Result<Vec<u8>, KitError> {
        process::run(command, "nothing: it is part of the kit")
            .map_err(|source| KitError::Run { directory: self.directory.clone(), source })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Whether a tree was made now or was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Unpacked in this run.
    Now,
    /// Found in the cache.
    Before,
}

/// `kit.json`: how to start the QEMU of a kit. Paths are relative to the kit's directory.
#[derive(Debug, Serialize)]
struct Description<'a> {
    version: &'a str,
    binary: &'a str,
    loader: &'a str,
    library_path: &'a [&'a str],
    data: &'a [&'a str],
}

/// Makes the QEMU kit of `lock` in `cache`/qemu and describes it in its `kit.json`. Nothing uses it until [`make_current`].
pub fn make_qemu(lock: &Lock, store: &Store, cache: &Path) -> Result<(Kit, Made), KitError> {
    let parent = cache.join("qemu");
    let package = lock.version(Set::Qemu, "qemu-system-x86").unwrap_or("unknown");
    // Without the epoch; with the packages' digest, since a new library makes another kit of the same QEMU.
    let version = package.split_once(':').map_or(package, |(_, version)| version);
    let name = format!("{version}.{}", &lock.set_digest(Set::Qemu)[..16]);
    let (kit, made) = Kit::unpack(lock, Set::Qemu, store, parent.join(&name))?;
    let description_path = kit.directory.join("kit.json");
    if !description_path.exists() {
        let output = kit.run(kit.command(QEMU).arg("--version"))?;
        check_version(&String::from_utf8_lossy(&output))?;
        let description =
            Description { version, binary: QEMU, loader: LOADER, library_path: &LIBRARIES, data: &QEMU_DATA };
        let mut text = serde_json::to_vec_pretty(&description).unwrap_or_default();
        text.push(b'\n');
        // Written last: a kit without it is not finished.
        fs::write(&description_path, text).map_err(io_error(&description_path))?;
    }
    Ok((kit, made))
}

/// Points `current`, beside the kit, at it: what starts VMs takes that one from now on.
pub fn make_current(kit: &Kit) -> Result<(), KitError> {
    let parent = kit.directory.parent().unwrap_or(Path::new("."));
    let name = Path::new(kit.directory.file_name().unwrap_or_default());
    let current = parent.join("current");
    if fs::read_link(&current).ok().as_deref() != Some(name) {
        let fresh = parent.join(format!(".current-{}", std::process::id()));
        std::os::unix::fs::symlink(name, &fresh).map_err(io_error(&fresh))?;
        fs::rename(&fresh, &current).map_err(io_error(&current))?;
    }
    Ok(())
}

/// `QEMU emulator version 11.1.3 (Debian ...)`
fn check_version(text: &str) -> Result<(), KitError> {
    let version = text.strip_prefix("QEMU emulator version ").and_then(|rest| rest.split_ascii_whitespace().next());
    let mut numbers = version.unwrap_or_default().split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= QEMU_LEAST {
        return Ok(());
    }
    Err(KitError::Old { found: text.lines().next().unwrap_or_default().chars().take(100).collect() })
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KitError {
    let path = path.to_owned();
    move |source| KitError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_qemu_is_refused() {
        assert!(check_version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\n").is_ok());
        assert!(check_version("QEMU emulator version 12.0.0\n").is_ok());
        for old in ["QEMU emulator version 11.0.9\n", "QEMU emulator version 10.2.0\n", "", "something else"] {
            assert!(check_version(old).is_err(), "{old:?}");
        }
    }
}
