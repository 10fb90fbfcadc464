//! What a call did with files, as the guest saw it: which were executed, opened, written, made, removed and renamed, with what
//! in them. Part of an outcome's private bytes. It says "opened", never "read"; docs/record.md says what it cannot see.

use crate::cbor::{Value, Writer};
use crate::fields::{Canonical, Fields, MapBuilder, ParseError, bytes};
use crate::ids::Digest256;
pub use crate::numbers::RecordLoss;
use std::fmt;

/// Bytes of one component of a path.
pub const NAME_MAX: usize = 255;
/// Contents of one file that are told, of those opened and of those executed.
pub const CONTENTS_MAX: usize = 8;
/// Bytes of the path of a directory.
pub const DIRECTORY_MAX: usize = 4_096;

/// How a file was used: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses(u64);

impl Uses {
    /// It was opened; for reading, unless [`Self::WRITTEN`] is there, too.
    pub const OPENED: Self = Self(1);
    /// It was opened for writing, or held something else in the end.
    pub const WRITTEN: Self = Self(2);
    /// It was executed, as a program, an interpreter or a script.
    pub const EXECUTED: Self = Self(4);
    /// The name was made.
    pub const CREATED: Self = Self(8);
    /// The name was removed.
    pub const DELETED: Self = Self(16);
    /// It is a directory.
    pub const DIRECTORY: Self = Self(32);
    /// It got another name.
    pub const RENAMED: Self = Self(64);

    /// From the number on the wire; `None` for the empty set and for unknown bits.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        if number >= 1 && number < 128 { Some(Self(number)) } else { None }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set without what is in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What was in a file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// SHA-256; `None` where it was too large to be read.
    pub sha256: Option<Digest256>,
}

/// One file of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUse {
    /// Last component of its path.
    pub name: Vec<u8>,
    /// How it was used.
    pub uses: Uses,
    /// When first, in milliseconds since the call began.
    pub first_ms: u64,
    /// What was in it when it was opened: each content once, in the order of their appearance. None for files of the image, which
    /// the measured root covers, and for one that was empty.
    pub opened: Vec<Content>,
    /// What was in it when the call had ended.
    pub left: Option<Content>,
    /// The path that it had before, when it was renamed.
    pub from: Option<Vec<u8>>,
    /// What was in it when it was executed: each content once, in the order of their appearance.
    pub executed: Vec<Content>,
}

/// The files of one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Absolute, without a slash at its end: the root is empty.
    pub path: Vec<u8>,
    /// At least one; names strictly rising.
    pub files: Vec<FileUse>,
}

/// All files of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRecord {
    /// Paths strictly rising, byte by byte.
    pub directories: Vec<Directory>,
    /// Why something may be missing, numbers strictly rising; empty when nothing is.
    pub lost: Vec<RecordLoss>,
}

impl FileRecord {
    /// Every file with its whole path, in order.
    pub fn files(&self) -> impl Iterator<Item = (Vec<u8>, &FileUse)> {
        self.directories.iter().flat_map(|directory| {
            let path = |file: &FileUse| [directory.path.as_slice(), b"/", &file.name].concat();
            directory.files.iter().map(move |file| (path(file), file))
        })
    }
}

/// Canonical bytes of a [`FileRecord`], as they stand in an outcome: who made them is not who writes them there.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedRecord(Vec<u8>);

impl EncodedRecord {
    /// The bytes of this record.
    #[must_use]
    pub fn of(record: &FileRecord) -> Self {
        Self(record.to_bytes())
    }

    /// Bytes that are a record by the word of whom they come from. A reader of the outcome refuses it if they are none.
    #[must_use]
    pub const fn unread(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Bytes that are a record.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ParseError> {
        FileRecord::parse(&bytes).map(|_| Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The record.
    ///
    /// # Errors
    /// [`ParseError`], for bytes that were never read.
    pub fn read(&self) -> Result<FileRecord, ParseError> {
        FileRecord::parse(&self.0)
    }
}

impl fmt::Debug for EncodedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedRecord({} bytes)", self.0.len())
    }
}

fn wrong(expected: &'static str) -> ParseError {
    ParseError::Type { structure: FileRecord::NAME, expected }
}

fn content_value(content: Content) -> Value {
    let digest = content.sha256.map(bytes);
    Value::Array([Value::Unsigned(content.size)].into_iter().chain(digest).collect())
}

fn read_content(value: Value) -> Result<Content, ParseError> {
    let expected = || wrong("[size, SHA-256?] as the content of a file");
    let Value::Array(items) = value else { return Err(expected()) };
    let mut items = items.into_iter();
    let Some(Value::Unsigned(size)) = items.next() else { return Err(expected()) };
    let sha256 = match items.next() {
        None => None,
        Some(Value::Bytes(digest)) => Some(Digest256::new(digest.try_into().map_err(|_| expected())?)),
        Some(_) => return Err(expected()),
    };
    if items.next().is_some() {
        return Err(expected());
    }
    Ok(Content { size, sha256 })
}

fn contents_value(contents: &[Content]) -> Option<Value> {
    (!contents.is_empty()).then(|| Value::Array(contents.iter().copied().map(content_value).collect()))
}

fn read_contents(value: Option<Value>) -> Result<Vec<Content>, ParseError> {
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if (1..=CONTENTS_MAX).contains(&items.len()) => items,
        Some(_) => return Err(wrong("1 to 8 contents")),
    };
    items.into_iter().map(read_content).collect()
}

