//! Progress for people, on stderr: what is being done and how long the build has run. Never on stdout, which is data.

use std::time::Instant;

/// The clock of one run of the program.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Says what begins now.
    pub(crate) fn step(&self, what: &str) {
        eprintln!("coffer-image: {:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }
}
