//! What the kernel's events mean for a watch: pure bookkeeping of directories and of moves, whose two ends come as two events.
//!
//! ```text
//!            moved from                     moved to, same cookie
//!  Nothing ────────────> an end that waits ───────────────────────> moved
//!     ▲                       │ any other event, or none for a while
//!     └───────────────────────┴──> deleted: it went where nobody watches
//! ```

use crate::frames::tool::{Change, ChangeKind, Of};
use std::collections::BTreeMap;

/// What one event of the kernel says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Created,
    Modified,
    Deleted,
    /// With the cookie that its other end has, too.
    MovedFrom(u32),
    MovedTo(u32),
}

/// What is to be done about it, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Tell(Change),
    /// A directory is there that nobody watches yet.
    Enter(Vec<u8>),
    /// A directory that is watched is gone from here, and what is in it.
    Forget(Vec<u8>),
    /// It has another path, and what is in it.
    Renamed(Vec<u8>, Vec<u8>),
}

/// The end of a move that waits for the other.
#[derive(Debug, Default)]
pub(super) struct Moves(Option<(u32, Vec<u8>, Of)>);

impl Moves {
    /// Whether an end waits.
    pub(super) fn waits(&self) -> bool {
        self.0.is_some()
    }

    /// The steps of an event.
    pub(super) fn take(&mut self, seen: Seen, path: Vec<u8>, of: Of) -> Vec<Step> {
        if let Seen::MovedTo(cookie) = seen
            && let Some((_, from, _)) = self.0.take_if(|(waiting, ..)| *waiting == cookie)
        {
            let renamed = (of == Of::Directory).then(|| Step::Renamed(from.clone(), path.clone()));
            let told = Step::Tell(Change { kind: ChangeKind::Moved, path, from, of });
            return renamed.into_iter().chain([told]).collect();
        }
        let mut steps = self.flush();
        match seen {
            Seen::MovedFrom(cookie) => self.0 = Some((cookie, path, of)),
            Seen::Created | Seen::MovedTo(_) => {
                let enter = (of == Of::Directory).then(|| Step::Enter(path.clone()));
                steps.push(change(ChangeKind::Created, path, of));
                steps.extend(enter);
            }
            Seen::Modified => steps.push(change(ChangeKind::Modified, path, of)),
            Seen::Deleted => steps.push(change(ChangeKind::Deleted, path, of)),
        }
        steps
    }

    /// The end that waits stays alone.
    pub(super) fn flush(&mut self) -> Vec<Step> {
        let Some((_, path, of)) = self.0.take() else { return Vec::new() };
        let forget = (of == Of::Directory).then(|| Step::Forget(path.clone()));
        forget.into_iter().chain([change(ChangeKind::Deleted, path, of)]).collect()
    }
}

fn change(kind: ChangeKind, path: Vec<u8>, of: Of) -> Step {
    Step::Tell(Change { kind, path, from: Vec::new(), of })
}

/// The directories that are watched, by the kernel's number; the watched one itself has the empty path.
#[derive(Debug, Default)]
pub(super) struct Directories(BTreeMap<i32, Vec<u8>>);

impl Directories {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The kernel gives a directory that is watched already the number that it has: then only its path is another.
    pub(super) fn insert(&mut self, number: i32, path: Vec<u8>) {
        self.0.insert(number, path);
    }

    pub(super) fn remove(&mut self, number: i32) {
        self.0.remove(&number);
    }

    /// The path of a name in a directory.
    pub(super) fn path(&self, number: i32, name: &[u8]) -> Option<Vec<u8>> {
        self.0.get(&number).map(|directory| joined(directory, name))
    }

    /// The directory and what is in it have another path.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) {
        for path in self.0.values_mut() {
            if let Some(rest) = beneath(path, from) {
                *path = [to, rest].concat();
            }
        }
    }

    /// The directory and what is in it are not watched any more; answers their numbers.
    pub(super) fn forget(&mut self, from: &[u8]) -> Vec<i32> {
        let gone: Vec<i32> =
            self.0.iter().filter(|(_, path)| beneath(path, from).is_some()).map(|(number, _)| *number).collect();
        self.0.retain(|_, path| beneath(path, from).is_none());
        gone
    }
}

pub(super) fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}

