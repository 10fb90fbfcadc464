//! A TD that was booted before it was wanted: what it was booted with, and what its pool quote binds (EVIDENCE section 2).

use crate::cbor::Value;
use crate::config::MeasuredConfig;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError};
use crate::hash::h512;
use crate::ids::{Digest256, Digest384};
use crate::intent::Shape;
use crate::sign::PublicKey;

/// Member `pool.cbor`: what the host told the TD before any session was known. Its digest is in MRCONFIGID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// SHA-256 of the payload of `image.dsse`.
    pub image: Digest256,
    /// Size of the VM.
    pub shape: Shape,
    /// Signs the receipt.
    pub host_key: PublicKey,
}

impl PoolConfig {
    /// SHA-384 of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest384 {
        Digest384::of(&self.to_bytes())
    }

    /// The three registers of a pooled launch: nothing of a tenant is known yet.
    #[must_use]
    pub fn measured(&self) -> MeasuredConfig {
        MeasuredConfig { mr_config_id: *self.digest().as_bytes(), mr_owner: [0; 48], mr_owner_config: [0; 48] }
    }
}

impl Canonical for PoolConfig {
    const NAME: &'static str = "pool config";

    fn to_value(&self) -> Value {
        MapBuilder::versioned().bytes(2, self.image).text(3, self.shape.as_str()).bytes(4, self.host_key).build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let image = Digest256::new(f.array(2)?);
        let shape = f.text(3, crate::intent::TEXT_MAX)?;
        let shape = Shape::from_name(&shape).ok_or_else(|| f.error(3, "the shape s1"))?;
        let pool = Self { image, shape, host_key: f.public_key(4)? };
        f.finish()?;
        Ok(pool)
    }
}

/// What the report data of a pool quote is made of. Never evidence of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolMap {
    /// SHA-384 of the pool config.
    pub config_digest: Digest384,
    /// Whoever binds the TD must name it.
    pub bind_nonce: [u8; 32],
}

impl PoolMap {
    /// H512("coffer/pool/v1", map).
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        h512("coffer/pool/v1", self.to_value())
    }
}

impl Canonical for PoolMap {
    const NAME: &'static str = "pool map";

    fn to_value(&self) -> Value {
        MapBuilder::versioned().bytes(2, self.config_digest).bytes(3, self.bind_nonce).build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let map = Self { config_digest: Digest384::new(f.array(2)?), bind_nonce: f.array(3)? };
        f.finish()?;
        Ok(map)
    }
}
