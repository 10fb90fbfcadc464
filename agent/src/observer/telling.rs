//! The record of a call that has ended, made a few files at a time: other calls wait for the observer meanwhile.

use super::content::{self, Budget, Look};
use super::draft::{Draft, End, Told};
use super::event::Spot;
use super::kernel::Handle;
use super::seen::{Key, Moves, Row, Seen, name_only};
use super::watched::Place;
use coffer_evidence::file_record::{Content, DIRECTORY_MAX, RecordLoss, Uses};
use rustix::fs::{FileType, OFlags, Stat, fstat};
use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::rc::Rc;

/// What may be done in one turn: so many rows are taken up that need no look at their file, or so many times fewer that do.
const ROWS: usize = 512;
const LOOK: usize = 8;
/// Bytes that are read in one turn, the last file in whole.
const BYTES: u64 = 4 << 20;
/// Removed directories in one another that a path is put together of.
const DEPTH: usize = 64;
/// Bytes of paths of directories that are remembered.
const PATHS_BYTES: usize = 2 << 20;

/// A record on its way.
#[derive(Debug)]
pub(super) struct Telling {
    seen: Seen,
    /// Files that are not looked at yet.
    rows: Vec<(Key, Box<Row>)>,
    /// Where directories are, or that it is not known.
    directories: HashMap<(usize, Handle), Option<Rc<[u8]>>>,
    /// Bytes of those paths.
    known: usize,
    /// Where those that were removed by the call had been: directories that hold other rows.
    removed: HashMap<(usize, Handle), Spot>,
    draft: Draft,
    budget: Budget,
}

impl Telling {
    pub(super) fn new(mut seen: Seen) -> Self {
        let rows = seen.take_rows();
        let mut removed = HashMap::new();
        for (key, row) in &rows {
            if let Key::Placed(place, handle) = key
                && row.uses.has(Uses::DIRECTORY)
                && let Some(spot) = row.spot.clone()
            {
                removed.insert((*place, handle.clone()), spot);
            }
        }
        let (directories, draft, budget) = (HashMap::new(), Draft::default(), Budget::new(content::CALL_MAX));
        Self { seen, rows, directories, known: 0, removed, draft, budget }
    }

    /// Bytes that its rows take.
    pub(super) fn bytes(&self) -> usize {
        self.seen.bytes()
    }

    /// Looks at some files; true when none is left.
    pub(super) fn go_on(&mut self, places: &[Place]) -> anyhow::Result<bool> {
        let (mut read, mut done) = (0, 0);
        while done < ROWS {
            let Some((key, row)) = self.rows.pop() else { return Ok(true) };
            let looked = match &key {
                Key::Fixed(..) => {
                    match row.path.clone() {
                        Some(path) => self.draft.add(&path, (row, End::Stays), None, None),
                        None => self.seen.lose(RecordLoss::Unnamed),
                    }
                    None
                }
                Key::Placed(place, handle) => self.placed(places, *place, handle, row)?,
            };
            done += if looked.is_some() { LOOK } else { 1 };
            read += looked.unwrap_or(0);
            if read >= BYTES {
                break;
            }
        }
        Ok(self.rows.is_empty())
    }

    /// The record.
    pub(super) fn finish(self, most: usize) -> Told {
        self.draft.finish(self.seen, most)
    }

    /// A file where tools can write, by its handle: it may have another name by now, or none. Answers how much of it was read, if it
    /// was looked for at all.
    fn placed(
        &mut self,
        places: &[Place],
        at: usize,
        handle: &Handle,
        mut row: Box<Row>,
    ) -> anyhow::Result<Option<u64>> {
        let Some(place) = places.get(at) else { anyhow::bail!("expected a known place, found number {at}") };
        let before = match row.before.take() {
            Some(spot) => self.beneath(place, at, &spot, DEPTH),
            None => None,
        };
        if self.is_settled(&row)
            && let Some(spot) = row.spot.take()
            && let Some(directory) = self.directory(place, at, &spot.directory, DEPTH)
        {
            let left = row.left;
            self.draft.add_in(&directory, spot.name, (row, End::Stays), left, before);
            return Ok(None);
        }
        let former = before.or_else(|| row.path.clone());
        let found =
            handle.open(place.root.as_fd(), OFlags::PATH).ok().and_then(|file| Some((fstat(&file).ok()?, file)));
        // Without a name it is gone, even if somebody still has it open.
        if let Some((stat, file)) = found.filter(|(stat, _)| stat.st_nlink > 0)
            && let Some(path) = path_of(file.as_fd(), &stat)
        {
            row.uses = row.uses.without(Uses::DELETED);
            let (made, removed) = (std::mem::take(&mut row.made), std::mem::take(&mut row.removed));
            if !self.names((place, at), &path, &row, (made, Uses::CREATED)) {
                // It was there before, and was linked.
                row.uses = row.uses.without(Uses::CREATED);
            }
            self.names((place, at), &path, &row, (removed, Uses::DELETED));
            let left = self.left(place, handle, &mut row, &stat);
            let read = left.map_or(0, |content| if content.sha256.is_some() { content.size } else { 0 });
            self.draft.add(&path, (row, End::Stays), left, former);
            return Ok(Some(read));
        }
        let last = match row.spot.take() {
            Some(spot) => self.beneath(place, at, &spot, DEPTH),
            None => None,
        };
        match last.or_else(|| row.path.clone()) {
            Some(path) => {
                let removed = std::mem::take(&mut row.removed);
                self.names((place, at), &path, &row, (removed, Uses::DELETED));
                self.draft.add(&path, (row, End::Gone), None, former);
            }
            None => self.seen.lose(RecordLoss::Unnamed),
        }
        Ok(Some(0))
    }

