//! The open map: the keys and randomness that make one TD one *instance* (EVIDENCE section 2).

use crate::cbor::Value;
use crate::config::Launch;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::hash::{h256, h512};
use crate::ids::{Digest256, Digest384, InstanceId, SessionId};
use crate::sign::PublicKey;

/// O. Made in the TD after the configuration is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenMap {
    /// Cold or pooled.
    pub launch: Launch,
    /// The session.
    pub session: SessionId,
    /// SHA-384 of the configuration.
    pub config_digest: Digest384,
    /// Signs notes and the statement; gone after the seal.
    pub log_key: PublicKey,
    /// SHA-256 of the DER SubjectPublicKeyInfo of the TLS key.
    pub tls_spki: Digest256,
    /// SSHSIG namespace `git` only.
    pub git_key: PublicKey,
    /// Security version of the agent.
    pub agent_svn: u64,
    /// Fresh.
    pub random: [u8; 32],
    /// Pooled only.
    pub bind_nonce: Option<[u8; 32]>,
}

impl OpenMap {
    /// H256("coffer/instance/v1", O).
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        InstanceId::new(*h256("coffer/instance/v1", self.to_value()).as_bytes())
    }

    /// H512("coffer/open/v1", O): report data of the opening quote.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        h512("coffer/open/v1", self.to_value())
    }
}

impl Canonical for OpenMap {
    const NAME: &'static str = "open map";

    fn to_value(&self) -> Value {
        MapBuilder::versioned()
            .unsigned(2, self.launch.number())
            .bytes(3, self.session)
            .bytes(4, self.config_digest)
            .bytes(5, self.log_key)
            .bytes(6, self.tls_spki)
            .bytes(7, self.git_key)
            .unsigned(8, self.agent_svn)
            .bytes(9, self.random)
            .maybe(10, self.bind_nonce.map(bytes))
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let open = Self {
            launch: f.number(2, Launch::from_number, "0 (cold) or 1 (pooled)")?,
            session: SessionId::new(f.array(3)?),
            config_digest: Digest384::new(f.array(4)?),
            log_key: f.public_key(5)?,
            tls_spki: Digest256::new(f.array(6)?),
            git_key: f.public_key(7)?,
            agent_svn: f.unsigned(8)?,
            random: f.array(9)?,
            bind_nonce: f.optional_array(10)?,
        };
        if open.bind_nonce.is_some() != (open.launch == Launch::Pooled) {
            return Err(f.error(10, "a bind nonce when pooled and only then"));
        }
        f.finish()?;
        Ok(open)
    }
}
