//! A request in its canonical form: what a client asks for, as its commitment and the guest's log hold it.

use std::collections::BTreeMap;

use crate::cbor::{Key, Value};
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::git::{GitOrder, read_order};
use crate::ids::Digest256;
use crate::numbers::{Method, RequestFlag};

/// The longest path or argument in bytes; arguments and environment together are limited elsewhere.
pub const TEXT_MAX: usize = 128 * 1024;

/// The size of a terminal, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl TerminalSize {
    const EXPECTED: &'static str = "[rows, columns], each from 1 to 65535";

    /// From numbers as a client gives them; none when one is out of range.
    #[must_use]
    pub fn new(rows: u64, columns: u64) -> Option<Self> {
        let (rows, columns) = (u16::try_from(rows).ok()?, u16::try_from(columns).ok()?);
        (rows > 0 && columns > 0).then_some(Self { rows, columns })
    }

    fn to_value(self) -> Value {
        Value::Array([self.rows, self.columns].map(|n| Value::Unsigned(n.into())).to_vec())
    }

    fn from_value(value: Value) -> Option<Self> {
        let Value::Array(items) = value else { return None };
        let Ok([Value::Unsigned(rows), Value::Unsigned(columns)]) = <[Value; 2]>::try_from(items) else { return None };
        Self::new(rows, columns)
    }
}

/// A request in canonical form. Paths are as the client gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are those of the gRPC messages, in milliseconds and bytes")]
pub enum Request {
    /// Run a program.
    Exec {
        argv: Vec<String>,
        cwd: String,
        env: BTreeMap<String, String>,
        timeout_ms: u64,
        grace_ms: u64,
        output_bytes_max: u64,
        terminal: Option<TerminalSize>,
    },
    /// Write one file; the content follows as input.
    WriteFile { path: String, mode: u64, if_match: Option<IfMatch> },
    /// Read a range of one file; length 0 is to the end.
    ReadFile { path: String, offset: u64, length: u64 },
    /// List a directory; without a depth its own entries, without a token from the first, without a size as many as there may be.
    ListDirectory { path: String, depth: Option<u64>, page_token: Option<String>, page_size: Option<u64> },
    /// Stat one path.
    Stat { path: String },
    /// Unpack a tar stream; it follows as input.
    Upload { path: String },
    /// Pack a tar stream.
    Download { path: String },
    /// Remove a file, or a tree.
    Remove { path: String, reach: Reach },
    /// Rename.
    Move { path: String, destination: String, taken: Taken },
    /// Make a directory.
    MakeDirectory { path: String, mode: u64, above: Above },
    /// Tell what changes beneath a directory.
    Watch { path: String, reach: Reach, timeout_ms: u64 },
    /// Work with the git repository at a path.
    Git { path: String, order: GitOrder },
}

/// What must have a file's name for it to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// A file with this content.
    Content(Digest256),
    /// Nothing.
    Nothing,
}

/// How much of a directory is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What is named, alone.
    One,
    /// All that is beneath it, too.
    Tree,
}

/// What happens when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing is done.
    Refuse,
    /// What has it is replaced.
    Replace,
}

/// The directories above the one that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// They must be there.
    Expected,
    /// Those that are missing are made.
    Made,
}

impl IfMatch {
    fn to_value(self) -> Value {
        match self {
            Self::Content(digest) => bytes(digest),
            Self::Nothing => Value::Unsigned(0),
        }
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(digest) => digest.try_into().ok().map(|digest| Self::Content(Digest256::new(digest))),
            Value::Unsigned(0) => Some(Self::Nothing),
            _ => None,
        }
    }
}

/// Whether the one flag that a method knows is set.
fn flag(f: &mut Fields, known: RequestFlag) -> Result<Option<RequestFlag>, ParseError> {
    match f.optional_unsigned(17)? {
        None => Ok(None),
        Some(number) if RequestFlag::from_number(number) == Some(known) => Ok(Some(known)),
        Some(_) => Err(f.error(17, "the flag of its method")),
    }
}

impl Reach {
    /// The flag that says so in a request.
    #[must_use]
    pub fn flag(self) -> Option<RequestFlag> {
        (self == Self::Tree).then_some(RequestFlag::Recursive)
    }

    fn read(f: &mut Fields) -> Result<Self, ParseError> {
        Ok(flag(f, RequestFlag::Recursive)?.map_or(Self::One, |_| Self::Tree))
    }
}

impl Taken {
    /// The flag that says so in a request.
    #[must_use]
    pub fn flag(self) -> Option<RequestFlag> {
        (self == Self::Replace).then_some(RequestFlag::Replace)
    }

    fn read(f: &mut Fields) -> Result<Self, ParseError> {
        Ok(flag(f, RequestFlag::Replace)?.map_or(Self::Refuse, |_| Self::Replace))
    }
}

impl Above {
    /// The flag that says so in a request.
    #[must_use]
    pub fn flag(self) -> Option<RequestFlag> {
        (self == Self::Made).then_some(RequestFlag::Parents)
    }

    fn read(f: &mut Fields) -> Result<Self, ParseError> {
        Ok(flag(f, RequestFlag::Parents)?.map_or(Self::Expected, |_| Self::Made))
    }
}

