//! The call header M (EVIDENCE section 2, "Call chain"): what a client signs for each thing it asks for, and its signature.
//!
//! M has one encoding, so the bytes as sent are those that [`Canonical::to_bytes`] makes anew. Each type holds exactly the fields
//! of its row, and no other:
//! ```text
//! type     7 call  8 method  9 commitment  10 seen  11 hello  12 offset
//! hello                                             x
//! call     x       x         x
//! input    x                 x                                x
//! ack                                      x
//! signal   x                 x
//! cancel   x
//! close
//! ```

use ed25519_dalek::{Signer as _, SigningKey};

use crate::cbor::Value;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::ids::{CallId, Digest256, InstanceId};
pub use crate::numbers::HeaderType;
use crate::numbers::Method;
use crate::sign::PublicKey;
pub use crate::speaker::Speaker;

/// The first item of M.
pub const HEADER_TAG: &str = "coffer/call/v1";
/// What stands where the previous header's digest would, at seq 0.
pub const NO_PREVIOUS: Digest256 = Digest256::new([0; 32]);

/// The last checkpoint that a client has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Leaves that it covers.
    pub size: u64,
    /// Root over them.
    pub root: Digest256,
}

/// What a header says, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The first of a channel: the client verified the opening and goes on.
    Hello {
        /// SHA-256 of the opening quote, cut to its used length.
        opening_quote: Digest256,
        /// The client's clock, unix seconds.
        time: u64,
        /// SHA-256 of the collateral that it verified with.
        collateral: Digest256,
    },
    /// A call is asked for, or asked for again to come back to it.
    Call {
        /// Its id.
        call: CallId,
        /// What it asks for.
        method: Method,
        /// To the request bytes, under the client's salt.
        commitment: Digest256,
    },
    /// Input of a call, as far as `offset`.
    Input {
        /// Of this call.
        call: CallId,
        /// To SHA-256 of the input's first `offset` bytes, under the client's salt.
        commitment: Digest256,
        /// Bytes of input covered so far.
        offset: u64,
    },
    /// A checkpoint was seen and verified.
    Ack {
        /// Which.
        seen: Seen,
    },
    /// A signal to a call.
    Signal {
        /// Of this call.
        call: CallId,
        /// To the signal's number as dCBOR, under the client's salt.
        commitment: Digest256,
    },
    /// A call is to end.
    Cancel {
        /// This call.
        call: CallId,
    },
    /// The session is to end.
    Close,
}

impl Said {
    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> HeaderType {
        match self {
            Self::Hello { .. } => HeaderType::Hello,
            Self::Call { .. } => HeaderType::Call,
            Self::Input { .. } => HeaderType::Input,
            Self::Ack { .. } => HeaderType::Ack,
            Self::Signal { .. } => HeaderType::Signal,
            Self::Cancel { .. } => HeaderType::Cancel,
            Self::Close => HeaderType::Close,
        }
    }

    /// The call that it is about.
    #[must_use]
    pub const fn call(&self) -> Option<CallId> {
        match self {
            Self::Call { call, .. } | Self::Input { call, .. } | Self::Signal { call, .. } | Self::Cancel { call } => {
                Some(*call)
            }
            Self::Hello { .. } | Self::Ack { .. } | Self::Close => None,
        }
    }

    /// What it commits to, where a body goes with it.
    #[must_use]
    pub const fn commitment(&self) -> Option<Digest256> {
        match self {
            Self::Call { commitment, .. } | Self::Input { commitment, .. } | Self::Signal { commitment, .. } => {
                Some(*commitment)
            }
            Self::Hello { .. } | Self::Ack { .. } | Self::Cancel { .. } | Self::Close => None,
        }
    }
}

/// M.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHeader {
    /// The TD that the client verified.
    pub instance: InstanceId,
    /// The channel: [`crate::channel::channel_id`].
    pub channel: Digest256,
    /// Whose key signs.
    pub speaker: Speaker,
    /// Place in the channel, from zero by one.
    pub seq: u64,
    /// SHA-256 of the M before it; [`NO_PREVIOUS`] at seq 0.
    pub prev: Digest256,
    /// What it says.
    pub said: Said,
}

impl CallHeader {
    /// SHA-256 of M: `prev` of the next header.
    #[must_use]
    pub fn digest(&self) -> Digest256 {
        Digest256::of(&self.to_bytes())
    }

    /// M with its signature: Ed25519 directly over M as sent.
    #[must_use]
    pub fn sign(self, key: &SigningKey) -> SignedHeader {
        let signature = key.sign(&self.to_bytes()).to_bytes();
        SignedHeader { header: self, signature }
    }
}

fn hello_value(opening_quote: Digest256, time: u64, collateral: Digest256) -> Value {
    MapBuilder::new().bytes(1, opening_quote).unsigned(2, time).bytes(3, collateral).build()
}

fn read_hello(value: Value) -> Result<Said, ParseError> {
    let mut f = Fields::new("hello", value)?;
    let hello = Said::Hello {
        opening_quote: Digest256::new(f.array(1)?),
        time: f.unsigned(2)?,
        collateral: Digest256::new(f.array(3)?),
    };
    f.finish()?;
    Ok(hello)
}

