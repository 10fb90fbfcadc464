//! A leaf of the action log (EVIDENCE section 2): public fields from a closed list, everything else behind a salted
//! commitment. Signed call headers are public: they commit to requests and hold none. Leaf kinds that nothing produces yet are
//! refused by the parser: known keys only.

use crate::call_header::SignedHeader;
use crate::cbor::Value;
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::hash::h256;
use crate::ids::{CallId, Digest256, Identity, InstanceId, SessionId};
pub use crate::numbers::{CauseClass, LeafKind, LimitKind, Method, Rejection, Reporter, ScrubStep, StepResult};
use crate::speaker::Speaker;

/// The largest leaf in bytes.
pub const LEAF_MAX: usize = 64 * 1024;
/// The most leaves of a session.
pub const LEAVES_MAX: u64 = 10_000_000;
/// The most rule ids in a leaf, and the longest in bytes.
pub const RULES_MAX: usize = 64;
/// The longest rule id in bytes.
pub const RULE_LENGTH_MAX: usize = 128;
/// Public sizes are in steps of this many bytes.
pub const SIZE_STEP: u64 = 4096;

/// A size as it is made public: whole steps of 4 KiB, rounded up.
#[must_use]
pub const fn size_steps(bytes: u64) -> u64 {
    bytes.div_ceil(SIZE_STEP)
}

/// The public fields, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Public {
    /// Leaf 0.
    Open {
        /// The TD.
        instance: InstanceId,
        /// SHA-256 of the opening quote, cut to its used length.
        opening_quote: Digest256,
    },
    /// A channel was accepted.
    Channel {
        /// Whose.
        speaker: Speaker,
        /// The client's nonce.
        nonce: [u8; 32],
        /// What the channel's id is made of: [`crate::channel::channel_id`].
        exporter: [u8; 32],
    },
    /// A header that asks for no new call.
    Client {
        /// As signed.
        header: Box<SignedHeader>,
    },
    /// Before an effect.
    Intent {
        /// What is asked for.
        method: Method,
        /// The rules that allowed it.
        rules: Vec<String>,
        /// Size of the request in steps of 4 KiB.
        request_steps: u64,
        /// The header that asked for it; every one has one in end-to-end sessions.
        header: Option<Box<SignedHeader>>,
    },
    /// After it.
    Outcome {
        /// As in the intent.
        method: Method,
        /// What came of it.
        cause: CauseClass,
        /// Bytes out in steps of 4 KiB.
        output_steps: u64,
        /// Bytes in, in steps of 4 KiB.
        input_steps: u64,
        /// Bytes of input that signed headers cover, where there are such headers.
        input_covered: Option<u64>,
    },
    /// The policy said no.
    Denied {
        /// What was asked for.
        method: Method,
        /// The rules that forbade it; none when nothing allowed it.
        rules: Vec<String>,
        /// The header that asked for it; every one has one in end-to-end sessions.
        header: Option<Box<SignedHeader>>,
    },
    /// A header was not taken into its chain, and its channel is closed.
    Rejected {
        /// Why.
        reason: Rejection,
        /// Which channel.
        channel: Digest256,
    },
    /// A limit was reached.
    Limit {
        /// Which.
        which: LimitKind,
    },
    /// Something could not be recorded.
    Incomplete {
        /// Of which kind of call.
        method: Method,
    },
    /// What was erased, step by step.
    Scrub {
        /// Steps in the order they were done.
        steps: Vec<(ScrubStep, StepResult)>,
    },
    /// The last leaf.
    Seal {
        /// Leaves in all, this one included.
        count: u64,
    },
}

impl Public {
    /// The kind of the leaf that holds it.
    #[must_use]
    pub const fn kind(&self) -> LeafKind {
        match self {
            Self::Open { .. } => LeafKind::Open,
            Self::Channel { .. } => LeafKind::Channel,
            Self::Client { .. } => LeafKind::Client,
            Self::Intent { .. } => LeafKind::Intent,
            Self::Outcome { .. } => LeafKind::Outcome,
            Self::Denied { .. } => LeafKind::Denied,
            Self::Rejected { .. } => LeafKind::Rejected,
            Self::Limit { .. } => LeafKind::Limit,
            Self::Incomplete { .. } => LeafKind::Incomplete,
            Self::Scrub { .. } => LeafKind::Scrub,
            Self::Seal { .. } => LeafKind::Seal,
        }
    }

    /// The signed header in it.
    #[must_use]
    pub fn header(&self) -> Option<&SignedHeader> {
        match self {
            Self::Client { header } => Some(header),
            Self::Intent { header, .. } | Self::Denied { header, .. } => header.as_deref(),
            _ => None,
        }
    }

