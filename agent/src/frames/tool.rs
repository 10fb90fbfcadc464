//! built-in tool → agent: what a file operation found. Written to the tool's stderr; file contents and tar streams
//! go through stdin and stdout as they are. A tool runs as the identity, so these frames are the identity's words.

use super::{Builder, Fields, Frame, FrameError};

/// One message of a built-in tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A file, directory or link that was found.
    Entry(Entry),
    /// The operation is complete.
    Done {
        /// Files, directories and links that were handled.
        files: u64,
        /// Bytes of file content that were handled.
        bytes: u64,
        /// Entries that were there and are not among them: over the limit of a listing, or of a kind that is not packed.
        left_out: u64,
    },
    /// The operation failed here; what it did before remains.
    Failed {
        /// What was being done.
        stage: String,
        /// The system's answer, or the one that fits best.
        errno: u64,
    },
}

/// What `lstat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Last component, or the path as asked.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u64,
    /// Last change of the content, milliseconds since 1970.
    pub modified_ms: u64,
    /// Where a link points.
    pub target: Vec<u8>,
}

/// Kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

const KINDS: [Kind; 4] = [Kind::File, Kind::Directory, Kind::Symlink, Kind::Other];

impl Frame for Report {
    fn to_fields(&self) -> Builder {
        match self {
            Report::Entry(entry) => {
                let kind = KINDS.iter().position(|kind| *kind == entry.kind).unwrap_or_default() as u64;
                Builder::kind(1)
                    .bytes(1, &entry.name)
                    .unsigned(2, kind)
                    .unsigned(3, entry.size)
                    .unsigned(4, entry.mode)
                    .unsigned(5, entry.modified_ms)
                    .bytes(6, &entry.target)
            }
            Report::Done { files, bytes, left_out } => {
                Builder::kind(2).unsigned(1, *files).unsigned(2, *bytes).unsigned(3, *left_out)
            }
            Report::Failed { stage, errno } => Builder::kind(3).text(1, stage).unsigned(2, *errno),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => {
                let name = fields.bytes(1)?;
                let kind = usize::try_from(fields.unsigned(2)?).ok().and_then(|at| KINDS.get(at));
                Report::Entry(Entry {
                    name,
                    kind: *kind.ok_or(FrameError::Unexpected("a kind of file"))?,
                    size: fields.unsigned(3)?,
                    mode: fields.unsigned(4)?,
                    modified_ms: fields.unsigned(5)?,
                    target: fields.bytes(6)?,
                })
            }
            2 => Report::Done { files: fields.unsigned(1)?, bytes: fields.unsigned(2)?, left_out: fields.unsigned(3)? },
            3 => Report::Failed { stage: fields.text(1)?, errno: fields.unsigned(2)? },
            _ => return Err(FrameError::Unexpected("a message of a built-in tool")),
        })
    }
}
