//! What was seen of one call: a row for each file, under the kernel's name for it, within a limit. Pure.

use super::content::{Budget, CALL_MAX, Look, SOON_CALL_MAX};
use super::event::{self, Spot};
use super::kernel::Handle;
use coffer_evidence::file_record::{CONTENTS_MAX, Content, RecordLoss, Uses};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

/// Bytes that the rows of one call may take: some ten thousand files with usual names.
pub(super) const CALL_BYTES: usize = 4 << 20;
/// Bytes that the rows of all calls together may take.
pub(super) const ALL_BYTES: usize = 24 << 20;
/// Bytes of a row beside its names.
const ROW_BYTES: usize = 320;

/// A file, by what no rename changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// Of the image, or of what else no tool can write to: device and inode.
    Fixed(u64, u64),
    /// Of a place that tools can write to: which one.
    Placed(usize, Handle),
}

/// What is known of one file.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) uses: Uses,
    pub(super) first_ms: u64,
    /// Its path when it was first opened.
    pub(super) path: Option<Vec<u8>>,
    /// Where it was last made, removed, or renamed to.
    pub(super) spot: Option<Spot>,
    /// Where it was before it was first renamed, or got another name instead.
    pub(super) before: Option<Spot>,
    /// Names that were made and are there; more than one where it was linked.
    pub(super) made: Vec<Spot>,
    /// Names that were there before the call, and were removed.
    pub(super) removed: Vec<Spot>,
    pub(super) opened: Vec<Content>,
    pub(super) executed: Vec<Content>,
    /// How it looked when its content was last taken.
    pub(super) look: Option<Look>,
    /// What was in it when it was last closed after writing; none while that is not known.
    pub(super) left: Option<Content>,
    /// When it got its name, in the order of events.
    pub(super) placed: u64,
}

impl Row {
    /// Whether its content may be another than the one that was last taken.
    pub(super) fn is_news(&self, look: Look) -> bool {
        self.look != Some(look)
    }

    /// Whether it was ever looked at and looked different then.
    pub(super) fn is_changed(&self, look: Look) -> bool {
        self.look.is_some_and(|before| before != look)
    }

    /// Whether this is the content that was taken last.
    pub(super) fn holds(&self, content: Content) -> bool {
        self.opened.last() == Some(&content)
    }

    /// Remembers how it looked when its content was taken.
    pub(super) fn looked(&mut self, look: Look) {
        self.look = Some(look);
    }
}

/// Names of one file that are told.
const NAMES_MAX: usize = 64;

impl Row {
    /// A name of it was made. False when it has too many.
    fn name_made(&mut self, at: Spot) -> bool {
        self.spot = Some(at.clone());
        push(&mut self.made, at)
    }

    /// A name of it was removed. One that the call had made itself is what the file was called before.
    fn name_removed(&mut self, at: Spot) -> bool {
        self.spot = Some(at.clone());
        match self.made.iter().position(|made| *made == at) {
            Some(number) => {
                self.made.remove(number);
                self.before.get_or_insert(at);
                true
            }
            None => push(&mut self.removed, at),
        }
    }

    /// It was renamed.
    fn name_changed(&mut self, from: Spot, to: Spot) -> bool {
        if let Some(made) = self.made.iter_mut().find(|made| **made == from) {
            made.clone_from(&to);
        }
        self.before.get_or_insert(from);
        self.spot = Some(to);
        true
    }
}

fn push(list: &mut Vec<Spot>, spot: Spot) -> bool {
    let has_room = list.len() < NAMES_MAX;
    if has_room {
        list.push(spot);
    }
    has_room
}

/// A row that is only a name: its file has another, too.
pub(super) fn name_only(of: &Row, uses: Uses) -> Box<Row> {
    Box::new(Row { uses, first_ms: of.first_ms, placed: of.placed, ..Row::default() })
}

/// Which list of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Opened,
    Executed,
}

/// The rows of one call.
#[derive(Debug)]
pub(super) struct Seen {
    rows: HashMap<Key, Box<Row>>,
    room: Room,
    /// How many names were given.
    names: u64,
    moves: Moves,
    budget: Budget,
    soon: Budget,
}

/// What the rows take, and what is missing because something ended.
#[derive(Debug, Default)]
struct Room {
    bytes: usize,
    lost: BTreeMap<u64, RecordLoss>,
}

impl Room {
    fn take(&mut self, bytes: usize, free: usize) -> Option<()> {
        if bytes > free || self.bytes + bytes > CALL_BYTES {
            self.lose(RecordLoss::Files);
            return None;
        }
        self.bytes += bytes;
        Some(())
    }

    fn lose(&mut self, loss: RecordLoss) {
        self.lost.insert(loss.number(), loss);
    }
}

