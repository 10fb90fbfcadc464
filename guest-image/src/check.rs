//! `coffer-image verify`: is this directory the image that its publisher signed? Check by check, each from the files.

use crate::acpi::Source;
use crate::debian::lock::{Lock, LockError};
use crate::digest::sha256_file;
use crate::image::MANIFEST;
use crate::manifest::{Booted, Builds, ReferenceError, registers};
use crate::verity;
use coffer_evidence::dsse::{DsseError, Envelope};
use coffer_evidence::manifest::{ImageManifest, ManifestError, PAYLOAD_TYPE, Profile};
use coffer_evidence::sign::PublicKey;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

/// A signed manifest is at most this long, in bytes.
const MANIFEST_MAX: u64 = 1 << 20;

/// Why an image cannot even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The envelope cannot be parsed.
    #[error("the image's {MANIFEST}")]
    Envelope(#[from] DsseError),
    /// Its payload is not a manifest.
    #[error("the payload of the image's {MANIFEST}")]
    Manifest(#[from] ManifestError),
    /// The registers cannot be computed.
    #[error("the reference values of the image")]
    Reference(#[from] ReferenceError),
    /// The list of packages is none.
    #[error("the image's image.lock")]
    Lock(#[from] LockError),
    /// The verity tree cannot be computed.
    #[error("computing the verity tree")]
    Verity(#[from] verity::VerityError),
}

/// One check and how it came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// How it came out.
    pub result: Outcome,
    /// What was expected and found, where it did not hold.
    pub reason: String,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It could not be made from the files alone.
    NotEvaluated,
}

/// Checks the image in `directory` against its manifest and the manifest against `publisher`. `now` is in Unix seconds.
pub fn check(
    directory: &Path,
    publisher: &PublicKey,
    acpi: Option<Source>,
    now: u64,
) -> Result<Vec<Check>, CheckError> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read(&path).map_err(|source| CheckError::Io { path, source })
    };
    let mut checks = Vec::new();
    let mut compare = |name: &str, expected: String, found: String| {
        let result = if expected == found { Outcome::Pass } else { Outcome::Fail };
        let reason = if expected == found { String::new() } else { format!("expected {expected}, found {found}") };
        checks.push(Check { name: name.into(), result, reason });
    };
    let envelope = open(directory)?;
    let payload = envelope.unverified_payload();
    let manifest = ImageManifest::parse(payload)?;
    let signature = envelope.verify(publisher, PAYLOAD_TYPE).err().map(|error| error.to_string());
    compare("signature", "valid".into(), signature.unwrap_or_else(|| "valid".into()));
    let name = directory.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    compare("directory name", ImageManifest::digest(payload).to_string(), name.unwrap_or_default());
    let digests = &manifest.digests;
    for (file, expected) in digests.booted().into_iter().chain([("image.lock", digests.packages.as_str())]) {
        let path = directory.join(file);
        let found = sha256_file(&path).map_err(|source| CheckError::Io { path, source })?;
        compare(file, expected.to_owned(), hex::encode(found));
    }
    let (root, tree) = verity_tree(&directory.join("root.erofs"))?;
    compare("verity root", digests.verity_root.clone(), hex::encode(root));
    compare("verity tree", hex::encode(tree), digests.verity.clone());
    let command_line = read("cmdline")?;
    compare("command line names the verity root", digests.verity_root.clone(), root_of(&command_line));
    let (firmware, kernel, initrd) = (read("firmware.fd")?, read("vmlinuz")?, read("initrd.img")?);
    let booted = Booted { firmware: &firmware, kernel: &kernel, initrd: &initrd, command_line: &command_line };
    let known = acpi.or((manifest.profile == Profile::Simulated).then_some(Source::Simulated));
    let builds = Builds::of(&Lock::parse(&read("image.lock")?)?);
    let computed = registers(booted, known.as_ref().unwrap_or(&Source::Simulated), &builds)?;
    let names = |names: &mut dyn Iterator<Item = &String>| names.cloned().collect::<Vec<_>>().join(" ");
    compare("shapes", names(&mut computed.keys()), names(&mut manifest.shapes.keys()));
    for (shape, reference) in &manifest.shapes {
        let Some(registers) = computed.get(shape) else { continue };
        compare(&format!("QEMU of {shape}"), reference.qemu.clone(), builds.qemu.clone());
        compare(&format!("firmware build of {shape}"), reference.firmware.clone(), builds.firmware.clone());
        for (name, expected, found) in [
            ("MRTD", reference.mrtd, registers.mrtd),
            ("RTMR0", reference.rtmr0, registers.rtmr0),
            ("RTMR1", reference.rtmr1, registers.rtmr1),
            ("RTMR2", reference.rtmr2, registers.rtmr2),
        ] {
            if name == "RTMR0" && known.is_none() {
                continue;
            }
            compare(&format!("{name} of {shape}"), hex::encode(expected.0), hex::encode(found));
        }
    }
    let age = if now <= manifest.not_after || manifest.not_after == 0 { "not over" } else { "over" };
    compare("time of trust", "not over".into(), age.into());
    if known.is_none() {
        let reason = "RTMR0 of the tdx profile covers tables that QEMU generates: give them with --acpi DIR".into();
        checks.push(Check { name: "RTMR0".into(), result: Outcome::NotEvaluated, reason });
    }
    Ok(checks)
}

/// Reads the image's signed manifest; nothing is verified.
pub fn open(directory: &Path) -> Result<Envelope, CheckError> {
    let path = directory.join(MANIFEST);
    let io = |source| CheckError::Io { path: path.clone(), source };
    let file = fs::File::open(&path).map_err(io)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MANIFEST_MAX), &mut bytes).map_err(io)?;
    Ok(Envelope::parse(&bytes)?)
}

/// Root hash of the tree over a file, and the SHA-256 of the whole hash device.
fn verity_tree(image: &Path) -> Result<([u8; 32], [u8; 32]), CheckError> {
    let data = fs::File::open(image).map_err(|source| CheckError::Io { path: image.into(), source })?;
    let mut tree = Hashed(Sha256::new());
    let root = verity::build(BufReader::with_capacity(1 << 20, data), &mut tree)?;
    Ok((root, tree.0.finalize().into()))
}

struct Hashed(Sha256);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn root_of(command_line: &[u8]) -> String {
    let text = String::from_utf8_lossy(command_line);
    let mut roots = text.split(' ').filter_map(|word| word.strip_prefix("coffer.root="));
    match (roots.next(), roots.next()) {
        (Some(root), None) => root.to_owned(),
        (None, _) => "no coffer.root=".into(),
        (Some(_), Some(_)) => "several coffer.root=".into(),
    }
}
