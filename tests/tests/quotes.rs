//! What goes wrong with quotes, as a table: the notary's own code for asking, unchanged, against the file tree of the shim, shown by
//! the kernel through FUSE. Each fault ends in a quote over the right bytes or in an error that names it, within its time. No guest
//! is booted; what a session makes of such an error is in `surroundings/quotes.rs`.

#[allow(dead_code, reason = "the shim's own, whole")]
#[path = "../../tdx-sim/src/shim/files.rs"]
mod files;
#[allow(dead_code, reason = "the shim's own, whole")]
#[path = "../../tdx-sim/src/shim/reports.rs"]
mod reports;
#[allow(dead_code, reason = "the shim's own, whole")]
#[path = "../../tdx-sim/src/shim/simulator.rs"]
mod simulator;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coffer_agent::frames::warrant::ReportFile;
use coffer_agent::notary::quotes::{DEADLINE, QuoteSource as _, QuoteSourceError, ReportFiles, Reports};
use files::{Habit, Node, ROOT, Tree};
use simulator::tests::FakeTd;

/// A deadline for rows that are not about its length.
const SHORT: Duration = Duration::from_secs(2);
/// What the row's own work may take beyond its deadline, on a machine that does other things.
const SLACK: Duration = Duration::from_secs(3);
const REPORT_DATA: [u8; 64] = [3; 64];
/// Of the files of a report, as the tree numbers them.
const INBLOB: u64 = 1;
const OUTBLOB: u64 = 2;
const GENERATION: u64 = 3;
const PROVIDER: u64 = 4;
const STRIDE: u64 = 8;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Reading the quote is EBUSY this many times.
    Busy(usize),
    /// Closing a written inblob is EBUSY, which nobody hears.
    WriteRefused,
    /// Somebody else writes between our write and the quote, this many times.
    Raced(usize),
    /// A file does not answer.
    Stalls(u64),
    /// The quote is cut to this many bytes, or padded.
    Length(usize),
    OtherProvider,
    NoProvider,
    /// The provider is gone: as configfs-tsm answers then.
    Unregistered,
}

/// The shim's tree with a fault.
struct Faulty {
    tree: reports::Reports<FakeTd>,
    td: Arc<FakeTd>,
    fault: Fault,
    over: Arc<AtomicBool>,
}

impl Faulty {
    fn new(fault: Fault, over: Arc<AtomicBool>) -> Self {
        let td = Arc::new(FakeTd::default());
        if let Fault::Busy(times) = fault {
            td.0.lock().expect("the TD").busy = times;
        }
        Self { tree: reports::Reports::new(td.clone()), td, fault, over }
    }
}

impl Tree for Faulty {
    const HABIT: Habit = <reports::Reports<FakeTd> as Tree>::HABIT;

    fn node(&self, number: u64) -> Option<Node> {
        self.tree.node(number)
    }

    fn children(&self, number: u64) -> Vec<(String, u64)> {
        let mut children = self.tree.children(number);
        children.retain(|(name, _)| self.fault != Fault::NoProvider || name != "provider");
        children
    }

    fn make(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        self.tree.make(parent, name)
    }

    fn read(&mut self, number: u64) -> Result<Vec<u8>, i32> {
        let file = number % STRIDE;
        match self.fault {
            Fault::Stalls(stalled) if stalled == file => {
                while !self.over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(libc::EIO)
            }
            Fault::Raced(times) if file == OUTBLOB && times > 0 => {
                self.fault = Fault::Raced(times - 1);
                self.tree.write(number - OUTBLOB + INBLOB, 0, &[9; 64])?;
                self.tree.read(number)
            }
            Fault::Length(bytes) if file == OUTBLOB => {
                let mut quote = self.tree.read(number)?;
                quote.resize(bytes, 0);
                Ok(quote)
            }
            Fault::OtherProvider if file == PROVIDER => Ok(b"sev_guest\n".to_vec()),
            Fault::Unregistered => Err(libc::ENOTTY),
            _ => self.tree.read(number),
        }
    }

    fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        if self.fault == Fault::WriteRefused { Err(libc::EBUSY) } else { self.tree.write(number, offset, bytes) }
    }
}

/// Opens files as init does.
struct Directory(PathBuf);

impl ReportFiles for Directory {
    fn open(&self, file: ReportFile) -> Result<File, QuoteSourceError> {
        let mut options = File::options();
        let options = if file == ReportFile::Inblob { options.write(true) } else { options.read(true) };
        let opened = options.open(self.0.join(file.name()));
        opened.map_err(|source| QuoteSourceError::System { name: file.name(), source })
    }
}

/// What a row ends in.
enum End {
    /// A quote over our report data, after this many were asked of the TD.
    Quote(usize),
    /// What the source takes for a quote, of this length; whoever uses it parses it first.
    Bytes(usize),
    /// An error with these words.
    Error(&'static [&'static str]),
}