    /// Whether this is what the client signed: the header in it, where it commits to something, commits to this.
    #[must_use]
    pub fn is_signed(&self, client_salt: &[u8; 32], bytes: &[u8]) -> bool {
        let signed = self.header().and_then(|signed| signed.header.said.commitment());
        signed.is_none_or(|signed| signed == commitment(client_salt, bytes))
    }

    fn to_value(&self) -> Value {
        let map = MapBuilder::new();
        let signed = |header: &Option<Box<SignedHeader>>| header.as_ref().map(|header| header.to_value());
        match self {
            Self::Open { instance, opening_quote } => map.bytes(1, instance).bytes(2, opening_quote),
            Self::Channel { speaker, nonce, exporter } => {
                map.text(1, speaker.to_string()).bytes(2, nonce).bytes(3, exporter)
            }
            Self::Client { header } => map.put(1, header.to_value()),
            Self::Intent { method, rules, request_steps, header } => {
                let map = map.unsigned(1, method.number()).texts(2, rules).unsigned(3, *request_steps);
                map.maybe(4, signed(header))
            }
            Self::Outcome { method, cause, output_steps, input_steps, input_covered } => map
                .unsigned(1, method.number())
                .unsigned(2, cause.number())
                .unsigned(3, *output_steps)
                .unsigned(4, *input_steps)
                .maybe(5, input_covered.map(Value::Unsigned)),
            Self::Denied { method, rules, header } => {
                map.unsigned(1, method.number()).texts(2, rules).maybe(3, signed(header))
            }
            Self::Rejected { reason, channel } => map.unsigned(1, reason.number()).bytes(2, channel),
            Self::Limit { which } => map.unsigned(1, which.number()),
            Self::Incomplete { method } => map.unsigned(1, method.number()),
            Self::Scrub { steps } => {
                let steps = steps.iter().map(|(step, result)| {
                    Value::Array(vec![Value::Unsigned(step.number()), Value::Unsigned(result.number())])
                });
                map.put(1, Value::Array(steps.collect()))
            }
            Self::Seal { count } => map.unsigned(1, *count),
        }
        .build()
    }

    fn from_value(kind: LeafKind, value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new("public fields", value)?;
        let public = match kind {
            LeafKind::Open => {
                Self::Open { instance: InstanceId::new(f.array(1)?), opening_quote: Digest256::new(f.array(2)?) }
            }
            LeafKind::Channel => {
                Self::Channel { speaker: Speaker::read(&mut f, 1)?, nonce: f.array(2)?, exporter: f.array(3)? }
            }
            LeafKind::Client => Self::Client { header: Box::new(SignedHeader::from_value(f.value(1)?)?) },
            LeafKind::Intent => Self::Intent {
                method: method(&mut f)?,
                rules: rules(&mut f)?,
                request_steps: f.unsigned(3)?,
                header: header(&mut f, 4)?,
            },
            LeafKind::Outcome => Self::Outcome {
                method: method(&mut f)?,
                cause: f.number(2, CauseClass::from_number, "a known cause")?,
                output_steps: f.unsigned(3)?,
                input_steps: f.unsigned(4)?,
                input_covered: f.optional_unsigned(5)?,
            },
            LeafKind::Denied => {
                Self::Denied { method: method(&mut f)?, rules: rules(&mut f)?, header: header(&mut f, 3)? }
            }
            LeafKind::Rejected => Self::Rejected {
                reason: f.number(1, Rejection::from_number, "a known reason")?,
                channel: Digest256::new(f.array(2)?),
            },
            LeafKind::Limit => Self::Limit { which: f.number(1, LimitKind::from_number, "a known limit")? },
            LeafKind::Incomplete => Self::Incomplete { method: method(&mut f)? },
            LeafKind::Scrub => Self::Scrub { steps: scrub_steps(&mut f)? },
            LeafKind::Seal => Self::Seal { count: f.unsigned(1)? },
            LeafKind::Egress | LeafKind::Model | LeafKind::Secret => {
                return Err(ParseError::Unknown { structure: "leaf", field: format!("kind {kind}") });
            }
        };
        f.finish()?;
        Ok(public)
    }
}

fn method(f: &mut Fields) -> Result<Method, ParseError> {
    f.number(1, Method::from_number, "a known method")
}

fn header(f: &mut Fields, field: u64) -> Result<Option<Box<SignedHeader>>, ParseError> {
    f.optional(field).map(|value| SignedHeader::from_value(value).map(Box::new)).transpose()
}