fn file_value(file: &FileUse) -> Value {
    MapBuilder::new()
        .bytes(1, &file.name)
        .unsigned(2, file.uses.number())
        .unsigned(3, file.first_ms)
        .maybe(4, contents_value(&file.opened))
        .maybe(5, file.left.map(content_value))
        .maybe(6, file.from.as_ref().map(bytes))
        .maybe(7, contents_value(&file.executed))
        .build()
}

/// As [`file_value`], without making a value first: a record has thousands of them.
fn write_file(out: &mut Writer, file: &FileUse) {
    let optional = [!file.opened.is_empty(), file.left.is_some(), file.from.is_some(), !file.executed.is_empty()];
    out.map(optional.into_iter().filter(|there| *there).count().saturating_add(3));
    out.unsigned(1).bytes(&file.name);
    out.unsigned(2).unsigned(file.uses.number());
    out.unsigned(3).unsigned(file.first_ms);
    write_contents(out, 4, &file.opened);
    if let Some(left) = file.left {
        write_content(out.unsigned(5), left);
    }
    if let Some(from) = &file.from {
        out.unsigned(6).bytes(from);
    }
    write_contents(out, 7, &file.executed);
}

fn write_contents(out: &mut Writer, key: u64, contents: &[Content]) {
    if !contents.is_empty() {
        out.unsigned(key).array(contents.len());
        contents.iter().for_each(|content| write_content(out, *content));
    }
}

fn write_content(out: &mut Writer, content: Content) {
    match content.sha256 {
        Some(sha256) => out.array(2).unsigned(content.size).bytes(sha256.as_bytes()),
        None => out.array(1).unsigned(content.size),
    };
}

fn read_file(value: Value) -> Result<FileUse, ParseError> {
    let mut f = Fields::new("file", value)?;
    let file = FileUse {
        name: f.bytes(1)?,
        uses: f.number(2, Uses::from_number, "a set of known uses")?,
        first_ms: f.unsigned(3)?,
        opened: read_contents(f.optional(4))?,
        left: f.optional(5).map(read_content).transpose()?,
        from: f.optional_bytes(6)?,
        executed: read_contents(f.optional(7))?,
    };
    f.finish()?;
    let name = file.name.as_slice();
    let fits = (1..=NAME_MAX).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, b'/' | 0));
    if !fits {
        return Err(wrong("a name of 1 to 255 bytes without slash and NUL"));
    }
    if file.from.as_ref().is_some_and(|from| from.len() > DIRECTORY_MAX + 1 + NAME_MAX) {
        return Err(wrong("a former path of at most 4,352 bytes"));
    }
    Ok(file)
}

fn read_directory(value: Value) -> Result<Directory, ParseError> {
    let expected = || wrong("[path, [file, ...]] as a directory");
    let Value::Array(items) = value else { return Err(expected()) };
    let Ok([Value::Bytes(path), Value::Array(files)]) = <[Value; 2]>::try_from(items) else { return Err(expected()) };
    if path.len() > DIRECTORY_MAX {
        return Err(wrong("a directory's path of at most 4,096 bytes"));
    }
    let files = files.into_iter().map(read_file).collect::<Result<Vec<_>, _>>()?;
    if files.is_empty() || !files.is_sorted_by(|one, next| one.name < next.name) {
        return Err(wrong("files with strictly rising names, at least one"));
    }
    Ok(Directory { path, files })
}

impl Canonical for FileRecord {
    const NAME: &'static str = "file record";

    fn to_value(&self) -> Value {
        let directory = |directory: &Directory| {
            let files = directory.files.iter().map(file_value).collect();
            Value::Array(vec![bytes(&directory.path), Value::Array(files)])
        };
        let lost = self.lost.iter().map(|loss| Value::Unsigned(loss.number())).collect();
        MapBuilder::new()
            .put(1, Value::Array(self.directories.iter().map(directory).collect()))
            .maybe(2, (!self.lost.is_empty()).then_some(Value::Array(lost)))
            .build()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.map(if self.lost.is_empty() { 1 } else { 2 });
        out.unsigned(1).array(self.directories.len());
        for directory in &self.directories {
            out.array(2).bytes(&directory.path).array(directory.files.len());
            directory.files.iter().for_each(|file| write_file(&mut out, file));
        }
        if !self.lost.is_empty() {
            out.unsigned(2).array(self.lost.len());
            self.lost.iter().for_each(|loss| {
                out.unsigned(loss.number());
            });
        }
        out.finish()
    }

