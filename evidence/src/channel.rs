//! A channel: its id, and what the quote that opens it binds (EVIDENCE section 2, "Channel").

use crate::cbor::Value;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::hash::{h256, h512};
use crate::ids::{Digest256, InstanceId, SessionId};
use crate::sign::PublicKey;
use crate::speaker::Speaker;

/// H256("coffer/chan/v1", [instance, exporter]). The exporter is that of the channel's TLS; in a delegated session, where no TLS ends
/// in the TD, 32 random bytes that the guest made for the channel.
#[must_use]
pub fn channel_id(instance: &InstanceId, exporter: &[u8; 32]) -> Digest256 {
    h256("coffer/chan/v1", Value::Array(vec![bytes(instance), bytes(exporter)]))
}

/// What the report data of a channel quote is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelMap {
    /// The session.
    pub session: SessionId,
    /// The TD.
    pub instance: InstanceId,
    /// The client's.
    pub nonce: [u8; 32],
    /// TLS-Exporter("EXPERIMENTAL coffer/channel/v1", context = nonce, 32).
    pub exporter: [u8; 32],
    /// Whose channel it is.
    pub speaker: Speaker,
    /// Under which key.
    pub key: PublicKey,
}

impl ChannelMap {
    /// H512("coffer/channel/v1", map): report data of the channel quote.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        h512("coffer/channel/v1", self.to_value())
    }
}

impl Canonical for ChannelMap {
    const NAME: &'static str = "channel map";

    fn to_value(&self) -> Value {
        MapBuilder::versioned()
            .bytes(2, self.session)
            .bytes(3, self.instance)
            .bytes(4, self.nonce)
            .bytes(5, self.exporter)
            .text(6, self.speaker.to_string())
            .bytes(7, self.key)
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let map = Self {
            session: SessionId::new(f.array(2)?),
            instance: InstanceId::new(f.array(3)?),
            nonce: f.array(4)?,
            exporter: f.array(5)?,
            speaker: Speaker::read(&mut f, 6)?,
            key: f.public_key(7)?,
        };
        f.finish()?;
        Ok(map)
    }
}