fn rules(f: &mut Fields) -> Result<Vec<String>, ParseError> {
    let rules = f.texts(2)?;
    if rules.len() > RULES_MAX || rules.iter().any(|r| r.len() > RULE_LENGTH_MAX) {
        return Err(f.error(2, "at most 64 rule ids of at most 128 bytes"));
    }
    Ok(rules)
}

fn scrub_steps(f: &mut Fields) -> Result<Vec<(ScrubStep, StepResult)>, ParseError> {
    let items = f.list(1)?;
    items
        .into_iter()
        .map(|item| {
            let Value::Array(pair) = item else { return Err(f.error(1, "pairs of step and result")) };
            let [Value::Unsigned(step), Value::Unsigned(result)] = pair.as_slice() else {
                return Err(f.error(1, "pairs of step and result"));
            };
            ScrubStep::from_number(*step)
                .zip(StepResult::from_number(*result))
                .ok_or_else(|| f.error(1, "known steps and results"))
        })
        .collect()
}

/// One leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The session.
    pub session: SessionId,
    /// Its place in the log.
    pub index: u64,
    /// Who reports it.
    pub reporter: Reporter,
    /// Under which identity, where there is one.
    pub identity: Option<Identity>,
    /// In which call, where there is one.
    pub call: Option<CallId>,
    /// Nanoseconds of the guest's monotonic clock.
    pub monotonic_ns: u64,
    /// Milliseconds since 1970 by the guest's wall clock. A hint: no rule uses it.
    pub wall_hint_ms: u64,
    /// Public fields; the kind follows from them.
    pub public: Public,
    /// Over the private part, where there is one.
    pub commitment: Option<Digest256>,
}

impl Leaf {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> LeafKind {
        self.public.kind()
    }
}

impl Canonical for Leaf {
    const NAME: &'static str = "leaf";

    fn to_value(&self) -> Value {
        MapBuilder::versioned()
            .bytes(2, self.session)
            .unsigned(3, self.index)
            .unsigned(4, self.kind().number())
            .unsigned(5, self.reporter.number())
            .maybe(6, self.identity.as_ref().map(|i| Value::Text(i.to_string())))
            .maybe(7, self.call.map(bytes))
            .unsigned(8, self.monotonic_ns)
            .unsigned(9, self.wall_hint_ms)
            .put(10, self.public.to_value())
            .maybe(11, self.commitment.map(bytes))
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        f.version()?;
        let session = SessionId::new(f.array(2)?);
        let index = f.unsigned(3)?;
        let kind = f.number(4, LeafKind::from_number, "a known kind")?;
        let reporter = f.number(5, Reporter::from_number, "a known reporter")?;
        let identity = match f.optional_text(6, Identity::LENGTH_MAX)? {
            Some(name) => Some(Identity::new(&name).map_err(|_| f.error(6, "an identity"))?),
            None => None,
        };
        let call = f.optional_array(7)?.map(CallId::new);
        let (monotonic_ns, wall_hint_ms) = (f.unsigned(8)?, f.unsigned(9)?);
        let public = Public::from_value(kind, f.value(10)?)?;
        let commitment = f.optional_array(11)?.map(Digest256::new);
        let belongs_to_a_call =
            matches!(kind, LeafKind::Intent | LeafKind::Outcome | LeafKind::Denied | LeafKind::Incomplete);
        if belongs_to_a_call && (identity.is_none() || call.is_none()) {
            return Err(f.error(7, "an identity and a call"));
        }
        if matches!(kind, LeafKind::Intent | LeafKind::Outcome | LeafKind::Denied) && commitment.is_none() {
            return Err(f.error(11, "a commitment"));
        }
        f.finish()?;
        Ok(Self { session, index, reporter, identity, call, monotonic_ns, wall_hint_ms, public, commitment })
    }
}

/// A private part and the salt that hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// Fresh for each leaf.
    pub salt: [u8; 32],
    /// What was committed to.
    pub bytes: Vec<u8>,
}

impl Opened {
    /// H256("coffer/commit/v1", [salt, bytes]).
    #[must_use]
    pub fn commitment(&self) -> Digest256 {
        commitment(&self.salt, &self.bytes)
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({} bytes)", self.bytes.len())
    }
}

/// H256("coffer/commit/v1", [salt, private bytes]).
#[must_use]
pub fn commitment(salt: &[u8; 32], private: &[u8]) -> Digest256 {
    h256("coffer/commit/v1", Value::Array(vec![bytes(salt), bytes(private)]))
}
