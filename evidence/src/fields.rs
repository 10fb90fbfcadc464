//! From a dCBOR map to the fields of a structure, strictly: known keys only, each once, right type and length.
//! Not public outside the crate but for the [`Canonical`] trait and its error.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::cbor::{self, CborError, Key, Value};
use crate::sign::PublicKey;

/// Why bytes or a value are not the structure that was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Not dCBOR at all.
    #[error("not canonical CBOR")]
    Cbor(#[from] CborError),
    /// The value is of another type.
    #[error("{structure}: expected {expected}")]
    Type {
        /// Which structure.
        structure: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A field is missing.
    #[error("{structure}: expected field {field}, found none")]
    Missing {
        /// Which structure.
        structure: &'static str,
        /// Its number.
        field: u64,
    },
    /// A field that is not in the closed list.
    #[error("{structure}: expected known fields only, found {field}")]
    Unknown {
        /// Which structure.
        structure: &'static str,
        /// The key as text.
        field: String,
    },
    /// A field holds something that it may not.
    #[error("{structure}: field {field}: expected {expected}")]
    Field {
        /// Which structure.
        structure: &'static str,
        /// Its number.
        field: u64,
        /// What was expected.
        expected: &'static str,
    },
    /// Decoding and encoding again gives other bytes.
    #[error("{structure}: expected the canonical encoding, found another")]
    NotCanonical {
        /// Which structure.
        structure: &'static str,
    },
}

/// A structure with exactly one encoding.
pub trait Canonical: Sized {
    /// The name used in errors.
    const NAME: &'static str;

    /// The dCBOR value.
    fn to_value(&self) -> Value;

    /// Reads the value strictly.
    ///
    /// # Errors
    /// [`ParseError`] for anything that `to_value` would not have made.
    fn from_value(value: Value) -> Result<Self, ParseError>;

    /// The bytes that are hashed, signed and stored.
    #[must_use]
    fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(&self.to_value())
    }

    /// Decodes, and insists that encoding again gives the same bytes.
    ///
    /// # Errors
    /// [`ParseError`].
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let parsed = Self::from_value(cbor::decode(bytes)?)?;
        if parsed.to_bytes() != bytes {
            return Err(ParseError::NotCanonical { structure: Self::NAME });
        }
        Ok(parsed)
    }
}

/// The fields of one map, taken out one by one; what is left at the end is unknown and refused.
pub(crate) struct Fields {
    structure: &'static str,
    entries: BTreeMap<u64, Value>,
}

impl Fields {
    pub(crate) fn new(structure: &'static str, value: Value) -> Result<Self, ParseError> {
        let Value::Map(map) = value else { return Err(ParseError::Type { structure, expected: "a map" }) };
        let mut entries = BTreeMap::new();
        for (key, value) in map {
            match key {
                Key::Unsigned(n) => entries.insert(n, value),
                Key::Text(field) => return Err(ParseError::Unknown { structure, field }),
            };
        }
        Ok(Self { structure, entries })
    }

    pub(crate) fn error(&self, field: u64, expected: &'static str) -> ParseError {
        ParseError::Field { structure: self.structure, field, expected }
    }

    pub(crate) fn optional(&mut self, field: u64) -> Option<Value> {
        self.entries.remove(&field)
    }

    pub(crate) fn value(&mut self, field: u64) -> Result<Value, ParseError> {
        self.optional(field).ok_or(ParseError::Missing { structure: self.structure, field })
    }

    pub(crate) fn unsigned(&mut self, field: u64) -> Result<u64, ParseError> {
        match self.value(field)? {
            Value::Unsigned(n) => Ok(n),
            _ => Err(self.error(field, "an unsigned integer")),
        }
    }

