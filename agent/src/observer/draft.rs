//! The record of a call that has ended, as it grows row by row: files by their paths, small enough for an outcome. Pure.

use super::seen::{Row, Seen};
use crate::frames::observe::Coverage;
use coffer_evidence::cbor::ITEMS_MAX;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::file_record::{
    CONTENTS_MAX, Content, DIRECTORY_MAX, Directory, FileRecord, FileUse, NAME_MAX, RecordLoss, Uses,
};
use std::collections::HashMap;

/// Rows by directory, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Draft {
    directories: HashMap<Vec<u8>, Vec<Drafted>>,
    /// Bytes that its names take.
    bytes: usize,
    /// What could not be told.
    lost: Vec<RecordLoss>,
}

/// Bytes that the names of a draft may take, before a record is made of it: whole paths, where the rows had parts of them.
const DRAFT_BYTES: usize = 4 << 20;
/// Items of a record: as many as a reader of its encoding takes.
const ITEMS: usize = ITEMS_MAX - 64;
/// The longest path that a file had before.
const FROM_MAX: usize = DIRECTORY_MAX + 1 + NAME_MAX;

/// Whether a file is there when the call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Gone,
    Stays,
}

#[derive(Debug)]
struct Drafted {
    name: Vec<u8>,
    row: Box<Row>,
    end: End,
    left: Option<Content>,
    from: Option<Vec<u8>>,
}

/// A record that is whole.
#[derive(Debug)]
pub(super) struct Told {
    /// Its bytes.
    pub(super) record: Vec<u8>,
    /// Whether it misses something.
    pub(super) coverage: Coverage,
}

impl Draft {
    /// Adds a row under the path that it has now; one without a use is none.
    pub(super) fn add(&mut self, path: &[u8], row: (Box<Row>, End), left: Option<Content>, from: Option<Vec<u8>>) {
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(path.len());
        let (directory, rest) = path.split_at(slash);
        // Without a slash there is no name, and that is none.
        self.add_in(directory, rest.get(1..).unwrap_or_default().to_vec(), row, left, from);
    }

    /// The same, by directory and name.
    pub(super) fn add_in(
        &mut self,
        directory: &[u8],
        name: Vec<u8>,
        (row, end): (Box<Row>, End),
        left: Option<Content>,
        from: Option<Vec<u8>>,
    ) {
        if row.uses == Uses::default() {
            return;
        }
        if !(1..=NAME_MAX).contains(&name.len()) || directory.len() > DIRECTORY_MAX {
            return self.lost.push(RecordLoss::Unnamed);
        }
        let mut from = from.filter(|from| !is_path(from, directory, &name));
        if from.as_ref().is_some_and(|from| from.len() > FROM_MAX) {
            self.lost.push(RecordLoss::Unnamed);
            from = None;
        }
        let files = self.directories.get_mut(directory);
        let cost = name.len() + from.as_ref().map_or(0, Vec::len) + if files.is_none() { directory.len() } else { 0 };
        if self.bytes + cost > DRAFT_BYTES {
            return self.lost.push(RecordLoss::Size);
        }
        self.bytes += cost;
        let drafted = Drafted { name, row, end, left, from };
        match files {
            Some(files) => files.push(drafted),
            None => drop(self.directories.insert(directory.to_vec(), vec![drafted])),
        }
    }

