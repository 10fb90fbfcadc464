//! What stands behind the commitments of intents and outcomes: the request as it was understood, and what came of it.

use crate::cbor::{Value, decode_list, encode};
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::file_record::EncodedRecord;
use crate::git::ObjectId;
use crate::ids::Digest256;
use crate::leaf::{Leaf, commitment};
use crate::numbers::CauseClass;
pub use crate::numbers::RequestFlag;
pub use crate::request::{Above, IfMatch, Reach, Request, TEXT_MAX, Taken, TerminalSize};

/// Behind an intent's (or denial's) commitment: dCBOR([client salt, request bytes, [program?, paths]]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntentPrivate {
    /// The client's salt, which hides its own commitment.
    pub client_salt: [u8; 32],
    /// Canonical bytes of the [`Request`].
    pub request: Vec<u8>,
    /// The program after the search of PATH, where one was found.
    pub program: Option<String>,
    /// The paths after they were resolved.
    pub paths: Vec<String>,
}

impl Canonical for IntentPrivate {
    const NAME: &'static str = "intent private part";

    fn to_value(&self) -> Value {
        let resolved = MapBuilder::new().maybe(1, self.program.clone().map(Value::Text)).texts(2, &self.paths).build();
        Value::Array(vec![bytes(self.client_salt), bytes(&self.request), resolved])
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let wrong = || ParseError::Type { structure: Self::NAME, expected: "[salt, request, resolved]" };
        let Value::Array(items) = value else { return Err(wrong()) };
        let Ok([Value::Bytes(salt), Value::Bytes(request), resolved]) = <[Value; 3]>::try_from(items) else {
            return Err(wrong());
        };
        let client_salt = salt.try_into().map_err(|_| wrong())?;
        let mut f = Fields::new("resolved", resolved)?;
        let (program, paths) = (f.optional_text(1, TEXT_MAX)?, f.texts(2)?);
        f.finish()?;
        Ok(Self { client_salt, request, program, paths })
    }
}

/// One stream of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamDigest {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that were delivered.
    pub delivered: u64,
    /// SHA-256 of all of them.
    pub sha256: Digest256,
}

/// What a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Milliseconds.
    pub wall_ms: u64,
    /// Microseconds.
    pub user_us: u64,
    /// Microseconds.
    pub system_us: u64,
    /// KiB.
    pub max_rss_kib: u64,
}

/// Behind an outcome's commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomePrivate {
    /// What came of it.
    pub cause: CauseClass,
    /// Exit status.
    pub code: Option<u64>,
    /// Signal number.
    pub signal: Option<u64>,
    /// errno of a failure.
    pub errno: Option<u64>,
    /// What was being done when it failed.
    pub stage: Option<String>,
    /// Standard input.
    pub stdin: Option<StreamDigest>,
    /// Standard output.
    pub stdout: Option<StreamDigest>,
    /// Standard error.
    pub stderr: Option<StreamDigest>,
    /// Resources.
    pub usage: Option<Usage>,
    /// SHA-256 of the file or stream.
    pub digest: Option<Digest256>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Files, directories and links in a tree; those that a removal took; changes that a watch told.
    pub files: Option<u64>,
    /// What it did with files; `None` when nothing ran.
    pub record: Option<EncodedRecord>,
    /// The commit that the session's git key signed for it.
    pub commit: Option<ObjectId>,
}

impl OutcomePrivate {
    /// An outcome of which only the cause is known so far.
    #[must_use]
    pub const fn new(cause: CauseClass) -> Self {
        Self {
            cause,
            code: None,
            signal: None,
            errno: None,
            stage: None,
            stdin: None,
            stdout: None,
            stderr: None,
            usage: None,
            digest: None,
            size: None,
            files: None,
            record: None,
            commit: None,
        }
    }
}

fn stream_value(stream: &StreamDigest) -> Value {
    MapBuilder::new().unsigned(1, stream.total).unsigned(2, stream.delivered).bytes(3, stream.sha256).build()
}

fn read_stream(value: Value) -> Result<StreamDigest, ParseError> {
    let mut f = Fields::new("stream", value)?;
    let stream = StreamDigest { total: f.unsigned(1)?, delivered: f.unsigned(2)?, sha256: Digest256::new(f.array(3)?) };
    f.finish()?;
    Ok(stream)
}

fn read_usage(value: Value) -> Result<Usage, ParseError> {
    let mut f = Fields::new("usage", value)?;
    let usage = Usage {
        wall_ms: f.unsigned(1)?,
        user_us: f.unsigned(2)?,
        system_us: f.unsigned(3)?,
        max_rss_kib: f.unsigned(4)?,
    };
    f.finish()?;
    Ok(usage)
}

