//! Maps with integer keys, put together and taken apart field by field.

use super::FrameError;
use coffer_evidence::cbor::{self, Key, Value};

/// A map being made. Keys are added in rising order.
#[derive(Debug)]
pub struct Builder(Vec<(Key, Value)>);

impl Builder {
    /// Starts a message of this kind.
    pub fn kind(kind: u64) -> Self {
        Self(vec![(Key::Unsigned(0), Value::Unsigned(kind))])
    }

    /// Adds a number.
    pub fn unsigned(self, key: u64, value: u64) -> Self {
        self.value(key, Value::Unsigned(value))
    }

    /// Adds a byte string.
    pub fn bytes(self, key: u64, value: &[u8]) -> Self {
        self.value(key, Value::Bytes(value.to_vec()))
    }

    /// Adds a text.
    pub fn text(self, key: u64, value: &str) -> Self {
        self.value(key, Value::Text(value.to_owned()))
    }

    /// Adds a list of texts.
    pub fn texts(self, key: u64, values: &[String]) -> Self {
        self.value(key, Value::Array(values.iter().cloned().map(Value::Text).collect()))
    }

    /// Adds a list of lists of numbers.
    pub fn rows(self, key: u64, rows: &[Vec<u64>]) -> Self {
        let row = |row: &Vec<u64>| Value::Array(row.iter().copied().map(Value::Unsigned).collect());
        self.value(key, Value::Array(rows.iter().map(row).collect()))
    }

    /// Adds what there is, nothing else.
    pub fn optional<T>(self, key: u64, value: Option<T>, add: impl FnOnce(Self, u64, T) -> Self) -> Self {
        match value {
            Some(value) => add(self, key, value),
            None => self,
        }
    }

    /// The map.
    pub fn into_value(self) -> Value {
        Value::Map(self.0)
    }

    fn value(mut self, key: u64, value: Value) -> Self {
        self.0.push((Key::Unsigned(key), value));
        self
    }
}

/// A map being taken apart: each field once, none left.
#[derive(Debug)]
pub struct Fields(Vec<(Key, Value)>);

impl Fields {
    /// Decodes one map.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        match cbor::decode(bytes).map_err(FrameError::Cbor)? {
            Value::Map(fields) => Ok(Self(fields)),
            _ => Err(FrameError::Unexpected("a map")),
        }
    }

    /// Takes a field if it is there.
    pub fn take(&mut self, key: u64) -> Option<Value> {
        let at = self.0.iter().position(|(found, _)| *found == Key::Unsigned(key))?;
        Some(self.0.remove(at).1)
    }

    /// Takes a number.
    pub fn unsigned(&mut self, key: u64) -> Result<u64, FrameError> {
        self.optional_unsigned(key)?.ok_or(FrameError::Unexpected("a number that is required"))
    }

    /// Takes a number if it is there.
    pub fn optional_unsigned(&mut self, key: u64) -> Result<Option<u64>, FrameError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => Ok(Some(value)),
            Some(_) => Err(FrameError::Unexpected("a number")),
        }
    }

    /// Takes a byte string.
    pub fn bytes(&mut self, key: u64) -> Result<Vec<u8>, FrameError> {
        match self.take(key) {
            Some(Value::Bytes(value)) => Ok(value),
            _ => Err(FrameError::Unexpected("a byte string")),
        }
    }

    /// Takes a byte string of exactly this length.
    pub fn array<const N: usize>(&mut self, key: u64) -> Result<[u8; N], FrameError> {
        self.bytes(key)?.try_into().map_err(|_| FrameError::Unexpected("a byte string of a fixed length"))
    }

    /// Takes a text.
    pub fn text(&mut self, key: u64) -> Result<String, FrameError> {
        self.optional_text(key)?.ok_or(FrameError::Unexpected("a text that is required"))
    }

    /// Takes a text if it is there.
    pub fn optional_text(&mut self, key: u64) -> Result<Option<String>, FrameError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(_) => Err(FrameError::Unexpected("a text")),
        }
    }

    /// Takes a list of texts.
    pub fn texts(&mut self, key: u64) -> Result<Vec<String>, FrameError> {
        let Some(Value::Array(values)) = self.take(key) else { return Err(FrameError::Unexpected("a list")) };
        values
            .into_iter()
            .map(|value| match value {
                Value::Text(text) => Ok(text),
                _ => Err(FrameError::Unexpected("a list of texts")),
            })
            .collect()
    }

    /// Takes a list of lists of numbers, each of this length.
    pub fn rows<const N: usize>(&mut self, key: u64) -> Result<Vec<[u64; N]>, FrameError> {
        let rows = FrameError::Unexpected("a list of lists of numbers");
        let Some(Value::Array(values)) = self.take(key) else { return Err(rows) };
        values
            .into_iter()
            .map(|value| {
                let Value::Array(cells) = value else { return Err(FrameError::Unexpected("a list of numbers")) };
                let cells = cells.into_iter().map(|cell| match cell {
                    Value::Unsigned(number) => Ok(number),
                    _ => Err(FrameError::Unexpected("a number in a list")),
                });
                let row: Vec<u64> = cells.collect::<Result<_, _>>()?;
                row.try_into().map_err(|_| FrameError::Unexpected("a list of a fixed length"))
            })
            .collect()
    }

    /// Refuses what nobody asked for.
    pub fn finish(&mut self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Unexpected("known keys only")) }
    }
}

/// The number of a member of a closed list: its place.
pub(super) fn number<T: PartialEq>(list: &[T], member: &T) -> u64 {
    list.iter().position(|known| known == member).unwrap_or_default() as u64
}

/// The member of a closed list with this number.
pub(super) fn member<T: Copy>(list: &[T], number: u64, expected: &'static str) -> Result<T, FrameError> {
    let found = usize::try_from(number).ok().and_then(|at| list.get(at)).copied();
    found.ok_or(FrameError::Unexpected(expected))
}