    /// The record, small enough for `most` bytes.
    pub(super) fn finish(self, mut seen: Seen, most: usize) -> Told {
        self.lost.into_iter().for_each(|loss| seen.lose(loss));
        let mut directories = Vec::with_capacity(self.directories.len());
        let mut drafted: Vec<_> = self.directories.into_iter().collect();
        drafted.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (path, files) in drafted {
            let (files, cut) = joined(files);
            cut.into_iter().for_each(|loss| seen.lose(loss));
            directories.push(Directory { path, files });
        }
        let mut record = FileRecord { directories, lost: seen.lost() };
        let mut bytes = record.to_bytes();
        if bytes.len() > most || items(&record) > ITEMS {
            seen.lose(RecordLoss::Size);
            record.lost = seen.lost();
            // That a file was opened, and nothing of what was in it, says least.
            keep(&mut record, |file| {
                file.uses != Uses::OPENED || !file.opened.is_empty() || file.left.is_some() || file.from.is_some()
            });
            bytes = record.to_bytes();
        }
        while bytes.len() > most || items(&record) > ITEMS {
            let files = record.files().count();
            let by_bytes = files.saturating_mul(most) / bytes.len().max(1);
            let mut left = by_bytes.min(files.saturating_mul(ITEMS) / items(&record).max(1));
            keep(&mut record, |_| {
                let is_kept = left > 0;
                left = left.saturating_sub(1);
                is_kept
            });
            bytes = record.to_bytes();
        }
        let coverage = if record.lost.is_empty() { Coverage::Whole } else { Coverage::Partial };
        Told { record: bytes, coverage }
    }
}

/// Whether this path is that of a name in a directory.
fn is_path(path: &[u8], directory: &[u8], name: &[u8]) -> bool {
    path.strip_prefix(directory).and_then(|rest| rest.strip_prefix(b"/")) == Some(name)
}

/// At least the items of its encoding.
fn items(record: &FileRecord) -> usize {
    let file = |file: &FileUse| 8 + 3 * (file.opened.len() + file.executed.len()) + 3;
    let directory = |directory: &Directory| 3 + directory.files.iter().map(file).sum::<usize>();
    record.directories.iter().map(directory).sum()
}

/// The files of a directory in their order. Another file that had the path before was replaced: both are one row, since people think
/// of paths. Answers what was lost when together they had more contents than one may.
fn joined(mut files: Vec<Drafted>) -> (Vec<FileUse>, Option<RecordLoss>) {
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let mut told: Vec<Drafted> = Vec::with_capacity(files.len());
    let mut cut = None;
    for file in files {
        match told.last_mut().filter(|last| last.name == file.name) {
            Some(last) => cut = last.join(file).or(cut),
            None => told.push(file),
        }
    }
    let told = told.into_iter().map(|Drafted { name, row, left, from, .. }| {
        let Row { uses, first_ms, opened, executed, .. } = *row;
        FileUse { name, uses, first_ms, opened, left, from, executed }
    });
    (told.collect(), cut)
}

/// Drops files from a record, and directories that hold none.
fn keep(record: &mut FileRecord, mut is_kept: impl FnMut(&FileUse) -> bool) {
    record.directories.iter_mut().for_each(|directory| directory.files.retain(&mut is_kept));
    record.directories.retain(|directory| !directory.files.is_empty());
}

