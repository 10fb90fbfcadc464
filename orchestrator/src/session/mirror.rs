//! What a guest mirrors to the host as it is made: leaves, their private parts, RTMR3 events, the last note. Kept in
//! the session's directory, because a guest that is gone cannot be asked again. A guest that comes back after a lost
//! connection starts from the beginning; what it then says must be what it said before.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};

use coffer_evidence::bundle::SMALL_FILE_MAX;
use coffer_evidence::call::Disclosed;
use coffer_evidence::leaf::LEAF_MAX;
use coffer_evidence::link::{Frame as _, MIRROR_FRAME_MAX, Mirror};
use coffer_evidence::note::NOTE_MAX;
use coffer_evidence::rtmr::EVENTS_MAX;

use crate::host::session_dir::{Readers, SessionDir};

/// All that a guest may mirror, in bytes: more than the agent's own limit.
pub(crate) const MIRROR_MAX: u64 = 400 * 1024 * 1024;
/// Notes of one connection; each may replace a file.
const NOTES_MAX: u64 = 100_000;
/// Connections; more often than this a guest does not lose its link, and each may tell all of the record again.
pub(crate) const CONNECTIONS_MAX: u32 = 64;
pub(super) const LEAVES: &str = "leaves";
pub(super) const PRIVATE: &str = "private";
const EVENTS: &str = "events";
const NOTE: &str = "note";