    pub(crate) fn optional_unsigned(&mut self, field: u64) -> Result<Option<u64>, ParseError> {
        match self.optional(field) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(n)),
            Some(_) => Err(self.error(field, "an unsigned integer")),
        }
    }

    /// A closed list of numbers, read by its own function.
    pub(crate) fn number<T>(
        &mut self,
        field: u64,
        read: impl Fn(u64) -> Option<T>,
        expected: &'static str,
    ) -> Result<T, ParseError> {
        let number = self.unsigned(field)?;
        read(number).ok_or_else(|| self.error(field, expected))
    }

    pub(crate) fn version(&mut self) -> Result<(), ParseError> {
        if self.unsigned(1)? == 1 { Ok(()) } else { Err(self.error(1, "version 1")) }
    }

    pub(crate) fn bool(&mut self, field: u64) -> Result<bool, ParseError> {
        match self.value(field)? {
            Value::Bool(b) => Ok(b),
            _ => Err(self.error(field, "true or false")),
        }
    }

    pub(crate) fn text(&mut self, field: u64, longest: usize) -> Result<String, ParseError> {
        match self.value(field)? {
            Value::Text(t) if t.len() <= longest => Ok(t),
            _ => Err(self.error(field, "text within its length")),
        }
    }

    pub(crate) fn optional_text(&mut self, field: u64, longest: usize) -> Result<Option<String>, ParseError> {
        match self.optional(field) {
            None => Ok(None),
            Some(Value::Text(t)) if t.len() <= longest => Ok(Some(t)),
            Some(_) => Err(self.error(field, "text within its length")),
        }
    }

    pub(crate) fn bytes(&mut self, field: u64) -> Result<Vec<u8>, ParseError> {
        match self.value(field)? {
            Value::Bytes(b) => Ok(b),
            _ => Err(self.error(field, "a byte string")),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self, field: u64) -> Result<[u8; N], ParseError> {
        let bytes = self.bytes(field)?;
        bytes.try_into().map_err(|_| self.error(field, "a byte string of its fixed length"))
    }

    pub(crate) fn optional_bytes(&mut self, field: u64) -> Result<Option<Vec<u8>>, ParseError> {
        match self.optional(field) {
            None => Ok(None),
            Some(Value::Bytes(b)) => Ok(Some(b)),
            Some(_) => Err(self.error(field, "a byte string")),
        }
    }

    pub(crate) fn public_key(&mut self, field: u64) -> Result<PublicKey, ParseError> {
        let bytes = self.bytes(field)?;
        PublicKey::from_bytes(&bytes).map_err(|_| self.error(field, "an Ed25519 public key of full order"))
    }

    pub(crate) fn optional_array<const N: usize>(&mut self, field: u64) -> Result<Option<[u8; N]>, ParseError> {
        if self.entries.contains_key(&field) { self.array(field).map(Some) } else { Ok(None) }
    }

    pub(crate) fn list(&mut self, field: u64) -> Result<Vec<Value>, ParseError> {
        match self.value(field)? {
            Value::Array(items) => Ok(items),
            _ => Err(self.error(field, "an array")),
        }
    }

    pub(crate) fn texts(&mut self, field: u64) -> Result<Vec<String>, ParseError> {
        let items = self.list(field)?;
        items
            .into_iter()
            .map(|item| match item {
                Value::Text(t) => Ok(t),
                _ => Err(self.error(field, "an array of text")),
            })
            .collect()
    }

    /// A table keyed by text.
    pub(crate) fn table(&mut self, field: u64) -> Result<Vec<(String, Value)>, ParseError> {
        let Value::Map(map) = self.value(field)? else { return Err(self.error(field, "a table")) };
        map.into_iter()
            .map(|(key, value)| match key {
                Key::Text(name) => Ok((name, value)),
                Key::Unsigned(_) => Err(self.error(field, "a table keyed by text")),
            })
            .collect()
    }

    /// Refuses what was not asked for.
    pub(crate) fn finish(self) -> Result<(), ParseError> {
        match self.entries.keys().next() {
            None => Ok(()),
            Some(field) => Err(ParseError::Unknown { structure: self.structure, field: field.to_string() }),
        }
    }
}

/// Builds a map with integer keys.
pub(crate) struct MapBuilder(Vec<(Key, Value)>);

impl MapBuilder {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn versioned() -> Self {
        Self::new().unsigned(1, 1)
    }

    pub(crate) fn put(mut self, field: u64, value: Value) -> Self {
        self.0.push((Key::Unsigned(field), value));
        self
    }

    pub(crate) fn unsigned(self, field: u64, n: u64) -> Self {
        self.put(field, Value::Unsigned(n))
    }

    pub(crate) fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.put(field, Value::Bytes(bytes.as_ref().to_vec()))
    }

    pub(crate) fn text(self, field: u64, text: impl Into<String>) -> Self {
        self.put(field, Value::Text(text.into()))
    }

    pub(crate) fn texts<'a>(self, field: u64, texts: impl IntoIterator<Item = &'a String>) -> Self {
        self.put(field, Value::Array(texts.into_iter().cloned().map(Value::Text).collect()))
    }

    pub(crate) fn bool(self, field: u64, value: bool) -> Self {
        self.put(field, Value::Bool(value))
    }

    pub(crate) fn maybe(self, field: u64, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.put(field, value),
            None => self,
        }
    }

    pub(crate) fn build(self) -> Value {
        Value::Map(self.0)
    }
}

/// A byte string as a value.
pub(crate) fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bytes(bytes.as_ref().to_vec())
}
