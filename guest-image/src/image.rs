//! The image directory: written whole or not at all, named by the digest of its manifest.

use crate::acpi::Source;
use crate::digest::sha256_file;
use crate::lint::{self, Finding, LintError};
use crate::manifest::{Booted, Builds, ReferenceError, manifest, registers};
use coffer_evidence::manifest::{ImageDigests, ImageManifest, Profile};
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The files of an image directory (DESIGN §14), but for `image.dsse`.
pub const FILES: [&str; 7] =
    ["firmware.fd", "vmlinuz", "initrd.img", "root.erofs", "root.verity", "cmdline", "image.lock"];
/// The signed manifest.
pub const MANIFEST: &str = "image.dsse";

/// The files of an image before it has a name.
#[derive(Debug)]
pub struct Parts {
    /// Its kind.
    pub profile: Profile,
    /// Where the ACPI part of RTMR0 comes from.
    pub acpi: Source,
    /// The firmware, keys cleared.
    pub firmware: Vec<u8>,
    /// The kernel.
    pub kernel: Vec<u8>,
    /// The initramfs, compressed.
    pub initrd: Vec<u8>,
    /// The kernel command line.
    pub command_line: String,
    /// Root hash of the verity tree.
    pub root_hash: [u8; 32],
    /// The erofs image, in the cache.
    pub root: PathBuf,
    /// The verity tree, in the cache.
    pub verity: PathBuf,
    /// The lock's bytes.
    pub lock: Vec<u8>,
    /// What the registers hold for.
    pub builds: Builds,
    /// Unix seconds after which the image is not to be trusted.
    pub not_after: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// See [`ReferenceError`].
    #[error("the reference values of the image")]
    Reference(#[from] ReferenceError),
    /// See [`LintError`].
    #[error("looking into the image before it is signed")]
    Unreadable(#[from] LintError),
    /// The image holds what no guest may have.
    #[error("expected an image without findings of the lint, found {count}, the first: {first}")]
    Lint {
        /// How many.
        count: usize,
        /// One of them, in words.
        first: String,
    },
    /// Reading or writing.
    #[error("writing the image to {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// A written image.
#[derive(Debug)]
pub struct Image {
    /// Its directory, absolute.
    pub directory: PathBuf,
    /// SHA-256 of its manifest, hex: its name.
    pub digest: String,
    /// Its manifest.
    pub manifest: ImageManifest,
}

/// Measures, describes and signs `parts`, and writes them to `images`/DIGEST.
pub fn write(parts: &Parts, publisher: &SigningKey, images: &Path) -> Result<Image, ImageError> {
    let booted = Booted {
        firmware: &parts.firmware,
        kernel: &parts.kernel,
        initrd: &parts.initrd,
        command_line: parts.command_line.as_bytes(),
    };
    let files = lint::Files {
        root: &fs::File::open(&parts.root).map_err(io_error(&parts.root))?,
        initramfs: &parts.initrd,
        command_line: parts.command_line.as_bytes(),
    };
    refuse_findings(lint::lint(files, lint::Limits::IMAGE)?)?;
    let of_file = |path: &Path| sha256_file(path).map(hex::encode).map_err(io_error(path));
    let digests = ImageDigests {
        firmware: sha256(&parts.firmware),
        kernel: sha256(&parts.kernel),
        initrd: sha256(&parts.initrd),
        cmdline: sha256(parts.command_line.as_bytes()),
        root: of_file(&parts.root)?,
        verity: of_file(&parts.verity)?,
        verity_root: hex::encode(parts.root_hash),
        packages: sha256(&parts.lock),
    };
    let manifest = manifest(
        parts.profile,
        registers(booted, &parts.acpi, &parts.builds)?,
        &parts.builds,
        digests,
        parts.not_after,
    );
    let digest = ImageManifest::digest(&manifest.payload()).to_string();
    fs::create_dir_all(images).map_err(io_error(images))?;
    let images = images.canonicalize().map_err(io_error(images))?;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&images).map_err(io_error(&images))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = partial.path().join(name);
        fs::write(&path, bytes).map_err(io_error(&path))
    };
    let copy = |name: &str, from: &Path| fs::copy(from, partial.path().join(name)).map_err(io_error(from));
    put("firmware.fd", &parts.firmware)?;
    put("vmlinuz", &parts.kernel)?;
    put("initrd.img", &parts.initrd)?;
    put("cmdline", parts.command_line.as_bytes())?;
    put("image.lock", &parts.lock)?;
    put(MANIFEST, &manifest.sign(publisher).to_bytes())?;
    copy("root.erofs", &parts.root)?;
    copy("root.verity", &parts.verity)?;
    let directory = images.join(&digest);
    install(partial, &directory).map_err(io_error(&directory))?;
    Ok(Image { directory, digest, manifest })
}

fn refuse_findings(findings: Vec<Finding>) -> Result<(), ImageError> {
    match findings.first() {
        None => Ok(()),
        Some(first) => Err(ImageError::Lint { count: findings.len(), first: first.to_string() }),
    }
}

/// Gives the finished directory its name. One that is there with the same bytes stays: sessions may be using it.
fn install(partial: tempfile::TempDir, directory: &Path) -> io::Result<()> {
    for name in FILES.iter().chain([&MANIFEST]) {
        fs::File::open(partial.path().join(name))?.sync_all()?;
    }
    // tempfile makes it 0700; a QEMU under a session's uid must read it.
    fs::set_permissions(partial.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    if directory.exists() {
        if same_files(partial.path(), directory) {
            return Ok(());
        }
        let old = partial.path().join(".replaced");
        fs::rename(directory, &old)?;
        let result = fs::rename(partial.path(), directory);
        return result.and_then(|()| fs::remove_dir_all(directory.join(".replaced")));
    }
    fs::rename(partial.keep(), directory)
}

fn same_files(one: &Path, other: &Path) -> bool {
    let same = |name: &str| match (sha256_file(&one.join(name)), sha256_file(&other.join(name))) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    };
    FILES.iter().chain([&MANIFEST]).all(|name| same(name))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(parent: &Path, text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir_in(parent).unwrap();
        for name in FILES.iter().chain([&MANIFEST]) {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn a_damaged_image_is_replaced_and_a_whole_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("image");
        install(finished(dir.path(), "x"), &target).unwrap();
        let made = fs::metadata(&target).unwrap().created().ok();
        install(finished(dir.path(), "x"), &target).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().created().ok(), made);
        fs::write(target.join("cmdline"), "damaged").unwrap();
        install(finished(dir.path(), "x"), &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("cmdline")).unwrap(), "x");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 8);
    }
}
