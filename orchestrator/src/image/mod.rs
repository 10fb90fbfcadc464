//! Guest images on this host: one directory each, named by the digest of its signed manifest. Every file is compared with
//! the manifest before it is used. The result is remembered by the file's identity and change time, so a launch hashes
//! again only what was touched.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coffer_evidence::dsse::{DsseError, Envelope};
use coffer_evidence::ids::Digest256;
use coffer_evidence::manifest::{ImageManifest, ManifestError, PAYLOAD_TYPE};
use coffer_evidence::sign::PublicKey;
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::host::file_kind::what_it_is;
use crate::session::admission::ImageFacts;

/// The largest `image.dsse` or `cmdline` that is read, in bytes.
const SMALL_FILE_MAX: u64 = 1024 * 1024;
/// The most images of a host.
const IMAGES_MAX: usize = 256;
/// The longest command line in bytes: x86 kernels cut it there.
const CMDLINE_MAX: usize = 2048;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error(
        "expected {} to be a file, found {found}: put the file itself there, sessions see nothing outside the image's directory",
        path.display()
    )]
    Kind { path: PathBuf, found: &'static str },
    #[error("expected to read {} (build or copy the image again)", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected {} to be at most {most} bytes", path.display())]
    TooLarge { path: PathBuf, most: u64 },
    #[error("{}: image.dsse is refused", directory.display())]
    Envelope {
        directory: PathBuf,
        #[source]
        source: DsseError,
    },
    #[error("{}: the manifest in image.dsse is refused", directory.display())]
    Manifest {
        directory: PathBuf,
        #[source]
        source: ManifestError,
    },
    #[error("expected the image in {} to be signed by one of image.publishers, found {signer}", directory.display())]
    Publisher { directory: PathBuf, signer: PublicKey },
    #[error("expected the image in {} to have the digest that its directory is named by, found {found}", directory.display())]
    Name { directory: PathBuf, found: Digest256 },
    #[error(
        "expected {} to have the SHA-256 {expected} of the signed manifest, found {found}: it was changed or damaged; \
         build or copy the image again",
        path.display()
    )]
    Changed { path: PathBuf, expected: String, found: Digest256 },
    #[error("expected {} to be one line of at most {CMDLINE_MAX} printable characters", path.display())]
    CommandLine { path: PathBuf },
}

/// An image whose files fit its signed manifest.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) digest: Digest256,
    pub(crate) directory: PathBuf,
    pub(crate) manifest: ImageManifest,
    pub(crate) publisher: PublicKey,
    /// `image.dsse` as it goes into bundles.
    pub(crate) envelope: Vec<u8>,
    /// What QEMU is given as `-append`.
    pub(crate) cmdline: String,
}

impl Image {
    /// What admission asks about it.
    pub(crate) fn facts(&self) -> ImageFacts {
        ImageFacts {
            profile: self.manifest.profile,
            svn: self.manifest.svn,
            not_after: self.manifest.not_after,
            shapes: self.manifest.shapes.keys().cloned().collect(),
        }
    }
}

/// What tells that a file is as it was: a change of content changes the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// The images of a directory.
#[derive(Debug)]
pub(crate) struct Catalogue {
    directory: PathBuf,
    publishers: Vec<PublicKey>,
    hashed: Mutex<HashMap<PathBuf, (FileIdentity, Digest256)>>,
}

