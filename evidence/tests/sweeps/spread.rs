//! Many inputs over the cores of this machine, and a line that says how many there were.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How much of a sweep is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A part that is the same every time, in seconds.
    Short,
    /// All of it, in minutes.
    Long,
}

impl Form {
    pub(crate) fn asked() -> Self {
        match std::env::var("COFFER_SWEEP").as_deref() {
            Ok("full") => Self::Long,
            Ok(other) => panic!("COFFER_SWEEP: expected full or nothing, found {other}"),
            Err(_) => Self::Short,
        }
    }
}

/// Judges `count` cases, each of one or more inputs. The first that panics fails the test.
pub(crate) fn spread(what: &str, count: usize, judge: impl Fn(usize) -> usize + Sync) -> usize {
    let (next, judged, started) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= count {
                        return;
                    }
                    judged.fetch_add(judge(case), Ordering::Relaxed);
                }
            });
        }
    });
    let judged = judged.into_inner();
    println!("sweep {what}: {judged} bundles in {} ms", started.elapsed().as_millis());
    judged
}
