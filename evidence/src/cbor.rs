//! dCBOR: the one encoding of everything that is hashed or signed (EVIDENCE section 1, RFC 8949 section 4.2.1).
//!
//! Unsigned integers, byte strings, text, booleans, arrays and maps; definite lengths, shortest heads, map keys in
//! bytewise order of their encoding and no two alike, depth at most [`DEPTH_MAX`]. No floats, tags, null, negative
//! integers. Decoding is strict: bytes that this encoder would not have made are refused. Not a general CBOR library.

use thiserror::Error;

/// How deep arrays and maps may nest.
pub const DEPTH_MAX: usize = 8;
/// The most items in one value. An item takes up to a hundred times its bytes in memory, so bytes alone are no bound. The
/// largest value of ours is a request with 128 KiB of environment; longer lists are read one by one ([`decode_list`]).
pub const ITEMS_MAX: usize = 1 << 18;

/// A key of a map: integers for structures, text for tables that are keyed by a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A field number.
    Unsigned(u64),
    /// A name.
    Text(String),
}

/// One dCBOR item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Major type 0.
    Unsigned(u64),
    /// Major type 2.
    Bytes(Vec<u8>),
    /// Major type 3, UTF-8.
    Text(String),
    /// Simple values 20 and 21.
    Bool(bool),
    /// Major type 4.
    Array(Vec<Value>),
    /// Major type 5. The encoder sorts; the decoder insists on the order.
    Map(Vec<(Key, Value)>),
}

/// Why bytes are not dCBOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CborError {
    /// The input ended inside an item.
    #[error("expected {expected} more bytes at offset {offset}, found the end")]
    Truncated {
        /// Where.
        offset: usize,
        /// How many bytes were needed.
        expected: u64,
    },
    /// Bytes follow the item.
    #[error("expected the end at offset {offset}, found more bytes")]
    Trailing {
        /// Where the item ended.
        offset: usize,
    },
    /// An integer or length is not in its shortest form.
    #[error("expected the shortest form of an integer at offset {offset}")]
    NotShortest {
        /// Where.
        offset: usize,
    },
    /// A major type, simple value or indefinite length that dCBOR does not have.
    #[error("expected an item of dCBOR at offset {offset}, found initial byte {byte:#04x}")]
    Unsupported {
        /// Where.
        offset: usize,
        /// The initial byte.
        byte: u8,
    },
    /// Text that is not UTF-8.
    #[error("expected UTF-8 text at offset {offset}")]
    NotUtf8 {
        /// Where.
        offset: usize,
    },
    /// Map keys out of order, or one twice.
    #[error("expected map keys in order and each once, at offset {offset}")]
    KeyOrder {
        /// Where the second key starts.
        offset: usize,
    },
    /// Too many items.
    #[error("expected at most {ITEMS_MAX} items, found more at offset {offset}")]
    TooMany {
        /// Where.
        offset: usize,
    },
    /// Nested too deep.
    #[error("expected at most {DEPTH_MAX} levels, found more at offset {offset}")]
    TooDeep {
        /// Where.
        offset: usize,
    },
}

/// The canonical encoding of a value.
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

fn encode_into(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Unsigned(n) => head(0, *n, out),
        Value::Bytes(bytes) => {
            head(2, bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
        Value::Text(text) => {
            head(3, text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            for item in items {
                encode_into(item, out);
            }
        }
        Value::Map(entries) => {
            let mut encoded: Vec<(Vec<u8>, &Value)> = entries.iter().map(|(k, v)| (encode_key(k), v)).collect();
            encoded.sort_by(|a, b| a.0.cmp(&b.0));
            head(5, encoded.len() as u64, out);
            for (key, value) in encoded {
                out.extend_from_slice(&key);
                encode_into(value, out);
            }
        }
    }
}

/// Writes items one after the other, for what is too large to be made a [`Value`] first. The caller sees to the order of keys and to
/// as many items as were announced.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An integer.
    pub fn unsigned(&mut self, number: u64) -> &mut Self {
        head(0, number, &mut self.0);
        self
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        head(2, bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// The head of an array of so many items, which follow.
    pub fn array(&mut self, items: usize) -> &mut Self {
        head(4, items as u64, &mut self.0);
        self
    }

    /// The head of a map of so many entries, which follow: key, value, next key.
    pub fn map(&mut self, entries: usize) -> &mut Self {
        head(5, entries as u64, &mut self.0);
        self
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

fn encode_key(key: &Key) -> Vec<u8> {
    match key {
        Key::Unsigned(n) => encode(&Value::Unsigned(*n)),
        Key::Text(t) => encode(&Value::Text(t.clone())),
    }
}

/// Initial byte and argument in the shortest form.
fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    let [.., e, f, g, h] = bytes;
    if argument < 24 {
        out.push(major | h);
    } else if argument <= 0xff {
        out.extend_from_slice(&[major | 24, h]);
    } else if argument <= 0xffff {
        out.extend_from_slice(&[major | 25, g, h]);
    } else if argument <= 0xffff_ffff {
        out.extend_from_slice(&[major | 26, e, f, g, h]);
    } else {
        out.push(major | 27);
        out.extend_from_slice(&bytes);
    }
}

/// Reads exactly one canonical item that fills the input.
///
/// # Errors
/// [`CborError`]: anything that [`encode`] would not have written.
pub fn decode(input: &[u8]) -> Result<Value, CborError> {
    let mut reader = Reader::new(input);
    let value = reader.item(0)?;
    reader.end()?;
    Ok(value)
}

/// Reads an array that fills the input item by item, so that the whole of it need not stand in memory. [`ITEMS_MAX`] is for
/// each item. Nothing that is not an array gives an item; whatever is wrong gives an error and then no more.
///
/// # Errors
/// [`CborError`] for the head; the items have their own.
pub fn decode_list(input: &[u8]) -> Result<Option<List<'_>>, CborError> {
    let mut reader = Reader::new(input);
    let (major, left, _) = reader.head()?;
    Ok((major == 4).then_some(List { reader, left, over: false }))
}

/// The items of [`decode_list`].
pub struct List<'a> {
    reader: Reader<'a>,
    left: u64,
    over: bool,
}

impl Iterator for List<'_> {
    type Item = Result<Value, CborError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let Some(left) = self.left.checked_sub(1) else {
            self.over = true;
            return self.reader.end().err().map(Err);
        };
        self.left = left;
        self.reader.items = 0;
        let item = self.reader.item(1);
        self.over = item.is_err();
        Some(item)
    }
}

