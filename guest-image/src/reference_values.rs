//! `coffer-image measure`: the reference values of an image, computed from its files and signed by whoever computed them, apart
//! from its manifest: for a relying party that has its own verifier, or that wants a second word on a manifest.

use crate::acpi::Source;
use crate::debian::lock::{Lock, LockError};
use crate::lint::{self, LintError};
use crate::manifest::{self, Booted, Builds, ReferenceError};
use coffer_evidence::dsse::Envelope;
use coffer_evidence::manifest::{Profile, ShapeReference};
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

/// The files of an image that registers cover, and the builds that they hold for.
#[derive(Debug)]
pub struct Measured {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    command_line: Vec<u8>,
    builds: Builds,
    /// The platform, as the command line says.
    pub profile: Profile,
}

impl Measured {
    /// Reads them from an image directory.
    ///
    /// # Errors
    /// [`ValuesError`].
    pub fn read(directory: &Path) -> Result<Self, ValuesError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(|source| ValuesError::Io { path, source })
        };
        let command_line = read("cmdline")?;
        Ok(Self {
            firmware: read("firmware.fd")?,
            kernel: read("vmlinuz")?,
            initrd: read("initrd.img")?,
            builds: Builds::of(&Lock::parse(&read("image.lock")?)?),
            profile: lint::profile_of(&command_line)?,
            command_line,
        })
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
        let Measured { firmware, kernel, initrd, command_line, builds, profile } = self;
        let booted = Booted { firmware, kernel, initrd, command_line };
        let shapes = manifest::references(manifest::registers(booted, acpi, builds)?, builds);
        let files = [("firmware.fd", firmware), ("vmlinuz", kernel), ("initrd.img", initrd), ("cmdline", command_line)];
        let files = files.into_iter().map(|(name, bytes)| (name, hex::encode(Sha256::digest(bytes)))).collect();
        Ok(ReferenceValues { schema: SCHEMA, profile: *profile, shapes, files })
    }
}
