//! How far init had got when, by the guest's own clock: one line on the console for whoever asks what a start takes.

use rustix::time::{ClockId, clock_gettime};
use std::fmt::Write as _;

/// Milliseconds since the kernel began to count.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or(0)
}

/// What was done, and when it was.
#[derive(Debug)]
pub(super) struct Steps {
    begun: u64,
    done: Vec<(&'static str, u64)>,
}

impl Steps {
    /// Nothing is done.
    pub(super) fn begin() -> Self {
        Self { begun: now(), done: Vec::new() }
    }

    /// This is done.
    pub(super) fn done(&mut self, what: &'static str) {
        self.done.push((what, now()));
    }

    /// One line: when init began, and what each step took.
    pub(super) fn line(&self) -> String {
        let mut line = format!("boot, in ms: init began at {}", self.begun);
        let mut before = self.begun;
        for (what, at) in &self.done {
            // Writing to a text does not fail.
            let _ = write!(line, ", {what} {}", at.saturating_sub(before));
            before = *at;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_by_what_it_took() {
        let done = vec![("modules", 2_500), ("root", 2_900)];
        let line = Steps { begun: 2_100, done }.line();
        assert_eq!(line, "boot, in ms: init began at 2100, modules 400, root 400");
        let mut steps = Steps::begin();
        steps.done("nothing");
        assert!(steps.begun > 0 && steps.done[0].1 >= steps.begun);
    }
}
