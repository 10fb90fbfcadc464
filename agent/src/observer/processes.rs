//! Which call a process was last seen in, by its number. Numbers come again: what is known is forgotten before the kernel, which
//! counts up, can have come round.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Processes that are remembered; what others do to names is told of them while they are there to be asked.
const PROCESSES_MAX: usize = 65_536;
/// How often it is asked how many processes there have been. In that time the kernel makes far fewer than [`FORKS_MAX`].
const ASKED: Duration = Duration::from_secs(1);
/// Processes and threads that may be made before all is forgotten: half of the numbers that there are (`kernel.pid_max`, see
/// `init/harden.rs`).
const FORKS_MAX: u64 = 1 << 21;

/// Processes and their calls.
#[derive(Debug, Default)]
pub(super) struct Processes {
    calls: HashMap<i32, u64>,
    /// When it was asked last, and how many processes there had been when the oldest entry may have been made.
    asked: Option<(Instant, u64)>,
}

impl Processes {
    /// A process was seen in a call.
    pub(super) fn remember(&mut self, pid: i32, intent: u64) {
        if self.calls.len() >= PROCESSES_MAX {
            self.calls.clear();
        }
        self.calls.insert(pid, intent);
    }

    /// The call that it was seen in.
    pub(super) fn call(&self, pid: i32) -> Option<u64> {
        self.calls.get(&pid).copied()
    }

    /// A call has ended.
    pub(super) fn end(&mut self, intent: u64) {
        self.calls.retain(|_, of| *of != intent);
    }

    /// Forgets everything when so many processes were made that a number may be another's. `made` tells how many there have been.
    pub(super) fn age(&mut self, now: Instant, made: impl FnOnce() -> Option<u64>) {
        match self.asked {
            Some((asked, _)) if now < asked + ASKED => {}
            Some((_, first)) => match made() {
                Some(made) if made.saturating_sub(first) < FORKS_MAX => self.asked = Some((now, first)),
                made => {
                    self.calls.clear();
                    self.asked = made.map(|made| (now, made));
                }
            },
            None => {
                self.calls.clear();
                self.asked = made().map(|made| (now, made));
            }
        }
    }
}

/// Processes and threads since the machine began, as `/proc/stat` has them.
pub(super) fn made() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("processes "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_forgotten_before_a_number_can_come_again() {
        let (mut known, start) = (Processes::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.age(start, || Some(1_000));
        known.remember(7, 3);
        known.age(at(0), || panic!("asked again at once"));
        known.age(at(1), || Some(1_000 + FORKS_MAX - 1));
        assert_eq!((known.call(7), known.call(8)), (Some(3), None));
        known.age(at(2), || Some(1_000 + FORKS_MAX));
        assert_eq!(known.call(7), None);
        known.remember(7, 4);
        known.age(at(3), || Some(1_000 + 2 * FORKS_MAX - 1));
        assert_eq!(known.call(7), Some(4), "it is counted anew");
        // Who cannot be asked may have come round.
        known.age(at(4), || None);
        assert_eq!(known.call(7), None);
    }

    #[test]
    fn a_number_that_is_used_again_is_the_last_calls_whoever_asked_before() {
        let mut known = Processes::default();
        known.remember(7, 3);
        assert_eq!((known.call(7), known.call(8)), (Some(3), None));
        known.remember(7, 4);
        assert_eq!((known.call(7), known.call(7)), (Some(4), Some(4)));
        known.end(4);
        assert_eq!(known.call(7), None);
        known.remember(7, 4);
        assert_eq!(known.call(7), Some(4));
    }

    #[test]
    fn an_ended_call_has_no_processes_and_there_are_never_too_many() {
        let mut known = Processes::default();
        (0..10).for_each(|pid| known.remember(pid, u64::from(pid.cast_unsigned() % 2)));
        known.end(1);
        assert_eq!((known.call(2), known.call(3)), (Some(0), None));
        (0..=PROCESSES_MAX as i32).for_each(|pid| known.remember(pid, 5));
        assert!(known.calls.len() <= PROCESSES_MAX);
    }

    #[test]
    fn the_kernel_counts_what_it_makes() {
        let before = made().unwrap();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        assert!(made().unwrap() > before);
    }
}
