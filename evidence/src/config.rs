//! The configuration of a session: the owner's intent and the host's part, its digest in the measured registers, the
//! boot disk that carries it, and what must hold before anybody acts on it (EVIDENCE section 2).

use std::collections::BTreeMap;

use thiserror::Error;

use crate::cbor::{Key, Value};
use crate::fields::{Canonical, Fields, MapBuilder, ParseError};
use crate::hash::h384;
use crate::ids::Digest384;
use crate::intent::{Authority, Durability, Intent, PooledAllowed, verify_intent};
use crate::sign::{PublicKey, SignatureError};

/// The most host labels, and the longest in bytes.
pub const LABELS_MAX: usize = 16;
/// The longest label name or value in bytes.
pub const LABEL_LENGTH_MAX: usize = 63;
/// The largest policy text in bytes.
pub const POLICY_MAX: usize = 1024 * 1024;
/// The largest configuration in bytes.
pub const CONFIG_MAX: usize = 256 * 1024;

/// How the TD came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// Booted for this session.
    Cold,
    /// Taken from the pool.
    Pooled,
}

impl Launch {
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Cold => 0,
            Self::Pooled => 1,
        }
    }

    pub(crate) fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Cold),
            1 => Some(Self::Pooled),
            _ => None,
        }
    }
}

/// What the host adds. Host claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPart {
    /// Signs the receipt.
    pub host_key: PublicKey,
    /// Cold or pooled.
    pub launch: Launch,
    /// Free text of the host.
    pub labels: BTreeMap<String, String>,
}

/// The configuration whose SHA-384 is in MRCONFIGID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Canonical bytes of the intent, as the owner signed them.
    pub intent: Vec<u8>,
    /// The owner's signature.
    pub owner_sig: [u8; 64],
    /// The host's part.
    pub host: HostPart,
}

/// A configuration that does not hold.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The intent inside is malformed.
    #[error("the intent in the configuration is malformed")]
    Intent(#[source] ParseError),
    /// The owner's signature does not verify.
    #[error("the owner's signature over the intent does not verify")]
    Owner(#[source] SignatureError),
}

impl Config {
    /// SHA-384 of the canonical bytes.
    #[must_use]
    pub fn digest(&self) -> Digest384 {
        Digest384::of(&self.to_bytes())
    }

    /// Parses the intent inside, without trusting it.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn intent(&self) -> Result<Intent, ParseError> {
        Intent::parse(&self.intent)
    }

    /// Parses the intent and checks the signature by the owner key it names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn verify_owner(&self) -> Result<Intent, ConfigError> {
        let intent = self.intent().map_err(ConfigError::Intent)?;
        verify_intent(&intent, &self.owner_sig).map_err(ConfigError::Owner)?;
        Ok(intent)
    }
}

impl Canonical for Config {
    const NAME: &'static str = "config";

    fn to_value(&self) -> Value {
        let labels =
            self.host.labels.iter().map(|(k, v)| (Key::Text(k.clone()), Value::Text(v.clone()))).collect::<Vec<_>>();
        let host = MapBuilder::new()
            .bytes(1, self.host.host_key)
            .unsigned(2, self.host.launch.number())
            .put(3, Value::Map(labels));
        MapBuilder::versioned().bytes(2, &self.intent).bytes(3, self.owner_sig).put(4, host.build()).build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let intent = f.bytes(2)?;
        let owner_sig = f.array(3)?;
        let host = f.value(4)?;
        f.finish()?;
        let mut f = Fields::new("host part", host)?;
        let host_key = f.public_key(1)?;
        let launch = f.number(2, Launch::from_number, "0 (cold) or 1 (pooled)")?;
        let mut labels = BTreeMap::new();
        for (name, value) in f.table(3)? {
            let Value::Text(value) = value else { return Err(f.error(3, "labels of text")) };
            if name.len() > LABEL_LENGTH_MAX || value.len() > LABEL_LENGTH_MAX || labels.len() >= LABELS_MAX {
                return Err(f.error(3, "at most 16 labels of at most 63 bytes"));
            }
            labels.insert(name, value);
        }
        f.finish()?;
        Ok(Self { intent, owner_sig, host: HostPart { host_key, launch, labels } })
    }
}

/// What the host gives the TDX module at launch, and the guest finds in its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasuredConfig {
    /// SHA-384 of the configuration.
    pub mr_config_id: [u8; 48],
    /// H384("coffer/tenant/v1", [audience, tenant]).
    pub mr_owner: [u8; 48],
    /// The intent's policy digest.
    pub mr_owner_config: [u8; 48],
}