/// What of a path follows a directory: nothing when it is the directory itself.
fn beneath<'p>(path: &'p [u8], directory: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(directory).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Steps as words: `+` created, `~` modified, `-` deleted, `>` moved, `enter`, `forget`, `renamed`.
    fn words(steps: &[Step]) -> String {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let word = |step: &Step| match step {
            Step::Tell(change) => {
                let sign = match change.kind {
                    ChangeKind::Created => "+",
                    ChangeKind::Modified => "~",
                    ChangeKind::Deleted => "-",
                    ChangeKind::Moved => ">",
                };
                format!("{}{sign}{}", text(&change.from), text(&change.path))
            }
            Step::Enter(path) => format!("enter {}", text(path)),
            Step::Forget(path) => format!("forget {}", text(path)),
            Step::Renamed(from, to) => format!("renamed {} {}", text(from), text(to)),
        };
        steps.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_two_ends_of_a_move_are_one_change_and_one_end_alone_is_another() {
        use Of::{Directory, Leaf};
        use Seen::{Created, Deleted, Modified, MovedFrom, MovedTo};
        type Row = (&'static [(Seen, &'static str, Of)], &'static str);
        let rows: [Row; 9] = [
            (&[(Created, "a", Leaf), (Modified, "a", Leaf), (Deleted, "a", Leaf)], "+a, ~a, -a"),
            (&[(Created, "d", Directory)], "+d, enter d"),
            (&[(MovedFrom(1), "a", Leaf), (MovedTo(1), "b", Leaf)], "a>b"),
            (&[(MovedFrom(1), "d", Directory), (MovedTo(1), "e", Directory)], "renamed d e, d>e"),
            (&[(MovedFrom(1), "a", Leaf), (MovedTo(2), "b", Leaf)], "-a, +b"),
            (&[(MovedFrom(1), "a", Leaf), (Created, "c", Leaf), (MovedTo(1), "b", Leaf)], "-a, +c, +b"),
            (&[(MovedFrom(1), "d", Directory)], "forget d, -d"),
            (&[(MovedTo(7), "d", Directory)], "+d, enter d"),
            (&[(MovedFrom(1), "a", Leaf), (MovedFrom(2), "b", Leaf), (MovedTo(2), "a", Leaf)], "-a, b>a"),
        ];
        for (events, expected) in rows {
            let mut moves = Moves::default();
            let mut steps: Vec<Step> =
                events.iter().flat_map(|(seen, path, of)| moves.take(*seen, path.as_bytes().to_vec(), *of)).collect();
            assert_eq!(moves.waits(), matches!(events.last(), Some((MovedFrom(_), ..))));
            steps.extend(moves.flush());
            assert_eq!(words(&steps), expected);
        }
    }

    #[test]
    fn a_directory_takes_what_is_in_it_along_and_nothing_else() {
        let mut directories = Directories::default();
        for (number, path) in [(1, ""), (2, "a"), (3, "a/b"), (4, "ab"), (5, "a/b/c")] {
            directories.insert(number, path.as_bytes().to_vec());
        }
        directories.rename(b"a", b"x/y");
        let path =
            |directories: &Directories, number| directories.path(number, b"n").map(|p| String::from_utf8(p).unwrap());
        let paths: Vec<_> = (1..6).map(|number| path(&directories, number).unwrap()).collect();
        assert_eq!(paths, ["n", "x/y/n", "x/y/b/n", "ab/n", "x/y/b/c/n"]);
        assert_eq!(directories.forget(b"x/y/b"), [3, 5]);
        assert_eq!((directories.len(), path(&directories, 3)), (3, None));
        directories.remove(4);
        assert_eq!(directories.forget(b""), [1]);
    }

    proptest! {
        /// Whatever the order of events: no end is lost, and a directory is entered or forgotten when it comes or goes.
        #[test]
        fn every_event_is_told_once(events in proptest::collection::vec((0_usize..5, 0_u32..3, any::<bool>()), 0..40)) {
            let mut moves = Moves::default();
            let mut steps = Vec::new();
            let mut ends = 0;
            for (kind, cookie, directory) in &events {
                let of = if *directory { Of::Directory } else { Of::Leaf };
                let kinds = [Seen::Created, Seen::Modified, Seen::Deleted, Seen::MovedFrom(*cookie), Seen::MovedTo(*cookie)];
                steps.extend(moves.take(kinds[*kind], b"p".to_vec(), of));
            }
            steps.extend(moves.flush());
            let mut told = 0;
            for step in &steps {
                if let Step::Tell(change) = step {
                    told += 1;
                    ends += if change.kind == ChangeKind::Moved { 2 } else { 1 };
                }
            }
            prop_assert_eq!(ends, events.len());
            prop_assert!(told <= events.len() && !moves.waits());
        }
    }
}
