//! built-in tool → agent: what a file operation found. Written to the tool's stderr; file contents and tar streams
//! go through stdin and stdout as they are. A tool runs as the identity, so these frames are the identity's words.

use super::fields::{member, number};
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
        /// What was there and is not among them: directories that a listing may not read, or what is not packed.
        left_out: u64,
    },
    /// The operation failed here; what it did before remains.
    Failed {
        /// What was being done.
        stage: String,
        /// The system's answer, or the one that fits best.
        errno: u64,
    },
    /// There is more than the listing tells.
    More {
        /// The path up to which everything is told.
        after: Vec<u8>,
    },
    /// Something changed in a watched directory.
    Change(Change),
    /// Changes were missed.
    Lagged,
    /// Why a watch ends; what it did follows.
    WatchEnd(WatchEnd),
    /// A commit is to be signed; the answer comes on standard input.
    Sign {
        /// The commit object, without a signature.
        commit: Vec<u8>,
    },
    /// What git wrote to its standard error.
    Said {
        /// The beginning of it.
        text: Vec<u8>,
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Path from the watched directory.
    pub path: Vec<u8>,
    /// The path before; empty unless it was moved.
    pub from: Vec<u8>,
    /// What it happened to: a directory, or anything else.
    pub of: Of,
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there.
    Created,
    /// Its content is another.
    Modified,
    /// It is not there any more.
    Deleted,
    /// It has another name.
    Moved,
}

/// What a change happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A file, a link, or what else has no entries.
    Leaf,
    /// A directory.
    Directory,
}

/// Why a watch ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEnd {
    /// Its time is over.
    Timeout,
    /// Nothing changed for too long.
    Idle,
    /// The directory was removed or moved.
    Gone,
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
const CHANGES: [ChangeKind; 4] = [ChangeKind::Created, ChangeKind::Modified, ChangeKind::Deleted, ChangeKind::Moved];
const OF: [Of; 2] = [Of::Leaf, Of::Directory];
const ENDS: [WatchEnd; 3] = [WatchEnd::Timeout, WatchEnd::Idle, WatchEnd::Gone];

impl Frame for Report {
    fn to_fields(&self) -> Builder {
        match self {
            Report::Entry(entry) => Builder::kind(1)
                .bytes(1, &entry.name)
                .unsigned(2, number(&KINDS, &entry.kind))
                .unsigned(3, entry.size)
                .unsigned(4, entry.mode)
                .unsigned(5, entry.modified_ms)
                .bytes(6, &entry.target),
            Report::Done { files, bytes, left_out } => {
                Builder::kind(2).unsigned(1, *files).unsigned(2, *bytes).unsigned(3, *left_out)
            }
            Report::Failed { stage, errno } => Builder::kind(3).text(1, stage).unsigned(2, *errno),
            Report::More { after } => Builder::kind(4).bytes(1, after),
            Report::Change(change) => Builder::kind(5)
                .unsigned(1, number(&CHANGES, &change.kind))
                .bytes(2, &change.path)
                .bytes(3, &change.from)
                .unsigned(4, number(&OF, &change.of)),
            Report::Lagged => Builder::kind(6),
            Report::WatchEnd(end) => Builder::kind(7).unsigned(1, number(&ENDS, end)),
            Report::Sign { commit } => Builder::kind(8).bytes(1, commit),
            Report::Said { text } => Builder::kind(9).bytes(1, text),
        }
    }

    fn from_fields(kind: u64, fields: &mut Fields) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => Report::Entry(Entry {
                name: fields.bytes(1)?,
                kind: member(&KINDS, fields.unsigned(2)?, "a kind of file")?,
                size: fields.unsigned(3)?,
                mode: fields.unsigned(4)?,
                modified_ms: fields.unsigned(5)?,
                target: fields.bytes(6)?,
            }),
            2 => Report::Done { files: fields.unsigned(1)?, bytes: fields.unsigned(2)?, left_out: fields.unsigned(3)? },
            3 => Report::Failed { stage: fields.text(1)?, errno: fields.unsigned(2)? },
            4 => Report::More { after: fields.bytes(1)? },
            5 => Report::Change(Change {
                kind: member(&CHANGES, fields.unsigned(1)?, "a kind of change")?,
                path: fields.bytes(2)?,
                from: fields.bytes(3)?,
                of: member(&OF, fields.unsigned(4)?, "what changed")?,
            }),
            6 => Report::Lagged,
            7 => Report::WatchEnd(member(&ENDS, fields.unsigned(1)?, "the end of a watch")?),
            8 => Report::Sign { commit: fields.bytes(1)? },
            9 => Report::Said { text: fields.bytes(1)? },
            _ => return Err(FrameError::Unexpected("a message of a built-in tool")),
        })
    }
}
