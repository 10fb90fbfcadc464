//! The record of a call that has ended, as it grows row by row: files by their paths, small enough for an outcome. Pure.

use super::seen::{Row, Seen};
use crate::frames::observe::Coverage;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::file_record::{
    CONTENTS_MAX, Content, DIRECTORY_MAX, Directory, FileRecord, FileUse, NAME_MAX, RecordLoss, Uses,
};
use std::collections::BTreeMap;

/// Rows by directory, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Draft {
    directories: BTreeMap<Vec<u8>, Vec<Drafted>>,
    /// A row had a path that no record can hold.
    unnamed: Option<RecordLoss>,
}

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
    pub(super) fn add(
        &mut self,
        path: &[u8],
        (row, end): (Box<Row>, End),
        left: Option<Content>,
        from: Option<Vec<u8>>,
    ) {
        if row.uses == Uses::default() {
            return;
        }
        let Some((directory, name)) = split(path) else {
            self.unnamed = Some(RecordLoss::Unnamed);
            return;
        };
        let from = from.filter(|from| from != path);
        let drafted = Drafted { name: name.to_vec(), row, end, left, from };
        match self.directories.get_mut(directory) {
            Some(files) => files.push(drafted),
            None => drop(self.directories.insert(directory.to_vec(), vec![drafted])),
        }
    }

    /// The record, small enough for `most` bytes.
    pub(super) fn finish(self, mut seen: Seen, most: usize) -> Told {
        self.unnamed.into_iter().for_each(|loss| seen.lose(loss));
        let directory = |(path, files)| Directory { path, files: joined(files) };
        let directories = self.directories.into_iter().map(directory).collect();
        let mut record = FileRecord { directories, lost: seen.lost() };
        let mut bytes = record.to_bytes();
        if bytes.len() > most {
            seen.lose(RecordLoss::Size);
            record.lost = seen.lost();
            // That a file was opened, and nothing of what was in it, says least.
            keep(&mut record, |file| {
                file.uses != Uses::OPENED || !file.opened.is_empty() || file.left.is_some() || file.from.is_some()
            });
            bytes = record.to_bytes();
        }
        while bytes.len() > most {
            let mut left = record.files().count() * most / bytes.len();
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

/// Directory and name of a path that a record can hold.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (directory, name) = (path.get(..slash)?, path.get(slash + 1..)?);
    ((1..=NAME_MAX).contains(&name.len()) && directory.len() <= DIRECTORY_MAX).then_some((directory, name))
}

/// The files of a directory in their order. Another file that had the path before was replaced: both are one row, since people think
/// of paths.
fn joined(mut files: Vec<Drafted>) -> Vec<FileUse> {
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let mut told: Vec<Drafted> = Vec::with_capacity(files.len());
    for file in files {
        match told.last_mut().filter(|last| last.name == file.name) {
            Some(last) => last.join(file),
            None => told.push(file),
        }
    }
    let told = told.into_iter().map(|Drafted { name, row, left, from, .. }| {
        let Row { uses, first_ms, opened, executed, .. } = *row;
        FileUse { name, uses, first_ms, opened, left, from, executed }
    });
    told.collect()
}

/// Drops files from a record, and directories that hold none.
fn keep(record: &mut FileRecord, mut is_kept: impl FnMut(&FileUse) -> bool) {
    record.directories.iter_mut().for_each(|directory| directory.files.retain(&mut is_kept));
    record.directories.retain(|directory| !directory.files.is_empty());
}

impl Drafted {
    /// The older of two files keeps what was opened, the younger what is left.
    fn join(&mut self, other: Drafted) {
        let age = |told: &Drafted| (told.end, told.row.placed);
        let older = if age(&other) < age(self) { other } else { std::mem::replace(self, other) };
        let lists = [(&mut self.row.opened, older.row.opened), (&mut self.row.executed, older.row.executed)];
        for (list, before) in lists {
            let after = std::mem::replace(list, before);
            list.extend(after.into_iter().filter(|content| !list.contains(content)).collect::<Vec<_>>());
            list.truncate(CONTENTS_MAX);
        }
        self.row.uses = self.row.uses.and(older.row.uses);
        self.row.first_ms = self.row.first_ms.min(older.row.first_ms);
        self.left = self.left.take().or(older.left);
        self.from = self.from.take().or(older.from);
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
