//! A bundle that is read where it is: whoever writes to it meanwhile gets no verdict on a mixture, a place that fails gets none at
//! all, and a long log takes no more memory than a short one, but for what R13 remembers of each call.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use coffer_evidence::bundle::{ReadError, Source};
use coffer_evidence::verify::{Options, Report, Verdict, verify_bundle, verify_source};

use crate::file::{Bundle, peak_kib};
use crate::judging::options;
use crate::session::{Recipe, sealed};

/// Shows one bundle to the first readings and another to the rest.
pub(crate) struct Shifting<'a> {
    pub(crate) first: &'a [u8],
    pub(crate) rest: &'a [u8],
    pub(crate) left: Cell<usize>,
}

impl Source for Shifting<'_> {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        if one_of(&self.left) { self.first } else { self.rest }.read_at(at, buffer)
    }
}

/// Whether this reading is one of those that are left.
fn one_of(left: &Cell<usize>) -> bool {
    let before = left.get();
    left.set(before.saturating_sub(1));
    before > 0
}

/// Fails from some reading on.
struct Failing<'a> {
    bytes: &'a [u8],
    left: Cell<usize>,
}

impl Source for Failing<'_> {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        if one_of(&self.left) {
            self.bytes.read_at(at, buffer)
        } else {
            Err(ReadError::Failed { at, why: "the disk".to_owned() })
        }
    }
}

/// How many readings a verification takes.
fn readings(bytes: &[u8], options: &Options) -> usize {
    let source = Failing { bytes, left: Cell::new(usize::MAX) };
    assert_eq!(verify_source(&source, options).expect("it can be read").verdict, Verdict::Sealed);
    usize::MAX - source.left.get()
}

fn with_every_pass(bytes: &[u8]) -> Options {
    let mut options = options();
    let bundle = coffer_evidence::bundle::read(bytes).expect("a bundle");
    let note = bundle.member("checkpoint").expect("a note").to_vec();
    options.expect.seen_note = Some(String::from_utf8(note).expect("text"));
    options
}

#[test]
fn a_bundle_that_changes_while_it_is_read_gets_the_verdict_of_one_state_or_none() {
    let genuine = sealed(&Recipe::default());
    let options = with_every_pass(&genuine);
    let readings = readings(&genuine, &options);
    // Another session of the same length: every member is genuine, and nothing of it fits the first.
    let other = sealed(&Recipe { open: |open| open.random = [0x0c; 32], ..Recipe::default() });
    assert_eq!(genuine.len(), other.len());
    let leaf = genuine.windows(4).position(|four| four == b"exec" || four == b"perm").expect("a leaf's text");
    let mut changed = genuine.clone();
    changed[leaf] ^= 1;
    for rest in [&other, &changed] {
        let states: Vec<Report> = [&genuine, rest].map(|bytes| verify_bundle(bytes, &options)).to_vec();
        let mut noticed = 0;
        for left in 0..=readings {
            let source = Shifting { first: &genuine, rest, left: Cell::new(left) };
            match verify_source(&source, &options) {
                Err(ReadError::Changed { .. }) => noticed += 1,
                Err(error) => panic!("{error}"),
                // A change during the scan is another bundle, which is invalid by its own id or has none.
                Ok(report) => assert!(
                    states.contains(&report)
                        || report.verdict == Verdict::Invalid && report.bundle_id != states[0].bundle_id,
                    "after {left} readings:\n{}",
                    report.human()
                ),
            }
        }
        assert!(noticed > readings / 4, "{noticed} of {readings}");
    }
}

#[test]
fn a_bundle_that_cannot_be_read_gets_no_verdict() {
    let bytes = sealed(&Recipe::default());
    let options = with_every_pass(&bytes);
    for left in 0..readings(&bytes, &options) {
        let source = Failing { bytes: &bytes, left: Cell::new(left) };
        let error = verify_source(&source, &options).expect_err("the disk fails");
        assert!(matches!(error, ReadError::Failed { .. }), "{error}");
    }
}

/// Names the bundle that a child process verifies.
const MEASURED: &str = "COFFER_STREAM_MEASURED";

#[test]
fn a_long_log_is_verified_in_the_memory_of_a_short_one() {
    const TEST: &str = "source::a_long_log_is_verified_in_the_memory_of_a_short_one";
    const LONG: u32 = 40_000;
    /// Of R13 for each call, in bytes.
    const REMEMBERED: u64 = 64;
    if let Some(path) = std::env::var_os(MEASURED) {
        let bundle = Bundle(File::open(path).expect("the bundle"));
        assert_eq!(verify_source(&bundle, &options()).expect("it can be read").verdict, Verdict::Sealed);
        println!("peak {}", peak_kib());
        return;
    }
    let measured = |calls: u32| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("long-{calls}-{}", std::process::id()));
        let mut parts = crate::session::parts(&Recipe { calls, ..Recipe::default() }, crate::session::Ending::Sealed);
        // Parts that stand there in plain text are a small member, which is held.
        parts.disclosed = None;
        let bytes = coffer_evidence::bundle::write(&parts);
        std::fs::write(&path, &bytes).expect("write");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", TEST, "--nocapture"])
            .env(MEASURED, &path)
            .output()
            .expect("run this program again");
        std::fs::remove_file(&path).expect("remove");
        let told = String::from_utf8(child.stdout).expect("text");
        let peak = told.lines().find_map(|line| line.split_once("peak ")?.1.parse::<u64>().ok());
        (peak.unwrap_or_else(|| panic!("{told}")), bytes.len() as u64 / 1024)
    };
    let ((short, _), (long, size)) = (measured(10), measured(LONG));
    let allowed = u64::from(LONG) * REMEMBERED / 1024 + 1024;
    println!("{short} KiB for 10 calls, {long} KiB for {LONG} in {size} KiB");
    assert!(size > 2 * allowed, "{size} KiB are too few to show it");
    assert!(long <= short + allowed, "{short} KiB for 10 calls, {long} KiB for {LONG}: over {allowed} KiB more");
}
