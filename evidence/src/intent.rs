//! The intent: what a client wants of a session, written by the client and signed by the owner (EVIDENCE section 2).

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use crate::cbor::{Key, Value};
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::ids::{Digest256, Digest384, Identity, SessionId};
use crate::sign::{PublicKey, SignatureError, sign, verify};

/// The tag that the owner signs under.
pub const INTENT_TAG: &str = "coffer/intent/v1";
/// The longest text of an intent in bytes: audience, tenant, region.
pub const TEXT_MAX: usize = 255;
/// The most identities, witnesses or recipients of a session.
pub const PRINCIPALS_MAX: usize = 64;

/// Where the client's authority ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Inside TLS that ends in the TD.
    EndToEnd,
    /// At the host, which orders calls for its clients.
    Delegated,
}

impl Authority {
    /// As verdicts print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndToEnd => "end-to-end",
            Self::Delegated => "delegated",
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::EndToEnd),
            1 => Some(Self::Delegated),
            _ => None,
        }
    }
}

/// Whether an effect waits for a signed ack of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does not.
    Relaxed,
    /// It does.
    Strict,
}

impl Durability {
    fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Relaxed),
            1 => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A fixed size of VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// 2 vCPU, 2 GiB.
    S1,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 1] = [Self::S1];

    /// The name in intents and manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S1 => "s1",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.as_str() == name)
    }
}

/// Whether the session may run in a TD that was booted before it was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PooledAllowed {
    /// Only a TD booted for it.
    No,
    /// Also one from the pool.
    Yes,
}

/// Whether a call that cannot be recorded in full is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordRequired {
    /// It goes on, with an `incomplete` leaf.
    No,
    /// It is ended.
    Yes,
}

/// What bounds a session. Seconds and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time to live from Ready, at most 24 h.
    pub ttl_s: u64,
    /// Time without a call or touch.
    pub idle_s: u64,
    /// Calls in all.
    pub calls: u64,
    /// Leaves in all.
    pub leaves: u64,
    /// How long the sealed core is offered.
    pub linger_s: u64,
}

impl Limits {
    /// The most that an intent may ask for.
    pub const MAXIMA: Self =
        Self { ttl_s: 86_400, idle_s: 86_400, calls: 1_000_000, leaves: 10_000_000, linger_s: 600 };

    /// Whether every limit is at least one and at most its maximum.
    #[must_use]
    pub fn are_within_maxima(&self) -> bool {
        let pairs = [
            (self.ttl_s, Self::MAXIMA.ttl_s),
            (self.idle_s, Self::MAXIMA.idle_s),
            (self.calls, Self::MAXIMA.calls),
            (self.leaves, Self::MAXIMA.leaves),
            (self.linger_s, Self::MAXIMA.linger_s),
        ];
        // Fewer than 16 leaves cannot hold open, scrub and seal beside one call.
        pairs.iter().all(|(n, most)| (1..=*most).contains(n)) && self.leaves >= 16
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { ttl_s: 3_600, idle_s: 900, calls: 100_000, leaves: 1_000_000, linger_s: 30 }
    }
}

/// The intent, EVIDENCE section 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Deployment, part of the log's origin.
    pub audience: String,
    /// The session's id.
    pub session: SessionId,
    /// Fresh for each intent.
    pub nonce: [u8; 32],
    /// Whose signature makes it valid.
    pub owner: PublicKey,
    /// Whom the host accounts it to.
    pub tenant: String,
    /// Demanded, never proven by the guest.
    pub region: String,
    /// SHA-256 of the payload of `image.dsse`.
    pub image: Digest256,
    /// SHA-384 of the policy text.
    pub policy: Digest384,
    /// Who may act, by key.
    pub identities: BTreeMap<Identity, PublicKey>,
    /// Where authority ends.
    pub authority: Authority,
    /// Whether effects wait for acks.
    pub durability: Durability,
    /// Who may ack beside the caller.
    pub witnesses: Vec<PublicKey>,
    /// Bounds.
    pub limits: Limits,
    /// age X25519 recipients of the private parts.
    pub recipients: Vec<[u8; 32]>,
    /// The least security version of the image.
    pub minimum_svn: u64,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// Size of the VM.
    pub shape: Shape,
    /// Pool allowed.
    pub pooled: PooledAllowed,
    /// Record required.
    pub record: RecordRequired,
}

impl Intent {
    /// The origin of the session's log.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("coffer/{}/{}", self.audience, self.session)
    }
}

fn keys(keys: &[PublicKey]) -> Value {
    Value::Array(keys.iter().map(bytes).collect())
}

impl Canonical for Intent {
    const NAME: &'static str = "intent";