/// An error and its causes, as the host is told.
fn line(error: &QuoteSourceError) -> String {
    coffer_agent::notary::live::NotaryError::chain("quote", error).to_string()
}

/// A reader that was left behind ends once its read is answered. Were this process to end before that, the kernel would wait for an
/// answer that nobody can give any more, for ever.
fn until_nobody_reads(place: &Path) {
    let until = Instant::now() + SLACK;
    let is_open = || {
        let numbers = std::fs::read_dir("/proc/self/fd").expect("the open files").flatten();
        numbers.filter_map(|number| std::fs::read_link(number.path()).ok()).any(|file| file.starts_with(place))
    };
    while is_open() {
        assert!(Instant::now() < until, "a reader that was left behind still waits for an answer");
        std::thread::yield_now();
    }
}

fn row(fault: Fault, limit: Duration, end: &End) {
    let place = tempfile::tempdir().expect("a directory");
    let over = Arc::new(AtomicBool::new(false));
    let tree = Faulty::new(fault, over.clone());
    let td = tree.td.clone();
    let session = files::mount(&place.path().display().to_string(), tree).expect("mount");
    let session = session.spawn().expect("serve");
    let directory = Directory(place.path().join("coffer"));
    std::fs::create_dir(&directory.0).expect("make a report");
    let begin = Instant::now();
    let found = Reports::within(&directory, limit).quote(&REPORT_DATA);
    let took = begin.elapsed();
    over.store(true, Ordering::SeqCst);
    assert!(took < limit + SLACK, "{fault:?}: {took:?}");
    match (found, end) {
        (Ok(quote), End::Quote(asked)) => {
            assert_eq!(quote, REPORT_DATA, "{fault:?}: the quote of another's write");
            assert_eq!(td.0.lock().expect("the TD").quotes, *asked, "{fault:?}");
        }
        (Ok(quote), End::Bytes(bytes)) => {
            assert_eq!(quote.len(), *bytes, "{fault:?}");
            assert!(coffer_evidence::quote::Quote::cut(&quote).is_err(), "{fault:?}: it passes for a quote");
        }
        (Err(error), End::Error(words)) => {
            for word in *words {
                assert!(line(&error).contains(word), "{fault:?}: no {word:?} in {}", line(&error));
            }
        }
        (found, _) => panic!("{fault:?}: {found:?}"),
    }
    until_nobody_reads(place.path());
    drop(session);
    // Gone with the session, unless a row above has failed.
    let _ = rustix::mount::unmount(place.path(), rustix::mount::UnmountFlags::DETACH);
}

#[test]
fn each_fault_of_a_quote_ends_in_time_in_our_quote_or_in_an_error_that_names_it() {
    use std::os::unix::fs::MetadataExt as _;
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    if !root || !Path::new("/dev/fuse").exists() {
        eprintln!("NOT RUN: only root with /dev/fuse can show the shim's files");
        return;
    }
    assert_ne!(ROOT % STRIDE, 0, "the numbers of this test are the tree's");
    let late: &[&str] = &["no quote within 2 s", "quoting service may be down"];
    let raced: &[&str] = &["no quote within 2 s", "the generation was never that of one write of ours"];
    let rows: [(Fault, Duration, End); 15] = [
        (Fault::Nothing, SHORT, End::Quote(1)),
        (Fault::Busy(3), SHORT, End::Quote(4)),
        (Fault::Busy(usize::MAX), SHORT, End::Error(&["no quote within 2 s", "the platform was busy until the end"])),
        (Fault::WriteRefused, SHORT, End::Error(raced)),
        (Fault::Raced(2), SHORT, End::Quote(3)),
        (Fault::Raced(usize::MAX), SHORT, End::Error(raced)),
        // The deadline of the product.
        (Fault::Stalls(OUTBLOB), DEADLINE, End::Error(&["no quote within 30 s", "outblob did not answer"])),
        (Fault::Stalls(GENERATION), SHORT, End::Error(&["no quote within 2 s", "generation did not answer"])),
        (Fault::Stalls(PROVIDER), SHORT, End::Error(late)),
        (Fault::Length(0), SHORT, End::Error(&["expected a quote of 1 to 65536 bytes", "found 0"])),
        (Fault::Length(70_000), SHORT, End::Error(&["expected a quote of 1 to 65536 bytes", "found 65537"])),
        (Fault::Length(32), SHORT, End::Bytes(32)),
        (Fault::OtherProvider, SHORT, End::Error(&["expected the provider tdx_guest", "found sev_guest"])),
        (Fault::NoProvider, SHORT, End::Error(&["the report file provider cannot be used", "No such file"])),
        (Fault::Unregistered, SHORT, End::Error(&["the report file provider cannot be used", "os error 25"])),
    ];
    std::thread::scope(|scope| {
        for (fault, limit, end) in &rows {
            scope.spawn(move || row(*fault, *limit, end));
        }
    });
}
