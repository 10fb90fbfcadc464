//! The action log of a session that is still open, read while it grows. It is what the guest has told so far: the sealed
//! evidence alone is proof of it.
//!
//! ```text
//!   leaf i ── has no private part, or it is here, or a later leaf is ──> told
//!     └────── else: waits for more, or for the end of the session
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::Leaf;
use coffer_evidence::link::{Frame as _, Mirror};
use futures_util::stream::{Stream, unfold};
use tokio::sync::watch;

use super::mirror::{LEAVES, PRIVATE, Progress};
use super::record::SessionRecord;
use crate::host::session_dir::SessionDir;

/// Leaves that are read at once; what a reader does not take is not read ahead.
const BATCH: usize = 64;

/// One leaf as the guest told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) leaf: Vec<u8>,
    /// Salt and bytes of its private part, when it has one that the host is told.
    pub(crate) private: Option<([u8; 32], Vec<u8>)>,
}

/// Whether to wait for what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Until the session is closed.
    ToTheEnd,
    /// What is there now.
    Now,
}

/// A file of `u32le length ‖ bytes` that somebody else appends to.
#[derive(Debug)]
struct Growing {
    file: BufReader<File>,
    at: u64,
}

impl Growing {
    fn open(dir: &SessionDir, name: &str) -> io::Result<Self> {
        Ok(Self { file: BufReader::new(File::open(dir.join(name))?), at: 0 })
    }

    /// The next entry, once it is there in whole.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut length = [0; 4];
        match self.file.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_le_bytes(length);
        let mut entry = Vec::new();
        (&mut self.file).take(length.into()).read_to_end(&mut entry)?;
        if entry.len() < length as usize {
            return Ok(None);
        }
        self.at += u64::from(length) + 4;
        Ok(Some(entry))
    }
}

/// The files of one session, and how far they are read.
#[derive(Debug)]
struct Reader {
    leaves: Growing,
    private: Growing,
    /// A private part whose leaf is not read yet.
    ahead: Option<(u64, [u8; 32], Vec<u8>)>,
    /// A leaf whose private part is not here yet.
    held: Option<Entry>,
    next: u64,
}

impl Reader {
    fn open(dir: &SessionDir) -> io::Result<Self> {
        let (leaves, private) = (Growing::open(dir, LEAVES)?, Growing::open(dir, PRIVATE)?);
        Ok(Self { leaves, private, ahead: None, held: None, next: 0 })
    }

    /// What is there. A leaf that waits for its private part is kept back, unless nothing more comes.
    fn read(&mut self, more: Follow) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        while found.len() < BATCH {
            let Some(mut entry) = self.held.take().map_or_else(|| self.leaf(), |held| Ok(Some(held)))? else { break };
            let has_private = Leaf::parse(&entry.leaf).is_ok_and(|leaf| leaf.commitment.is_some());
            if has_private {
                entry.private = self.private_of(entry.index)?;
                if entry.private.is_none() && more == Follow::ToTheEnd && self.is_last()? {
                    self.held = Some(entry);
                    break;
                }
            }
            found.push(entry);
        }
        Ok(found)
    }

    fn leaf(&mut self) -> io::Result<Option<Entry>> {
        let Some(leaf) = self.leaves.next()? else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        Ok(Some(Entry { index, leaf, private: None }))
    }

    /// Whether no leaf comes after those that were read: then the private part of the last may still come.
    fn is_last(&mut self) -> io::Result<bool> {
        let at = self.leaves.at;
        let more = self.leaves.next()?.is_some();
        self.leaves.at = at;
        Ok(!more)
    }

    fn private_of(&mut self, index: u64) -> io::Result<Option<([u8; 32], Vec<u8>)>> {
        loop {
            let part = match self.ahead.take() {
                Some(part) => Some(part),
                None => self.private.next()?.and_then(|frame| match Mirror::decode(&frame) {
                    Ok(Mirror::Private { index, salt, bytes }) => Some((index, salt, bytes)),
                    _ => None,
                }),
            };
            match part {
                Some((of, salt, bytes)) if of == index => return Ok(Some((salt, bytes))),
                Some((of, ..)) if of < index => {}
                later => {
                    self.ahead = later;
                    return Ok(None);
                }
            }
        }
    }
}

struct Following {
    reader: Reader,
    ready: VecDeque<Entry>,
    progress: watch::Receiver<Progress>,
    session: watch::Receiver<Arc<SessionRecord>>,
    follow: Follow,
}

