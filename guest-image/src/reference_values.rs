//! `coffer-image measure`: the reference values of an image, computed from its files and signed by whoever computed them, apart
//! from its manifest: for a relying party that has its own verifier, or that wants a second word on a manifest.

use crate::acpi::Source;
use crate::check::{self, CheckError};
use crate::debian::lock::{Lock, LockError};
use crate::lint::{self, LintError};
use crate::manifest::{self, Booted, Builds, ReferenceError};
use coffer_evidence::dsse::{DsseError, Envelope};
use coffer_evidence::manifest::{self as signed, ImageManifest, ManifestError, Profile, ShapeReference};
use coffer_evidence::sign::PublicKey;
use ed25519_dalek::SigningKey;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// DSSE payload type.
pub const PAYLOAD_TYPE: &str = "application/vnd.coffer.reference-values+json";
const SCHEMA: &str = "coffer/reference-values/v1";

/// Why there are no reference values.
#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    /// A file of the image cannot be read.
    #[error("reading {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The image's signed manifest cannot be read.
    #[error(transparent)]
    Unreadable(#[from] CheckError),
    /// It is not signed by the publisher.
    #[error("expected an image that {publisher} signed: name the key of who published it with --publisher KEY")]
    Publisher {
        /// Whose image was expected.
        publisher: PublicKey,
        /// What is wrong with the signature.
        #[source]
        source: DsseError,
    },
    /// What is signed is no manifest.
    #[error("the image's signed manifest")]
    Manifest(#[from] ManifestError),
    /// A file is not the one that was signed.
    #[error("expected {} to have the SHA-256 {expected} of the image's manifest, found {found}: it was changed", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
        /// Of the manifest.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// The list of packages, which says for which builds the values hold.
    #[error("the image's image.lock")]
    Lock(#[from] LockError),
    /// The command line does not say for which platform the image is.
    #[error(transparent)]
    Profile(#[from] LintError),
    /// See [`ReferenceError`].
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// Reference values by shape, with what they were computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceValues {
    schema: &'static str,
    profile: Profile,
    /// By name of the shape.
    pub shapes: BTreeMap<String, ShapeReference>,
    /// Name of each file that was measured, and its SHA-256.
    files: BTreeMap<&'static str, String>,
}

impl ReferenceValues {
    /// The payload: compact JSON, fields in this order.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Signs them.
    #[must_use]
    pub fn sign(&self, publisher: &SigningKey) -> Envelope {
        Envelope::sign(publisher, PAYLOAD_TYPE, self.payload())
    }
}

/// The files of an image that registers cover, as its publisher signed them, and the packages that they were made of.
#[derive(Debug)]
pub struct Measured {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    command_line: Vec<u8>,
    lock: Lock,
    /// The platform, as the command line says.
    pub profile: Profile,
}

impl Measured {
    /// Reads them from an image directory. Bytes that `publisher` did not sign are given to nobody: the packages of the
    /// lock are run, and what is computed here is signed.
    ///
    /// # Errors
    /// [`ValuesError`].
    pub fn read(directory: &Path, publisher: &PublicKey) -> Result<Self, ValuesError> {
        let envelope = check::open(directory)?;
        let payload = envelope
            .verify(publisher, signed::PAYLOAD_TYPE)
            .map_err(|source| ValuesError::Publisher { publisher: *publisher, source })?;
        let digests = ImageManifest::parse(payload)?.digests;
        let read = |name: &str, expected: &str| {
            let path = directory.join(name);
            let bytes = fs::read(&path).map_err(|source| ValuesError::Io { path: path.clone(), source })?;
            let found = hex::encode(Sha256::digest(&bytes));
            if found == expected {
                return Ok(bytes);
            }
            Err(ValuesError::Changed { path, expected: expected.into(), found })
        };
        let command_line = read("cmdline", &digests.cmdline)?;
        Ok(Self {
            firmware: read("firmware.fd", &digests.firmware)?,
            kernel: read("vmlinuz", &digests.kernel)?,
            initrd: read("initrd.img", &digests.initrd)?,
            lock: Lock::parse(&read("image.lock", &digests.packages)?)?,
            profile: lint::profile_of(&command_line)?,
            command_line,
        })
    }

    /// Its packages.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The firmware and the kernel, for a run that shows ACPI tables.
    #[must_use]
    pub fn boots(&self) -> (&[u8], &[u8]) {
        (&self.firmware, &self.kernel)
    }

    /// Computes the values.
    ///
    /// # Errors
    /// [`ValuesError::Reference`].
    pub fn values(&self, acpi: &Source) -> Result<ReferenceValues, ValuesError> {
        let Measured { firmware, kernel, initrd, command_line, lock, profile } = self;
        let builds = &Builds::of(lock);
        let booted = Booted { firmware, kernel, initrd, command_line };
        let shapes = manifest::references(manifest::registers(booted, acpi, builds)?, builds);
        let files = [("firmware.fd", firmware), ("vmlinuz", kernel), ("initrd.img", initrd), ("cmdline", command_line)];
        let files = files.into_iter().map(|(name, bytes)| (name, hex::encode(Sha256::digest(bytes)))).collect();
        Ok(ReferenceValues { schema: SCHEMA, profile: *profile, shapes, files })
    }
}