    /// Whether nothing more is to be learned of a file that the call made or wrote: its one name and what it was left as are known.
    fn is_settled(&self, row: &Row) -> bool {
        let is_written = row.uses.has(Uses::WRITTEN);
        let is_known = if is_written { row.left.is_some() } else { row.uses.has(Uses::CREATED) };
        let has_one_name = !row.uses.has(Uses::DELETED) && row.made.len() <= 1 && row.removed.is_empty();
        is_known && has_one_name && self.seen.moves() == Moves::None
    }

    /// Names that a file got or lost beside the one that is told: they are rows of their own. Answers whether that one is among them.
    fn names(&mut self, (place, at): (&Place, usize), path: &[u8], of: &Row, (names, uses): (Vec<Spot>, Uses)) -> bool {
        let mut is_among = false;
        for spot in names {
            match self.beneath(place, at, &spot, DEPTH) {
                Some(name) if name == path => is_among = true,
                Some(name) => self.draft.add(&name, (name_only(of, uses), End::Stays), None, None),
                None => self.seen.lose(RecordLoss::Unnamed),
            }
        }
        is_among
    }

    /// What is in a file that was made or may have been changed.
    fn left(&mut self, place: &Place, handle: &Handle, row: &mut Row, stat: &Stat) -> Option<Content> {
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return None;
        }
        let changed = row.is_changed(Look::of(stat));
        if !changed && row.left.is_some() {
            return row.left;
        }
        if !changed && !row.uses.has(Uses::WRITTEN) && !row.uses.has(Uses::CREATED) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let none = Content { size: u64::try_from(stat.st_size).unwrap_or(0), sha256: None };
        let content = match handle.open(place.root.as_fd(), flags) {
            Ok(file) => content::take(&file, stat, content::FILE_MAX, &mut self.budget),
            Err(_) => none,
        };
        let is_new = changed && !row.holds(content);
        if is_new {
            // Nobody was seen to have it open for writing, and yet it is another.
            row.uses = row.uses.and(Uses::WRITTEN);
        }
        (is_new || row.uses.has(Uses::WRITTEN) || row.uses.has(Uses::CREATED)).then_some(content)
    }

    /// The path of a name in a directory, which may be gone.
    fn beneath(&mut self, place: &Place, at: usize, spot: &Spot, depth: usize) -> Option<Vec<u8>> {
        let directory = self.directory(place, at, &spot.directory, depth)?;
        Some([&*directory, b"/", &spot.name].concat())
    }

    fn directory(&mut self, place: &Place, at: usize, handle: &Handle, depth: usize) -> Option<Rc<[u8]>> {
        let key = (at, handle.clone());
        if let Some(known) = self.directories.get(&key) {
            return known.clone();
        }
        let open = handle.open(place.root.as_fd(), OFlags::PATH | OFlags::DIRECTORY).ok();
        let there = open.and_then(|open| {
            let stat = fstat(&open).ok()?;
            (stat.st_nlink > 0).then(|| path_of(open.as_fd(), &stat)).flatten()
        });
        let path = match (there, self.removed.get(&key).cloned()) {
            (Some(path), _) => Some(path),
            (None, Some(spot)) if depth > 0 => self.beneath(place, at, &spot, depth - 1),
            (None, _) => None,
        };
        let path: Option<Rc<[u8]>> = path.map(Rc::from);
        self.known += path.as_ref().map_or(0, |path| path.len());
        if self.known > PATHS_BYTES {
            // It is found again.
            self.directories.clear();
            self.known = 0;
        }
        self.directories.insert(key, path.clone());
        path
    }
}

/// The path of an open file in the tree that it was opened in.
pub(super) fn path_of(file: BorrowedFd<'_>, stat: &Stat) -> Option<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = rustix::fs::readlink(&link, Vec::with_capacity(256)).ok()?.into_bytes();
    let path = match path.strip_suffix(b" (deleted)") {
        Some(named) if stat.st_nlink == 0 => named.to_vec(),
        _ => path,
    };
    (path.starts_with(b"/") && path.len() <= DIRECTORY_MAX).then_some(path)
}
