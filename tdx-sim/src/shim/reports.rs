//! SIMULATED: `tsm/report` as configfs-tsm shows it with the provider tdx_guest: a directory a report, with the four files
//! that this provider makes visible (no privilege levels, no auxblob, no services).
//!
//! ```text
//!   mkdir ─> report data none ── inblob closed ─> generation + 1 ── outblob read ─> quote kept until the next inblob
//! ```
//! As in the kernel, `generation` counts writes, and a write is refused with EBUSY where counting would wrap around to
//! the generation that was last read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::files::{Habit, Kind, Node, ROOT, Tree};
use crate::simulator::{NoQuote, Td};

/// Longest report data that configfs-tsm takes, and the only length that TDX takes, in bytes.
const REPORT_DATA: usize = 64;
/// Longest name of a directory.
const NAME_MAX: usize = 255;
/// Reports at once; the kernel has no limit, but nobody needs more.
const REPORTS_MAX: usize = 16;
/// Numbers of one report: its directory, then its files.
const STRIDE: u64 = 8;

const FILES: [(&str, u16); 4] = [("inblob", 0o200), ("outblob", 0o400), ("generation", 0o444), ("provider", 0o444)];
const INBLOB: u64 = 1;
const OUTBLOB: u64 = 2;
const GENERATION: u64 = 3;
const PROVIDER: u64 = 4;

/// The tree.
pub(crate) struct Reports<T> {
    td: Arc<T>,
    /// By the number of the directory; numbers are not used twice.
    reports: BTreeMap<u64, Report>,
    next: u64,
}

#[derive(Default)]
struct Report {
    name: String,
    report_data: Vec<u8>,
    written: u64,
    /// The generation whose quote is in `quote`.
    read: u64,
    quote: Vec<u8>,
}

impl<T: Td> Reports<T> {
    pub(crate) fn new(td: Arc<T>) -> Self {
        Self { td, reports: BTreeMap::new(), next: STRIDE }
    }

    fn of(&mut self, number: u64) -> Result<(&mut Report, u64), i32> {
        let file = number % STRIDE;
        Ok((self.reports.get_mut(&(number - file)).ok_or(libc::ENOENT)?, file))
    }

    fn find(&self, name: &str) -> Option<u64> {
        self.reports.iter().find(|(_, report)| report.name == name).map(|(number, _)| *number)
    }
}

impl Report {
    fn quote(&mut self, td: &impl Td) -> Result<Vec<u8>, i32> {
        if self.report_data.is_empty() {
            return Err(libc::EINVAL);
        }
        if self.read != self.written {
            let report_data = self.report_data.as_slice().try_into().map_err(|_| libc::EINVAL)?;
            self.quote = td.quote(report_data).map_err(|why| match why {
                NoQuote::Busy => libc::EBUSY,
                NoQuote::Gone => libc::EIO,
            })?;
            self.read = self.written;
        }
        Ok(self.quote.clone())
    }
}

impl<T: Td> Tree for Reports<T> {
    const HABIT: Habit = Habit::Configfs { longest: REPORT_DATA };

    fn node(&self, number: u64) -> Option<Node> {
        let (directory, file) = (number - number % STRIDE, number % STRIDE);
        if number == ROOT || (file == 0 && self.reports.contains_key(&directory)) {
            return Some(Node { kind: Kind::Directory, mode: 0o755, size: 0 });
        }
        self.reports.get(&directory)?;
        let (_, mode) = FILES.get(usize::try_from(file.checked_sub(1)?).ok()?)?;
        // What configfs says of a file's size is a page, whatever a read gives.
        Some(Node { kind: Kind::File, mode: *mode, size: 4096 })
    }

    fn children(&self, number: u64) -> Vec<(String, u64)> {
        if number == ROOT {
            return self.reports.iter().map(|(number, report)| (report.name.clone(), *number)).collect();
        }
        if !self.reports.contains_key(&number) {
            return Vec::new();
        }
        FILES.iter().zip(number + 1..).map(|((name, _), number)| ((*name).to_owned(), number)).collect()
    }

    fn make(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        match (parent, self.find(name)) {
            (ROOT, None) if name.len() <= NAME_MAX && self.reports.len() < REPORTS_MAX => {}
            (ROOT, Some(_)) => return Err(libc::EEXIST),
            (ROOT, None) => return Err(libc::ENOSPC),
            _ => return Err(libc::EPERM),
        }
        let number = self.next;
        self.next += STRIDE;
        self.reports.insert(number, Report { name: name.to_owned(), ..Report::default() });
        Ok(number)
    }