fn read_seen(value: Value) -> Result<Seen, ParseError> {
    let mut f = Fields::new("seen", value)?;
    let seen = Seen { size: f.unsigned(1)?, root: Digest256::new(f.array(2)?) };
    f.finish()?;
    Ok(seen)
}

fn read_said(f: &mut Fields) -> Result<Said, ParseError> {
    let call = |f: &mut Fields| f.array(7).map(CallId::new);
    let commitment = |f: &mut Fields| f.array(9).map(Digest256::new);
    Ok(match f.number(6, HeaderType::from_number, "a known type")? {
        HeaderType::Hello => read_hello(f.value(11)?)?,
        HeaderType::Call => Said::Call {
            call: call(f)?,
            method: f.number(8, Method::from_number, "a known method")?,
            commitment: commitment(f)?,
        },
        HeaderType::Input => Said::Input { call: call(f)?, commitment: commitment(f)?, offset: f.unsigned(12)? },
        HeaderType::Ack => Said::Ack { seen: read_seen(f.value(10)?)? },
        HeaderType::Signal => Said::Signal { call: call(f)?, commitment: commitment(f)? },
        HeaderType::Cancel => Said::Cancel { call: call(f)? },
        HeaderType::Close => Said::Close,
    })
}

impl Canonical for CallHeader {
    const NAME: &'static str = "call header";

    fn to_value(&self) -> Value {
        let map = MapBuilder::new()
            .bytes(1, self.instance)
            .bytes(2, self.channel)
            .text(3, self.speaker.to_string())
            .unsigned(4, self.seq)
            .bytes(5, self.prev)
            .unsigned(6, self.said.kind().number())
            .maybe(7, self.said.call().map(bytes))
            .maybe(9, self.said.commitment().map(bytes));
        let map = match self.said {
            Said::Hello { opening_quote, time, collateral } => {
                map.put(11, hello_value(opening_quote, time, collateral))
            }
            Said::Call { method, .. } => map.unsigned(8, method.number()),
            Said::Input { offset, .. } => map.unsigned(12, offset),
            Said::Ack { seen } => map.put(10, MapBuilder::new().unsigned(1, seen.size).bytes(2, seen.root).build()),
            Said::Signal { .. } | Said::Cancel { .. } | Said::Close => map,
        };
        Value::Array(vec![Value::Text(HEADER_TAG.to_owned()), map.build()])
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let wrong = || ParseError::Type { structure: Self::NAME, expected: "[\"coffer/call/v1\", fields]" };
        let Value::Array(items) = value else { return Err(wrong()) };
        let Ok([Value::Text(tag), fields]) = <[Value; 2]>::try_from(items) else { return Err(wrong()) };
        if tag != HEADER_TAG {
            return Err(wrong());
        }
        let mut f = Fields::new(Self::NAME, fields)?;
        let header = Self {
            instance: InstanceId::new(f.array(1)?),
            channel: Digest256::new(f.array(2)?),
            speaker: Speaker::read(&mut f, 3)?,
            seq: f.unsigned(4)?,
            prev: Digest256::new(f.array(5)?),
            said: read_said(&mut f)?,
        };
        f.finish()?;
        Ok(header)
    }
}

/// A header and its signature, as they stand in one leaf: [M, signature].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeader {
    /// M.
    pub header: CallHeader,
    /// Ed25519 over M as sent.
    pub signature: [u8; 64],
}

impl SignedHeader {
    /// Whether the signature is this key's over M.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verifies(&self.header.to_bytes(), &self.signature)
    }
}

impl Canonical for SignedHeader {
    const NAME: &'static str = "signed header";

    fn to_value(&self) -> Value {
        Value::Array(vec![bytes(self.header.to_bytes()), bytes(self.signature)])
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let wrong = || ParseError::Type { structure: Self::NAME, expected: "[header, signature]" };
        let Value::Array(items) = value else { return Err(wrong()) };
        let Ok([Value::Bytes(header), Value::Bytes(signature)]) = <[Value; 2]>::try_from(items) else {
            return Err(wrong());
        };
        let signature = signature.try_into().map_err(|_| wrong())?;
        Ok(Self { header: CallHeader::parse(&header)?, signature })
    }
}

/// Behind the commitment of a client leaf whose header commits to something: dCBOR([client salt, bytes committed to]).
#[derive(Clone, PartialEq, Eq)]
pub struct ClientPrivate {
    /// The client's salt.
    pub client_salt: [u8; 32],
    /// What the header's commitment is to.
    pub committed: Vec<u8>,
}

impl std::fmt::Debug for ClientPrivate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientPrivate({} bytes)", self.committed.len())
    }
}

impl Canonical for ClientPrivate {
    const NAME: &'static str = "client private part";

    fn to_value(&self) -> Value {
        Value::Array(vec![bytes(self.client_salt), bytes(&self.committed)])
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let wrong = || ParseError::Type { structure: Self::NAME, expected: "[salt, bytes]" };
        let Value::Array(items) = value else { return Err(wrong()) };
        let Ok([Value::Bytes(salt), Value::Bytes(committed)]) = <[Value; 2]>::try_from(items) else {
            return Err(wrong());
        };
        Ok(Self { client_salt: salt.try_into().map_err(|_| wrong())?, committed })
    }
}