    fn from_value(value: Value) -> Result<Self, ParseError> {
        let mut f = Fields::new(Self::NAME, value)?;
        let directories = f.list(1)?.into_iter().map(read_directory).collect::<Result<Vec<_>, _>>()?;
        let lost = match f.optional(2) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let read = |item| match item {
                    Value::Unsigned(number) => RecordLoss::from_number(number),
                    _ => None,
                };
                let lost: Option<Vec<RecordLoss>> = items.into_iter().map(read).collect();
                lost.filter(|lost| !lost.is_empty()).ok_or_else(|| wrong("known losses, at least one"))?
            }
            Some(_) => return Err(wrong("a list of losses")),
        };
        f.finish()?;
        if !directories.is_sorted_by(|one, next| one.path < next.path) {
            return Err(wrong("directories with strictly rising paths"));
        }
        if !lost.is_sorted_by(|one, next| one.number() < next.number()) {
            return Err(wrong("losses with strictly rising numbers"));
        }
        Ok(Self { directories, lost })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cbor::encode;

    fn file(name: &str, uses: Uses) -> FileUse {
        FileUse {
            name: name.into(),
            uses,
            first_ms: 3,
            opened: Vec::new(),
            left: None,
            from: None,
            executed: Vec::new(),
        }
    }

    fn record(directories: &[(&str, &[&str])], lost: &[RecordLoss]) -> FileRecord {
        let directory = |(path, names): &(&str, &[&str])| Directory {
            path: (*path).into(),
            files: names.iter().map(|name| file(name, Uses::OPENED)).collect(),
        };
        FileRecord { directories: directories.iter().map(directory).collect(), lost: lost.to_vec() }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let digest = Some(Digest256::of(b"x"));
        let whole = FileUse {
            opened: vec![Content { size: 1, sha256: digest }, Content { size: 0, sha256: digest }],
            left: Some(Content { size: 1 << 40, sha256: None }),
            executed: vec![Content { size: 1, sha256: digest }; CONTENTS_MAX],
            from: Some(b"/workspace/\xff".to_vec()),
            ..file("b", Uses::OPENED.and(Uses::WRITTEN).and(Uses::CREATED))
        };
        let mut both = record(&[("", &["a"]), ("/workspace", &["a", "c"])], &[RecordLoss::Files, RecordLoss::Size]);
        both.directories[1].files.insert(1, whole);
        assert_eq!(FileRecord::parse(&both.to_bytes()).as_ref(), Ok(&both));
        assert_eq!(both.to_bytes(), encode(&both.to_value()), "written at once as by its value");
        assert_eq!(EncodedRecord::of(&both).read().as_ref(), Ok(&both));
        assert!(EncodedRecord::parse(b"\x00".to_vec()).is_err());
        let paths: Vec<_> = both.files().map(|(path, _)| String::from_utf8(path).unwrap()).collect();
        assert_eq!(paths, ["/a", "/workspace/a", "/workspace/b", "/workspace/c"]);
        assert_eq!(FileRecord::parse(&FileRecord::default().to_bytes()), Ok(FileRecord::default()));
    }

    #[test]
    fn what_has_no_one_form_is_refused() {
        let long = "n".repeat(NAME_MAX + 1);
        let mut many = record(&[("/a", &["x"])], &[]);
        many.directories[0].files[0].opened = vec![Content { size: 1, sha256: None }; CONTENTS_MAX + 1];
        let refused = [
            many,
            record(&[("/a", &[])], &[]),
            record(&[("/b", &["x"]), ("/a", &["x"])], &[]),
            record(&[("/a", &["x"]), ("/a", &["y"])], &[]),
            record(&[("/a", &["y", "x"])], &[]),
            record(&[("/a", &["x", "x"])], &[]),
            record(&[("/a", &["x/y"])], &[]),
            record(&[("/a", &["x\0"])], &[]),
            record(&[("/a", &[""])], &[]),
            record(&[("/a", &[long.as_str()])], &[]),
            record(&[(&"d".repeat(DIRECTORY_MAX + 1), &["x"])], &[]),
            record(&[], &[RecordLoss::Size, RecordLoss::Files]),
            record(&[], &[RecordLoss::Files, RecordLoss::Files]),
        ];
        for record in refused {
            assert!(FileRecord::parse(&record.to_bytes()).is_err(), "{record:?}");
        }
    }

    #[test]
    fn uses_are_a_set_of_known_ones_that_is_not_empty() {
        assert_eq!(Uses::from_number(0), None);
        assert_eq!(Uses::from_number(128), None);
        let both = Uses::OPENED.and(Uses::DELETED);
        assert_eq!(Uses::from_number(both.number()), Some(both));
        assert!(both.has(Uses::DELETED) && !both.has(Uses::WRITTEN));
        assert_eq!(both.without(Uses::DELETED.and(Uses::WRITTEN)), Uses::OPENED);
    }
}