/// Why the mirror ends, and the session with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorError {
    #[error("expected {what} {expected} from the guest, found {found}")]
    Order { what: &'static str, expected: u64, found: u64 },
    #[error("the guest said something else about {what} {index} than before")]
    Contradiction { what: &'static str, index: u64 },
    #[error("the guest mirrored more than its limit of {most} {what}")]
    TooMuch { what: &'static str, most: u64 },
    #[error("expected at most {most} bytes of all {what}s from the guest, found more")]
    Full { what: &'static str, most: u64 },
    #[error("expected {what} of 1 to {most} bytes, found {found}")]
    Size { what: &'static str, most: usize, found: usize },
    #[error("expected a frame of the record mirror of at most {MIRROR_FRAME_MAX} bytes, found another form")]
    Form,
    #[error("the host cannot keep the record")]
    Io(#[from] io::Error),
}

/// How much is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) leaves: u64,
    pub(crate) events: u64,
}

/// A file of `u32le length ‖ bytes`, appended to and compared with.
#[derive(Debug)]
struct FrameFile {
    what: &'static str,
    file: File,
    /// The most entries, the most bytes of one, and the most bytes of all.
    entries_max: u64,
    entry_max: usize,
    length_max: u64,
    count: u64,
    length: u64,
}

/// How far a connection has got in a file.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    count: u64,
    at: u64,
}

impl FrameFile {
    fn create(
        dir: &SessionDir,
        name: &str,
        what: &'static str,
        (entries_max, entry_max, length_max): (u64, usize, u64),
    ) -> io::Result<Self> {
        let file = dir.create_file(name, Readers::Host)?;
        Ok(Self { what, file, entries_max, entry_max, length_max, count: 0, length: 0 })
    }

    /// What an earlier life of this process wrote; half an entry at the end is dropped.
    fn reopen(
        dir: &SessionDir,
        name: &str,
        what: &'static str,
        (entries_max, entry_max, length_max): (u64, usize, u64),
    ) -> io::Result<Self> {
        let (file, bytes) = dir.reopen(name)?;
        let entries = unframe(&bytes);
        let (count, length) = (entries.len() as u64, entries.iter().map(|entry| entry.len() as u64 + 4).sum());
        file.set_len(length)?;
        Ok(Self { what, file, entries_max, entry_max, length_max, count, length })
    }

    /// Appends, or compares with what is there.
    fn accept(&mut self, cursor: &mut Cursor, bytes: &[u8]) -> Result<(), MirrorError> {
        if bytes.is_empty() || bytes.len() > self.entry_max {
            return Err(MirrorError::Size { what: self.what, most: self.entry_max, found: bytes.len() });
        }
        if cursor.count >= self.entries_max {
            return Err(MirrorError::TooMuch { what: self.what, most: self.entries_max });
        }
        let length = u32::try_from(bytes.len()).map_err(|_| MirrorError::Form)?;
        let framed = [&length.to_le_bytes(), bytes].concat();
        self.file.seek(SeekFrom::Start(cursor.at))?;
        if cursor.count < self.count {
            let mut known = vec![0; framed.len()];
            let same = match self.file.read_exact(&mut known) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                other => other.map(|()| known == framed)?,
            };
            if !same {
                return Err(MirrorError::Contradiction { what: self.what, index: cursor.count });
            }
        } else {
            if self.length + framed.len() as u64 > self.length_max {
                return Err(MirrorError::Full { what: self.what, most: self.length_max });
            }
            self.file.write_all(&framed)?;
            self.count += 1;
            self.length += framed.len() as u64;
        }
        cursor.count += 1;
        cursor.at += framed.len() as u64;
        Ok(())
    }
}

/// The record of one session, as far as the guest has told it.
#[derive(Debug)]
pub(crate) struct MirrorStore {
    dir: SessionDir,
    leaves: FrameFile,
    private: FrameFile,
    events: FrameFile,
}

/// One connection of the guest.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    leaves: Cursor,
    private: Cursor,
    events: Cursor,
    last_private: Option<u64>,
    notes: u64,
}

impl MirrorStore {
    /// Makes the files, for a session of at most so many leaves.
    pub(crate) fn create(dir: SessionDir, leaves_max: u64) -> io::Result<Self> {
        Self::of(dir, leaves_max, FrameFile::create)
    }

    /// Takes the files of an earlier life of this process: the guest repeats all of it and is held to it.
    pub(crate) fn reopen(dir: SessionDir, leaves_max: u64) -> io::Result<Self> {
        Self::of(dir, leaves_max, FrameFile::reopen)
    }

    fn of(
        dir: SessionDir,
        leaves_max: u64,
        file: impl Fn(&SessionDir, &str, &'static str, (u64, usize, u64)) -> io::Result<FrameFile>,
    ) -> io::Result<Self> {
        let leaves = file(&dir, LEAVES, "leaf", (leaves_max, LEAF_MAX, MIRROR_MAX))?;
        // More of these no bundle can hold.
        let private = file(&dir, PRIVATE, "private part", (leaves_max, MIRROR_FRAME_MAX, SMALL_FILE_MAX))?;
        let events = file(&dir, EVENTS, "event", (EVENTS_MAX, LEAF_MAX, SMALL_FILE_MAX))?;
        Ok(Self { dir, leaves, private, events })
    }

    /// How much is here.
    pub(crate) fn progress(&self) -> Progress {
        Progress { leaves: self.leaves.count, events: self.events.count }
    }

    /// Takes one frame of a connection. One that could not be kept may be given again.
    pub(crate) fn accept(&mut self, telling: &mut Telling, frame: &[u8]) -> Result<Progress, MirrorError> {
        if self.leaves.length + self.private.length + self.events.length + frame.len() as u64 > MIRROR_MAX {
            return Err(MirrorError::TooMuch { what: "bytes", most: MIRROR_MAX });
        }
        match Mirror::decode(frame).map_err(|_| MirrorError::Form)? {
            Mirror::Leaf { index, bytes } => {
                in_order("leaf", telling.leaves.count, index)?;
                self.leaves.accept(&mut telling.leaves, &bytes)?;
            }
            Mirror::Private { index, .. } => {
                if telling.last_private.is_some_and(|last| last >= index) || index >= telling.leaves.count {
                    let expected = telling.leaves.count.saturating_sub(1);
                    return Err(MirrorError::Order { what: "a private part of leaf", expected, found: index });
                }
                self.private.accept(&mut telling.private, frame)?;
                telling.last_private = Some(index);
            }
            Mirror::Event { index, bytes } => {
                in_order("event", telling.events.count, index)?;
                self.events.accept(&mut telling.events, &bytes)?;
            }
            // A note told again, before newer events are, is older than the one that is here.
            Mirror::Note(_) if telling.notes >= NOTES_MAX => {
                return Err(MirrorError::TooMuch { what: "notes", most: NOTES_MAX });
            }
            Mirror::Note(_) if telling.events.count < self.events.count => telling.notes += 1,
            Mirror::Note(note) if note.len() > NOTE_MAX => {
                return Err(MirrorError::Size { what: "note", most: NOTE_MAX, found: note.len() });
            }
            Mirror::Note(note) => {
                self.dir.replace(NOTE, &note)?;
                telling.notes += 1;
            }
        }
        Ok(self.progress())
    }
}

fn in_order(what: &'static str, expected: u64, found: u64) -> Result<(), MirrorError> {
    if expected == found { Ok(()) } else { Err(MirrorError::Order { what, expected, found }) }
}

/// The record read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) private: Vec<Disclosed>,
    pub(crate) events: Vec<Vec<u8>>,
    pub(crate) note: Option<String>,
}

impl Record {
    /// Reads what is in a session's directory; a half entry at an end is left out.
    pub(crate) fn read(dir: &SessionDir) -> io::Result<Self> {
        let parts = entries(dir, PRIVATE)?;
        let private = parts.iter().filter_map(|frame| match Mirror::decode(frame) {
            Ok(Mirror::Private { index, salt, bytes }) => Some(Disclosed { index, salt, bytes }),
            _ => None,
        });
        Ok(Self {
            leaves: entries(dir, LEAVES)?,
            private: private.collect(),
            events: entries(dir, EVENTS)?,
            note: std::fs::read_to_string(dir.join(NOTE)).ok().filter(|note| !note.is_empty()),
        })
    }
}

/// The entries of a file in a session's directory, one by one: a guest can make it large, and it is not held twice.
fn entries(dir: &SessionDir, name: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut reader = match File::open(dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        file => BufReader::new(file?),
    };
    loop {
        let mut length = [0; 4];
        match reader.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(found),
            other => other?,
        }
        let length = u32::from_le_bytes(length);
        let mut entry = Vec::new();
        (&mut reader).take(length.into()).read_to_end(&mut entry)?;
        if entry.len() < length as usize {
            return Ok(found);
        }
        entry.shrink_to_fit();
        found.push(entry);
    }
}