impl Request {
    /// Which method it is.
    #[must_use]
    pub const fn method(&self) -> Method {
        match self {
            Self::Exec { .. } => Method::Exec,
            Self::WriteFile { .. } => Method::WriteFile,
            Self::ReadFile { .. } => Method::ReadFile,
            Self::ListDirectory { .. } => Method::ListDirectory,
            Self::Stat { .. } => Method::Stat,
            Self::Upload { .. } => Method::Upload,
            Self::Download { .. } => Method::Download,
            Self::Remove { .. } => Method::Remove,
            Self::Move { .. } => Method::Move,
            Self::MakeDirectory { .. } => Method::MakeDirectory,
            Self::Watch { .. } => Method::Watch,
            Self::Git { .. } => Method::Git,
        }
    }
}

impl Canonical for Request {
    const NAME: &'static str = "request";

    fn to_value(&self) -> Value {
        let map = MapBuilder::new().unsigned(1, self.method().number());
        let number = |flag: Option<RequestFlag>| flag.map(|flag| Value::Unsigned(flag.number()));
        match self {
            Self::Exec { argv, cwd, env, timeout_ms, grace_ms, output_bytes_max, terminal } => {
                let env = env.iter().map(|(k, v)| (Key::Text(k.clone()), Value::Text(v.clone()))).collect();
                map.texts(2, argv)
                    .text(3, cwd)
                    .put(4, Value::Map(env))
                    .unsigned(5, *timeout_ms)
                    .unsigned(6, *grace_ms)
                    .unsigned(7, *output_bytes_max)
                    .maybe(20, terminal.map(TerminalSize::to_value))
            }
            Self::WriteFile { path, mode, if_match } => {
                map.text(8, path).unsigned(9, *mode).maybe(15, if_match.map(IfMatch::to_value))
            }
            Self::ReadFile { path, offset, length } => map.text(8, path).unsigned(10, *offset).unsigned(11, *length),
            Self::ListDirectory { path, depth, page_token, page_size } => map
                .text(8, path)
                .maybe(12, depth.map(Value::Unsigned))
                .maybe(13, page_token.clone().map(Value::Text))
                .maybe(14, page_size.map(Value::Unsigned)),
            Self::Stat { path } | Self::Upload { path } | Self::Download { path } => map.text(8, path),
            Self::Remove { path, reach } => map.text(8, path).maybe(17, number(reach.flag())),
            Self::Move { path, destination, taken } => {
                map.text(8, path).text(16, destination).maybe(17, number(taken.flag()))
            }
            Self::MakeDirectory { path, mode, above } => {
                map.text(8, path).unsigned(9, *mode).maybe(17, number(above.flag()))
            }
            Self::Watch { path, reach, timeout_ms } => {
                map.text(8, path).maybe(17, number(reach.flag())).unsigned(18, *timeout_ms)
            }
            Self::Git { path, order } => order.add(map.text(8, path)),
        }
        .build()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        let request = match f.number(1, Method::from_number, "a known method")? {
            Method::Exec => {
                let (argv, cwd) = (f.texts(2)?, f.text(3, TEXT_MAX)?);
                let mut env = BTreeMap::new();
                for (name, value) in f.table(4)? {
                    let Value::Text(value) = value else { return Err(f.error(4, "a table of text")) };
                    env.insert(name, value);
                }
                let (timeout_ms, grace_ms, output_bytes_max) = (f.unsigned(5)?, f.unsigned(6)?, f.unsigned(7)?);
                let terminal = match f.optional(20) {
                    None => None,
                    Some(value) => {
                        Some(TerminalSize::from_value(value).ok_or_else(|| f.error(20, TerminalSize::EXPECTED))?)
                    }
                };
                Self::Exec { argv, cwd, env, timeout_ms, grace_ms, output_bytes_max, terminal }
            }
            Method::WriteFile => {
                let (path, mode) = (f.text(8, TEXT_MAX)?, f.unsigned(9)?);
                let wrong = |f: &Fields| f.error(15, "a SHA-256, or 0");
                let if_match = f.optional(15).map(|value| IfMatch::from_value(value).ok_or_else(|| wrong(&f)));
                Self::WriteFile { path, mode, if_match: if_match.transpose()? }
            }
            Method::ReadFile => {
                Self::ReadFile { path: f.text(8, TEXT_MAX)?, offset: f.unsigned(10)?, length: f.unsigned(11)? }
            }
            Method::ListDirectory => Self::ListDirectory {
                path: f.text(8, TEXT_MAX)?,
                depth: f.optional_unsigned(12)?,
                page_token: f.optional_text(13, TEXT_MAX)?,
                page_size: f.optional_unsigned(14)?,
            },
            Method::Stat => Self::Stat { path: f.text(8, TEXT_MAX)? },
            Method::Upload => Self::Upload { path: f.text(8, TEXT_MAX)? },
            Method::Download => Self::Download { path: f.text(8, TEXT_MAX)? },
            Method::Remove => Self::Remove { path: f.text(8, TEXT_MAX)?, reach: Reach::read(&mut f)? },
            Method::Move => Self::Move {
                path: f.text(8, TEXT_MAX)?,
                destination: f.text(16, TEXT_MAX)?,
                taken: Taken::read(&mut f)?,
            },
            Method::MakeDirectory => {
                Self::MakeDirectory { path: f.text(8, TEXT_MAX)?, mode: f.unsigned(9)?, above: Above::read(&mut f)? }
            }
            Method::Watch => {
                Self::Watch { path: f.text(8, TEXT_MAX)?, reach: Reach::read(&mut f)?, timeout_ms: f.unsigned(18)? }
            }
            Method::Git => Self::Git { path: f.text(8, TEXT_MAX)?, order: read_order(&mut f)? },
        };
        f.finish()?;
        Ok(request)
    }
}