impl Drafted {
    /// The older of two files keeps what was opened, the younger what is left.
    fn join(&mut self, other: Drafted) -> Option<RecordLoss> {
        let age = |told: &Drafted| (told.end, told.row.placed);
        let older = if age(&other) < age(self) { other } else { std::mem::replace(self, other) };
        let mut cut = None;
        let lists = [(&mut self.row.opened, older.row.opened), (&mut self.row.executed, older.row.executed)];
        for (list, before) in lists {
            let after = std::mem::replace(list, before);
            list.extend(after.into_iter().filter(|content| !list.contains(content)).collect::<Vec<_>>());
            if list.len() > CONTENTS_MAX {
                cut = Some(RecordLoss::Files);
                list.truncate(CONTENTS_MAX);
            }
        }
        self.row.uses = self.row.uses.and(older.row.uses);
        self.row.first_ms = self.row.first_ms.min(older.row.first_ms);
        self.left = self.left.take().or(older.left);
        self.from = self.from.take().or(older.from);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::{ALL_BYTES, Key, Of};
    use super::*;
    use coffer_evidence::ids::Digest256;

    fn content(text: &[u8]) -> Content {
        Content { size: text.len() as u64, sha256: Some(Digest256::of(text)) }
    }

    fn key(number: u64) -> Key {
        Key::Fixed(1, number)
    }

    fn told(told: &Told) -> Vec<(String, FileUse)> {
        let record = FileRecord::parse(&told.record).unwrap();
        record.files().map(|(path, file)| (String::from_utf8(path).unwrap(), file.clone())).collect()
    }

    #[test]
    fn a_file_that_replaced_another_is_one_row_with_what_was_before_and_after() {
        let mut seen = Seen::default();
        seen.row(&key(1), Uses::OPENED, 5, ALL_BYTES).unwrap();
        seen.content(&key(1), Of::Opened, content(b"old"));
        seen.row(&key(2), Uses::OPENED.and(Uses::WRITTEN).and(Uses::CREATED), 5, ALL_BYTES).unwrap();
        let path = b"/workspace/a";
        for order in [[1, 2], [2, 1]] {
            let mut draft = Draft::default();
            for number in order {
                let row = seen.known(&key(number)).unwrap();
                let (first_ms, placed, opened) = (row.first_ms, row.placed, row.opened.clone());
                let row = Box::new(Row { uses: row.uses, first_ms, placed, opened, ..Row::default() });
                match number {
                    1 => draft.add(path, (row, End::Gone), None, None),
                    _ => {
                        draft.add(path, (row, End::Stays), Some(content(b"new")), Some(b"/workspace/a.tmp".to_vec()));
                    }
                }
            }
            let files = told(&draft.finish(Seen::default(), 1000));
            let [(path, file)] = &files[..] else { panic!("{files:?}") };
            assert_eq!((path.as_str(), file.first_ms), ("/workspace/a", 5));
            assert_eq!((&file.opened[..], file.left), (&[content(b"old")][..], Some(content(b"new"))));
            assert_eq!(file.from.as_deref(), Some(&b"/workspace/a.tmp"[..]));
            assert!(file.uses.has(Uses::WRITTEN.and(Uses::CREATED).and(Uses::OPENED)));
        }
    }

    #[test]
    fn a_record_that_is_too_large_drops_first_what_says_least() {
        let draft = || {
            let mut draft = Draft::default();
            for number in 0..100 {
                let mut row = Box::new(Row { uses: Uses::OPENED, ..Row::default() });
                if number >= 50 {
                    row.uses = Uses::OPENED.and(Uses::EXECUTED);
                    row.executed = vec![content(&[number])];
                }
                draft.add(format!("/usr/{number:03}").as_bytes(), (row, End::Stays), None, None);
            }
            draft
        };
        let whole = draft().finish(Seen::default(), usize::MAX);
        assert_eq!(told(&whole).len(), 100);
        let most = whole.record.len() * 3 / 5;
        let Told { record: bytes, coverage } = draft().finish(Seen::default(), most);
        assert_eq!((whole.coverage, coverage), (Coverage::Whole, Coverage::Partial));
        assert!(bytes.len() <= most);
        let record = FileRecord::parse(&bytes).unwrap();
        assert_eq!(record.lost, [RecordLoss::Size]);
        assert!(record.files().count() > 30 && record.files().all(|(_, file)| file.uses.has(Uses::EXECUTED)));
        let mut draft = Draft::default();
        for number in 0..100 {
            let row = Box::new(Row { uses: Uses::CREATED, ..Row::default() });
            draft.add(format!("/tmp/{number:03}").as_bytes(), (row, End::Stays), None, None);
        }
        let bytes = draft.finish(Seen::default(), 200).record;
        assert!(bytes.len() <= 200 && FileRecord::parse(&bytes).unwrap().files().count() > 5);
    }

    fn row(uses: Uses) -> Box<Row> {
        Box::new(Row { uses, ..Row::default() })
    }

    fn record(told: &Told) -> FileRecord {
        FileRecord::parse(&told.record).expect("a reader takes whatever the observer makes")
    }

    #[test]
    fn a_former_path_that_no_record_can_hold_is_lost_and_said() {
        let mut draft = Draft::default();
        draft.add(b"/workspace/x", (row(Uses::RENAMED), End::Stays), None, Some(vec![b'a'; FROM_MAX + 1]));
        draft.add(b"/workspace/y", (row(Uses::RENAMED), End::Stays), None, Some(vec![b'a'; FROM_MAX]));
        let told = draft.finish(Seen::default(), usize::MAX);
        let FileRecord { directories, lost } = record(&told);
        let has_former: Vec<bool> = directories[0].files.iter().map(|file| file.from.is_some()).collect();
        assert_eq!(
            (has_former, lost, told.coverage),
            (vec![false, true], vec![RecordLoss::Unnamed], Coverage::Partial)
        );
    }

    #[test]
    fn contents_that_are_too_many_for_one_row_are_lost_and_said() {
        let executed = |from: u8| (from..from + 6).map(|number| content(&[number])).collect::<Vec<_>>();
        for (first, second, lost) in [(0, 0, vec![]), (0, 2, vec![]), (0, 3, vec![RecordLoss::Files])] {
            let mut draft = Draft::default();
            for from in [first, second] {
                let mut row = row(Uses::EXECUTED);
                row.executed = executed(from);
                draft.add(b"/tmp/s", (row, End::Stays), None, None);
            }
            let record = record(&draft.finish(Seen::default(), usize::MAX));
            assert_eq!(record.lost, lost);
            let told = &record.directories[0].files[0].executed;
            assert_eq!(told.len(), if second == 0 { 6 } else { 8 });
        }
    }

    #[test]
    fn more_rows_than_a_reader_takes_items_are_lost_and_said() {
        let mut draft = Draft::default();
        for number in 0..40_000 {
            draft.add(format!("/w/{number:x}").as_bytes(), (row(Uses::CREATED), End::Stays), None, None);
        }
        let told = draft.finish(Seen::default(), usize::MAX);
        let record = record(&told);
        assert_eq!((record.lost.as_slice(), told.coverage), (&[RecordLoss::Size][..], Coverage::Partial));
        assert!(record.files().count() > 20_000);
    }

    #[test]
    fn whole_paths_take_no_more_memory_than_their_limit() {
        let mut draft = Draft::default();
        for number in 0..3_000 {
            let from = format!("/workspace/{}/{number}", "d/".repeat(1_000)).into_bytes();
            draft.add(format!("/w/{number}").as_bytes(), (row(Uses::RENAMED), End::Stays), None, Some(from));
        }
        assert!(draft.bytes <= DRAFT_BYTES);
        let told = draft.finish(Seen::default(), 768 * 1024);
        assert_eq!(record(&told).lost, [RecordLoss::Size]);
    }

    proptest::proptest! {
        /// Whatever was seen: names that come twice, former paths, contents, and a record that is too small for it.
        #[test]
        fn a_reader_takes_whatever_is_told(
            rows in proptest::collection::vec(("/[ab]{0,2}/?[a-c]{0,2}", 0_u64..128, 0_usize..9, proptest::option::of(0_usize..5_000)), 0..60),
            most in 200_usize..4_000,
        ) {
            let mut draft = Draft::default();
            for (path, uses, contents, from) in rows {
                let mut row = row(Uses::from_number(uses).unwrap_or_default());
                row.opened = (0..contents).map(|number| content(&[number as u8])).collect();
                let from = from.map(|length| [b"/".to_vec(), vec![b'f'; length]].concat());
                draft.add(path.as_bytes(), (row, End::Stays), None, from);
            }
            let told = draft.finish(Seen::default(), most);
            proptest::prop_assert!(told.record.len() <= most);
            let record = record(&told);
            proptest::prop_assert_eq!(record.lost.is_empty(), told.coverage == Coverage::Whole);
        }
    }

    #[test]
    fn a_path_without_a_name_is_no_row() {
        for path in [&b"relative"[..], b"/", b""] {
            let mut draft = Draft::default();
            let row = Box::new(Row { uses: Uses::OPENED, ..Row::default() });
            draft.add(path, (row, End::Stays), None, None);
            let record = FileRecord::parse(&draft.finish(Seen::default(), 1000).record).unwrap();
            assert_eq!((record.files().count(), &record.lost[..]), (0, &[RecordLoss::Unnamed][..]));
        }
    }
}