impl Catalogue {
    /// Reads nothing yet. No publishers: whoever put an image there is trusted with that.
    pub(crate) fn new(directory: PathBuf, publishers: Vec<PublicKey>) -> Self {
        Self { directory, publishers, hashed: Mutex::new(HashMap::new()) }
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every image that can be used, by name, and why others cannot. Blocks: reads whole files.
    pub(crate) fn list(&self) -> (Vec<Arc<Image>>, Vec<ImageError>) {
        let mut images = Vec::new();
        let mut refused = Vec::new();
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(source) => {
                refused.push(ImageError::Read { path: self.directory.clone(), source });
                return (images, refused);
            }
        };
        let digests = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<Digest256>().ok());
        for digest in digests.take(IMAGES_MAX) {
            match self.check(digest) {
                Ok(Some(image)) => images.push(image),
                Ok(None) => {}
                Err(error) => refused.push(error),
            }
        }
        images.sort_by(|a, b| {
            (&a.manifest.name, &a.manifest.version, a.digest).cmp(&(&b.manifest.name, &b.manifest.version, b.digest))
        });
        (images, refused)
    }

    /// One image, every file compared with its manifest. `None`: there is no such directory. Blocks.
    pub(crate) fn check(&self, digest: Digest256) -> Result<Option<Arc<Image>>, ImageError> {
        let directory = self.directory.join(digest.to_string());
        if !directory.is_dir() {
            return Ok(None);
        }
        // Jailed processes see it under its real path.
        let directory =
            directory.canonicalize().map_err(|source| ImageError::Read { path: directory.clone(), source })?;
        let envelope = read_small(&directory.join("image.dsse"))?;
        let refused = |source| ImageError::Envelope { directory: directory.clone(), source };
        let parsed = Envelope::parse(&envelope).map_err(refused)?;
        let publisher = *parsed.signer();
        if !self.publishers.is_empty() && !self.publishers.contains(&publisher) {
            return Err(ImageError::Publisher { directory, signer: publisher });
        }
        let payload = parsed.verify(&publisher, PAYLOAD_TYPE).map_err(refused)?;
        let found = ImageManifest::digest(payload);
        if found != digest {
            return Err(ImageError::Name { directory, found });
        }
        let manifest = ImageManifest::parse(payload)
            .map_err(|source| ImageError::Manifest { directory: directory.clone(), source })?;
        for (name, expected) in manifest.digests.booted() {
            self.compare(&directory.join(name), expected)?;
        }
        let cmdline = read_cmdline(&directory.join("cmdline"))?;
        Ok(Some(Arc::new(Image { digest, directory, manifest, publisher, envelope, cmdline })))
    }

    fn compare(&self, path: &Path, expected: &str) -> Result<(), ImageError> {
        let found = self.digest_of(open_file(path)?, path);
        let found = found.map_err(|source| ImageError::Read { path: path.to_path_buf(), source })?;
        if found.to_string() == expected {
            return Ok(());
        }
        Err(ImageError::Changed { path: path.to_path_buf(), expected: expected.to_owned(), found })
    }

    fn digest_of(&self, mut file: File, path: &Path) -> io::Result<Digest256> {
        let identity = identity(&file)?;
        let known = self.hashed.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        if let Some((_, digest)) = known.filter(|(before, _)| *before == identity) {
            return Ok(digest);
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0_u8; 1 << 20];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
        let digest = Digest256::new(hash.finalize().into());
        // Remembered only if nothing changed it while it was read.
        if self::identity(&file)? == identity {
            let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
            hashed.insert(path.to_path_buf(), (identity, digest));
        }
        Ok(digest)
    }
}

fn identity(file: &File) -> io::Result<FileIdentity> {
    let m = file.metadata()?;
    Ok(FileIdentity { device: m.dev(), inode: m.ino(), size: m.size(), changed: (m.ctime(), m.ctime_nsec()) })
}

/// Opens a file and nothing else: a pipe would never answer, a device never end, and a link leads to where sessions do not see.
fn open_file(path: &Path) -> Result<File, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_path_buf(), source };
    let kind = path.symlink_metadata().map_err(failed)?.file_type();
    let refused = |kind| ImageError::Kind { path: path.to_path_buf(), found: what_it_is(kind) };
    if !kind.is_file() {
        return Err(refused(kind));
    }
    // It may be another by now.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_file() { Ok(file) } else { Err(refused(kind)) }
}

fn read_small(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open_file(path)?
        .take(SMALL_FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ImageError::Read { path: path.to_path_buf(), source })?;
    if bytes.len() as u64 > SMALL_FILE_MAX {
        return Err(ImageError::TooLarge { path: path.to_path_buf(), most: SMALL_FILE_MAX });
    }
    Ok(bytes)
}