/// The entries of a file of `u32le length ‖ bytes`; a half one at the end is left out.
pub(super) fn unframe(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let Some((entry, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
        found.push(entry.to_vec());
        bytes = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::bundle;
    use coffer_evidence::ids::SessionId;

    fn store() -> (tempfile::TempDir, SessionDir, MirrorStore) {
        let root = tempfile::tempdir().expect("a directory");
        let dir = SessionDir::at(root.path(), SessionId::new([1; 16]), None);
        dir.create().expect("create");
        let store = MirrorStore::create(dir.clone(), 4).expect("files");
        (root, dir, store)
    }

    fn frames() -> Vec<Mirror> {
        vec![
            Mirror::Event { index: 0, bytes: b"open".to_vec() },
            Mirror::Leaf { index: 0, bytes: b"leaf 0".to_vec() },
            Mirror::Leaf { index: 1, bytes: b"leaf 1".to_vec() },
            Mirror::Private { index: 1, salt: [9; 32], bytes: b"secret".to_vec() },
            Mirror::Event { index: 1, bytes: b"checkpoint".to_vec() },
            Mirror::Note(b"note 2".to_vec()),
            Mirror::Leaf { index: 2, bytes: b"leaf 2".to_vec() },
            Mirror::Event { index: 2, bytes: b"checkpoint".to_vec() },
            Mirror::Note(b"note 3".to_vec()),
        ]
    }

    fn tell(store: &mut MirrorStore, frames: &[Mirror]) -> Result<Progress, MirrorError> {
        let mut telling = Telling::default();
        let mut progress = Progress::default();
        for frame in frames {
            progress = store.accept(&mut telling, &frame.encode())?;
        }
        Ok(progress)
    }

    #[test]
    fn a_record_told_again_and_further_is_the_record() {
        let (_root, dir, mut store) = store();
        let all = frames();
        tell(&mut store, &all[..6]).expect("the first connection");
        // The second repeats everything; in its middle the newer note stays.
        tell(&mut store, &all[..4]).expect("half of it");
        assert_eq!(Record::read(&dir).expect("read").note.as_deref(), Some("note 2"));
        let progress = tell(&mut store, &all).expect("and all");
        assert_eq!(progress, Progress { leaves: 3, events: 3 });
        let record = Record::read(&dir).expect("read");
        assert_eq!(record.leaves, [b"leaf 0", b"leaf 1", b"leaf 2"]);
        assert_eq!(record.private, [Disclosed { index: 1, salt: [9; 32], bytes: b"secret".to_vec() }]);
        assert_eq!(record.events.len(), 3);
        assert_eq!(record.note.as_deref(), Some("note 3"));
        assert_eq!(std::fs::read(dir.join(LEAVES)).expect("read"), bundle::frame_leaves(&record.leaves));
    }

    #[test]
    fn a_guest_that_changes_its_story_is_caught() {
        let all = frames();
        for (at, other) in [
            (1, Mirror::Leaf { index: 0, bytes: b"leaf x".to_vec() }),
            (1, Mirror::Leaf { index: 0, bytes: b"leaf 0 and more than the file holds".repeat(9) }),
            (3, Mirror::Private { index: 1, salt: [8; 32], bytes: b"secret".to_vec() }),
            (4, Mirror::Event { index: 1, bytes: b"another".to_vec() }),
        ] {
            let (_root, _dir, mut store) = store();
            tell(&mut store, &all).expect("the first connection");
            let mut changed = all.clone();
            changed[at] = other;
            let result = tell(&mut store, &changed);
            assert!(matches!(result, Err(MirrorError::Contradiction { .. })), "{at}: {result:?}");
        }
    }

    #[test]
    fn gaps_and_other_frames_are_refused() {
        for frames in [
            vec![Mirror::Leaf { index: 1, bytes: vec![1] }],
            vec![Mirror::Event { index: 1, bytes: vec![1] }],
            vec![Mirror::Private { index: 0, salt: [0; 32], bytes: vec![1] }],
        ] {
            let (_root, _dir, mut store) = store();
            assert!(matches!(tell(&mut store, &frames), Err(MirrorError::Order { .. })));
        }
        let (_root, _dir, mut store) = store();
        assert!(matches!(store.accept(&mut Telling::default(), b"?"), Err(MirrorError::Form)));
    }

    #[test]
    fn a_record_stays_within_its_limits() {
        let leaf = |index, length| Mirror::Leaf { index, bytes: vec![7; length] };
        let (_root, _dir, mut store) = store();
        tell(&mut store, &[leaf(0, 1), leaf(1, LEAF_MAX), leaf(2, 1), leaf(3, 1)])
            .expect("as many as the intent allows");
        let all: Vec<_> = [1, LEAF_MAX, 1, 1, 1].into_iter().zip(0..).map(|(n, i)| leaf(i, n)).collect();
        assert!(matches!(tell(&mut store, &all), Err(MirrorError::TooMuch { what: "leaf", most: 4 })));
        for length in [0, LEAF_MAX + 1] {
            let refused = tell(&mut self::store().2, &[leaf(0, length)]);
            assert!(matches!(refused, Err(MirrorError::Size { .. })), "{length}: {refused:?}");
        }
        let note = Mirror::Note(vec![b'n'; NOTE_MAX + 1]);
        assert!(matches!(tell(&mut store, &[note]), Err(MirrorError::Size { .. })));
    }

    #[test]
    fn a_record_that_is_taken_over_goes_on_and_holds_the_guest_to_it() {
        let (_root, dir, mut store) = store();
        let all = frames();
        tell(&mut store, &all[..6]).expect("before the restart");
        drop(store);
        // The last leaf was half written.
        let bytes = std::fs::read(dir.join(LEAVES)).expect("read");
        std::fs::write(dir.join(LEAVES), &bytes[..bytes.len() - 1]).expect("cut");
        let mut store = MirrorStore::reopen(dir.clone(), 4).expect("reopen");
        assert_eq!(store.progress(), Progress { leaves: 1, events: 2 });
        let changed = [vec![all[0].clone()], vec![Mirror::Leaf { index: 0, bytes: b"leaf x".to_vec() }]].concat();
        assert!(matches!(tell(&mut store, &changed), Err(MirrorError::Contradiction { .. })));
        assert_eq!(tell(&mut store, &all).expect("all of it"), Progress { leaves: 3, events: 3 });
        let record = Record::read(&dir).expect("read");
        assert_eq!(record.leaves, [b"leaf 0", b"leaf 1", b"leaf 2"]);
        assert_eq!(record.private.len(), 1);
    }

    #[test]
    fn a_torn_end_is_left_out() {
        let (_root, dir, mut store) = store();
        tell(&mut store, &frames()).expect("told");
        let mut bytes = std::fs::read(dir.join(LEAVES)).expect("read");
        bytes.truncate(bytes.len() - 1);
        std::fs::write(dir.join(LEAVES), bytes).expect("write");
        assert_eq!(Record::read(&dir).expect("read").leaves, [b"leaf 0", b"leaf 1"]);
    }
}