    fn remove(&mut self, parent: u64, name: &str) -> Result<(), i32> {
        if parent != ROOT {
            return Err(libc::EPERM);
        }
        let number = self.find(name).ok_or(libc::ENOENT)?;
        self.reports.remove(&number);
        Ok(())
    }

    fn read(&mut self, number: u64) -> Result<Vec<u8>, i32> {
        let td = self.td.clone();
        let (report, file) = self.of(number)?;
        match file {
            OUTBLOB => report.quote(td.as_ref()),
            GENERATION => Ok(format!("{}\n", report.written).into_bytes()),
            PROVIDER => Ok(b"tdx_guest\n".to_vec()),
            _ => Err(libc::EACCES),
        }
    }

    fn write(&mut self, number: u64, _offset: u64, bytes: &[u8]) -> Result<(), i32> {
        let (report, file) = self.of(number)?;
        if file != INBLOB {
            return Err(libc::EACCES);
        }
        if report.written == report.read.wrapping_sub(1) {
            return Err(libc::EBUSY);
        }
        report.written = report.written.wrapping_add(1);
        report.report_data = bytes.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::tests::FakeTd;

    fn report() -> (Arc<FakeTd>, Reports<FakeTd>, u64) {
        let td = Arc::new(FakeTd::default());
        let mut tree = Reports::new(td.clone());
        let number = tree.make(ROOT, "coffer").unwrap();
        (td, tree, number)
    }

    #[test]
    fn a_quote_is_made_once_for_each_write_and_generation_counts_the_writes() {
        let (td, mut tree, report) = report();
        assert_eq!(tree.read(report + OUTBLOB), Err(libc::EINVAL));
        assert_eq!(tree.read(report + GENERATION).unwrap(), b"0\n");
        tree.write(report + INBLOB, 0, &[3; 64]).unwrap();
        assert_eq!(tree.read(report + GENERATION).unwrap(), b"1\n");
        for _ in 0..2 {
            assert_eq!(tree.read(report + OUTBLOB).unwrap(), [3; 64]);
        }
        assert_eq!(td.0.lock().unwrap().quotes, 1);
        tree.write(report + INBLOB, 0, &[3; 64]).unwrap();
        tree.read(report + OUTBLOB).unwrap();
        assert_eq!(td.0.lock().unwrap().quotes, 2);
        assert_eq!(tree.read(report + PROVIDER).unwrap(), b"tdx_guest\n");
    }

    #[test]
    fn a_generation_never_wraps_around_to_the_one_that_was_read() {
        let (_td, mut tree, report) = report();
        tree.reports.get_mut(&report).unwrap().written = u64::MAX;
        assert_eq!(tree.write(report + INBLOB, 0, &[3; 64]), Err(libc::EBUSY));
    }

    #[test]
    fn other_lengths_than_that_of_tdx_give_no_quote() {
        let (_td, mut tree, report) = report();
        tree.write(report + INBLOB, 0, &[3; 63]).unwrap();
        assert_eq!(tree.read(report + OUTBLOB), Err(libc::EINVAL));
    }

    #[test]
    fn without_the_simulator_there_is_no_quote() {
        let (td, mut tree, report) = report();
        tree.write(report + INBLOB, 0, &[3; 64]).unwrap();
        td.0.lock().unwrap().gone = true;
        assert_eq!(tree.read(report + OUTBLOB), Err(libc::EIO));
    }

    #[test]
    fn a_busy_simulator_gives_a_quote_later() {
        let (td, mut tree, report) = report();
        tree.write(report + INBLOB, 0, &[3; 64]).unwrap();
        td.0.lock().unwrap().busy = 1;
        assert_eq!(tree.read(report + OUTBLOB), Err(libc::EBUSY));
        assert_eq!(tree.read(report + OUTBLOB).unwrap(), [3; 64]);
    }

    #[test]
    fn directories_are_made_at_the_top_only_each_once_and_vanish_with_their_files() {
        let (_td, mut tree, report) = report();
        assert_eq!(tree.make(ROOT, "coffer"), Err(libc::EEXIST));
        assert_eq!(tree.make(report, "inside"), Err(libc::EPERM));
        assert_eq!(tree.children(report).len(), 4);
        assert_eq!(tree.node(report + INBLOB).unwrap().mode, 0o200);
        assert!(tree.node(report + 5).is_none());
        tree.remove(ROOT, "coffer").unwrap();
        assert_eq!(tree.remove(ROOT, "coffer"), Err(libc::ENOENT));
        assert!(tree.node(report + INBLOB).is_none());
        assert_eq!(tree.read(report + GENERATION), Err(libc::ENOENT));
    }
}