    fn to_value(&self) -> Value {
        let limits = MapBuilder::new()
            .unsigned(1, self.limits.ttl_s)
            .unsigned(2, self.limits.idle_s)
            .unsigned(3, self.limits.calls)
            .unsigned(4, self.limits.leaves)
            .unsigned(5, self.limits.linger_s);
        let identities = self.identities.iter().map(|(name, key)| (Key::Text(name.to_string()), bytes(key))).collect();
        MapBuilder::versioned()
            .text(2, &self.audience)
            .bytes(3, self.session)
            .bytes(4, self.nonce)
            .bytes(5, self.owner)
            .text(6, &self.tenant)
            .text(7, &self.region)
            .bytes(8, self.image)
            .bytes(9, self.policy)
            .put(10, Value::Map(identities))
            .unsigned(
                11,
                match self.authority {
                    Authority::EndToEnd => 0,
                    Authority::Delegated => 1,
                },
            )
            .unsigned(
                12,
                match self.durability {
                    Durability::Relaxed => 0,
                    Durability::Strict => 1,
                },
            )
            .put(13, keys(&self.witnesses))
            .put(14, limits.build())
            .put(15, Value::Array(self.recipients.iter().map(bytes).collect()))
            .unsigned(16, self.minimum_svn)
            .unsigned(17, self.issued_at)
            .unsigned(18, self.not_after)
            .text(19, self.shape.as_str())
            .bool(20, self.pooled == PooledAllowed::Yes)
            .bool(21, self.record == RecordRequired::Yes)
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let audience = f.text(2, TEXT_MAX)?;
        // The audience stands in the first line of a note, between slashes.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if audience.is_empty() || !audience.chars().all(plain) {
            return Err(f.error(2, "letters, digits, '.', '-' and '_'"));
        }
        let session = SessionId::new(f.array(3)?);
        let nonce = f.array(4)?;
        let owner = f.public_key(5)?;
        let tenant = f.text(6, TEXT_MAX)?;
        let region = f.text(7, TEXT_MAX)?;
        let image = Digest256::new(f.array(8)?);
        let policy = Digest384::new(f.array(9)?);
        let table = f.table(10)?;
        if table.is_empty() || table.len() > PRINCIPALS_MAX {
            return Err(f.error(10, "1 to 64 identities"));
        }
        let mut identities = BTreeMap::new();
        for (name, key) in table {
            let name = Identity::new(&name).map_err(|_| f.error(10, "identity names"))?;
            identities.insert(name, public_key(&f, 10, &key)?);
        }
        let authority = f.number(11, Authority::from_number, "0 or 1")?;
        let durability = f.number(12, Durability::from_number, "0 or 1")?;
        let witnesses = f.list(13)?.iter().map(|key| public_key(&f, 13, key)).collect::<Result<Vec<_>, _>>()?;
        let limits = read_limits(f.value(14)?)?;
        let recipients = f
            .list(15)?
            .into_iter()
            .map(|item| match item {
                Value::Bytes(b) => b.try_into().map_err(|_| f.error(15, "keys of 32 bytes")),
                _ => Err(f.error(15, "keys of 32 bytes")),
            })
            .collect::<Result<Vec<[u8; 32]>, _>>()?;
        if witnesses.len() > PRINCIPALS_MAX || recipients.len() > PRINCIPALS_MAX {
            return Err(f.error(15, "at most 64 witnesses and recipients"));
        }
        let intent = Self {
            audience,
            session,
            nonce,
            owner,
            tenant,
            region,
            image,
            policy,
            identities,
            authority,
            durability,
            witnesses,
            limits,
            recipients,
            minimum_svn: f.unsigned(16)?,
            issued_at: f.unsigned(17)?,
            not_after: f.unsigned(18)?,
            shape: {
                let name = f.text(19, TEXT_MAX)?;
                Shape::from_name(&name).ok_or_else(|| f.error(19, "the shape s1"))?
            },
            pooled: if f.bool(20)? { PooledAllowed::Yes } else { PooledAllowed::No },
            record: if f.bool(21)? { RecordRequired::Yes } else { RecordRequired::No },
        };
        f.finish()?;
        Ok(intent)
    }
}

fn public_key(f: &Fields, field: u64, value: &Value) -> Result<PublicKey, ParseError> {
    match value {
        Value::Bytes(b) => PublicKey::from_bytes(b).map_err(|_| f.error(field, "an Ed25519 public key of full order")),
        _ => Err(f.error(field, "an Ed25519 public key")),
    }
}

fn read_limits(value: Value) -> Result<Limits, ParseError> {
    let mut f = Fields::new("limits", value)?;
    let limits = Limits {
        ttl_s: f.unsigned(1)?,
        idle_s: f.unsigned(2)?,
        calls: f.unsigned(3)?,
        leaves: f.unsigned(4)?,
        linger_s: f.unsigned(5)?,
    };
    f.finish()?;
    Ok(limits)
}

/// The owner's signature over an intent.
#[must_use]
pub fn sign_intent(owner: &SigningKey, intent: &Intent) -> [u8; 64] {
    sign(owner, INTENT_TAG, intent.to_value())
}

/// Checks the owner's signature with the key that the intent names.
///
/// # Errors
/// [`SignatureError`].
pub fn verify_intent(intent: &Intent, owner_sig: &[u8; 64]) -> Result<(), SignatureError> {
    verify(&intent.owner, INTENT_TAG, intent.to_value(), owner_sig)
}