/// Whether a directory of the call's files may have another path than when it was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Moves {
    #[default]
    None,
    OfDirectories,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            room: Room::default(),
            names: 0,
            moves: Moves::None,
            budget: Budget::new(CALL_MAX),
            soon: Budget::new(SOON_CALL_MAX),
        }
    }
}

impl Seen {
    /// Bytes that the rows take.
    pub(super) fn bytes(&self) -> usize {
        self.room.bytes
    }

    /// What may still be read while the call runs.
    pub(super) fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// What may still be read of files as soon as they were written.
    pub(super) fn soon(&mut self) -> &mut Budget {
        &mut self.soon
    }

    /// Whether a directory was renamed.
    pub(super) fn moves(&self) -> Moves {
        self.moves
    }

    /// A name of a known file was made, removed or changed; false when it has too many.
    pub(super) fn named(&mut self, key: &Key, what: u64, at: Spot, renamed: Option<Spot>) -> bool {
        let Some(row) = self.rows.get_mut(key) else { return true };
        self.names += 1;
        row.placed = self.names;
        match renamed {
            Some(to) if what & event::RENAMED != 0 => {
                if what & event::DIRECTORY != 0 {
                    self.moves = Moves::OfDirectories;
                }
                row.name_changed(at, to)
            }
            _ => {
                // What was made and removed at once may be told as one event: the name is gone then.
                let made = what & event::CREATED == 0 || row.name_made(at.clone());
                let removed = what & event::DELETED == 0 || row.name_removed(at);
                made && removed
            }
        }
    }

    /// Something is missing from now on.
    pub(super) fn lose(&mut self, loss: RecordLoss) {
        self.room.lose(loss);
    }

    /// Why something is missing.
    pub(super) fn lost(&self) -> Vec<RecordLoss> {
        self.room.lost.values().copied().collect()
    }

    /// Whether something is missing.
    pub(super) fn has_lost(&self) -> bool {
        !self.room.lost.is_empty()
    }

    /// The row of a file, made when there is none and there are `free` bytes for it.
    pub(super) fn row(&mut self, key: &Key, uses: Uses, now_ms: u64, free: usize) -> Option<&mut Row> {
        let row = match self.rows.entry(key.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let handle = match key {
                    Key::Fixed(..) => 0,
                    Key::Placed(_, handle) => handle.len(),
                };
                self.room.take(ROW_BYTES + handle, free)?;
                self.names += 1;
                new.insert(Box::new(Row { first_ms: now_ms, placed: self.names, ..Row::default() }))
            }
        };
        row.uses = row.uses.and(uses);
        Some(row)
    }

    /// The row of a file that was seen before.
    pub(super) fn known(&mut self, key: &Key) -> Option<&mut Row> {
        self.rows.get_mut(key).map(|row| &mut **row)
    }

    /// Counts bytes that a row is to take on.
    pub(super) fn take(&mut self, bytes: usize, free: usize) -> Option<()> {
        self.room.take(bytes, free)
    }

    /// Adds a content to a row's list, unless it is there.
    pub(super) fn content(&mut self, key: &Key, of: Of, content: Content) {
        let Some(row) = self.rows.get_mut(key) else { return };
        let list = match of {
            Of::Opened => &mut row.opened,
            Of::Executed => &mut row.executed,
        };
        if list.contains(&content) {
            return;
        }
        if list.len() < CONTENTS_MAX {
            list.push(content);
        } else {
            self.lose(RecordLoss::Files);
        }
    }

    /// Takes the rows out, to become the record.
    pub(super) fn take_rows(&mut self) -> Vec<(Key, Box<Row>)> {
        self.rows.drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_evidence::ids::Digest256;

    fn content(text: &[u8]) -> Content {
        Content { size: text.len() as u64, sha256: Some(Digest256::of(text)) }
    }

    fn key(number: u64) -> Key {
        Key::Fixed(1, number)
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let mut seen = Seen::default();
        assert!(seen.row(&key(1), Uses::OPENED, 0, ROW_BYTES - 1).is_none());
        assert_eq!(seen.lost(), [RecordLoss::Files]);
        let mut seen = Seen::default();
        let rows = (0..).take_while(|number| seen.row(&key(*number), Uses::OPENED, 0, ALL_BYTES).is_some()).count();
        assert_eq!(rows, CALL_BYTES / ROW_BYTES);
        assert!(seen.row(&key(0), Uses::WRITTEN, 0, 0).is_some(), "a row that is there takes no more room");
        assert!(seen.has_lost());
        seen.row(&key(0), Uses::OPENED, 0, 0).unwrap();
        for number in 0..=CONTENTS_MAX as u64 {
            seen.content(&key(0), Of::Executed, content(&number.to_le_bytes()));
        }
        assert_eq!(seen.known(&key(0)).unwrap().executed.len(), CONTENTS_MAX);
    }
}