struct Reader<'a> {
    input: &'a [u8],
    offset: usize,
    items: usize,
}

impl<'a> Reader<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self { input, offset: 0, items: 0 }
    }

    /// Nothing may follow.
    fn end(&self) -> Result<(), CborError> {
        if self.offset == self.input.len() { Ok(()) } else { Err(CborError::Trailing { offset: self.offset }) }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let missing = CborError::Truncated { offset: self.offset, expected: length };
        let wanted = usize::try_from(length).map_err(|_| missing)?;
        let end = self.offset.checked_add(wanted).ok_or(missing)?;
        let bytes = self.input.get(self.offset..end).ok_or(missing)?;
        self.offset = end;
        Ok(bytes)
    }

    /// Major type, argument, and whether the item is a simple value.
    fn head(&mut self) -> Result<(u8, u64, u8), CborError> {
        let offset = self.offset;
        let byte = self.take(1)?.first().copied().unwrap_or(0);
        let (major, low) = (byte >> 5, byte & 0x1f);
        let (length, least) = match low {
            0..=23 => return Ok((major, u64::from(low), byte)),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return Err(CborError::Unsupported { offset, byte }),
        };
        if major == 7 {
            return Err(CborError::Unsupported { offset, byte });
        }
        let argument = self.take(length)?.iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b));
        if argument < least {
            return Err(CborError::NotShortest { offset });
        }
        Ok((major, argument, byte))
    }

    fn item(&mut self, depth: usize) -> Result<Value, CborError> {
        let offset = self.offset;
        self.items = self.items.saturating_add(1);
        if self.items > ITEMS_MAX {
            return Err(CborError::TooMany { offset });
        }
        let (major, argument, byte) = self.head()?;
        if matches!(major, 4 | 5) && depth >= DEPTH_MAX {
            return Err(CborError::TooDeep { offset });
        }
        match (major, byte) {
            (0, _) => Ok(Value::Unsigned(argument)),
            (2, _) => Ok(Value::Bytes(self.take(argument)?.to_vec())),
            (3, _) => Ok(Value::Text(self.text(argument)?)),
            (4, _) => {
                let mut items = Vec::new();
                for _ in 0..argument {
                    items.push(self.item(depth.saturating_add(1))?);
                }
                Ok(Value::Array(items))
            }
            (5, _) => self.map(argument, depth),
            (_, 0xf4) => Ok(Value::Bool(false)),
            (_, 0xf5) => Ok(Value::Bool(true)),
            _ => Err(CborError::Unsupported { offset, byte }),
        }
    }

    fn text(&mut self, length: u64) -> Result<String, CborError> {
        let offset = self.offset;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CborError::NotUtf8 { offset })
    }

    fn map(&mut self, entries: u64, depth: usize) -> Result<Value, CborError> {
        let mut map = Vec::new();
        let mut last: Option<&[u8]> = None;
        for _ in 0..entries {
            let offset = self.offset;
            let (major, argument, byte) = self.head()?;
            let key = match major {
                0 => Key::Unsigned(argument),
                3 => Key::Text(self.text(argument)?),
                _ => return Err(CborError::Unsupported { offset, byte }),
            };
            let encoded = self.input.get(offset..self.offset).unwrap_or_default();
            if last.is_some_and(|last| last >= encoded) {
                return Err(CborError::KeyOrder { offset });
            }
            last = Some(encoded);
            map.push((key, self.item(depth.saturating_add(1))?));
        }
        Ok(Value::Map(map))
    }
}