/// The three registers of a cold launch.
#[must_use]
pub fn measured_config(config: &[u8], intent: &Intent) -> MeasuredConfig {
    let tenant = Value::Array(vec![Value::Text(intent.audience.clone()), Value::Text(intent.tenant.clone())]);
    MeasuredConfig {
        mr_config_id: *Digest384::of(config).as_bytes(),
        mr_owner: *h384("coffer/tenant/v1", tenant).as_bytes(),
        mr_owner_config: *intent.policy.as_bytes(),
    }
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum AdmissionError {
    /// Malformed.
    #[error("the configuration is malformed")]
    Config(#[from] ParseError),
    /// Owner.
    #[error("the configuration is not the owner's")]
    Owner(#[from] ConfigError),
    /// Policy digest.
    #[error("expected a policy text with SHA-384 {expected}, found {found}")]
    PolicyDigest {
        /// In the intent.
        expected: Digest384,
        /// Of the text.
        found: Digest384,
    },
    /// A combination that this build does not serve.
    #[error("expected {expected}, found {found}: this version does not serve it yet")]
    Unsupported {
        /// What is served.
        expected: &'static str,
        /// What the intent asks for.
        found: &'static str,
    },
    /// Limits.
    #[error(
        "expected limits of at least 1 (leaves: 16) and at most {:?}, found {found:?}",
        crate::intent::Limits::MAXIMA
    )]
    Limits {
        /// The limits.
        found: crate::intent::Limits,
    },
    /// Expired or not yet valid.
    #[error("expected an intent valid at {now}, found one issued at {issued_at} and valid until {not_after}")]
    Expired {
        /// Unix seconds.
        now: u64,
        /// Unix seconds.
        issued_at: u64,
        /// Unix seconds.
        not_after: u64,
    },
    /// Too large.
    #[error("expected a configuration of at most {CONFIG_MAX} and a policy of at most {POLICY_MAX} bytes")]
    TooLarge,
}

/// How far an owner's clock may run ahead of the host's, in seconds.
pub const CLOCK_SKEW_S: u64 = 300;

/// What both `cofferd` (with its clock) and the agent (without one) insist on before they act on a configuration. What
/// the policy says is not looked at here: its size and its digest are.
///
/// # Errors
/// [`AdmissionError`], the first that applies.
pub fn admit(config: &[u8], policy: &[u8], now: Option<u64>) -> Result<(Config, Intent), AdmissionError> {
    if config.len() > CONFIG_MAX || policy.len() > POLICY_MAX {
        return Err(AdmissionError::TooLarge);
    }
    let config = Config::parse(config)?;
    let intent = config.verify_owner()?;
    let found = Digest384::of(policy);
    if found != intent.policy {
        return Err(AdmissionError::PolicyDigest { expected: intent.policy, found });
    }
    let unsupported = |expected, found| Err(AdmissionError::Unsupported { expected, found });
    match (intent.authority, intent.durability, config.host.launch) {
        (Authority::EndToEnd, _, _) => return unsupported("authority delegated", "end-to-end"),
        (_, Durability::Strict, _) => return unsupported("durability relaxed", "strict"),
        (_, _, Launch::Pooled) => return unsupported("launch cold", "pooled"),
        (Authority::Delegated, Durability::Relaxed, Launch::Cold) => {}
    }
    if intent.pooled == PooledAllowed::Yes {
        return unsupported("pooled not allowed", "pooled allowed");
    }
    if !intent.limits.are_within_maxima() {
        return Err(AdmissionError::Limits { found: intent.limits });
    }
    if let Some(now) = now {
        let (issued_at, not_after) = (intent.issued_at, intent.not_after);
        if issued_at > now.saturating_add(CLOCK_SKEW_S) || now > not_after {
            return Err(AdmissionError::Expired { now, issued_at, not_after });
        }
    }
    Ok((config, intent))
}

/// The boot disk: `"COFFERC1" | u32le length | u32le length | config | policy | zeros`.
pub mod boot_disk {
    use super::{CONFIG_MAX, POLICY_MAX};
    use thiserror::Error;

    /// The first bytes.
    pub const MAGIC: &[u8; 8] = b"COFFERC1";
    /// The largest disk in bytes.
    pub const BYTES_MAX: usize = 16 + CONFIG_MAX + POLICY_MAX + SECTOR;
    const SECTOR: usize = 4096;
    const HEADER: usize = 16;

    /// What the disk carries.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BootDisk {
        /// Canonical bytes of the configuration.
        pub config: Vec<u8>,
        /// The policy text.
        pub policy: Vec<u8>,
    }

    /// Why bytes are not a boot disk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
    pub enum BootDiskError {
        /// Not ours.
        #[error("expected a boot disk that starts with COFFERC1")]
        Magic,
        /// Lengths.
        #[error("expected lengths within the disk and its limits, found {config} and {policy} on {disk} bytes")]
        Length {
            /// Of the configuration.
            config: u32,
            /// Of the policy.
            policy: u32,
            /// Of the disk.
            disk: usize,
        },
        /// Something after the policy.
        #[error("expected zeros after the policy, found other bytes")]
        Trailing,
    }

    /// The disk's bytes, padded with zeros to whole 4 KiB.
    #[must_use]
    pub fn write(config: &[u8], policy: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut disk = MAGIC.to_vec();
        disk.extend_from_slice(&length(config));
        disk.extend_from_slice(&length(policy));
        disk.extend_from_slice(config);
        disk.extend_from_slice(policy);
        disk.resize(disk.len().next_multiple_of(SECTOR), 0);
        disk
    }

    /// Reads the disk strictly.
    ///
    /// # Errors
    /// [`BootDiskError`].
    pub fn read(disk: &[u8]) -> Result<BootDisk, BootDiskError> {
        let rest = disk.strip_prefix(MAGIC.as_slice()).ok_or(BootDiskError::Magic)?;
        let word = |at: usize| {
            let bytes = rest.get(at..at.saturating_add(4)).and_then(|b| <[u8; 4]>::try_from(b).ok());
            bytes.map(u32::from_le_bytes).unwrap_or(u32::MAX)
        };
        let (config, policy) = (word(0), word(4));
        let wrong = BootDiskError::Length { config, policy, disk: disk.len() };
        let (c, p) = (usize::try_from(config).map_err(|_| wrong)?, usize::try_from(policy).map_err(|_| wrong)?);
        if c > CONFIG_MAX || p > POLICY_MAX || disk.len() > BYTES_MAX {
            return Err(wrong);
        }
        let middle = HEADER.saturating_add(c);
        let end = middle.saturating_add(p);
        let config = disk.get(HEADER..middle).ok_or(wrong)?.to_vec();
        let policy = disk.get(middle..end).ok_or(wrong)?.to_vec();
        if disk.get(end..).unwrap_or_default().iter().any(|b| *b != 0) {
            return Err(BootDiskError::Trailing);
        }
        Ok(BootDisk { config, policy })
    }
}