fn read_commit(f: &mut Fields) -> Result<Option<ObjectId>, ParseError> {
    let Some(value) = f.optional(14) else { return Ok(None) };
    ObjectId::from_value(value).map(Some).ok_or_else(|| f.error(14, "an object id of 20 or 32 bytes"))
}

impl Canonical for OutcomePrivate {
    const NAME: &'static str = "outcome private part";

    fn to_value(&self) -> Value {
        let usage = |u: Usage| {
            MapBuilder::new()
                .unsigned(1, u.wall_ms)
                .unsigned(2, u.user_us)
                .unsigned(3, u.system_us)
                .unsigned(4, u.max_rss_kib)
                .build()
        };
        MapBuilder::new()
            .unsigned(1, self.cause.number())
            .maybe(2, self.code.map(Value::Unsigned))
            .maybe(3, self.signal.map(Value::Unsigned))
            .maybe(4, self.errno.map(Value::Unsigned))
            .maybe(5, self.stage.clone().map(Value::Text))
            .maybe(6, self.stdin.as_ref().map(stream_value))
            .maybe(7, self.stdout.as_ref().map(stream_value))
            .maybe(8, self.stderr.as_ref().map(stream_value))
            .maybe(9, self.usage.map(usage))
            .maybe(10, self.digest.map(bytes))
            .maybe(11, self.size.map(Value::Unsigned))
            .maybe(12, self.files.map(Value::Unsigned))
            .maybe(13, self.record.as_ref().map(|record| bytes(record.as_bytes())))
            .maybe(14, self.commit.map(ObjectId::to_value))
            .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        let outcome = Self {
            cause: f.number(1, CauseClass::from_number, "a known cause")?,
            code: f.optional_unsigned(2)?,
            signal: f.optional_unsigned(3)?,
            errno: f.optional_unsigned(4)?,
            stage: f.optional_text(5, 64)?,
            stdin: f.optional(6).map(read_stream).transpose()?,
            stdout: f.optional(7).map(read_stream).transpose()?,
            stderr: f.optional(8).map(read_stream).transpose()?,
            usage: f.optional(9).map(read_usage).transpose()?,
            digest: f.optional_array(10)?.map(Digest256::new),
            size: f.optional_unsigned(11)?,
            files: f.optional_unsigned(12)?,
            record: f.optional_bytes(13)?.map(EncodedRecord::parse).transpose()?,
            commit: read_commit(&mut f)?,
        };
        f.finish()?;
        Ok(outcome)
    }
}

/// One opened private part as it stands in `disclosed.cbor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disclosed {
    /// Index of its leaf.
    pub index: u64,
    /// The salt.
    pub salt: [u8; 32],
    /// The private bytes.
    pub bytes: Vec<u8>,
}

impl Disclosed {
    /// Whether it is what this leaf committed to.
    #[must_use]
    pub fn opens(&self, leaf: &Leaf) -> bool {
        leaf.commitment == Some(commitment(&self.salt, &self.bytes))
    }
}

/// `disclosed.cbor`: an array of [index, salt, bytes], indices strictly rising.
#[must_use]
pub fn write_disclosed(parts: &[Disclosed]) -> Vec<u8> {
    let items =
        parts.iter().map(|p| Value::Array(vec![Value::Unsigned(p.index), bytes(p.salt), bytes(&p.bytes)])).collect();
    encode(&Value::Array(items))
}

/// Reads `disclosed.cbor` strictly.
///
/// # Errors
/// [`ParseError`].
pub fn read_disclosed(input: &[u8]) -> Result<Vec<Disclosed>, ParseError> {
    let wrong =
        || ParseError::Type { structure: "disclosed", expected: "[[index, salt, bytes], ...] with rising indices" };
    let mut parts: Vec<Disclosed> = Vec::new();
    for item in decode_list(input)?.ok_or_else(wrong)? {
        let Value::Array(triple) = item? else { return Err(wrong()) };
        let Ok([Value::Unsigned(index), Value::Bytes(salt), Value::Bytes(bytes)]) = <[Value; 3]>::try_from(triple)
        else {
            return Err(wrong());
        };
        if parts.last().is_some_and(|last| last.index >= index) {
            return Err(wrong());
        }
        parts.push(Disclosed { index, salt: salt.try_into().map_err(|_| wrong())?, bytes });
    }
    Ok(parts)
}
