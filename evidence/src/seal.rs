//! The seal map S: what the final quote binds (EVIDENCE section 2).

use crate::cbor::Value;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::hash::h512;
use crate::ids::{Digest256, Digest384, InstanceId, SessionId};
pub use crate::numbers::{ClosedBy, Reason};
use crate::rtmr::Rtmr;

/// The most collateral digests in a seal.
pub const COLLATERAL_MAX: usize = 64;

/// S.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealMap {
    /// The session.
    pub session: SessionId,
    /// The TD.
    pub instance: InstanceId,
    /// SHA-384 of the configuration.
    pub config_digest: Digest384,
    /// SHA-256 of the opening quote, cut to its used length.
    pub opening_quote: Digest256,
    /// Leaves in all.
    pub size: u64,
    /// Root over them.
    pub root: Digest256,
    /// RTMR3 events in all.
    pub events: u64,
    /// RTMR3 after them.
    pub rtmr3: Rtmr,
    /// SHA-256 of the scrub leaf.
    pub scrub_leaf: Digest256,
    /// Who closed it.
    pub closed_by: ClosedBy,
    /// Why.
    pub reason: Reason,
    /// SHA-256 of collateral sets that the TD held before the seal.
    pub collateral: Vec<Digest256>,
    /// SHA-256 of the statement's payload.
    pub statement: Digest256,
    /// Requests refused before `hello`, by kind; empty in delegated sessions.
    pub pre_hello: Vec<u64>,
}

impl SealMap {
    /// H512("coffer/seal/v1", S): report data of the final quote.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        h512("coffer/seal/v1", self.to_value())
    }
}

impl Canonical for SealMap {
    const NAME: &'static str = "seal map";

    fn to_value(&self) -> Value {
        MapBuilder::versioned()
            .bytes(2, self.session)
            .bytes(3, self.instance)
            .bytes(4, self.config_digest)
            .bytes(5, self.opening_quote)
            .unsigned(6, self.size)
            .bytes(7, self.root)
            .unsigned(8, self.events)
            .bytes(9, self.rtmr3.as_bytes())
            .bytes(10, self.scrub_leaf)
            .unsigned(11, self.closed_by.number())
            .unsigned(12, self.reason.number())
            .put(13, Value::Array(self.collateral.iter().map(bytes).collect()))
            .bytes(14, self.statement)
            .put(15, Value::Array(self.pre_hello.iter().copied().map(Value::Unsigned).collect()))
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let seal = Self {
            session: SessionId::new(f.array(2)?),
            instance: InstanceId::new(f.array(3)?),
            config_digest: Digest384::new(f.array(4)?),
            opening_quote: Digest256::new(f.array(5)?),
            size: f.unsigned(6)?,
            root: Digest256::new(f.array(7)?),
            events: f.unsigned(8)?,
            rtmr3: Rtmr::new(f.array(9)?),
            scrub_leaf: Digest256::new(f.array(10)?),
            closed_by: f.number(11, ClosedBy::from_number, "0, 1 or 2")?,
            reason: f.number(12, Reason::from_number, "a known reason")?,
            collateral: f
                .list(13)?
                .into_iter()
                .map(|item| match item {
                    Value::Bytes(b) => Digest256::from_bytes(&b).map_err(|_| f.error(13, "digests of 32 bytes")),
                    _ => Err(f.error(13, "digests")),
                })
                .collect::<Result<_, _>>()?,
            statement: Digest256::new(f.array(14)?),
            pre_hello: f
                .list(15)?
                .into_iter()
                .map(|item| match item {
                    Value::Unsigned(n) => Ok(n),
                    _ => Err(f.error(15, "counters")),
                })
                .collect::<Result<_, _>>()?,
        };
        if seal.collateral.len() > COLLATERAL_MAX || seal.pre_hello.len() > 8 {
            return Err(f.error(13, "at most 64 digests and 8 counters"));
        }
        f.finish()?;
        Ok(seal)
    }
}