/// Reads the log of a session from its beginning. Its files may be removed meanwhile: they are open.
///
/// # Errors
/// When they cannot be opened: nothing was mirrored yet, or the session is closed.
pub(crate) fn follow(
    dir: &SessionDir,
    progress: watch::Receiver<Progress>,
    session: watch::Receiver<Arc<SessionRecord>>,
    follow: Follow,
) -> io::Result<impl Stream<Item = io::Result<Entry>> + Send + use<>> {
    let following = Following { reader: Reader::open(dir)?, ready: VecDeque::new(), progress, session, follow };
    Ok(unfold(Some(following), |following| async move {
        let mut following = following?;
        match following.next().await {
            Ok(Some(entry)) => Some((Ok(entry), Some(following))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Following {
    async fn next(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            // Seen before it is read: what comes after that wakes us again.
            self.progress.borrow_and_update();
            let is_over = self.session.borrow_and_update().is_closed();
            let more = if is_over { Follow::Now } else { self.follow };
            // At most a few hundred KiB, from a file that was just written.
            self.ready = self.reader.read(more)?.into();
            if !self.ready.is_empty() {
                continue;
            }
            if more == Follow::Now {
                return Ok(None);
            }
            // The task of the session has both; when it is over, so is this.
            let changed = tokio::select! {
                told = self.progress.changed() => told,
                changed = self.session.changed() => changed,
            };
            if changed.is_err() {
                self.follow = Follow::Now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::mirror::{MirrorStore, Telling};
    use crate::session::record::fixtures::record;
    use coffer_evidence::ids::{CallId, Identity, SessionId};
    use coffer_evidence::leaf::{CauseClass, Method, Public, Reporter, commitment};
    use futures_util::StreamExt as _;
    use std::pin::pin;

    fn leaf(index: u64, private: Option<&[u8]>) -> Mirror {
        let public = match private {
            Some(_) => Public::Outcome {
                method: Method::Exec,
                cause: CauseClass::Completed,
                output_steps: 0,
                input_steps: 0,
                input_covered: None,
            },
            None => Public::Incomplete { method: Method::Exec },
        };
        let leaf = Leaf {
            session: SessionId::new([1; 16]),
            index,
            reporter: Reporter::Agent,
            identity: Some(Identity::default_name()),
            call: Some(CallId::new([4; 16])),
            monotonic_ns: index,
            wall_hint_ms: 0,
            public,
            commitment: private.map(|bytes| commitment(&[9; 32], bytes)),
        };
        Mirror::Leaf { index, bytes: leaf.to_bytes() }
    }

    fn part(index: u64, bytes: &[u8]) -> Mirror {
        Mirror::Private { index, salt: [9; 32], bytes: bytes.to_vec() }
    }

    struct Told {
        store: MirrorStore,
        telling: Telling,
        progress: watch::Sender<Progress>,
    }

    impl Told {
        fn tell(&mut self, frames: &[Mirror]) {
            for frame in frames {
                let now = self.store.accept(&mut self.telling, &frame.encode()).expect("a frame");
                self.progress.send_replace(now);
            }
        }
    }

    fn session() -> (tempfile::TempDir, SessionDir, Told) {
        let root = tempfile::tempdir().expect("a directory");
        let dir = SessionDir::at(root.path(), SessionId::new([1; 16]), None);
        dir.create().expect("create");
        let store = MirrorStore::create(dir.clone(), 1000).expect("files");
        (root, dir, Told { store, telling: Telling::default(), progress: watch::Sender::new(Progress::default()) })
    }

    #[tokio::test]
    async fn the_log_is_told_as_it_grows_each_leaf_with_its_private_part() {
        let (_root, dir, mut told) = session();
        told.tell(&[leaf(0, None), leaf(1, Some(b"one")), part(1, b"one"), leaf(2, Some(b"two"))]);
        let view = watch::Sender::new(Arc::new(record(1)));
        let log = follow(&dir, told.progress.subscribe(), view.subscribe(), Follow::ToTheEnd).expect("a log");
        let mut log = pin!(log);
        let mut next = async || log.next().await.map(|entry| entry.expect("read"));
        assert_eq!(next().await.map(|entry| (entry.index, entry.private)), Some((0, None)));
        assert_eq!(next().await.map(|entry| (entry.index, entry.private)), Some((1, Some(([9; 32], b"one".to_vec())))));
        // The third waits for its private part, which comes, and the fourth has none that the host is told.
        let third = async { next().await };
        let (third, ()) = tokio::join!(third, async { told.tell(&[part(2, b"two")]) });
        assert_eq!(third.map(|entry| (entry.index, entry.private)), Some((2, Some(([9; 32], b"two".to_vec())))));
        told.tell(&[leaf(3, Some(b"withheld")), leaf(4, None)]);
        assert_eq!(next().await.map(|entry| (entry.index, entry.private)), Some((3, None)));
        assert_eq!(next().await.map(|entry| entry.index), Some(4));
        told.tell(&[leaf(5, Some(b"withheld"))]);
        // The end of the session: what is there is told, and then no more.
        let (last, ()) = tokio::join!(async { next().await }, async { drop(view) });
        assert_eq!(last.map(|entry| entry.index), Some(5));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn what_is_there_now_is_told_and_no_more_half_an_entry_is_left_out() {
        let (_root, dir, mut told) = session();
        let all: Vec<Mirror> = (0..200).map(|index| leaf(index, None)).collect();
        told.tell(&all);
        let path = dir.join(LEAVES);
        let length = std::fs::metadata(&path).expect("the file").len();
        File::options().write(true).open(&path).expect("open").set_len(length - 1).expect("cut");
        let view = watch::Sender::new(Arc::new(record(1)));
        let log = follow(&dir, told.progress.subscribe(), view.subscribe(), Follow::Now).expect("a log");
        let entries: Vec<u64> = log.map(|entry| entry.expect("read").index).collect().await;
        assert_eq!(entries, (0..199).collect::<Vec<_>>());
        dir.remove().expect("remove");
        assert!(follow(&dir, told.progress.subscribe(), view.subscribe(), Follow::Now).is_err());
    }
}