fn read_cmdline(path: &Path) -> Result<String, ImageError> {
    let bytes = read_small(path)?;
    let plain = bytes.len() < CMDLINE_MAX && bytes.iter().all(|b| (0x20..0x7f).contains(b));
    match String::from_utf8(bytes) {
        Ok(text) if plain => Ok(text),
        _ => Err(ImageError::CommandLine { path: path.to_path_buf() }),
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! An image directory whose files are a few bytes each.

    use super::*;
    use coffer_evidence::manifest::{ImageDigests, Profile, Register, ShapeReference};
    use ed25519_dalek::SigningKey;

    pub(crate) const FILES: [&str; 6] =
        ["firmware.fd", "vmlinuz", "initrd.img", "cmdline", "root.erofs", "root.verity"];

    pub(crate) fn publisher() -> SigningKey {
        SigningKey::from_bytes(&[21; 32])
    }

    pub(crate) fn write_image(images: &Path) -> Digest256 {
        write_image_of(images, [[0; 48]; 4])
    }

    /// An image that boots to these MRTD and RTMR0-2.
    pub(crate) fn write_image_of(images: &Path, registers: [[u8; 48]; 4]) -> Digest256 {
        let hex_of = |name: &str| Digest256::of(name.as_bytes()).to_string();
        let [mrtd, rtmr0, rtmr1, rtmr2] = registers.map(Register);
        let reference = ShapeReference { mrtd, rtmr0, rtmr1, rtmr2, qemu: "11.1".into(), firmware: "1".into() };
        let manifest = ImageManifest {
            name: "test".into(),
            version: "1".into(),
            svn: 1,
            profile: Profile::Simulated,
            shapes: [("s1".to_owned(), reference)].into(),
            digests: ImageDigests {
                firmware: hex_of("firmware.fd"),
                kernel: hex_of("vmlinuz"),
                initrd: hex_of("initrd.img"),
                cmdline: hex_of("cmdline"),
                root: hex_of("root.erofs"),
                verity: hex_of("root.verity"),
                verity_root: hex_of("x"),
                packages: hex_of("y"),
            },
            not_after: 0,
        };
        let digest = ImageManifest::digest(&manifest.payload());
        let directory = images.join(digest.to_string());
        std::fs::create_dir_all(&directory).expect("mkdir");
        for name in FILES {
            std::fs::write(directory.join(name), name).expect("write");
        }
        std::fs::write(directory.join("image.dsse"), manifest.sign(&publisher()).to_bytes()).expect("write");
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_by_its_digest_and_listed() {
        let dir = tempfile::tempdir().expect("a directory");
        let digest = fixtures::write_image(dir.path());
        std::fs::create_dir(dir.path().join("not-an-image")).expect("mkdir");
        let catalogue = Catalogue::new(dir.path().to_path_buf(), vec![PublicKey::of(&fixtures::publisher())]);
        let image = catalogue.check(digest).expect("check").expect("there");
        assert_eq!(image.cmdline, "cmdline");
        let (images, refused) = catalogue.list();
        assert_eq!(images.iter().map(|i| i.digest).collect::<Vec<_>>(), [digest]);
        assert!(refused.is_empty());
        assert!(catalogue.check(Digest256::of(b"other")).expect("check").is_none());
    }

    #[test]
    fn a_changed_file_is_refused_even_after_it_was_good() {
        for name in fixtures::FILES {
            let dir = tempfile::tempdir().expect("a directory");
            let digest = fixtures::write_image(dir.path());
            let catalogue = Catalogue::new(dir.path().to_path_buf(), vec![]);
            assert!(catalogue.check(digest).expect("check").is_some());
            let path = dir.path().join(digest.to_string()).join(name);
            let mut bytes = std::fs::read(&path).expect("read");
            bytes[0] ^= 1;
            std::fs::write(&path, bytes).expect("write");
            let refused = catalogue.check(digest);
            assert!(matches!(refused, Err(ImageError::Changed { .. })), "{name}: {refused:?}");
            let (images, errors) = catalogue.list();
            assert!(images.is_empty() && errors.len() == 1, "{name}");
            std::fs::remove_file(&path).expect("remove");
            assert!(matches!(catalogue.check(digest), Err(ImageError::Read { .. })), "{name}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        for name in fixtures::FILES.into_iter().chain(["image.dsse"]) {
            let dir = tempfile::tempdir().expect("a directory");
            let digest = fixtures::write_image(dir.path());
            let catalogue = Catalogue::new(dir.path().to_path_buf(), vec![]);
            let path = dir.path().join(digest.to_string()).join(name);
            let elsewhere = dir.path().join("elsewhere");
            std::fs::rename(&path, &elsewhere).expect("move away");
            let replaced = |found: &str| match catalogue.check(digest) {
                Err(ImageError::Kind { path: named, found: kind }) => assert_eq!((&named, kind), (&path, found)),
                other => panic!("{name}, {found}: {other:?}"),
            };
            std::os::unix::fs::symlink(&elsewhere, &path).expect("link");
            replaced("a symbolic link");
            std::fs::remove_file(&path).expect("remove");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a pipe");
            replaced("a named pipe");
            std::fs::remove_file(&path).expect("remove");
            std::fs::create_dir(&path).expect("mkdir");
            replaced("a directory");
        }
    }

    #[test]
    fn a_manifest_of_another_publisher_name_or_byte_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let digest = fixtures::write_image(dir.path());
        let other = PublicKey::of(&ed25519_dalek::SigningKey::from_bytes(&[22; 32]));
        let pinned = Catalogue::new(dir.path().to_path_buf(), vec![other]);
        assert!(matches!(pinned.check(digest), Err(ImageError::Publisher { .. })));

        let wrong = Digest256::of(b"wrong name");
        std::fs::rename(dir.path().join(digest.to_string()), dir.path().join(wrong.to_string())).expect("rename");
        let catalogue = Catalogue::new(dir.path().to_path_buf(), vec![]);
        assert!(matches!(catalogue.check(wrong), Err(ImageError::Name { .. })));

        let path = dir.path().join(wrong.to_string()).join("image.dsse");
        let mut bytes = std::fs::read(&path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).expect("write");
        assert!(matches!(catalogue.check(wrong), Err(ImageError::Envelope { .. } | ImageError::Name { .. })));
    }
}
