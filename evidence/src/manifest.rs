//! The image manifest: reference values of one image, signed by its publisher as a DSSE envelope (EVIDENCE section 3).

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::dsse::Envelope;
use crate::ids::Digest256;
use crate::intent::Shape;

/// DSSE payload type.
pub const PAYLOAD_TYPE: &str = "application/vnd.coffer.image+json";

/// For which platform an image was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Intel TDX.
    Tdx,
    /// The simulator.
    Simulated,
}

impl Profile {
    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tdx => "tdx",
            Self::Simulated => "simulated",
        }
    }
}

/// A register as 96 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Register(pub [u8; 48]);

impl std::fmt::Debug for Register {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Register({})", hex::encode(self.0))
    }
}

impl Serialize for Register {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Register {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(&text).ok().and_then(|b| b.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("expected 96 hex digits"))
    }
}

/// What a quote must show for one shape of VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeReference {
    /// MRTD.
    pub mrtd: Register,
    /// RTMR0.
    pub rtmr0: Register,
    /// RTMR1.
    pub rtmr1: Register,
    /// RTMR2.
    pub rtmr2: Register,
    /// The QEMU build these values hold for.
    pub qemu: String,
    /// The firmware build they hold for.
    pub firmware: String,
}

/// SHA-256 digests, hex, of what the image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDigests {
    /// `firmware.fd`.
    pub firmware: String,
    /// `vmlinuz`.
    pub kernel: String,
    /// `initrd.img`.
    pub initrd: String,
    /// `cmdline`.
    pub cmdline: String,
    /// `root.erofs`.
    pub root: String,
    /// `root.verity`.
    pub verity: String,
    /// dm-verity root hash.
    pub verity_root: String,
    /// `image.lock`.
    pub packages: String,
}

impl ImageDigests {
    /// The files that a machine is given, each with its digest. `image.lock` is not one of them.
    #[must_use]
    pub fn booted(&self) -> [(&'static str, &str); 6] {
        [
            ("firmware.fd", &self.firmware),
            ("vmlinuz", &self.kernel),
            ("initrd.img", &self.initrd),
            ("cmdline", &self.cmdline),
            ("root.erofs", &self.root),
            ("root.verity", &self.verity),
        ]
    }
}

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// Name of the image.
    pub name: String,
    /// Version of the image.
    pub version: String,
    /// Security version: rises when an older image must no longer be accepted.
    pub svn: u64,
    /// Platform.
    pub profile: Profile,
    /// Reference values by shape name.
    pub shapes: BTreeMap<String, ShapeReference>,
    /// What it is made of.
    pub digests: ImageDigests,
    /// Unix seconds after which the publisher no longer stands for it; 0 is never.
    pub not_after: u64,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Not the one JSON form.
    #[error("expected an image manifest in its one JSON form")]
    Form,
}

impl ImageManifest {
    /// The payload: compact JSON, fields in this order.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the payload; anything that [`ImageManifest::payload`] would not have written is refused.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(payload: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(payload).map_err(|_| ManifestError::Form)?;
        if manifest.payload() != payload { Err(ManifestError::Form) } else { Ok(manifest) }
    }

    /// SHA-256 of the payload: the image's identity, intent field 8.
    #[must_use]
    pub fn digest(payload: &[u8]) -> Digest256 {
        Digest256::of(payload)
    }

    /// The reference values for a shape.
    #[must_use]
    pub fn reference(&self, shape: Shape) -> Option<&ShapeReference> {
        self.shapes.get(shape.as_str())
    }

    /// Signs it as `image.dsse`.
    #[must_use]
    pub fn sign(&self, publisher: &SigningKey) -> Envelope {
        Envelope::sign(publisher, PAYLOAD_TYPE, self.payload())
    }
}
